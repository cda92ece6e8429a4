"""What stands in the output folder: names of files, its description, and whether a scan is done."""

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from . import __version__
from .errors import InputError
from .folders import ASIDE
from .jsonfiles import read_json
from .reports.svg import write_text

BIDS_VERSION = "1.10.0"
ANATOMICAL_FIGURES = ("brain", "registration")
HARMONIZATION_FIGURES = ("flicker", "difference", "ncc", "histogram", "trace")
VIEWER = "viewer"
MASK_ENDINGS = tuple(
    f"{entity}-brain_mask.{extension}"
    for entity in ("desc", "label")
    for extension in ("nii.gz", "nii")
)
BIDSIGNORE = ("*.html", "logs/", "**/figures", "**/log", "*_xfm.*", "*_metrics.*", "group_*",
              f"{ASIDE}*")  # fmt: skip


def find_precomputed(scan, folders, *endings):
    """A scan's derivative in one of the folders given with ``--derivatives``.

    Parameters
    ----------
    scan : bh_bids.dataset.Scan
    folders : dict
        Name to folder.
    *endings : str
        What may follow the scan's entities in the file name.

    Returns
    -------
    pathlib.Path or None
        The first found, in the order of the folders, then of the endings.
    """
    for folder in folders.values():
        for ending in endings:
            path = Path(folder) / scan.folder / f"{scan.key}_{ending}"
            if path.is_file() or path.is_symlink():  # content that is not there is told later
                return path
    return None


def find_mask(scan, folders):
    """A scan's brain mask in one of the folders given with ``--derivatives``.

    Parameters
    ----------
    scan : bh_bids.dataset.Scan
    folders : dict
        Name to folder: fMRIPrep's, sMRIPrep's, this program's or any other BIDS derivatives.

    Returns
    -------
    pathlib.Path or None
    """
    return find_precomputed(scan, folders, *MASK_ENDINGS)


def lack_masks(scans, folders):
    """Scans of a common template without a brain mask; one makes the masks of all unused.

    Parameters
    ----------
    scans : sequence of bh_bids.dataset.Scan
    folders : dict
        As of :func:`find_mask`.

    Returns
    -------
    list of bh_bids.dataset.Scan
    """
    return [scan for scan in scans if find_mask(scan, folders) is None]


def masks_left_out(scans, folders):
    """What is to be said if the scans of a common template lack brain masks.

    Parameters
    ----------
    scans : sequence of bh_bids.dataset.Scan
    folders : dict
        As of :func:`find_mask`.

    Returns
    -------
    str
        A sentence; empty if all have masks, or no folder was given.
    """
    lacking = lack_masks(scans, folders)
    if not folders or not lacking:
        return ""
    where = f"{', '.join(folders)} (--derivatives)"
    if len(lacking) == len(scans):
        return f"No brain mask of the common template's scans was found in {where}."
    names = ", ".join(scan.path.name for scan in lacking)
    return (
        f"The brain masks in {where} were not used, because the common template needs one of each "
        f"scan; without one: {names}."
    )


def find_lesion(scan, folder=None):
    """A scan's lesion mask.

    Parameters
    ----------
    scan : bh_bids.dataset.Scan
    folder : path-like, optional
        Folder with masks under the scans' names (``--lesion-roi``); without, the mask beside the
        scan.

    Returns
    -------
    pathlib.Path or None
        ``<entities>_label-lesion_roi.nii[.gz]``, or ``<entities>_T1w_label-lesion_roi.nii[.gz]``;
        also a link whose content is not there.
    """
    place = scan.path.parent if folder is None else Path(folder) / scan.folder
    for stem in (scan.key, f"{scan.key}_T1w"):
        for extension in (".nii.gz", ".nii"):
            path = place / f"{stem}_label-lesion_roi{extension}"
            if path.is_file() or path.is_symlink():
                return path
    return None


