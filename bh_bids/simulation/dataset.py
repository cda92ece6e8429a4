"""Write simulated traveling subjects as a BIDS dataset, with the ground truth as derivatives.

The same settings and seed give the same bytes: nothing written holds a time, a path or a name of
the machine, and a scan depends on its own participant and site alone.
"""

import csv
import gzip
import io
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from .. import __version__
from ..errors import InputError
from ..jsonfiles import read_json
from .anatomy import head_files, load_head, make_participant
from .embedded import embedded_head
from .scan import generator, simulate_scan
from .tissues import KINDS

BIDS_VERSION = "1.10.0"
PROGRAM = "bh-simulate"
_DSEG = {"Description": "Ground truth: most likely tissue.", "SpatialReference": "orig"}
_MNI = {
    "from": "the MNI152 2009a maps of nilearn",
    "license": "that of the ICBM 152 templates, see README.md",
    "notice": "The brain is made from the ICBM 152 2009a templates, Copyright (C) 1993-2009 Louis "
    "Collins,\nMcConnell Brain Imaging Centre, Montreal Neurological Institute, McGill "
    "University, which may be\nused, copied, modified and distributed if this notice is kept.",
}
_LABEL_MAPS = {
    "from": "whole-head label maps",
    "license": "that of the label maps",
    "notice": "The heads are made from label maps; their licence holds for these images too.",
}
_EMBEDDED_SIZE = 0.93  # The MNI152 brain is larger than most: 1.9 litres with its sulci.


@dataclass(frozen=True)
class Settings:
    """What to simulate.

    Attributes
    ----------
    participants : int
    sites : tuple of Site
    heads : pathlib.Path or None
        Folder of whole-head label maps; None takes the embedded head.
    seed : int
    voxel_size : float or None
        In place of the sites', in mm.
    noise : float
        Factor on the sites' noise.
    skull_stripped : bool
    """

    participants: int
    sites: tuple
    heads: Path | None = None
    seed: int = 0
    voxel_size: float | None = None
    noise: float = 1.0
    skull_stripped: bool = False


def nifti_bytes(array, affine, slope=1.0):
    """A gzipped NIfTI-1 file whose bytes depend on the image alone.

    Parameters
    ----------
    array : numpy.ndarray, shape (x, y, z)
        Stored as it is.
    affine : numpy.ndarray, shape (4, 4)
        Voxel to scanner (RAS, mm).
    slope : float
        Factor from the stored numbers to the values they mean.

    Returns
    -------
    bytes
    """
    header = nib.Nifti1Header()
    header.set_data_dtype(array.dtype)
    header.set_data_shape(array.shape)
    header.set_qform(affine, 1)
    header.set_sform(affine, 1)
    header.set_xyzt_units("mm", "sec")
    header["magic"] = b"n+1"
    header["vox_offset"] = 352
    header["scl_slope"] = slope
    header["scl_inter"] = 0
    data = array.astype(header.get_data_dtype(), copy=False).tobytes(order="F")
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=4, fileobj=buffer, mtime=0) as file:
        file.write(header.binaryblock + bytes(4) + data)
    return buffer.getvalue()


def write_dataset(out, settings, *, force=False, progress=None):
    """Simulate a dataset; it appears whole or not at all.

    Parameters
    ----------
    out : str or pathlib.Path
        Folder to write. It must be missing or empty, unless ``force``.
    settings : Settings
    force : bool
        Replace a folder that holds a dataset of this program.
    progress : callable, optional
        Called with (scans done, scans in all, text) before every scan and at the end.

    Returns
    -------
    int
        Number of scans written.

    Raises
    ------
    InputError
        If the folder is taken or cannot be written, or a head cannot be read.
    """
    out = Path(out).absolute()
    _check_target(out, settings.heads, force)
    files = head_files(settings.heads) if settings.heads is not None else []
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise InputError(f"{out} cannot be written: {error.strerror}.") from error
    try:
        staged = aside / "new"
        staged.mkdir()
        count = _write_scans(staged, settings, files, progress or (lambda *_: None))
        _exchange(staged, out, aside / "old")
    except OSError as error:
        where = f"; what it held is in {aside / 'old'}" if _stranded(out, aside) else ""
        raise InputError(f"{out} cannot be written: {error.strerror}{where}.") from error
    finally:
        if not _stranded(out, aside):
            shutil.rmtree(aside, ignore_errors=True)
    return count


