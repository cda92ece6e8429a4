"""The texture ruler: how a brain's fine texture tells its own contrast from the scanner's.

A histogram match gives every brain the target's average histogram, so that a participant with
large ventricles, or bright grey matter, is changed. But the histogram is not all one sees: where
a map of intensities has stretched them, it has stretched the texture too, noise and partial
volume alike. After the match, the mean gradient at each brightness rank says how far the match
has stretched there, compared with the target's own scans. Which deviation of the histogram goes
with which deviation of this profile is learned by ridge regression from the target's training
scans, and from nothing else: no monotone map of a scan changes either, so what holds for target
scans holds for any scanner whose gap is such a map.
"""

import numpy as np

from .intensity import LEVELS, SHARES

RANKS = 16
# Gradients are taken this many voxels inside the brain: masking makes none of them.
CORE_SIDE = 5
FLOOR = 1e-4


def texture_profile(matched, mask, quantiles):
    """Logarithm of the mean gradient at each of ``RANKS`` brightness ranks.

    Parameters
    ----------
    matched : numpy.ndarray, shape (x, y, z)
        A brain whose histogram was matched to ``quantiles``.
    mask : numpy.ndarray of bool, shape (x, y, z)
    quantiles : numpy.ndarray, shape (LEVELS,)

    Returns
    -------
    profile : numpy.ndarray of float64, shape (RANKS,)
        Less its mean.
    sharpness : float
        The mean.
    """
    from scipy.ndimage import uniform_filter

    from ..anatomy.resampling import content_box

    box = content_box(mask, margin=1)
    matched, mask = matched[box], mask[box]
    core = uniform_filter(mask.astype(np.float32), CORE_SIDE) > 0.999
    square = np.zeros(matched.shape, np.float32)
    for axis in range(3):
        difference = np.zeros_like(square)
        inner = [slice(None)] * 3
        ahead, behind = list(inner), list(inner)
        inner[axis], ahead[axis], behind[axis] = slice(1, -1), slice(2, None), slice(None, -2)
        difference[tuple(inner)] = (matched[tuple(ahead)] - matched[tuple(behind)]) / 2
        square += difference**2
    share = np.interp(matched[core], quantiles, SHARES)
    rank = np.clip((share * RANKS).astype(int), 0, RANKS - 1)
    count = np.bincount(rank, minlength=RANKS)
    total = np.bincount(rank, weights=np.sqrt(square[core]), minlength=RANKS)
    profile = np.log(total / np.maximum(count, 1) + FLOOR)
    return profile - profile.mean(), float(profile.mean())


class TextureRuler:
    """Predicts how a brain's quantiles deviate from the target's mean ones.

    Parameters
    ----------
    profiles : numpy.ndarray, shape (scans, RANKS)
        Texture profiles of the training scans after a histogram match.
    deviations : numpy.ndarray, shape (scans, LEVELS)
        Their own quantiles less the mean ones.
    components : int
        Principal deviations that are predicted.
    ridge : float
        Relative to the mean square of a standardised profile.
    """

    def __init__(self, profiles, deviations, components=4, ridge=0.1):
        self.centre = profiles.mean(axis=0)
        self.scale = np.maximum(profiles.std(axis=0), 1e-6)
        standard = (profiles - self.centre) / self.scale
        self.offset = deviations.mean(axis=0)
        _, _, modes = np.linalg.svd(deviations - self.offset, full_matrices=False)
        modes = modes[: min(components, len(profiles) - 1)]
        kernel = standard @ standard.T / RANKS + ridge * np.eye(len(profiles))
        dual = np.linalg.solve(kernel, (deviations - self.offset) @ modes.T)
        self.weights = standard.T @ dual @ modes / RANKS

    @classmethod
    def from_arrays(cls, centre, scale, offset, weights):
        """A ruler from what :attr:`arrays` gave."""
        ruler = cls.__new__(cls)
        ruler.centre, ruler.scale = np.asarray(centre), np.asarray(scale)
        ruler.offset, ruler.weights = np.asarray(offset), np.asarray(weights)
        return ruler

    @property
    def arrays(self):
        """What the ruler is made of, by name."""
        return {name: getattr(self, name) for name in ("centre", "scale", "offset", "weights")}

    def predict(self, profile):
        """Deviation from the mean quantiles, shape (LEVELS,), of a scan's texture profile."""
        return self.offset + (profile - self.centre) / self.scale @ self.weights

    def distance(self, profile):
        """How far a profile lies from the training scans': root mean square of its z-values."""
        return float(np.sqrt(np.mean(((profile - self.centre) / self.scale) ** 2)))


def leave_one_out(profiles, deviations, **settings):
    """Deviations of each scan predicted by a ruler that never saw it; shape (scans, LEVELS)."""
    found = np.empty((len(profiles), LEVELS))
    for k in range(len(profiles)):
        others = np.arange(len(profiles)) != k
        ruler = TextureRuler(profiles[others], deviations[others], **settings)
        found[k] = ruler.predict(profiles[k])
    return found