def lesions_left_out(scan, folder=None):
    """What is to be said if a folder has lesion masks of a scan's session, but none of the scan.

    Parameters
    ----------
    scan : bh_bids.dataset.Scan
    folder : path-like, optional
        As of :func:`find_lesion`; without, nothing is said.

    Returns
    -------
    list of str
        A sentence or none.
    """
    if folder is None or find_lesion(scan, folder):
        return []
    others = sorted(
        path.name
        for path in (Path(folder) / scan.folder).glob("sub-*lesion*")
        if path.name.endswith((".nii", ".nii.gz"))
    )
    if not others:
        return []
    return [
        f"No lesion mask was used: {others[0]} (--lesion-roi) is not named after this scan; "
        f"{scan.key}_label-lesion_roi.nii.gz would be."
    ]


def expected_outputs(scan, space, settings):
    """Files that a finished scan has, relative to the output folder.

    Parameters
    ----------
    scan : bh_bids.dataset.Scan
    space : str
        The model's space.
    settings : bh_bids.settings.Settings

    Returns
    -------
    list of pathlib.Path
        The sidecar with the scan's provenance key comes first, then the file it describes.
    """
    folder = Path(scan.folder)
    standard = f"{scan.key}_space-{space}_res-1"
    names = [
        f"{standard}_desc-preproc_T1w.json",
        f"{standard}_desc-preproc_T1w.nii.gz",
        f"{standard}_desc-brain_mask.nii.gz",
        f"{scan.key}_desc-brain_mask.nii.gz",
        f"{scan.key}_from-T1w_to-{space}_mode-image_xfm.h5",
        f"{scan.key}_from-{space}_to-T1w_mode-image_xfm.h5",
    ]
    figures = ANATOMICAL_FIGURES
    if not settings.anat_only:
        figures = (*figures, *HARMONIZATION_FIGURES)
        names = [
            f"{scan.key}_desc-harmonization_metrics.json",
            f"{scan.key}_desc-harmonization_metrics.tsv",
            f"{scan.key}_desc-trace_metrics.tsv",
            *names,
        ]
        if space in settings.output_spaces:
            names.append(f"{standard}_desc-harmonized_T1w.nii.gz")
        if "T1w" in settings.output_spaces:
            names.append(f"{scan.key}_desc-harmonized_T1w.nii.gz")
    drawn = [f"{scan.key}_desc-{name}_T1w.svg" for name in figures]
    if not settings.anat_only:
        drawn.append(f"{scan.key}_desc-{VIEWER}_T1w.json")
    pages = Path(f"sub-{scan.participant}/figures")
    return [folder / name for name in names] + [pages / name for name in drawn]


def is_done(scan, space, settings, key):
    """Whether a scan's results stand complete and come from the same input and parameters.

    Parameters
    ----------
    scan : bh_bids.dataset.Scan
    space : str
    settings : bh_bids.settings.Settings
    key : str
        From :func:`bh_bids.provenance.provenance_key`.

    Returns
    -------
    bool
    """
    if not is_complete(scan, space, settings):
        return False
    outputs = [settings.output_dir / name for name in expected_outputs(scan, space, settings)]
    (checked,) = (path for path in outputs if path.name.endswith("_desc-preproc_T1w.json"))
    try:
        same = read_json(outputs[0]).get("ProvenanceKey") == key
        failed = read_json(checked).get("AnatomicalChecks", {}).get("Verdict") == "fail"
    except (OSError, ValueError, AttributeError):
        return False
    # What only --force lets pass is no result of a run without.
    return same and (settings.anat_only or settings.force or not failed)


