"""One monotone intensity map and one smooth field: all that a scanner's gap may be, but for noise.

Both act on values, not on grids: what was found on the model's grid holds on the scan's own.
"""

from dataclasses import dataclass

import numpy as np

LEVELS = 256
# Shares of the brain at which quantiles are taken: the middle of LEVELS equal parts.
SHARES = (np.arange(LEVELS) + 0.5) / LEVELS
# The brightest voxels are vessels' and noise's, as many as a participant happens to have: a map
# that matched them would squeeze or stretch them. It ends this many quantiles earlier, at 99 %,
# and goes on as a power: the median of those that it is over so many knots, and of a gain.
TAIL, TAIL_KNOTS = 2, (30, 75)
STEEPEST_TAIL = 4.0
ROUNDING = 1e-9


@dataclass(frozen=True)
class IntensityMap:
    """A monotone map of intensities, linear between its knots, through zero below them.

    Attributes
    ----------
    knots_in, knots_out : numpy.ndarray of float64, shape (k,)
        Growing and non-decreasing, target units.
    ceiling : float or None
        Beyond the knots nothing is made brighter than this, target units; None for no such limit.
    """

    knots_in: np.ndarray
    knots_out: np.ndarray
    ceiling: float | None = None

    def __call__(self, values):
        """Map values (any shape, target units); float32."""
        values = np.asarray(values, dtype=np.float32)
        low_in, low_out = float(self.knots_in[0]), float(self.knots_out[0])
        mapped = np.interp(values, self.knots_in, self.knots_out)
        if low_in > 0:
            mapped = np.where(values < low_in, values * (low_out / low_in), mapped)
        beyond = values > self.knots_in[-1]
        if beyond.any():
            mapped[beyond] = self._tail(values[beyond].astype(np.float64))
            if self.ceiling is not None:
                limit = max(self.ceiling, float(self.knots_out[-1]))
                mapped[beyond] = np.minimum(mapped[beyond], limit)
        return mapped.astype(np.float32)

    def _tail(self, values):
        """Beyond the last knot: a power through it, or the last straight line from zero or less.

        Vessels are several times as bright as the brain's last quantile: a straight line would
        make too much of them after an exponential contrast, and too little after a logarithmic.
        Powers that lie on both sides of a gain are chance, or tissues that were changed apart.
        """
        high_in, high_out = float(self.knots_in[-1]), float(self.knots_out[-1])
        powers = [1.0]
        for count in TAIL_KNOTS:
            back = max(-count, -len(self.knots_in))
            low_in, low_out = float(self.knots_in[back]), float(self.knots_out[back])
            if low_in <= 0 or low_out <= 0:
                return high_out + (values - high_in) * (high_out - low_out) / (high_in - low_in)
            # Knots that differ by rounding alone tell no power.
            apart = high_in > low_in * (1 + ROUNDING)
            power = np.log(high_out / low_out) / np.log(high_in / low_in) if apart else 1.0
            powers.append(power)
        return high_out * (values / high_in) ** min(float(np.median(powers)), STEEPEST_TAIL)


def brain_quantiles(values):
    """Quantiles of a brain's values at ``SHARES``; float64, shape (LEVELS,)."""
    return np.quantile(np.asarray(values, dtype=np.float64), SHARES)


def map_between(quantiles_in, quantiles_out, ceiling=None):
    """The monotone map that brings one brain's quantiles to another's.

    Parameters
    ----------
    quantiles_in, quantiles_out : numpy.ndarray, shape (LEVELS,)
        At ``SHARES``; the second is taken as non-negative and non-decreasing, which what a ruler
        predicts need not be.
    ceiling : float, optional
        Of the map.

    Returns
    -------
    IntensityMap
        Without the last ``TAIL`` quantiles. Knots of equal input are merged into one of mean
        output.
    """
    own, out = (np.asarray(q, dtype=np.float64)[:-TAIL] for q in (quantiles_in, quantiles_out))
    knots, place = np.unique(own, return_inverse=True)
    out = np.maximum.accumulate(np.maximum(out, 0))
    mean = np.bincount(place, weights=out) / np.bincount(place)
    if len(knots) == 1:
        knots, mean = np.array([0.0, knots[0]]), np.array([0.0, mean[0]])
    return IntensityMap(knots, mean, ceiling)


def linear_map(source, harmonized):
    """The straight line, least squares, from source to harmonized values; through (0, b).

    Parameters
    ----------
    source, harmonized : numpy.ndarray, shape (n,)
        Values inside the brain, target units.

    Returns
    -------
    gain, offset : float
        The identity's where the source is constant or the line falls.
    """
    source = np.asarray(source, dtype=np.float64)
    harmonized = np.asarray(harmonized, dtype=np.float64)
    centred = source - source.mean()
    power = float(centred @ centred)
    if power <= 0:
        return 1.0, 0.0
    gain = float(centred @ harmonized) / power
    if gain <= 0:
        return 1.0, 0.0
    return gain, float(harmonized.mean() - gain * source.mean())
