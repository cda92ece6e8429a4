"""Tissue labels that others made of the target's scans, on the model's grid."""

import csv
from pathlib import Path

import nibabel as nib
import numpy as np

from ..anatomy.tissues import LABELS, relabel
from ..derivatives import find_precomputed
from ..errors import InputError
from .volumes import read_volume

#: BIDS' own numbers, where no dseg.tsv gives others.
_STANDARD = {"GM": 1, "WM": 2, "CSF": 3}


def find_map(record, folders, space):
    """The file of a scan's tissue labels.

    Parameters
    ----------
    record : bh_bids.group.study.Record
    folders : dict of str to pathlib.Path
        Given with ``--derivatives``.
    space : str
        The model's.

    Returns
    -------
    pathlib.Path or None
        ``..._dseg.nii.gz`` in the model's space at 1 mm, else on the scan's own grid.
    """
    standard = find_precomputed(record, folders, f"space-{space}_res-1_dseg.nii.gz")
    return standard or find_precomputed(record, folders, "dseg.nii.gz")


def read_map(path, record, root):
    """Tissue labels on the grid of a scan's preprocessed image.

    Parameters
    ----------
    path : pathlib.Path
        Of :func:`find_map`.
    record : bh_bids.group.study.Record
    root : pathlib.Path
        Of the derivatives that hold the labels: its dseg.tsv tells what their numbers mean; BIDS'
        standard (1 grey matter, 2 white matter, 3 CSF) without.

    Returns
    -------
    numpy.ndarray of int8, shape (x, y, z)
        1 CSF, 2 grey and 3 white matter; 0 outside the brain mask and for any other tissue.

    Raises
    ------
    InputError
        If a file cannot be read, or the labels lie on another grid and there is no transform.
    """
    from ..anatomy.resampling import resample

    inside, affine = read_volume(record.mask)
    labels, own = read_volume(path)
    # Nearest neighbours on RAS axes.
    image = nib.as_closest_canonical(nib.Nifti1Image(labels, own))
    if "_space-" in path.name:
        matrix = np.eye(4)
    else:
        matrix = scan_to_model(record)
        if matrix is None:
            raise InputError(
                f"{path} is on the scan's own grid, and {record.preproc.parent} has no transform "
                "to the model's space: process the scan again."
            )
    moved = resample(image.get_fdata(), image.affine, inside.shape, affine, matrix, order=0)
    return relabel(np.rint(moved).astype(int), label_values(root), inside > 0.5)


def scan_to_model(record):
    """The transform from a scan's own grid to the model's space.

    Parameters
    ----------
    record : bh_bids.group.study.Record

    Returns
    -------
    numpy.ndarray, shape (4, 4), or None
        RAS+ mm to RAS+ mm; None where there is none beside the scan.
    """
    from ..anatomy.registration import image_matrix

    transforms = sorted(record.preproc.parent.glob(f"{record.key}_from-T1w_to-*_xfm.h5"))
    return image_matrix(transforms[0]) if transforms else None


def label_values(root):
    """What the numbers of a derivatives folder's discrete segmentations mean.

    Parameters
    ----------
    root : pathlib.Path

    Returns
    -------
    dict of str to int
        "CSF", "GM" and "WM".

    Raises
    ------
    InputError
        If there is a dseg.tsv without one of them.
    """
    path = Path(root) / "dseg.tsv"
    if not path.is_file():
        return dict(_STANDARD)
    with open(path, encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    try:
        found = {row["abbreviation"]: int(row["index"]) for row in rows if row["abbreviation"]}
        return {tissue: found[tissue] for tissue in LABELS}
    except (KeyError, TypeError, ValueError):
        raise InputError(
            f"{path} does not give the index of CSF, GM and WM in its columns index and "
            "abbreviation."
        ) from None
