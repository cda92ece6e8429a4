"""What must be refused or said before a volume is harmonized."""

import numpy as np

from ..errors import InputError
from ..evaluation.similarity import ncc

# Correlation of the source with the target's mean volume inside the brain, after registration.
# Measured on a mean of few participants: real T1w scans 0.58 to 0.73 (0.42 unscaled; a bias field
# of 25 % costs 0.05), scans turned upside down or back to front 0.31 to 0.37, contrasts like that
# of T2w or PDw -0.38 to -0.67.
REFUSED_BELOW = -0.2
DOUBTFUL_BELOW = 0.4
# The share of non-finite voxels inside the mask that is mended, not refused.
MENDABLE = 0.05
COMMON_BRAIN = 0.05


def usable_volume(volume, mask, model):
    """Check a volume and its mask, and leave out what is not finite.

    Parameters
    ----------
    volume : array_like, shape (x, y, z)
        Raw intensities on the model's grid.
    mask : array_like of bool, shape (x, y, z)
        Brain mask.
    model : TargetModel

    Returns
    -------
    volume : numpy.ndarray of float32
    mask : numpy.ndarray of bool
        Without the voxels that are not finite.
    guards : list of str

    Raises
    ------
    InputError
        If shapes do not fit the model's grid, the mask is empty, or more than 5 % of the brain is
        not finite.
    """
    volume, mask = np.asarray(volume, dtype=np.float32), np.asarray(mask).astype(bool)
    shape = tuple(model.config.shape)
    for name, array in (("volume", volume), ("brain mask", mask)):
        if array.shape != shape:
            raise InputError(
                f"The {name} has shape {array.shape}: it must be resampled to the grid of the "
                f"model '{model.name}', {shape} in {model.space}."
            )
    if not mask.any():
        raise InputError("The brain mask is empty: there is nothing to harmonize.")
    guards = []
    finite = np.isfinite(volume)
    lost = float(np.mean(~finite[mask]))
    if lost > MENDABLE:
        raise InputError(f"{lost:.0%} of the brain's intensities are not finite (NaN or infinity).")
    if lost:
        guards.append(f"{lost:.3%} of the brain's voxels are not finite and were left out.")
    mask = mask & finite
    negative = float(np.mean(volume[mask] < 0))
    if negative > 0.01:
        guards.append(f"{negative:.1%} of the brain's intensities are negative and count as 0.")
    return np.where(finite, volume, 0), mask, guards


def contrast_guard(source, mask, model):
    """Tell whether a volume's contrast is that of a T1w image.

    The correlation of source and target is assumed positive by Eq. 1; with inverted contrast (a
    T2w image) the method would turn the image upside down.

    Parameters
    ----------
    source : numpy.ndarray, shape (x, y, z)
        Any units.
    mask : numpy.ndarray of bool
        Brain mask.
    model : TargetModel

    Returns
    -------
    correlation : float
        With the model's mean volume, inside the brain; NaN if they do not meet.
    guards : list of str
        A sentence if the correlation is below 0.4.

    Raises
    ------
    InputError
        If the correlation is below -0.2: the contrast is clearly inverted.
    """
    common = mask & (model.mean > COMMON_BRAIN)
    if not common.any():
        return float("nan"), ["The brain mask does not meet the model's mean volume."]
    correlation = ncc(model.mean, source, common)
    if correlation < REFUSED_BELOW:
        raise InputError(
            f"The scan's contrast is inverted: its correlation with the mean of the target domain "
            f"is {correlation:.2f} inside the brain. Only T1-weighted images can be harmonized by "
            "this model; check that this is no T2w or PDw image."
        )
    if correlation < DOUBTFUL_BELOW:
        return correlation, [
            f"The scan resembles the target domain's mean little (correlation {correlation:.2f} "
            "inside the brain): check its contrast, brain mask and registration."
        ]
    return correlation, []