def unmark(scan, space, settings, harmonization=True):
    """Remove what marks a scan as done, sidecars with provenance keys and what they describe.

    Files of a run that is stopped half-way and those of an earlier one must not count as results of
    either: figures are removed, too, and in a full run harmonized images in spaces that it does not
    write. Those that it writes stay until they are replaced; without the mark they do not count.

    Parameters
    ----------
    scan : bh_bids.dataset.Scan
    space : str
        The model's space.
    settings : bh_bids.settings.Settings
    harmonization : bool
        Without, only the anatomical results lose their mark.
    """
    for anat_only in (True, False) if harmonization else (True,):
        outputs = expected_outputs(scan, space, replace(settings, anat_only=anat_only))
        for name in outputs[:2]:
            _remove(settings.output_dir / name)
    written = expected_outputs(scan, space, settings)
    every = expected_outputs(scan, space, replace(settings, output_spaces=("T1w", space)))
    for name in every:
        path = settings.output_dir / name
        if name.parent.name == "figures":
            _remove(path)
        elif name not in written:
            _remove(path.with_name(path.name.replace(".nii.gz", ".json")))
            _remove(path)


def _remove(path):
    """Remove a file; of what is in its way the step that writes it tells."""
    with suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
        path.unlink()


def is_complete(scan, space, settings):
    """Whether all of a scan's results stand, whatever they were made from.

    Parameters
    ----------
    scan : bh_bids.dataset.Scan
    space : str
    settings : bh_bids.settings.Settings

    Returns
    -------
    bool
    """
    names = expected_outputs(scan, space, settings)
    return all((settings.output_dir / name).is_file() for name in names)


def makers(description):
    """Names of the programs that made a dataset, by its description.

    Parameters
    ----------
    description : object
        Content of dataset_description.json, whatever it is.

    Returns
    -------
    list of str
    """
    told = description.get("GeneratedBy") if isinstance(description, dict) else None
    entries = told if isinstance(told, list) else []
    return [str(e["Name"]) for e in entries if isinstance(e, dict) and e.get("Name")]


def check_output(output_dir):
    """Refuse a folder that is the dataset of another program, or a raw one.

    Parameters
    ----------
    output_dir : pathlib.Path

    Raises
    ------
    InputError
        Its description would be replaced.
    """
    try:
        found = json.loads((output_dir / "dataset_description.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    if not isinstance(found, dict) or not found:
        return
    kind, names = found.get("DatasetType"), makers(found)
    if kind == "raw" or "bh-bids" not in names:
        # Without a type a dataset is raw; older derivatives tell their program in another field.
        older = isinstance(found.get("PipelineDescription"), dict)
        raw = kind == "raw" or not (kind or names or older)
        what = "a raw dataset" if raw else f"a dataset of {(*names, 'another program')[0]}"
        raise InputError(
            f"{output_dir} is {what}, whose description would be replaced: give another output "
            "folder, such as one of its own beside it."
        )


def write_description(output_dir, bids_dir, derivatives, source_description):
    """Write ``dataset_description.json`` and ``.bidsignore``; parallel jobs may do so at once.

    Parameters
    ----------
    output_dir, bids_dir : path-like
    derivatives : dict
        Name to folder, of derivatives that were reused.
    source_description : dict
        The raw dataset's description.
    """
    output_dir = Path(output_dir)
    source = {"URL": Path(bids_dir).resolve().as_uri()}
    doi = source_description.get("DatasetDOI")
    if isinstance(doi, str) and doi:
        source = {"DOI": doi}
    content = {
        "Name": "bh-bids - blind harmonization of T1-weighted MR images",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "License": source_description.get("License") or "See the source dataset",
        "GeneratedBy": [{"Name": "bh-bids", "Version": __version__}],
        "SourceDatasets": [source],
        "DatasetLinks": {
            "raw": Path(bids_dir).resolve().as_uri(),
            **{name: Path(path).resolve().as_uri() for name, path in derivatives.items()},
        },
    }
    write_text(output_dir / "dataset_description.json", json.dumps(content, indent=2) + "\n")
    write_text(output_dir / ".bidsignore", "\n".join(BIDSIGNORE) + "\n")
