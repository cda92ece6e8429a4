"""The two comparators that need no network: one gain, and a histogram match inside the brain.

Both bring a source volume to target units by the pooled quantiles of the target domain's brains
(``model.intensity["Quantiles"]``). Every evaluation of a flow needs the first as its ablation, for
much of what a solver does may be a gain; and the second is what a flow has to beat.
"""

import numpy as np

from ..errors import InputError

# Between these shares of the brain the gain is fitted: the tails hold vessels and leftovers.
GAIN_RANGE = (0.02, 0.98)


def gain_match(source, mask, target_quantiles):
    """Multiply a volume by the one gain that best brings its quantiles to the target's.

    Parameters
    ----------
    source : numpy.ndarray, shape (x, y, z)
        Intensities in any units.
    mask : numpy.ndarray of bool, shape (x, y, z)
        Brain mask.
    target_quantiles : array_like, shape (q,)
        Pooled quantiles of the target domain's brains from 0 to 100 %, evenly spaced.

    Returns
    -------
    numpy.ndarray of float32, shape (x, y, z)
        ``gain * source`` inside the mask, 0 outside; the gain is the least-squares solution
        over the quantiles from 2 to 98 %.

    Raises
    ------
    InputError
        If the mask is empty, the quantiles are unusable, or the brain is all zero.
    """
    values, target = _brain_values(source, mask), _check_quantiles(target_quantiles)
    shares = np.linspace(0.0, 1.0, target.size)
    used = (shares >= GAIN_RANGE[0]) & (shares <= GAIN_RANGE[1])
    own = np.quantile(values, shares[used])
    power = float(own @ own)
    if power <= 0:
        raise InputError("The brain's intensities are all zero: no gain can match them.")
    gain = float(own @ target[used]) / power
    return _inside(values * gain, mask)


def histogram_match(source, mask, target_quantiles):
    """Map a volume's brain histogram on the target's by a monotone function.

    A voxel's share of the brain is the mid-rank of its value, so voxels of equal value stay
    equal whatever their number; the share is looked up in the target's quantiles. Above the
    last quantile but one the map goes on in a straight line, at its slope over the upper quarter.

    Parameters
    ----------
    source : numpy.ndarray, shape (x, y, z)
        Intensities in any units.
    mask : numpy.ndarray of bool, shape (x, y, z)
        Brain mask. The background takes no part: its mass would dominate the match.
    target_quantiles : array_like, shape (q,)
        Pooled quantiles of the target domain's brains from 0 to 100 %, evenly spaced.

    Returns
    -------
    numpy.ndarray of float32, shape (x, y, z)
        Matched intensities inside the mask, 0 outside.

    Raises
    ------
    InputError
        If the mask is empty or the quantiles are unusable.
    """
    values, target = _brain_values(source, mask), _check_quantiles(target_quantiles)
    own, level, count = np.unique(values, return_inverse=True, return_counts=True)
    share = (np.cumsum(count) - 0.5 * count) / values.size
    shares = np.linspace(0.0, 1.0, target.size)
    matched = np.interp(share, shares, target)
    _straighten_tail(matched, own, share, shares, target)
    return _inside(matched[level.ravel()], mask)


def _straighten_tail(matched, own, share, shares, target):
    """Continue the match in a straight line beyond the last quantile but one, in place.

    Vessels and leftovers of the skull make the brightest share of a brain a long thin tail, whose
    end (the brightest voxel of all target scans) would stretch all of it: measured, that alone
    costs a perfect scan 10 dB.
    """
    tail = share > shares[-2]
    if target.size < 8 or not tail.any() or tail.all():
        return
    anchors = shares[[3 * (target.size - 1) // 4, -2]]
    low, high = np.interp(anchors, share, own)
    rise = np.diff(np.interp(anchors, shares, target))[0]
    slope = rise / (high - low) if high > low else 0.0
    matched[tail] = np.minimum(target[-2] + slope * np.maximum(own[tail] - high, 0), target[-1])


def _brain_values(source, mask):
    mask = np.asarray(mask, dtype=bool)
    source = np.asarray(source)
    if source.shape != mask.shape:
        raise InputError(f"The volume is {source.shape}, its brain mask {mask.shape}.")
    if not mask.any():
        raise InputError("The brain mask is empty: there is nothing to match.")
    values = source[mask].astype(np.float64)
    if not np.isfinite(values).all():
        raise InputError("Intensities inside the brain mask must be finite to be matched.")
    return values


def _check_quantiles(quantiles):
    quantiles = np.asarray(quantiles, dtype=np.float64)
    if quantiles.ndim != 1 or quantiles.size < 2 or not np.isfinite(quantiles).all():
        raise InputError("Target quantiles must be at least two finite numbers in one row.")
    if (np.diff(quantiles) < 0).any():
        raise InputError("Target quantiles must not decrease.")
    return quantiles


def _inside(values, mask):
    volume = np.zeros(np.shape(mask), dtype=np.float32)
    volume[np.asarray(mask, dtype=bool)] = values
    return volume
