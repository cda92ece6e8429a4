"""The resolution: whether a brain's detail is blurred, against that of the target's scans.

A Gaussian blur of variance v multiplies the power of a scan's detail by exp(-4 pi^2 v f^2) at the
spatial frequency f. So of the logarithm of its power, less the target's, the slope against f^2
tells v: a gain changes the level alone, and noise flattens the slope. A blur is undone by its
inverse, up to a small gain: what was lost is not made up.
"""

import numpy as np

RINGS = 41
"""Rings of spatial frequency, of 1/64 cycles per voxel each; the last holds all beyond."""
_WIDTH = 1 / 64
_FREQUENCY = (np.arange(RINGS) + 0.5) * _WIDTH
# Cycles per voxel. Below, detail is anatomy; above, interpolation has taken it away or noise is all
# there is.
BAND = (0.12, 0.42)
SMOOTH = 3.0
"""Voxels; standard deviation of the Gaussian mean that detail is told from."""
INNER = 0.6
"""Share of brain in that Gaussian from which a voxel counts, in full where all is brain."""
STRONGEST = 2.0
"""Most that a spatial frequency is multiplied by."""
MARGIN, BEYOND = 6, 1.5
"""Voxels around the brain, and standard deviation of the mean that it is continued by there."""


def detail_spectrum(volume, mask):
    """Logarithm of the mean power of a brain's detail in each of ``RINGS``.

    Parameters
    ----------
    volume : numpy.ndarray, shape (x, y, z)
        Target units, its contrast brought to the target's.
    mask : numpy.ndarray of bool, shape (x, y, z)

    Returns
    -------
    numpy.ndarray of float64, shape (RINGS,), or None
        None of a brain that is too small to have frequencies in each ring of ``BAND``.
    """
    from scipy.fft import next_fast_len, rfftn

    from ..anatomy.resampling import content_box

    box = content_box(mask)
    if box is None:
        return None
    inside = mask[box]
    smooth, weight = _local_mean(volume[box], inside, SMOOTH)
    taper = np.where(inside, np.clip((weight - INNER) / (1 - INNER), 0, 1), 0).astype(np.float32)
    detail = (volume[box] - smooth) * taper
    shape = [next_fast_len(n, real=True) for n in detail.shape]
    power = np.square(np.abs(rfftn(detail, shape))).ravel()
    ring = np.minimum(np.sqrt(_squared_frequency(shape)) / _WIDTH, RINGS - 1).astype(int).ravel()
    count = np.bincount(ring, minlength=RINGS)
    if not taper.any() or not count[_in_band()].all():
        return None
    mean = np.bincount(ring, power, minlength=RINGS) / np.maximum(count, 1)
    return np.log(np.maximum(mean / float(np.square(taper).sum()), 1e-12))


def blur_between(spectrum, usual):
    """Variance of the Gaussian blur that makes one spectrum of another, voxels squared.

    Parameters
    ----------
    spectrum, usual : numpy.ndarray, shape (..., RINGS) and (RINGS,)
        Of :func:`detail_spectrum`.

    Returns
    -------
    numpy.ndarray or float
        Shape (...); negative where the first has more detail.
    """
    band = _in_band()
    square = _FREQUENCY[band] ** 2
    centred = square - square.mean()
    slope = (np.asarray(spectrum) - usual)[..., band] @ centred / (centred @ centred)
    return -slope / (4 * np.pi**2)


def sharpened(volume, mask, blur):
    """A brain without a Gaussian blur, as far as a gain of ``STRONGEST`` undoes it.

    Parameters
    ----------
    volume : numpy.ndarray, shape (x, y, z)
        In any units, 0 outside the mask.
    mask : numpy.ndarray of bool, shape (x, y, z)
    blur : float
        Variance of the blur, voxels squared.

    Returns
    -------
    numpy.ndarray of float32, shape (x, y, z)
        At least 0, and 0 outside the mask.
    """
    from scipy.fft import irfftn, next_fast_len, rfftn

    from ..anatomy.resampling import content_box

    box = content_box(mask, margin=MARGIN)
    inside = mask[box]
    # Continued beyond its border: no edge of the mask is to be sharpened.
    mean, _ = _local_mean(volume[box], inside, BEYOND)
    values = np.where(inside, volume[box], mean).astype(np.float32)
    shape = [next_fast_len(n, real=True) for n in values.shape]
    exponent = np.minimum(2 * np.pi**2 * blur * _squared_frequency(shape), np.log(STRONGEST))
    result = irfftn(rfftn(values, shape) * np.exp(exponent).astype(np.float32), shape)[
        tuple(slice(n) for n in values.shape)
    ]
    out = np.zeros(volume.shape, np.float32)
    out[box] = np.where(inside, np.maximum(result, 0), 0)
    return out


def _in_band():
    return (_FREQUENCY > BAND[0]) & (_FREQUENCY < BAND[1])


def _local_mean(volume, mask, sigma):
    """Gaussian mean of the brain's voxels alone, and how much of the Gaussian is brain."""
    from scipy.ndimage import gaussian_filter

    weight = gaussian_filter(mask.astype(np.float32), sigma)
    total = gaussian_filter(np.where(mask, volume, 0).astype(np.float32), sigma)
    return total / np.maximum(weight, 1e-3), weight


def _squared_frequency(shape):
    """Squared spatial frequency of each term of ``rfftn``, cycles per voxel."""
    x, y, z = np.fft.fftfreq(shape[0]), np.fft.fftfreq(shape[1]), np.fft.rfftfreq(shape[2])
    return (x**2)[:, None, None] + (y**2)[None, :, None] + (z**2)[None, None, :]
