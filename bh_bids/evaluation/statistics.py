"""From one value per participant to what may be said of all: means, intervals, tests."""

import math
from typing import NamedTuple

import numpy as np

from ..errors import InputError

RESAMPLES = 10_000
LEVEL = 0.95
MOST_DRAWS = 1_000_000


class Interval(NamedTuple):
    """A mean and its confidence interval."""

    mean: float
    low: float
    high: float


class Summary(NamedTuple):
    """Number, mean and standard deviation (of a sample, n - 1) of some values."""

    n: int
    mean: float
    sd: float


def describe(values):
    """Number, mean and standard deviation of the finite values.

    Parameters
    ----------
    values : iterable of float

    Returns
    -------
    Summary
        NaN where there are too few values: no mean of none, no deviation of one.
    """
    found = np.array([v for v in values if v is not None and math.isfinite(v)], dtype=np.float64)
    mean = float(found.mean()) if found.size else math.nan
    return Summary(found.size, mean, float(found.std(ddof=1)) if found.size > 1 else math.nan)


def bootstrap_interval(values, *, level=LEVEL, resamples=RESAMPLES, seed=0):
    """Mean and its percentile bootstrap interval.

    Parameters
    ----------
    values : array_like, shape (n,)
        Independent values, such as one per participant.
    level : float
        Share of intervals that should hold the true mean. With few values (below about ten) the
        percentile bootstrap's hold it less often.
    resamples : int
    seed : int
        Of the resampling.

    Returns
    -------
    Interval

    Raises
    ------
    InputError
        If there are no values.

    Notes
    -----
    Efron and Tibshirani (1993), An Introduction to the Bootstrap, chapter 13.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not values.size:
        raise InputError("A bootstrap interval needs at least one value, in one row.")
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    # In parts, so that many participants need no more memory than few.
    step = max(1, MOST_DRAWS // values.size)
    for first in range(0, resamples, step):
        part = means[first : first + step]
        part[:] = values[rng.integers(0, values.size, (part.size, values.size))].mean(axis=1)
    low, high = np.percentile(means, [50 * (1 - level), 50 * (1 + level)])
    return Interval(float(values.mean()), float(low), float(high))


def paired_difference(own, other, seed=0):
    """Mean difference over the participants of both, with its bootstrap interval.

    Parameters
    ----------
    own, other : dict of str to float
        Value per participant.
    seed : int
        Of the resampling.

    Returns
    -------
    Interval or None
        Percentiles 2.5 and 97.5 over 10,000 resamples of participants; None without any.
    """
    differences = _differences(own, other)
    return bootstrap_interval(differences, seed=seed) if differences.size else None


def wilcoxon_p(own, other):
    """P value of Wilcoxon's signed-rank test of the participants of both, two-sided.

    Parameters
    ----------
    own, other : dict of str to float
        Value per participant.

    Returns
    -------
    float
        NaN where no participant differs. With n participants it cannot be below 2 / 2^n.
    """
    from scipy.stats import wilcoxon

    differences = _differences(own, other)
    differences = differences[differences != 0]
    return float(wilcoxon(differences).pvalue) if differences.size else math.nan


def _differences(own, other):
    return np.array([own[p] - other[p] for p in own if p in other], dtype=np.float64)


def robust_z(values):
    """How far each value lies from the median, in robust standard deviations.

    Parameters
    ----------
    values : array_like, shape (n,)
        NaN is left out of the median, and stays NaN.

    Returns
    -------
    numpy.ndarray of float64, shape (n,)
        Of the median absolute deviation times 1.4826; all 0 where that is 0.
    """
    values = np.asarray(values, dtype=np.float64)
    finite = values[np.isfinite(values)]
    if not finite.size:
        return np.full(values.shape, np.nan)
    centre = np.median(finite)
    spread = 1.4826 * np.median(np.abs(finite - centre))
    return (values - centre) / spread if spread > 0 else np.where(np.isfinite(values), 0.0, np.nan)
