"""Simulated domain gaps: what another scanner might have made of a target volume.

Every gap takes a volume in target units with its brain mask and returns a volume of the same
anatomy in arbitrary units near them, 0 outside the mask. Gaps with a random part are functions of
their seed alone. The voxel-wise ones are those of the BlindHarmony paper (its simulated domain
gaps); the others are what a monotone map of intensities cannot undo.
"""

from functools import partial

import numpy as np

from ..errors import InputError

# Gain of each tissue in the "tissue" gap: another flip angle moves them unevenly.
TISSUE_GAINS = {"CSF": 0.85, "GM": 1.12, "WM": 0.95}


def exponential(volume, mask, seed=0):
    """Contrast ``(exp(x) - 1) / (e - 1)``: 0 and 1 stay where they are."""
    return _inside(np.expm1(volume) / np.expm1(1.0), mask)


def logarithm(volume, mask, seed=0):
    """Contrast ``log(1 + 3x) / log(4)``: 0 and 1 stay where they are."""
    return _inside(np.log1p(3.0 * np.maximum(volume, 0)) / np.log(4.0), mask)


def gamma(volume, mask, seed=0, exponent=0.7):
    """Contrast ``x ** exponent``: below 1, dark tissue becomes brighter, and 0 and 1 stay.

    Examples
    --------
    >>> brain = np.array([[[0.0, 0.25, 1.0]]])
    >>> gamma(brain, brain > 0, exponent=0.5).round(3).tolist()
    [[[0.0, 0.5, 1.0]]]
    """
    return _inside(np.power(np.maximum(volume, 0), exponent), mask)


def tissue(volume, mask, seed=0, gains=None):
    """Contrast that depends on the tissue: each has a gain of its own.

    A voxel's tissue is told softly from its neighbourhood (Gaussian, sigma 1 voxel), so that no
    global map of intensities undoes the gap: on real scans the best one leaves about 30 dB.

    Parameters
    ----------
    volume, mask, seed
        See :func:`apply_gap`; there is no random part.
    gains : dict of str to float, optional
        Keys "CSF", "GM" and "WM".
    """
    return _tissue_gained(volume, mask, _blurred(volume, mask, 1.0), gains)


def tissue_voxel(volume, mask, seed=0, gains=None, sigma=0.45):
    """Contrast that depends on the tissue, told softly from little more than the voxel itself.

    The contrast is nearly a monotone function of the intensity: on real scans the best global map
    leaves about 43 dB.

    Parameters
    ----------
    volume, mask, seed
        See :func:`apply_gap`; there is no random part.
    gains : dict of str to float, optional
        Keys "CSF", "GM" and "WM".
    sigma : float
        Voxels; of the Gaussian that tells a voxel's tissue. At 0 the contrast is a function of
        the intensity.
    """
    near = _blurred(volume, mask, sigma) if sigma > 0 else volume
    return _tissue_gained(volume, mask, near, gains)


def _tissue_gained(volume, mask, evidence, gains):
    """Multiply by the tissues' gains, each as far as ``evidence`` lies near the tissue's mode."""
    from ..evaluation.tissue import TISSUES, tissue_modes

    gains = TISSUE_GAINS if gains is None else gains
    modes = np.array(list(tissue_modes(evidence, mask).values()))
    width = max(float(np.diff(modes).min()) / 2.5, 1e-3)
    distance = np.stack([0.5 * ((evidence - m) / width) ** 2 for m in modes])
    odds = np.exp(distance.min(axis=0) - distance)
    gain = np.tensordot([gains[t] for t in TISSUES], odds / odds.sum(axis=0), axes=1)
    return _inside(volume * gain, mask)


def bias(volume, mask, seed=0, strength=0.25):
    """Multiply by a smooth random field that spans [1 - strength, 1 + strength] in the brain.

    Parameters
    ----------
    volume, mask
        See :func:`apply_gap`.
    seed : int
        Of the field's coefficients.
    strength : float
        In [0, 1).
    """
    return _inside(volume * bias_field(mask, seed, strength), mask)


def bias_field(mask, seed=0, strength=0.25):
    """A smooth random field: products of cosines of up to one period across the brain.

    Parameters
    ----------
    mask : numpy.ndarray of bool, shape (x, y, z)
        Brain mask, inside which the field spans [1 - strength, 1 + strength].
    seed : int
        Of the coefficients.
    strength : float
        In [0, 1).

    Returns
    -------
    numpy.ndarray of float32, shape (x, y, z)
    """
    if not 0 <= strength < 1:
        raise InputError(f"The strength of a bias field must lie in [0, 1), not {strength}.")
    rng = np.random.default_rng(seed)
    waves = []
    for axis, points in enumerate(np.nonzero(mask)):
        first, last = int(points.min()), int(points.max())
        u = (np.arange(mask.shape[axis]) - first) / max(last - first, 1)
        waves.append(np.cos(np.pi * np.arange(3)[:, None] * u).astype(np.float32))
    order = np.add.outer(np.add.outer(np.arange(3), np.arange(3)), np.arange(3))
    weights = rng.normal(size=(3, 3, 3)) * ((order > 0) & (order <= 2)) / np.maximum(order, 1)
    field = np.einsum("abc,ax,by,cz->xyz", weights.astype(np.float32), *waves, optimize=True)
    low, high = float(field[mask].min()), float(field[mask].max())
    unit = 2 * (field - low) / max(high - low, 1e-12) - 1
    return (1 + strength * unit).astype(np.float32)