def _stranded(out, aside):
    """Whether what stood in a folder's place was moved aside and could not be put back."""
    return (aside / "old").exists() and not out.exists()


def _exchange(staged, out, old):
    """Put a folder in the place of another one, which is moved back if that fails."""
    try:
        if out.exists():
            os.replace(out, old)
        os.replace(staged, out)
    except BaseException:
        if old.exists() and not out.exists():
            os.replace(old, out)
        raise


def _check_target(out, heads, force):
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file: give the folder to write the dataset to.")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not force:
        raise InputError(f"{out} is not empty: give another folder, or --force to replace it.")
    guarded = [Path.cwd()] + ([Path(heads).absolute()] if heads is not None else [])
    if any(out == path or out in path.parents for path in guarded):
        raise InputError(f"{out} holds the current or the heads' folder and is not replaced.")
    if not _is_simulated(out):
        raise InputError(
            f"{out} holds something that {PROGRAM} did not write: give another folder, or remove "
            "it yourself."
        )


def _is_simulated(folder):
    """Whether a dataset's description says that this program made it."""
    try:
        makers = read_json(folder / "dataset_description.json")["GeneratedBy"]
        return any(maker["Name"] == PROGRAM for maker in makers)
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _write_scans(root, settings, files, progress):
    """Everything of the dataset, into an empty folder."""
    truth_root = root / "derivatives" / PROGRAM
    labels = [f"sub-{index + 1:02d}" for index in range(settings.participants)]
    rows = []
    total = len(labels) * len(settings.sites)
    done = 0
    for index, label in enumerate(labels):
        row, person = _participant(label, index, settings, files)
        rows.append(row)
        for site in settings.sites:
            progress(done, total, f"{label} ses-{site.name}")
            _write_scan(root, truth_root, label, person, site, settings)
            done += 1
    _write_descriptions(root, truth_root, rows, settings)
    progress(total, total, "done")
    return total


def _participant(label, index, settings, files):
    """One participant's row of participants.tsv and their anatomy."""
    rng = generator(settings.seed, "participant", index)
    sex = "FM"[int(rng.integers(2))]
    age = int(rng.integers(20, 76))
    size = 1.015 if sex == "M" else 0.985
    finest = settings.voxel_size or min(min(site.voxel_size) for site in settings.sites)
    spacing = 2 if finest >= 2.5 else 1
    if files:
        head = load_head(files[index % len(files)], spacing)
    else:
        head = embedded_head(spacing)
        size *= _EMBEDDED_SIZE
    row = {"participant_id": label, "age": age, "sex": sex, "head": head.name}
    return row, make_participant(head, rng, size=size)


def _write_scan(root, truth_root, label, person, site, settings):
    """One scan with its sidecar, and its ground truth."""
    stem = f"{label}_ses-{site.name}"
    volume, affine, truth = simulate_scan(
        person,
        site,
        generator(settings.seed, label, site.name),
        voxel_size=settings.voxel_size,
        noise=settings.noise,
        skull_stripped=settings.skull_stripped,
        site_seed=settings.seed,
    )
    anat = root / label / f"ses-{site.name}" / "anat"
    anat.mkdir(parents=True)
    (anat / f"{stem}_T1w.nii.gz").write_bytes(nifti_bytes(volume, affine))
    sidecar = {**site.sidecar(), "SkullStripped": settings.skull_stripped}
    sidecar["SoftwareVersions"] = f"{PROGRAM} {__version__}"
    _write_json(anat / f"{stem}_T1w.json", sidecar)

    source = f"bids:raw:{label}/ses-{site.name}/anat/{stem}_T1w.nii.gz"
    folder = truth_root / label / f"ses-{site.name}" / "anat"
    _write_truth(folder, stem, truth, affine, {"Sources": [source], "SpatialReference": "orig"})


