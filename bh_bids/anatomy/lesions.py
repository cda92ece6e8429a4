"""Lesion masks: whether they leave enough of a brain to estimate anything from."""

import numpy as np

from ..errors import InputError

MOST_LESION = 0.5
"""Largest share of the brain that a lesion mask may cover."""


def usable_lesion(lesion, mask):
    """Check a lesion mask.

    Parameters
    ----------
    lesion : array_like of bool, shape (x, y, z), or None
    mask : numpy.ndarray of bool, shape (x, y, z)
        Brain mask.

    Returns
    -------
    numpy.ndarray of bool or None
        The lesion's voxels in the brain; None if there are none.

    Raises
    ------
    InputError
        If the mask lies on another grid, or hardly leaves a brain to estimate anything from.
    """
    if lesion is None:
        return None
    lesion = np.asarray(lesion).astype(bool)
    if lesion.shape != mask.shape:
        raise InputError(
            f"The lesion mask has shape {lesion.shape}, the brain mask {mask.shape}: resample it."
        )
    lesion = lesion & mask
    if not lesion.any():
        return None
    if lesion.sum() > MOST_LESION * mask.sum():
        raise InputError(
            f"The lesion mask covers {lesion.sum() / mask.sum():.0%} of the brain: too little is "
            "left to tell the scan's contrast from. Check that it is no brain mask."
        )
    return lesion
