"""Disturbing a target scan as other scanners might: what must not mislead the contrast ruler.

A scanner does not only bend the contrast. It resolves more finely or less, lies on another lattice,
adds noise after the contrast, and lets tissues differ by more than their brightness tells. None
of it changes what the head's own contrast is; a ruler that is also fitted to disturbed scans learns
what to go by. Nor do a head's large ventricles, its lesions, or an end of the
brain that was not scanned say anything of the scanner.
"""

import numpy as np

from ..errors import InputError
from ..simulation.gaps import bias_field
from ..simulation.pathology import add_lesions, enlarge_ventricles

GAMMA = (0.6, 1.6)
BLUR = (0.2, 0.7)
SHARPENING = (0.1, 0.6)
SHIFT = (0.1, 0.5)
NOISE = 0.03
"""Target units; most noise (standard deviation) added after the contrast; a third on average."""
GAIN = 0.06
"""Standard deviation of the log-gain at each of the brightnesses below."""
KNOTS = np.array([0.1, 0.3, 0.5, 0.7, 0.9])
NEIGHBOURHOOD = (0.4, 1.2)
"""Voxels; standard deviation of the Gaussian that says how bright a voxel's surroundings are."""
FIELD = 0.03
"""Most that a smooth field departs from 1: what is left of one that was taken away."""
ANATOMIES = ("usual", "ventricles", "lesions", "part")
GROWTH, REACH = (0.5, 4.5), 15.0
"""Millimetres; by which ventricles are enlarged, and how far the tissue around gives way."""
LESIONS, DIAMETERS = (1, 12), (5.0, 20.0)
"""Number of lesions, and millimetres."""
MISSING = (0.05, 0.35)
"""Share of the brain that is missing at one of its ends."""


def other_anatomy(volume, mask, voxel_size, rng):
    """A head as few of the target's are, one of ``ANATOMIES``, as the target would have shown it.

    Parameters
    ----------
    volume : numpy.ndarray, shape (x, y, z)
        Target units.
    mask : numpy.ndarray of bool, shape (x, y, z)
        Brain mask.
    voxel_size : tuple of float
        Millimetres.
    rng : numpy.random.Generator

    Returns
    -------
    volume : numpy.ndarray of float32, shape (x, y, z)
        0 outside the mask.
    mask : numpy.ndarray of bool, shape (x, y, z)
    """
    kind = ANATOMIES[rng.integers(len(ANATOMIES))]
    size, seed = float(np.mean(voxel_size)), int(rng.integers(2**31))
    growth, count = rng.uniform(*GROWTH) / size, int(rng.integers(*LESIONS, endpoint=True))
    axis, end, share = rng.choice(3, p=(0.2, 0.2, 0.6)), rng.integers(2), rng.uniform(*MISSING)
    if kind == "part":
        mask = _without_end(mask, axis, end, share)
    try:
        if kind == "ventricles":
            volume = enlarge_ventricles(volume, mask, growth, REACH / size)
        if kind == "lesions":
            diameters = tuple(d / size for d in DIAMETERS)
            volume = add_lesions(volume, mask, seed, count, diameters).volume
    except InputError:  # neither ventricles nor white matter: nothing is changed
        pass
    return np.where(mask, volume, 0).astype(np.float32), mask


def _without_end(mask, axis, end, share):
    """A brain mask that lacks a share of its voxels at one end of an axis."""
    along = mask.sum(axis=tuple(a for a in range(3) if a != axis)).astype(float)
    below = np.cumsum(along) / max(along.sum(), 1.0)
    kept = below > share if end == 0 else below < 1 - share
    return mask & kept.reshape([-1 if a == axis else 1 for a in range(3)])


def disturbed(volume, mask, rng):
    """A scan as a scanner may have made it that is not the target's.

    Half of the scans get a gain that depends on how bright the neighbourhood is; all get a gamma;
    a third is blurred, a third sharpened, and a third interpolated linearly at a shifted lattice;
    all get a weak field and noise. Sizes are drawn from the ranges above.

    Parameters
    ----------
    volume : numpy.ndarray, shape (x, y, z)
        Target units.
    mask : numpy.ndarray of bool, shape (x, y, z)
        Brain mask.
    rng : numpy.random.Generator

    Returns
    -------
    numpy.ndarray of float32, shape (x, y, z)
        Near target units; 0 outside the mask.
    """
    from scipy.ndimage import gaussian_filter, shift

    from ..anatomy.resampling import content_box

    box = content_box(mask, margin=3)
    inside = mask[box].astype(np.float32)
    image = np.where(mask[box], np.maximum(volume[box], 0), 0).astype(np.float32)

    def inner_mean(smooth):
        """What ``smooth`` makes of the brain, without the background leaking in."""
        return smooth(image) / np.maximum(smooth(inside), 1e-3) * inside

    if rng.random() < 0.5:
        sigma = rng.uniform(*NEIGHBOURHOOD)
        near = inner_mean(lambda v: gaussian_filter(v, sigma))
        image = image * np.exp(np.interp(near, KNOTS, GAIN * rng.normal(size=KNOTS.size)))
    image = image ** np.exp(rng.uniform(*np.log(GAMMA)))
    kind = rng.integers(3)
    if kind == 0:
        sigma = rng.uniform(*BLUR)
        image = inner_mean(lambda v: gaussian_filter(v, sigma))
    elif kind == 1:
        smooth = inner_mean(lambda v: gaussian_filter(v, 0.6))
        image = np.maximum(image + rng.uniform(*SHARPENING) * (image - smooth), 0)
    else:
        by = rng.uniform(*SHIFT, size=3)
        image = inner_mean(lambda v: shift(v, by, order=1))
    image = image * bias_field(mask[box], int(rng.integers(2**31)), FIELD * rng.random())
    sigma = NOISE * rng.random() ** 2
    real, imaginary = sigma * rng.standard_normal((2, *image.shape))
    out = np.zeros(mask.shape, np.float32)
    out[box] = np.hypot(image + real, imaginary) * inside
    return out
