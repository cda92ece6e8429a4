"""What stands in the output folder: its description, sidecars, and whether a scan is done."""

import hashlib
import json
import shlex
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from . import __version__
from .intensity import SCALE_PERCENTILE
from .reports.svg import write_text

BIDS_VERSION = "1.10.0"
RESOLUTION = "1 mm isotropic"
ANATOMICAL_FIGURES = ("brain", "registration")
HARMONIZATION_FIGURES = ("flicker", "difference", "ncc", "histogram", "trace")
VIEWER = "viewer"
MASK_ENDINGS = tuple(
    f"{entity}-brain_mask.{extension}"
    for entity in ("desc", "label")
    for extension in ("nii.gz", "nii")
)
BIDSIGNORE = ("*.html", "logs/", "**/figures", "**/log", "*_xfm.*", "*_metrics.*", "group_*")
_SWITCHES = ("anat_only", "longitudinal", "force", "sloppy")
_ELSEWHERE = ("Warnings", "Checks", "WithinTemplate")
_VERSIONED = ("bh-bids", "antspyx", "nibabel", "nipype", "nflows", "numpy", "scipy", "torch")


@cache
def software_versions():
    """Versions of what computes a result.

    Returns
    -------
    dict of str
    """
    versions = {}
    for name in _VERSIONED:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "unknown"
    return versions


def file_sha256(path):
    """SHA-256 of a file's bytes.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    str
        Hexadecimal.

    Raises
    ------
    OSError
        If it is no regular file: a device or a pipe may never end.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is no regular file")
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def model_sha256(model):
    """What a model's results depend on, as one hash: two models of one hash are the same.

    Parameters
    ----------
    model : dict
        The model's description, with the hashes of its files.

    Returns
    -------
    str
        Hexadecimal.
    """
    names = ("WeightsSHA256", "MeanSHA256", "CalibrationSHA256", "Intensity", "Config")
    parts = {name: model.get(name) for name in names}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def provenance_key(scan, settings, model, within=()):
    """What a scan's results depend on, as one hash: equal keys mean equal results.

    Threads are left out: they change the last bits alone, and a run that goes on on a computer with
    more cores must not do all again.

    Parameters
    ----------
    scan : bh_bids.dataset.Scan
    settings : bh_bids.settings.Settings
    model : dict
        The model's description, with the hashes of its files.
    within : sequence of bh_bids.dataset.Scan
        Scans of a common template, this one among them.

    Returns
    -------
    str
        Hexadecimal.
    """
    parts = {
        **_inputs_of(scan, settings),
        "within": [[_inputs_of(other, settings), other.scanner] for other in within],
        "metadata": [scan.scanner, scan.problems],
        "model": model_sha256(model),
        "method": settings.method,
        "skull_strip": settings.skull_strip_t1w,
        "template": settings.template,
        "spaces": sorted(settings.output_spaces),
        "anat_only": settings.anat_only,
        "seed": settings.random_seed,
        "sloppy": settings.sloppy,
        "software": software_versions(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _inputs_of(scan, settings):
    mask = find_mask(scan, settings.derivatives)
    lesion = find_lesion(scan, settings.lesion_roi)
    return {
        "input": file_sha256(scan.path),
        "mask": file_sha256(mask) if mask else None,
        "lesion": file_sha256(lesion) if lesion else None,
    }


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
            if path.is_file():
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
        The sidecar with the scan's provenance key comes first.
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
        From :func:`provenance_key`.

    Returns
    -------
    bool
    """
    if not is_complete(scan, space, settings):
        return False
    first = settings.output_dir / expected_outputs(scan, space, settings)[0]
    try:
        return json.loads(first.read_text(encoding="utf-8")).get("ProvenanceKey") == key
    except (OSError, ValueError, AttributeError):
        return False


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


def image_sidecar(scan, *, description, space=None, template=None):
    """Sidecar of a derived image.

    Parameters
    ----------
    scan : bh_bids.dataset.Scan
    description : str
    space : str, optional
        Standard space of the image; the scan's own grid without.
    template : str, optional
        BIDS URI or name of the spatial reference; the space's name by default.

    Returns
    -------
    dict
    """
    sidecar = {"Description": description, "Sources": [scan.uri], "SkullStripped": True}
    if space:
        sidecar["SpatialReference"] = template or space
        sidecar["Resolution"] = RESOLUTION
    return {**sidecar, **scan.scanner}


def anatomical_checks(extraction):
    """A sidecar's account of the checks of the anatomical fit.

    Parameters
    ----------
    extraction : dict
        What the brain extraction and the checks found.

    Returns
    -------
    dict
        ``AnatomicalChecks`` with ``Verdict`` and one entry per check.
    """
    from .anatomy.checks import verdict_of

    checks = extraction["Checks"]
    return {"AnatomicalChecks": {"Verdict": verdict_of(checks), **checks}}


def registration(extraction):
    """A sidecar's account of the registration.

    Parameters
    ----------
    extraction : dict
        What the brain extraction found.

    Returns
    -------
    dict
    """
    scans = extraction.get("WithinTemplate")
    if not scans:
        return {"Method": "rigid, then affine"}
    method = "rigid to the participant's unbiased template; the template's rigid, then affine"
    return {"Method": method, "WithinTemplate": scans}


def provenance(scan, settings, model):
    """What made a scan's results, for the sidecars that do not tell of the harmonization.

    Parameters
    ----------
    scan : bh_bids.dataset.Scan
    settings : bh_bids.settings.Settings
    model : dict
        The model's description.

    Returns
    -------
    dict
    """
    return {
        "Model": model["Name"],
        "WeightsSHA256": model["WeightsSHA256"],
        "Method": settings.method,
        "Seed": settings.random_seed,
        "Threads": settings.omp_nthreads,
        **inputs_sha256(scan, settings),
        "SoftwareVersions": software_versions(),
        "CommandLine": command_line(settings, scan),
    }


