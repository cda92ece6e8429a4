"""Contrast that depends on the tissue: a gain that goes with the brightness of the surroundings.

A scanner may change tissues apart: voxels of one intensity then become others in other
surroundings, and no map of intensities undoes it. With a gain exp(L(m)) of each voxel, m being the
brightness of its surroundings, a difference between neighbours is multiplied by the gain, and a
difference between surroundings by the gain times 1 + m L'(m). So after a match, which makes the
second what is usual, the *local contrast* (how far voxels lie from their surroundings' mean) is
1 / (1 + m L') of what is usual there. A monotone map of intensities changes both alike, a blur
changes it everywhere; neither makes it uneven. From the unevenness follows L', and from L' the
gain.
"""

import numpy as np

from ..anatomy.resampling import content_box

SURROUNDINGS = 1.0
"""Voxels; standard deviation of the Gaussian mean that is a voxel's surroundings."""
LEVELS = 16
"""Brightnesses of surroundings that are told apart."""
DIM, BRIGHT = 0.1, 1.05
"""Range of those brightnesses, target units."""
INNER = 0.97
"""Share of brain in its surroundings from which a voxel tells something."""
MARGIN, LEAST = 4, 1e-3
"""Voxels around the brain, and least share of it in surroundings that are known."""
# The log-gain is a sum of so many cosines of brightness; their ridge grows with the order's square.
WAVES, RIDGE = 6, 0.002
# Log local contrast beyond this is taken for it, and no log-gain is larger.
MOST_UNEVEN, LARGEST = 0.7, 0.4
# Each step is of first order; so many are made at most, while they make the contrast more even.
STEPS = 6
# Brightnesses of a smaller share of the voxels get the gain of the nearest that more have.
LEAST_SHARE = 0.001
_WIDTH = (BRIGHT - DIM) / LEVELS
BRIGHTNESS = DIM + (np.arange(LEVELS) + 0.5) * _WIDTH
"""The brightnesses: middles of equal parts of the range, target units."""


class Surroundings:
    """What is around each voxel of one brain.

    Parameters
    ----------
    mask : numpy.ndarray of bool, shape (x, y, z)
        Brain.
    telling : numpy.ndarray of bool, shape (x, y, z), optional
        Voxels that the local contrast is told from, all others (lesions) being no part of their
        surroundings; without, all of the brain.
    """

    def __init__(self, mask, telling=None):
        self.box = content_box(mask, margin=MARGIN)
        inside = mask[self.box]
        self._weight = _gaussian(inside.astype(np.float32))
        self.near = self._weight > LEAST
        self._telling, self._telling_weight = inside, self._weight
        if telling is not None and not np.array_equal(telling, mask):
            self._telling = telling[self.box] & inside
            self._telling_weight = _gaussian(self._telling.astype(np.float32))
        self._core = self._telling & (self._telling_weight > INNER)

    def mean(self, volume):
        """Gaussian mean around each voxel, inside ``box``.

        It is over the brain's voxels that tell something; around those that do not, over all.

        Parameters
        ----------
        volume : numpy.ndarray of float32
            Values inside ``box``, 0 outside the mask.
        """
        mean = _gaussian(volume) / np.maximum(self._weight, LEAST)
        if self._telling_weight is self._weight:
            return mean
        around = _gaussian(np.where(self._telling, volume, np.float32(0)))
        return np.where(self._telling, around / np.maximum(self._telling_weight, LEAST), mean)

    def local_contrast(self, volume, mean):
        """Logarithm of the local contrast at each brightness of the surroundings.

        Parameters
        ----------
        volume, mean : numpy.ndarray of float32
            Inside ``box``; target units, the histogram brought to what is usual.

        Returns
        -------
        contrast : numpy.ndarray of float64, shape (LEVELS,)
            Of the mean absolute difference of voxels from their surroundings' mean, to which
            vessels and lesions count less than to a mean square.
        share : numpy.ndarray of float64, shape (LEVELS,)
            Of the voxels; they add up to 1, or to 0 where no voxel tells anything.
        """
        around = mean[self._core]
        difference = np.abs(volume[self._core] - around)
        level = np.floor((around - DIM) / _WIDTH).astype(int)
        within = (level >= 0) & (level < LEVELS)
        level, difference = level[within], difference[within]
        count = np.bincount(level, minlength=LEVELS)
        total = np.bincount(level, difference, minlength=LEVELS)
        contrast = np.log(total / np.maximum(count, 1) + 1e-5)
        return contrast, count / max(count.sum(), 1)


