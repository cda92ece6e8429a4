"""Harmonized scans as a dataset that other BIDS Apps take as their input."""

import csv
import io
import json
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from . import __version__
from .derivatives import BIDS_VERSION, is_done, makers
from .errors import InputError
from .reports.svg import write_text

_DERIVATIVES = Path("derivatives") / "bh-bids"
_BESIDE = ("README.md", "participants.tsv", "participants.json")
_README = """\
# Harmonized T1w scans

Each `sub-*/**/anat/*_T1w.nii.gz` of this dataset is a brain whose contrast bh-bids brought to that
of another scanner, on the grid of the scan of the same name in the source dataset. It is an
estimate, not what a scanner measured. Everything but the brain is 0: tell programs that extract
brains to leave that out, such as fMRIPrep with `--skull-strip-t1w skip`.

Reports, masks, transforms and all that the scans were made with are in `derivatives/bh-bids`.
"""


def derivatives_settings(settings):
    """Settings with the place of the derivatives as their output folder.

    Parameters
    ----------
    settings : bh_bids.settings.Settings

    Returns
    -------
    bh_bids.settings.Settings

    Raises
    ------
    InputError
        If what the layout needs would not be made.
    """
    if settings.output_layout != "bids":
        return settings
    if settings.anat_only or "T1w" not in (settings.output_spaces or ("T1w",)):
        raise InputError(
            "--output-layout bids needs harmonized images on the scans' own grids: leave out "
            "--anat-only, and name T1w among the --output-spaces."
        )
    return replace(settings, output_dir=settings.output_dir / _DERIVATIVES)


def check_raw_like(output_dir):
    """Refuse a folder that holds a dataset of another origin.

    Parameters
    ----------
    output_dir : pathlib.Path
        Root of the raw-like dataset to write.

    Raises
    ------
    InputError
        If there is a description that does not say that this program made a raw-like dataset here;
        or none, but files that would be replaced.
    """
    # Looked for before the description, which parallel jobs write before the scans.
    patterns = ("sub-*/anat/*_T1w.*", "sub-*/ses-*/anat/*_T1w.*")
    held = any((output_dir / name).exists() for name in _BESIDE) or any(
        next(output_dir.glob(pattern), None) for pattern in patterns
    )
    path = output_dir / "dataset_description.json"
    if os.path.lexists(path):
        own = _is_own(_sidecar(path))
    else:
        own = not held
    if not own:
        raise InputError(
            f"{output_dir} holds files that --output-layout bids did not write and would replace: "
            "give a new or empty folder, or one of an earlier run with this option."
        )


def _is_own(description):
    return "bh-bids" in makers(description) and description.get("DatasetType") == "raw"


def write_raw_like(plan, output_dir):
    """Write the harmonized scans under their raw names, with sidecars and a description.

    Parameters
    ----------
    plan : bh_bids.runner.Plan
        Its settings' output folder holds the derivatives.
    output_dir : pathlib.Path
        Root of the dataset to write. What it holds already stays, or is replaced as a whole file.

    Returns
    -------
    int
        How many scans were written; those without complete results are left out.

    Raises
    ------
    InputError
        If the folder holds a dataset of another origin, or a link to the source's scans. Nothing
        is written then.
    """
    settings = plan.settings
    check_raw_like(output_dir)
    space = plan.model["Config"]["space"]
    done = [s for s in plan.scans if is_done(s, space, settings, plan.keys[s.key])]
    for scan in done:
        if (output_dir / scan.folder).resolve() == scan.path.parent.resolve():
            raise InputError(
                f"{output_dir / scan.folder} is the folder of the source's own scans: "
                "give --output-layout bids a folder without links into the source."
            )
    # The description is written first: it says whose the scans are, should the run be stopped.
    _write_description(settings, output_dir)
    for scan in done:
        derived = settings.output_dir / scan.folder / f"{scan.key}_desc-harmonized_T1w"
        raw = output_dir / scan.folder / f"{scan.key}_T1w"
        content = {**scan.metadata, **_sidecar(Path(f"{derived}.json"))}
        write_text(Path(f"{raw}.json"), json.dumps(content, indent=2) + "\n")
        _copy(Path(f"{derived}.nii.gz"), Path(f"{raw}.nii.gz"))
    write_text(output_dir / "README.md", _README)
    _write_participants(settings.bids_dir, output_dir)
    return len(done)


def _write_description(settings, output_dir):
    described = json.loads((settings.output_dir / "dataset_description.json").read_text("utf-8"))
    description = {
        **described,
        "Name": "T1w scans harmonized by bh-bids",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "raw",
        "GeneratedBy": [{"Name": "bh-bids", "Version": __version__}],
    }
    write_text(output_dir / "dataset_description.json", json.dumps(description, indent=2) + "\n")


def _sidecar(path):
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _copy(source, destination):
    """Copy a file aside and move it into place."""
    descriptor, aside = tempfile.mkstemp(prefix=".bh-bids-", dir=destination.parent)
    os.close(descriptor)
    try:
        shutil.copy(source, aside)
        os.replace(aside, destination)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise


def _write_participants(bids_dir, output_dir):
    """The source's table of participants, as far as they have scans here."""
    present = {path.name for path in output_dir.glob("sub-*") if path.is_dir()}
    try:
        text = (bids_dir / "participants.tsv").read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return
    rows = [row for row in csv.reader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE)]
    kept = rows[:1] + [row for row in rows[1:] if row and row[0] in present]
    table = "\n".join("\t".join(row) for row in kept) + "\n"
    write_text(output_dir / "participants.tsv", table)
    dictionary = bids_dir / "participants.json"
    if dictionary.is_file():
        _copy(dictionary, output_dir / "participants.json")