def noise(volume, mask, seed=0, sigma=0.02):
    """Rician noise: the magnitude of a complex signal with noise ``sigma`` in both parts."""
    rng = np.random.default_rng(seed)
    real, imaginary = (
        rng.standard_normal(np.shape(volume), dtype=np.float32) * np.float32(sigma)
        for _ in range(2)
    )
    return _inside(np.hypot(volume + real, imaginary), mask)


def blur(volume, mask, seed=0, sigma=0.6):
    """Gaussian blur inside the brain; the empty background does not leak in.

    Parameters
    ----------
    volume, mask, seed
        See :func:`apply_gap`; there is no random part.
    sigma : float or tuple of float
        Voxels; of the Gaussian, along all axes or along each.
    """
    return _inside(_blurred(volume, mask, sigma), mask)


def finer(volume, mask, seed=0, amount=4.0, sigma=(0.0, 0.0, 0.8)):
    """More detail along foot-head: what a blur there would take is added, ``amount`` times.

    The blur is a Gaussian of ``sigma`` voxels along each axis, inside the brain.
    """
    lost = volume - _blurred(volume, mask, sigma)
    return _inside(np.maximum(volume + amount * lost, 0), mask)


def thick(volume, mask, seed=0, slices=3):
    """Slices ``slices`` times as thick: means over so many along z, interpolated back linearly.

    Only the brain's voxels enter a mean; the empty background does not leak in.
    """
    n = volume.shape[2]
    groups = np.arange(n) // slices
    count = groups[-1] + 1
    total, weight = (np.zeros((*volume.shape[:2], count), np.float32) for _ in range(2))
    for k, group in enumerate(groups):
        total[:, :, group] += np.where(mask[:, :, k], volume[:, :, k], 0)
        weight[:, :, group] += mask[:, :, k]
    centre = np.array([np.flatnonzero(groups == g).mean() for g in range(count)])
    position = np.interp(np.arange(n), centre, np.arange(count))
    low = np.minimum(position.astype(int), max(count - 2, 0))
    high = np.minimum(low + 1, count - 1)
    share = (position - low).astype(np.float32)
    made = [
        (1 - share) * part[:, :, low] + share * part[:, :, high]
        for part in (np.where(weight > 0, total / np.maximum(weight, 1), 0), weight > 0)
    ]
    return _inside(made[0] / np.maximum(made[1], 1e-6), mask)


def scanner(volume, mask, seed=0):
    """All at once: gamma 0.75, bias field 25 %, blur of 0.6 voxel, noise 2 %."""
    image = gamma(volume, mask, exponent=0.75)
    image = bias(image, mask, seed=seed, strength=0.25)
    image = blur(image, mask, sigma=0.6)
    return noise(image, mask, seed=seed + 1, sigma=0.02)


GAPS = {
    "exp": exponential,
    "log": logarithm,
    "gamma0.7": gamma,
    "gamma1.3": partial(gamma, exponent=1.3),
    "gamma1.5": partial(gamma, exponent=1.5),
    "tissue": tissue,
    "tissue-voxel": tissue_voxel,
    "bias10": partial(bias, strength=0.10),
    "bias25": bias,
    "noise1": partial(noise, sigma=0.01),
    "noise2": noise,
    "noise4": partial(noise, sigma=0.04),
    "blur": blur,
    "blur-z": partial(blur, sigma=(0.0, 0.0, 0.8)),
    "thick": thick,
    "scanner": scanner,
}
# Those that are functions of their seed; the others are the same whatever the seed.
RANDOM_GAPS = frozenset({"bias10", "bias25", "noise1", "noise2", "noise4", "scanner"})


def apply_gap(name, volume, mask, seed=0):
    """Make the source volume that a simulated scanner would have made of a target volume.

    Parameters
    ----------
    name : str
        A key of ``GAPS``.
    volume : numpy.ndarray, shape (x, y, z)
        Target volume in target units.
    mask : numpy.ndarray of bool, shape (x, y, z)
        Brain mask.
    seed : int
        Of the gap's random part.

    Returns
    -------
    numpy.ndarray of float32, shape (x, y, z)
        Non-negative but for "bias*" of negative input, finite, 0 outside the mask.

    Raises
    ------
    InputError
        If the gap is unknown, shapes differ, or the mask is empty.
    """
    if name not in GAPS:
        raise InputError(f"There is no simulated gap {name!r}; choose one of {', '.join(GAPS)}.")
    volume, mask = np.asarray(volume, dtype=np.float32), np.asarray(mask, dtype=bool)
    if volume.shape != mask.shape:
        raise InputError(f"The volume is {volume.shape}, its brain mask {mask.shape}.")
    if not mask.any():
        raise InputError("The brain mask is empty: there is no brain to change.")
    return GAPS[name](volume, mask, seed=seed)


def _blurred(volume, mask, sigma):
    """Gaussian mean over the brain's voxels only (normalised convolution)."""
    from scipy.ndimage import gaussian_filter

    weight = gaussian_filter(mask.astype(np.float32), sigma)
    total = gaussian_filter(np.where(mask, volume, 0).astype(np.float32), sigma)
    return np.where(mask, total / np.maximum(weight, 1e-6), 0).astype(np.float32)


def _inside(volume, mask):
    return np.where(mask, volume, 0).astype(np.float32)
