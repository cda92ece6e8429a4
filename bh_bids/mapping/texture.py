"""A brain's fine texture, by brightness: what tells its own contrast from the scanner's.

A histogram match gives every brain the target's average histogram, so that a participant with
large ventricles, or bright grey matter, is changed. But the histogram is not all one sees: where
a map of intensities has stretched them, it has stretched noise and fine texture too. After the
match, how the texture at each brightness rank differs from that of the target's own scans says how
far the match has stretched there.

Texture depends on the place (receivers, cortex or deep nuclei) and on the structures around as
well; rank, place and structure are told apart by an additive model.
"""

from functools import partial

import numpy as np

from ..threads import at_once
from .intensity import SHARES

RANKS = 16
# Columns of a profile: texture, and the same given finer structure too.
TEXTURE, FINE = (slice(k * RANKS, (k + 1) * RANKS) for k in range(2))
COLUMNS = 2 * RANKS
# Texture is looked at this many voxels inside the brain: masking makes none of it.
CORE_SIDE = 5
# Places are told apart by blocks (voxels), structure by the strata of the gradient at each scale.
PLACE, STRATA = 24, 8
SCALES, FINEST = (1.5, 2.0, 3.0, 4.5), 1.0
FLOOR, SPREAD_FLOOR = 1e-4, 2e-3
SWEEPS = 8
# Voxels this many robust standard deviations off the additive model (lesions, vessels) are left
# out of its second half.
ODD = 3.0
# Standard deviation of a normal distribution over its median absolute deviation.
NORMAL = 1.4826


def texture_profile(matched, mask, quantiles):
    """What is left of texture at each of ``RANKS`` brightness ranks.

    Parameters
    ----------
    matched : numpy.ndarray, shape (x, y, z)
        A brain whose histogram was matched to the target's.
    mask : numpy.ndarray of bool, shape (x, y, z)
    quantiles : numpy.ndarray, shape (LEVELS,)
        The target's brain quantiles: intensities of the ranks' borders.

    Returns
    -------
    profile : numpy.ndarray of float64, shape (COLUMNS,)
        Logarithm of the standard deviation among 3 x 3 x 3 voxels, as far as it goes with the
        rank, place and structure being equal (columns ``TEXTURE``, and with structure of one
        voxel's size ``FINE``; each less its mean).
    sharpness : float
        Mean over the ranks of the logarithm of the mean gradient.
    """
    from scipy.ndimage import gaussian_filter, uniform_filter

    from ..anatomy.resampling import content_box

    box = content_box(mask, margin=1)
    matched = np.where(mask[box], matched[box], 0).astype(np.float32)
    core = np.nonzero(uniform_filter(mask[box].astype(np.float32), CORE_SIDE) > 0.999)
    # Every other voxel, like the black fields of a chessboard: neighbours tell much the same.
    core = tuple(i[sum(core) % 2 == 0] for i in core)
    if not core[0].size:
        return np.zeros(COLUMNS), float(np.log(FLOOR))
    share = np.interp(matched[core], quantiles, SHARES)
    rank = np.clip((share * RANKS).astype(int), 0, RANKS - 1)

    def structure(scale):
        smooth = gaussian_filter(matched, scale, truncate=3.0)
        return _strata(_squared_gradient(smooth)[core])

    finest, *strata = at_once([partial(structure, scale) for scale in (FINEST, *SCALES)])
    place = np.ravel_multi_index(
        [(i + part.start) // PLACE for i, part in zip(core, box, strict=True)],
        [n // PLACE + 1 for n in mask.shape],
    )
    mean = uniform_filter(matched, 3)[core]
    variance = uniform_filter(matched**2, 3)[core] - mean**2
    spread = np.log(np.sqrt(np.maximum(variance, 0)) + SPREAD_FLOOR)
    profile = np.zeros(COLUMNS)
    profile[TEXTURE], profile[FINE] = at_once(
        [
            partial(_rank_effect, spread, rank, [place, *strata]),
            partial(_rank_effect, spread, rank, [place, finest, *strata]),
        ]
    )
    length = np.sqrt(_squared_gradient(matched)[core])
    gradient = np.bincount(rank, length, minlength=RANKS)
    gradient = gradient / np.maximum(np.bincount(rank, minlength=RANKS), 1)
    return profile, float(np.log(gradient + FLOOR).mean())


def _squared_gradient(volume):
    """Squared length of the gradient by central differences, per voxel; 0 at the ends."""
    square = np.zeros_like(volume)
    for axis in range(3):
        inner, ahead, behind = ([slice(None)] * 3 for _ in range(3))
        inner[axis], ahead[axis], behind[axis] = slice(1, -1), slice(2, None), slice(None, -2)
        difference = volume[tuple(ahead)] - volume[tuple(behind)]
        difference /= 2
        difference *= difference
        square[tuple(inner)] += difference
    return square


def _strata(values):
    """Numbers 0 to STRATA - 1 of equally many values each, by size."""
    return np.searchsorted(np.quantile(values, np.arange(1, STRATA) / STRATA), values)


def _rank_effect(values, rank, others):
    """Effect of the rank in an additive model of rank and other factors, less its mean.

    Backfitting: each factor's effect in turn is the mean of what the others leave. Half way
    through, voxels that the model does not fit are left out: a lesion has a texture of its own.
    """
    rest = values - values.mean()
    factors = [*others, rank]
    sizes = [factor.max() + 1 for factor in others] + [RANKS]
    effect = np.zeros(RANKS)
    for half in range(2):
        if half:
            off = np.abs(rest - np.median(rest))
            kept = off <= ODD * NORMAL * np.median(off)
            rest, factors = rest[kept], [factor[kept] for factor in factors]
        counts = [
            np.maximum(np.bincount(f, minlength=n), 1) for f, n in zip(factors, sizes, strict=True)
        ]
        for _ in range(SWEEPS // 2):
            for factor, count in zip(factors, counts, strict=True):
                step = np.bincount(factor, rest, minlength=count.size) / count
                rest = rest - step[factor]
            effect += step
    return effect - effect.mean()
