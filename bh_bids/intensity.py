"""The one place where raw intensities become the target's scale and back.

Inside the flow and the solvers a volume is in *target units*: 0 is background and 1 is the
99th percentile of the brain, about the upper end of white matter. One scale per volume, never per
slice: a scale per slice destroys the contrast between slices.
"""

import numpy as np

from .errors import InputError

SCALE_PERCENTILE = 99.0
# With fewer intensities in a brain it is no T1w image, but labels or a strongly rounded one.
FEW_INTENSITIES = 32


def few_intensities(values):
    """Tell of a brain that has but a few intensities.

    Parameters
    ----------
    values : numpy.ndarray
        The brain's, as they were stored: an interpolation makes many of few.

    Returns
    -------
    list of str
        A sentence or none.
    """
    levels = np.unique(values).size
    if levels >= FEW_INTENSITIES:
        return []
    return [
        f"The brain has only {levels} different intensities: check that this is a T1w image and no "
        "segmentation."
    ]


def volume_scale(volume, mask, percentile=SCALE_PERCENTILE):
    """Intensity of one volume that becomes 1 in target units.

    Parameters
    ----------
    volume : numpy.ndarray, shape (x, y, z)
        Intensities in arbitrary units.
    mask : numpy.ndarray of bool, shape (x, y, z)
        Brain mask.
    percentile : float
        Percentile of the intensities in the mask, in [0, 100].

    Returns
    -------
    float
        The scale, in the volume's own units; always positive.

    Raises
    ------
    InputError
        If the mask is empty or the brain's intensities are not finite and positive.
    """
    mask = np.asarray(mask, dtype=bool)
    if not mask.any():
        raise InputError("The brain mask is empty: there is nothing to scale.")
    scale = float(np.percentile(np.asarray(volume)[mask], percentile))
    if not np.isfinite(scale) or scale <= 0:
        raise InputError(
            f"The brain's {percentile:g}th percentile is {scale:g}: "
            "intensities inside the brain mask must be finite and positive."
        )
    return scale


def to_target_units(volume, mask, percentile=SCALE_PERCENTILE, left_out=None):
    """Scale a volume to target units: background 0, the brain's 99th percentile 1.

    Parameters
    ----------
    volume : numpy.ndarray, shape (x, y, z)
        Intensities in arbitrary units.
    mask : numpy.ndarray of bool, shape (x, y, z)
        Brain mask; everything outside becomes 0.
    percentile : float
        See :func:`volume_scale`.
    left_out : numpy.ndarray of bool, shape (x, y, z), optional
        Voxels that have no say in the scale, such as a lesion's.

    Returns
    -------
    scaled : numpy.ndarray of float32, shape (x, y, z)
    scale : float
        ``scaled * scale`` gives the volume back inside the mask.
    """
    told = mask if left_out is None else np.asarray(mask, dtype=bool) & ~left_out
    scale = volume_scale(volume, told, percentile)
    scaled = np.where(mask, np.asarray(volume, dtype=np.float32) / np.float32(scale), 0.0)
    return scaled.astype(np.float32), scale