def inputs_sha256(scan, settings):
    """Hashes of the files that a scan's results were made from.

    Parameters
    ----------
    scan : bh_bids.dataset.Scan
    settings : bh_bids.settings.Settings

    Returns
    -------
    dict of str
        ``InputSHA256`` of the scan, ``MaskSHA256`` and ``LesionSHA256`` where such masks were
        used; without files that cannot be read.
    """
    files = {
        "InputSHA256": scan.path,
        "MaskSHA256": find_mask(scan, settings.derivatives),
        "LesionSHA256": find_lesion(scan, settings.lesion_roi),
    }
    hashes = {}
    for name, path in files.items():
        try:
            hashes |= {name: file_sha256(path)} if path else {}
        except OSError:  # the step that reads the file says what is wrong with it
            pass
    return hashes


def harmonization_block(settings, model, result, extraction, scan):
    """The sidecar's account of how an image was harmonized.

    Parameters
    ----------
    settings : bh_bids.settings.Settings
    model : dict
        The model's description.
    result : dict
        What the harmonization found: see
        :class:`bh_bids.interfaces.harmonization.Harmonize`.
    extraction : dict
        What the brain extraction found.
    scan : bh_bids.dataset.Scan

    Returns
    -------
    dict
    """
    block = {
        "Model": model["Name"],
        "ModelVersion": model.get("Version", "unknown"),
        "WeightsSHA256": model["WeightsSHA256"],
        "CalibrationSHA256": model.get("CalibrationSHA256"),
        "TargetDomain": model.get("TargetDomain", {}),
        "Space": model["Config"]["space"],
        "Method": result["method"],
        "Parameters": result["parameters"],
        "Device": result["device"],
        "Seed": result["seed"],
        "Threads": settings.omp_nthreads,
        "Converged": result["converged"],
        "Iterations": result["iterations"],
        "Decisions": result["decisions"],
        "IntensityMap": intensity_map(result["mapping"]) if result["decisions"] else None,
        "SharedMap": result["shared"] or None,
        "Guards": [*extraction.get("Warnings", []), *result["guards"]],
        "TargetCorrelation": result["contrast"],
        "Structure": result["structure"],
        "Clipping": result["clipping"],
        "Lesion": result["lesion"],
        "IntensityScale": {
            "Percentile": SCALE_PERCENTILE,
            "SourceScale": result["source_scale"],
            "TargetScale": result["target_scale"],
        },
        **inputs_sha256(scan, settings),
        "BrainExtraction": {
            **{k: v for k, v in extraction.items() if k not in _ELSEWHERE},
            "SkullStripT1w": settings.skull_strip_t1w,
        },
        "BiasCorrection": {"Method": "N4"},
        "Registration": registration(extraction),
        "SoftwareVersions": software_versions(),
        "CommandLine": command_line(settings, scan),
    }
    # Left out where the method, the model or the scan has none.
    optional = ("CalibrationSHA256", "Decisions", "IntensityMap", "SharedMap", "Lesion")
    return {name: value for name, value in block.items() if value or name not in optional}


def intensity_map(mapping, knots=33):
    """A mapping's curve at few knots, and its field.

    Parameters
    ----------
    mapping : dict
        As :meth:`bh_bids.mapping.mapping.Mapping.to_dict` gives it.
    knots : int
        At most so many, evenly spaced among the mapping's.

    Returns
    -------
    dict
        ``Input``, ``Output`` and ``Ceiling`` (None for no limit) in target units;
        ``FieldCoefficients``, None without a field.
    """
    last = len(mapping["Input"]) - 1
    steps = min(knots - 1, last)
    chosen = [round(k * last / steps) for k in range(steps + 1)]
    field, ceiling = mapping["Field"], mapping["Ceiling"]
    return {
        "Input": [round(mapping["Input"][k], 5) for k in chosen],
        "Output": [round(mapping["Output"][k], 5) for k in chosen],
        "Ceiling": None if ceiling is None else round(ceiling, 5),
        "FieldCoefficients": None if field is None else [round(c, 6) for c in field],
    }


def command_line(settings, scan):
    """A command that makes a scan's results again, byte for byte.

    Parameters
    ----------
    settings : bh_bids.settings.Settings
    scan : bh_bids.dataset.Scan

    Returns
    -------
    str
        For a shell; BIDS_DIR, OUTPUT_DIR and PATH stand for folders.
    """
    words = ["bh-bids", "BIDS_DIR", "OUTPUT_DIR", "participant"]
    words += ["--participant-label", scan.participant]
    if scan.session:
        words += ["--session-label", scan.session]
    words += ["--model", settings.model, "--method", settings.method]
    words += ["--skull-strip-t1w", settings.skull_strip_t1w]
    if settings.template:
        words += ["--template", settings.template]
    words += ["--output-spaces", *settings.output_spaces, "--device", settings.device]
    if settings.derivatives:
        words += ["--derivatives", *(f"{name}=PATH" for name in settings.derivatives)]
    if settings.lesion_roi:
        words += ["--lesion-roi", "PATH"]
    words += ["--random-seed", str(settings.random_seed)]
    words += ["--omp-nthreads", str(settings.omp_nthreads)]
    words += [f"--{name.replace('_', '-')}" for name in _SWITCHES if getattr(settings, name)]
    return shlex.join(words)
