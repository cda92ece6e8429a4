"""What must be refused, mended or said of a volume, before and after it is harmonized."""

import numpy as np

from ..errors import InputError
from ..evaluation.harm import lesion_contrasts
from ..evaluation.similarity import ncc
from ..intensity import few_intensities
from .starts import COMMON_BRAIN

# Correlation of the source with the target's mean volume inside the brain, after registration.
# Measured on a mean of few participants: real T1w scans 0.58 to 0.73 (0.42 unscaled; a bias field
# of 25 % costs 0.05), scans turned upside down or back to front 0.31 to 0.37, contrasts like that
# of T2w or PDw -0.38 to -0.67.
REFUSED_BELOW = -0.2
DOUBTFUL_BELOW = 0.45
# The share of non-finite voxels inside the mask that is mended, not refused.
MENDABLE = 0.05
# A brain of which nine tenths differ by no more than this share of its brightest is flat.
FLAT = 1e-3
# A brain mask with more zeros reaches beyond the scan: they would count as its darkest tissue.
EMPTY = 0.02
# A lesion's contrast to its surroundings may be multiplied by this: a map of intensities that
# undoes a scanner's contrast changes it, too.
LESION_KEPT = (0.5, 2.0)


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
        If shapes do not fit the model's grid, the mask is empty, more than 5 % of the brain is not
        finite, or it is equally bright everywhere.
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
    darkest, brightest, scale = np.quantile(volume[mask], (0.05, 0.95, 0.99))
    if 0 < scale and brightest - darkest <= FLAT * scale:
        raise InputError(
            "The brain is equally bright everywhere: there is no contrast to harmonize. Check the "
            "scan and its brain mask."
        )
    guards += few_intensities(volume[mask])
    negative = float(np.mean(volume[mask] < 0))
    if negative > 0.01:
        guards.append(f"{negative:.1%} of the brain's intensities are negative and count as 0.")
    empty = float(np.mean(volume[mask] == 0))
    if empty > EMPTY:
        guards.append(
            f"{empty:.1%} of the brain's intensities are 0: check that the brain mask is not wider "
            "than what the scan shows."
        )
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
        A sentence if the correlation is below 0.45.

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


def lesion_guard(source, harmonized, mask, lesion):
    """What became of a lesion's contrast to its surroundings.

    Parameters
    ----------
    source, harmonized : numpy.ndarray, shape (x, y, z)
        Target units.
    mask : numpy.ndarray of bool, shape (x, y, z)
        Brain mask.
    lesion : numpy.ndarray of bool, shape (x, y, z), or None

    Returns
    -------
    found : dict
        ``Voxels``, ``ContrastBefore`` and ``ContrastAfter`` ((lesion - surroundings) over
        surroundings, of the whole lesion; None without surroundings); empty without a lesion.
    guards : list of str
    """
    if lesion is None:
        return {}, []
    found = {"Voxels": int(lesion.sum()), "ContrastBefore": None, "ContrastAfter": None}
    pairs = lesion_contrasts(source, harmonized, lesion.astype(np.uint8), mask)
    if not pairs or not np.isfinite(pairs[0]).all():
        return found, []
    before, after = map(float, pairs[0])
    found.update(ContrastBefore=round(before, 4), ContrastAfter=round(after, 4))
    if before and not LESION_KEPT[0] <= after / before <= LESION_KEPT[1]:
        return found, [
            f"The lesion's contrast to its surroundings changed from {before:.0%} to {after:.0%}: "
            "compare before and after in the viewer."
        ]
    return found, []


def finite_or_before(solution, problem):
    """A solution's volume; where a slice is not finite, the slice as it was before.

    Parameters
    ----------
    solution : bh_bids.harmonization.solvers.Solution
    problem : bh_bids.harmonization.solvers.Problem

    Returns
    -------
    volume : numpy.ndarray of float32, shape (x, y, z)
        Finite. A slice that was not is that of the mapped source where the method has a mapping,
        and else the source's.
    guards : list of str
    """
    volume = solution.volume
    bad = np.flatnonzero(~np.isfinite(volume).all(axis=(0, 1)))
    if not bad.size:
        return volume, []
    before = problem.source
    if solution.mapping is not None:
        mapped = solution.mapping(before, solution.mapping.log_field())
        before = np.where(problem.mask & np.isfinite(mapped), mapped, before)
    volume = volume.copy()
    volume[:, :, bad] = before[:, :, bad]
    shown = ", ".join(map(str, bad[:20])) + (", ..." if bad.size > 20 else "")
    return volume, [
        f"In {bad.size} slices the method gave no usable values, and they stay as they were before "
        f"its last step: k = {shown}."
    ]


def clipping(source, harmonized, mask, mapping):
    """Voxels of the brain whose values were cut off, or lay beyond what the method knows.

    Parameters
    ----------
    source : numpy.ndarray, shape (x, y, z)
        Target units, before negative values were set to 0.
    harmonized : numpy.ndarray, shape (x, y, z)
    mask : numpy.ndarray of bool, shape (x, y, z)
    mapping : bh_bids.mapping.mapping.Mapping

    Returns
    -------
    dict of str to int
        ``SourceNegative``: below 0 in the source, taken as 0 (none where the volume comes from
        :func:`bh_bids.anatomy.fit.to_model_grid`: what was negative in the scan is told with its
        brain mask); ``ResultZero``: above 0 in the source and 0 in the result; ``BeyondMap``:
        brighter than the intensity map's last knot, where the map is continued.
    """
    inside, after = source[mask], harmonized[mask]
    field = mapping.log_field()
    told = np.maximum(inside, 0) * (1 if field is None else np.exp(-field[mask]))
    return {
        "SourceNegative": int((inside < 0).sum()),
        "ResultZero": int(((inside > 0) & (after <= 0)).sum()),
        "BeyondMap": int((told > mapping.intensity_map.knots_in[-1]).sum()),
    }
