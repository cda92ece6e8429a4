"""What a scan's results were made from, and by what: hashes of the input, versions of software."""

import hashlib
import json
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .derivatives import find_lesion, find_mask

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
        "within": [
            [_inputs_of(other, settings), other.path.name, other.acquisition] for other in within
        ],
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
        given; without files that cannot be read.
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
