"""Nyul's landmarks: a monotone, piecewise linear match of a few percentiles of the brain.

Source: Nyul and Udupa, On standardizing the MR image intensity scale, Magn. Reson. Med. 42 (1999);
landmarks at the deciles as in Nyul, Udupa and Zhang, IEEE TMI 19 (2000).
"""

import numpy as np

from .histogram import _brain_values, _check_quantiles, _inside

PERCENTILES = (1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 99)


def standard_landmarks(target_quantiles, percentiles=PERCENTILES):
    """Landmarks of the target's scale.

    Parameters
    ----------
    target_quantiles : array_like, shape (q,)
        Pooled quantiles of the target domain's brains from 0 to 100 %, evenly spaced.
    percentiles : sequence of float

    Returns
    -------
    numpy.ndarray, shape (len(percentiles),)

    Raises
    ------
    InputError
        If the quantiles are unusable.
    """
    target = _check_quantiles(target_quantiles)
    return np.interp(np.asarray(percentiles) / 100, np.linspace(0, 1, target.size), target)


def nyul_match(source, mask, target_quantiles, percentiles=PERCENTILES):
    """Bring the landmarks of a volume's brain to the target's, straight lines between them.

    Parameters
    ----------
    source : numpy.ndarray, shape (x, y, z)
        Intensities in any units.
    mask : numpy.ndarray of bool, shape (x, y, z)
        Brain mask.
    target_quantiles : array_like, shape (q,)
        Pooled quantiles of the target domain's brains from 0 to 100 %, evenly spaced.
    percentiles : sequence of float
        Of the landmarks, increasing.

    Returns
    -------
    numpy.ndarray of float32, shape (x, y, z)
        Matched intensities inside the mask, not below 0; 0 outside. Beyond the outer landmarks
        their outermost lines go on.

    Raises
    ------
    InputError
        If the mask is empty or the quantiles are unusable.
    """
    values = _brain_values(source, mask)
    landmarks = standard_landmarks(target_quantiles, percentiles)
    own = np.percentile(values, percentiles)
    # Landmarks that fall together (few grey levels) count once, at their mean.
    own, which = np.unique(own, return_inverse=True)
    standard = np.bincount(which.ravel(), landmarks) / np.bincount(which.ravel())
    if own.size == 1:
        return _inside(np.full(values.shape, standard[0]), mask)
    slopes = np.diff(standard) / np.diff(own)
    piece = np.clip(np.searchsorted(own, values, side="right") - 1, 0, slopes.size - 1)
    matched = standard[piece] + slopes[piece] * (values - own[piece])
    return _inside(np.maximum(matched, 0), mask)