def together(found):
    """Local contrast of several brains together, each counting by its voxels at a brightness.

    Parameters
    ----------
    found : sequence of (contrast, share)
        Of :meth:`Surroundings.local_contrast`.

    Returns
    -------
    contrast : numpy.ndarray, shape (LEVELS,)
        Where no brain has a voxel, as at the nearest brightness where one has; 0 if none has any.
    share : numpy.ndarray, shape (LEVELS,)
        Mean of theirs.
    """
    contrasts, shares = map(np.stack, zip(*found, strict=True))
    weight = shares.sum(axis=0)
    known = weight > 0
    if not known.any():
        return np.zeros(LEVELS), weight
    mean = (shares * contrasts).sum(axis=0)[known] / weight[known]
    return np.interp(BRIGHTNESS, BRIGHTNESS[known], mean), weight / len(found)


def unevenness(contrast, share, usual):
    """How unevenly the local contrast differs from what is usual.

    Parameters
    ----------
    contrast, share : numpy.ndarray, shape (LEVELS,)
        Of :meth:`Surroundings.local_contrast`.
    usual : numpy.ndarray, shape (LEVELS,)

    Returns
    -------
    float
        Log units: standard deviation over the voxels.
    """
    return float(np.sqrt(share @ np.square(_uneven(contrast, share, usual))))


def tissue_gain(brains, usual):
    """The gain that makes the local contrast as even as is usual, of one brain or several scans.

    Parameters
    ----------
    brains : sequence of (numpy.ndarray, Surroundings, callable)
        Scans of one scanner, whose gains follow one curve. Of each its volume (x, y, z), float32,
        in any units and 0 outside the mask; its surroundings; and ``match(volume)``, which brings
        such a volume's histogram to what is usual for the target, in its units.
    usual : numpy.ndarray, shape (LEVELS,)
        Local contrast of the target's scans.

    Returns
    -------
    log_gains : list of numpy.ndarray of float32, shape (x, y, z)
        Logarithm of the gain that the scanner gave each voxel; continued beyond the mask as far as
        the surroundings reach into it, 0 farther away.
    curve : numpy.ndarray, shape (LEVELS,)
        The same at each of ``BRIGHTNESS``.
    """
    slope = BRIGHTNESS[:, None] * _slopes(BRIGHTNESS)
    ridge = RIDGE * np.diag(np.arange(1, WAVES + 1) ** 2.0)
    coefficients = np.zeros(WAVES)
    fields = [np.zeros(volume[around.box].shape, np.float32) for volume, around, _ in brains]
    best = None
    for step in range(STEPS + 1):
        means, found = [], []
        for (volume, around, match), field in zip(brains, fields, strict=True):
            corrected = np.zeros_like(volume)
            corrected[around.box] = volume[around.box] * np.exp(-field)
            matched = match(corrected)[around.box]
            means.append(around.mean(matched))
            found.append(around.local_contrast(matched, means[-1]))
        contrast, share = together(found)
        size = unevenness(contrast, share, usual)
        if best is not None and size >= best[0]:
            break
        known = BRIGHTNESS[share > LEAST_SHARE]
        best = size, fields, _log_gain(coefficients, BRIGHTNESS, known)
        if step == STEPS:
            break
        uneven = np.clip(_uneven(contrast, share, usual), -MOST_UNEVEN, MOST_UNEVEN)
        normal = slope.T @ (share[:, None] * slope) + ridge
        coefficients = coefficients + np.linalg.solve(normal, slope.T @ (share * np.expm1(-uneven)))
        fields = [_log_gain(coefficients, mean, known) for mean in means]
    log_gains = []
    for (volume, around, _), field in zip(brains, best[1], strict=True):
        log_gains.append(np.zeros(volume.shape, np.float32))
        log_gains[-1][around.box] = np.where(around.near, field, 0)
    return log_gains, best[2]


def _uneven(contrast, share, usual):
    difference = contrast - usual
    return difference - share @ difference


def _phase(brightness):
    return np.clip((brightness - DIM) / (BRIGHT - DIM), 0, 1) * np.pi


def _slopes(brightness):
    """Derivatives of the cosines by brightness; shape (n, WAVES)."""
    order = np.arange(1, WAVES + 1)
    return -order * np.sin(order * _phase(brightness)[..., None]) * np.pi / (BRIGHT - DIM)


def _log_gain(coefficients, brightness, known):
    """Log-gain at some brightnesses, any shape, float32; beyond the known ones it stays."""
    low, high = (known[0], known[-1]) if known.size else (DIM, BRIGHT)
    knots = np.linspace(low, high, 16 * LEVELS + 1)
    values = np.cos(np.arange(1, WAVES + 1) * _phase(knots)[:, None]) @ coefficients
    return np.interp(brightness, knots, np.clip(values, -LARGEST, LARGEST)).astype(np.float32)


def _gaussian(volume):
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(volume, SURROUNDINGS, truncate=3.0)
