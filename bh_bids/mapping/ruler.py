"""The contrast ruler: how a brain's own contrast is told from the scanner's.

A histogram match gives every brain the target's average histogram, so that a participant with
large ventricles, or bright grey matter, is changed. But the histogram is not all one sees: fine
texture shows how far the match has stretched intensities (:mod:`bh_bids.mapping.texture`), and
places where participants agree show where to (:mod:`bh_bids.mapping.steady`). Which deviation of
the histogram goes with which deviation of these is learned by ridge regression from the target's
training scans, and from nothing else: no monotone map of a scan changes either, so what holds for
target scans holds for any scanner whose gap is such a map. As scanners also blur, sharpen and add
noise, and as anatomies differ, each scan is learned from in several disturbed versions too: what is
left to go by is what they have in common.
"""

import numpy as np

from .intensity import LEVELS
from .steady import GROUPS, samples, steady_profile
from .texture import COLUMNS as TEXTURE_COLUMNS
from .texture import texture_profile

# A profile: of the texture, then of the steady places.
COLUMNS = TEXTURE_COLUMNS + GROUPS
RIDGES = (0.003, 0.006, 0.012, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8)
COMPONENTS = 4
# A deviation is taken for at most this many times the largest of the training scans'.
REACH = 1.25
NEVER = 1e6
# What a ruler is made of.
ARRAYS = ("centre", "scale", "offset", "weights", "modes", "limit")
# What the ruler tells counts from this many times its error where the scanner prior is asked next.
ASKED = 1.3
# Share of what the flow's slopes tell in what both tell.
SLOPES_SHARE = 0.7


def contrast_profile(matched, mask, quantiles, lattice, places):
    """What the ruler goes by, of a brain whose histogram was matched to the target's.

    Parameters
    ----------
    matched : numpy.ndarray, shape (x, y, z)
    mask : numpy.ndarray of bool, shape (x, y, z)
    quantiles : numpy.ndarray, shape (LEVELS,)
        The target's.
    lattice : bh_bids.mapping.field.Lattice
    places : numpy.ndarray, shape (3, n)
        Steady places.

    Returns
    -------
    profile : numpy.ndarray, shape (COLUMNS,)
    sharpness : float
        Of :func:`bh_bids.mapping.texture.texture_profile`.
    """
    texture, sharpness = texture_profile(matched, mask, quantiles)
    steady = steady_profile(samples(matched, mask, lattice), places)
    return np.concatenate([texture, steady]), sharpness


class ContrastRuler:
    """Predicts how a brain's quantiles deviate from the target's usual ones.

    Parameters
    ----------
    profiles : numpy.ndarray, shape (scans, versions, COLUMNS)
        Profiles of the training scans after a histogram match: of each as it is, and with other
        anatomies and disturbed (:mod:`bh_bids.mapping.disturb`). NaN where a scan says nothing.
    deviations : numpy.ndarray, shape (scans, versions, LEVELS)
        Their own quantiles, before they were disturbed, less the usual ones.
    components : int
        Principal deviations that are predicted, each by the ridge (relative to the mean square of
        a standardised profile) whose error is least when each scan in turn is left out in all its
        versions; one that is not predicted better than by the mean is not predicted.
    """

    def __init__(self, profiles, deviations, components=COMPONENTS):
        told = np.isfinite(profiles)
        count = np.maximum(told.sum(axis=(0, 1)), 1)
        self.centre = np.where(told, profiles, 0).sum(axis=(0, 1)) / count
        square = np.where(told, profiles - self.centre, 0) ** 2
        spread = np.maximum(np.sqrt(square.sum(axis=(0, 1)) / count), 1e-6)
        # Of a column that no scan tells nothing is known: it shall not count.
        self.scale = np.where(told.any(axis=(0, 1)), spread, NEVER)
        standard = self._standard(profiles)
        self.offset = deviations.mean(axis=(0, 1))
        flat = (deviations - self.offset).reshape(-1, deviations.shape[-1])
        modes = np.linalg.svd(flat, full_matrices=False)[2]
        self.modes = modes[: min(components, len(profiles) - 1)]
        scores = (deviations - self.offset) @ self.modes.T
        self.limit = REACH * np.abs(scores).max(axis=(0, 1))
        self.weights = _best_ridges(standard, scores)

    @classmethod
    def from_arrays(cls, centre, scale, offset, weights, modes, limit):
        """A ruler from what :attr:`arrays` gave."""
        ruler = cls.__new__(cls)
        ruler.centre, ruler.scale, ruler.offset = map(np.asarray, (centre, scale, offset))
        ruler.weights, ruler.modes, ruler.limit = map(np.asarray, (weights, modes, limit))
        return ruler

    @property
    def arrays(self):
        """What the ruler is made of, by name."""
        return {name: getattr(self, name) for name in ARRAYS}

    def predict(self, profile):
        """Deviations from the usual quantiles, shape (..., LEVELS), of profiles (..., COLUMNS)."""
        scores = self._standard(profile) @ self.weights
        return self.offset + np.clip(scores, -self.limit, self.limit) @ self.modes

    def distance(self, profile):
        """How far a profile lies from the training scans': root mean square of its z-values."""
        return float(np.sqrt(np.mean(self._standard(profile) ** 2)))

    def _standard(self, profile):
        """z-values; what is not told is as in the mean."""
        return np.nan_to_num((profile - self.centre) / self.scale, nan=0.0)