def _write_truth(folder, stem, truth, affine, common):
    """Brain mask, segmentation and tissue maps of one scan, with their sidecars."""
    folder.mkdir(parents=True)

    def write(name, array, description, slope=1.0, **entries):
        (folder / f"{stem}_{name}.nii.gz").write_bytes(nifti_bytes(array, affine, slope))
        _write_json(
            folder / f"{stem}_{name}.json", {"Description": description, **entries, **common}
        )

    mask = truth.brain.astype(np.uint8)
    write("desc-brain_mask", mask, "Ground truth: brain with ventricles and sulci.", Type="Brain")
    write("dseg", truth.segmentation(), _DSEG["Description"])
    for kind in KINDS:
        share = np.round(np.clip(getattr(truth, kind.lower()), 0, 1) * 255).astype(np.uint8)
        about = f"Ground truth: fraction of {kind} in the voxel, within the brain."
        write(f"label-{kind}_probseg", share, about, 1 / 255)


def _write_descriptions(root, truth_root, rows, settings):
    """Files of the dataset as a whole, and of its derivatives."""
    origin = _LABEL_MAPS if settings.heads is not None else _MNI
    common = {
        "BIDSVersion": BIDS_VERSION,
        "License": origin["license"],
        "Authors": ["The bh-bids developers"],
        "HowToAcknowledge": f"Simulated from {origin['from']}.",
        "GeneratedBy": [
            {
                "Name": PROGRAM,
                "Version": __version__,
                "Description": f"Seed {settings.seed}, noise x {settings.noise:g}",
            }
        ],
    }
    raw = {"Name": "Simulated traveling subjects", "DatasetType": "raw", **common}
    truth = {
        "Name": "Ground truth of simulated traveling subjects",
        "DatasetType": "derivative",
        **common,
        "SourceDatasets": [{"URL": "bids:raw:"}],
        "DatasetLinks": {"raw": "../.."},
    }
    _write_json(root / "dataset_description.json", raw)
    _write_json(truth_root / "dataset_description.json", truth)
    (root / "README.md").write_text(_readme(origin, settings))
    (truth_root / "README.md").write_text(_truth_readme())
    columns = {
        "age": {"Description": "Age of the simulated participant", "Units": "year"},
        "sex": {
            "Description": "Sex, by which the head's size differs",
            "Levels": {"F": "female", "M": "male"},
        },
        "head": {"Description": "Anatomy that the participant's head was made from"},
    }
    _write_tsv(root / "participants.tsv", rows)
    _write_json(root / "participants.json", columns)
    tissues = [
        {"index": 1, "name": "Gray Matter", "abbreviation": "GM"},
        {"index": 2, "name": "White Matter", "abbreviation": "WM"},
        {"index": 3, "name": "Cerebrospinal Fluid", "abbreviation": "CSF"},
    ]
    _write_tsv(truth_root / "dseg.tsv", tissues)
    _write_json(truth_root / "dseg.json", _DSEG)


def _readme(origin, settings):
    lines = "\n".join(
        f"- ses-{s.name}: {s.manufacturer} {s.model}, {s.field:g} T, {s.sequence.upper()}"
        for s in settings.sites
    )
    return f"""# Simulated traveling subjects

{settings.participants} simulated participants, each scanned at every site, made by {PROGRAM}
{__version__} from {origin["from"]} with the seed {settings.seed}. No person was scanned.

{lines}

A participant's anatomy and tissue texture are the same at all sites; contrast, receive and
transmit fields, noise, point spread, voxel size, gain and head position are the site's.
Ground truth (brain mask, tissue maps) is in derivatives/{PROGRAM}.

{origin["notice"]}
"""


def _truth_readme():
    return """# Ground truth

The brain mask (brain with ventricles and sulci), the fractions of cerebrospinal fluid (CSF), grey
matter (GM) and white matter (WM) in every voxel, and the most likely tissue (dseg; see dseg.tsv)
of every simulated scan, on the scan's own grid.
"""


def _write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")


def _write_tsv(path, rows):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
