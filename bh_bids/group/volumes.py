"""A case of the evaluation, and its volumes: source, target scan of the same person, result."""

import os
from dataclasses import dataclass
from threading import Lock

import nibabel as nib
import numpy as np

from ..anatomy.images import UNREADABLE
from ..errors import InputError
from ..evaluation.similarity import nmi
from ..intensity import to_target_units
from .study import Record

# The registration's seed is the whole process's.
_ONE_REGISTRATION = Lock()


@dataclass(frozen=True)
class Case:
    """One scan to measure.

    Attributes
    ----------
    scan : Record
        The source scan; of a simulated gap the target scan that the gap is made of.
    site : str
        Source site, or the gap.
    target : Record or None
        The participant's scan at the target.
    gap : str or None
        Simulated gap.
    """

    scan: Record
    site: str
    target: Record | None = None
    gap: str | None = None

    @property
    def participant(self):
        """Label without ``sub-``."""
        return self.scan.participant


def read_volume(path):
    """One image.

    Parameters
    ----------
    path : pathlib.Path

    Returns
    -------
    volume : numpy.ndarray of float32, shape (x, y, z)
    affine : numpy.ndarray, shape (4, 4)

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    try:
        image = nib.load(path)
        return np.asarray(image.dataobj, dtype=np.float32), image.affine
    except UNREADABLE as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise InputError(f"{path} cannot be read: {reason}. Process the scan again.") from None


def read_preproc(record):
    """A scan before harmonization, in target units.

    Parameters
    ----------
    record : Record

    Returns
    -------
    volume : numpy.ndarray of float32, shape (x, y, z)
    mask : numpy.ndarray of bool, shape (x, y, z)
    affine : numpy.ndarray, shape (4, 4)

    Raises
    ------
    InputError
        If a file cannot be read, or the two do not share a grid.
    """
    volume, affine = read_volume(record.preproc)
    inside, _ = read_volume(record.mask)
    if volume.shape != inside.shape:
        raise InputError(
            f"{record.preproc} is {volume.shape}, its brain mask {inside.shape}: process the scan "
            "again."
        )
    scaled, _ = to_target_units(volume, inside > 0.5)
    return scaled, inside > 0.5, affine


def read_harmonized(record):
    """A scan after harmonization, in target units.

    Parameters
    ----------
    record : Record

    Returns
    -------
    numpy.ndarray of float32, shape (x, y, z)

    Raises
    ------
    InputError
        If it cannot be read, or its sidecar does not say its scale.
    """
    scale = record.harmonization.get("IntensityScale")
    scale = scale.get("TargetScale") if isinstance(scale, dict) else None
    if not isinstance(scale, (int, float)) or not scale > 0:
        raise InputError(
            f"The sidecar of {record.harmonized} does not say the target's intensity scale: "
            "process the scan again."
        )
    return read_volume(record.harmonized)[0] / np.float32(scale)


def align(record, target, store, seed=0):
    """How a participant's target scan moves onto their source scan.

    Both were registered to the template apart from each other; what is left between them would
    hide the differences between methods.

    Parameters
    ----------
    record, target : Record
    store : bh_bids.group.store.Store
        Keeps the transform.
    seed : int
        Of the registration's sampling.

    Returns
    -------
    numpy.ndarray of float64, shape (4, 4)
        RAS+ mm of the target scan to RAS+ mm of the source scan, affine; the identity where that
        makes the two scans no less alike (mutual information).
    """
    about = [store.hash(p) for r in (record, target) for p in (r.preproc, r.mask)] + [seed]

    def register():
        # ITK reads it when it is loaded; registrations repeat bit for bit on one thread only.
        os.environ.setdefault("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "1")
        from ..anatomy.registration import register_brain
        from ..anatomy.resampling import resample

        fixed, fixed_mask, fixed_affine = read_preproc(record)
        moving, moving_mask, moving_affine = read_preproc(target)
        matrix = register_brain(moving, moving_affine, moving_mask, fixed, fixed_affine, seed=seed)
        grid = (fixed.shape, fixed_affine)
        before, after = (
            nmi(fixed, resample(moving, moving_affine, *grid, m), fixed_mask)
            for m in (np.eye(4), matrix)
        )
        return (matrix if after > before else np.eye(4)).tolist()

    return np.array(store.recall("alignment", about, register))


def read_truth(record, target, store, seed=0):
    """A participant's target scan on their source scan.

    Parameters
    ----------
    record, target, store, seed
        See :func:`align`.

    Returns
    -------
    volume : numpy.ndarray of float32, shape (x, y, z)
        Target units, not below 0; 0 outside the mask.
    mask : numpy.ndarray of bool, shape (x, y, z)
    """
    from ..anatomy.resampling import resample

    volume, mask, affine = read_preproc(target)
    image = nib.load(record.mask)
    grid = (image.shape, image.affine, align(record, target, store, seed))
    moved = resample(volume, affine, *grid, order=3)
    inside = resample(mask.astype(np.float32), affine, *grid, order=1) > 0.5
    return np.where(inside, np.maximum(moved, 0), 0).astype(np.float32), inside