def _best_ridges(standard, scores):
    """Weights of the ridges of least error in scans left out; 0 where the mean errs less.

    Parameters
    ----------
    standard : numpy.ndarray, shape (scans, versions, COLUMNS)
        Standardised profiles.
    scores : numpy.ndarray, shape (scans, versions, components)
        Of mean 0.

    Returns
    -------
    numpy.ndarray, shape (COLUMNS, components)
    """
    scans, versions, columns = standard.shape
    products = np.einsum("svi,svj->sij", standard, standard)
    moments = np.einsum("svi,svk->sik", standard, scores)
    sums, totals = standard.sum(axis=1), scores.sum(axis=1)
    rows = (scans - 1) * versions
    # What the other scans say: their means, and products about these.
    mean, level = (sums.sum(axis=0) - sums) / rows, (totals.sum(axis=0) - totals) / rows
    others = products.sum(axis=0) - products - rows * mean[:, :, None] * mean[:, None, :]
    with_scores = moments.sum(axis=0) - moments - rows * mean[:, :, None] * level[:, None, :]
    rest = scores - level[:, None]
    least = np.square(rest).sum(axis=(0, 1))
    best = np.zeros((columns, scores.shape[-1]))
    for ridge in RIDGES:
        added = ridge * columns * versions * np.eye(columns)
        weights = np.linalg.solve(others + added, with_scores)
        error = np.square(rest - (standard - mean[:, None]) @ weights).sum(axis=(0, 1))
        better = error < least
        all_of_them = np.linalg.solve(products.sum(axis=0) + added, moments.sum(axis=0))
        best[:, better], least = all_of_them[:, better], np.minimum(error, least)
    return best


def leave_one_out(profiles, deviations, *, asked=None):
    """Deviations of each scan predicted by a ruler that never saw it.

    Parameters
    ----------
    profiles, deviations
        As :class:`ContrastRuler` takes them.
    asked : numpy.ndarray, shape (scans, n, COLUMNS), optional
        Profiles of other versions of the scans; by default those that the ruler is fitted to.

    Returns
    -------
    numpy.ndarray, shape (scans, n, LEVELS)
    """
    asked = profiles if asked is None else asked
    found = np.empty((*asked.shape[:2], LEVELS))
    for k in range(len(profiles)):
        others = np.arange(len(profiles)) != k
        found[k] = ContrastRuler(profiles[others], deviations[others]).predict(asked[k])
    return found


def trusted_share(size, error):
    """Share of a deviation to count that is ``size`` times as large as the ruler's error.

    The positive part of James and Stein's estimator: a deviation no larger than its error, here
    ``error`` times the ruler's, may as well be none, and the larger it is the less is error.
    """
    return max(0.0, 1 - (error / size) ** 2) if size > 0 else 0.0


def together_told(by_ruler, by_slopes, weight=1.0):
    """What ruler and slopes tell together, where the slopes are trusted by ``weight``."""
    return by_ruler + weight * SLOPES_SHARE * (by_slopes - by_ruler)
