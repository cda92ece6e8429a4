"""The resolution: whether a brain's detail is blurred, against that of the target's scans.

A Gaussian blur of variances v along the axes multiplies the power of a scan's detail by
exp(-4 pi^2 (v_x f_x^2 + v_y f_y^2 + v_z f_z^2)) at the spatial frequency f. So of the logarithm of
its power, less the target's, the slopes against the squares tell v: each axis has its own, for
voxels are rarely cubes. The lines go through the origin, as the contrast was matched before: a scan
that has more of the middle frequencies than the target, and fewer of the highest, is not blurred. A
blur is undone by its inverse, up to a small gain: what was lost is not made up.
"""

import numpy as np

RINGS = 41
"""Rings of spatial frequency, of 1/64 cycles per voxel each; the last holds all beyond."""
_WIDTH = 1 / 64
_FREQUENCY = (np.arange(RINGS) + 0.5) * _WIDTH
AXES = 3
"""A ring has a part for each axis: the frequencies whose largest component is along it."""
# Mean square of the largest component of a direction, all directions being as frequent, and of
# either other: those of a ring's part.
ALONG = 1 / 3 + 2 / (np.pi * np.sqrt(3))
ACROSS = (1 - ALONG) / 2
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
    """Logarithm of the mean power of a brain's detail in each of ``RINGS``, by axis.

    Parameters
    ----------
    volume : numpy.ndarray, shape (x, y, z)
        Target units, its contrast brought to the target's.
    mask : numpy.ndarray of bool, shape (x, y, z)

    Returns
    -------
    numpy.ndarray of float64, shape (RINGS, AXES), or None
        None of a brain that is too small to have frequencies in each part of the rings of ``BAND``.
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
    part = _part_of(shape).ravel()
    count = np.bincount(part, minlength=RINGS * AXES).reshape(RINGS, AXES)
    if not taper.any() or not count[_in_band()].all():
        return None
    total = np.bincount(part, power, minlength=RINGS * AXES).reshape(RINGS, AXES)
    mean = total / np.maximum(count, 1) / float(np.square(taper).sum())
    return np.log(np.maximum(mean, 1e-12))


def blur_between(spectrum, usual):
    """Variances of the Gaussian blur that makes one spectrum of another, voxels squared.

    Parameters
    ----------
    spectrum, usual : numpy.ndarray, shape (..., RINGS, AXES) and (RINGS, AXES)
        Of :func:`detail_spectrum`.

    Returns
    -------
    numpy.ndarray, shape (..., AXES)
        Negative where the first has more detail along an axis.
    """
    band = _in_band()
    mean_square = np.where(np.eye(AXES, dtype=bool), ALONG, ACROSS)
    # One row for each part of a ring.
    rows = np.concatenate([np.outer(_FREQUENCY[band] ** 2, m) for m in mean_square])
    change = np.swapaxes((np.asarray(spectrum) - usual)[..., band, :], -1, -2)
    slopes = change.reshape(*change.shape[:-2], -1) @ np.linalg.pinv(rows).T
    return -slopes / (4 * np.pi**2)


def blur_size(blur):
    """Size of a blur: the root of the summed squares of its variances, those below 0 aside.

    Parameters
    ----------
    blur : numpy.ndarray, shape (..., AXES)
        Of :func:`blur_between`.

    Returns
    -------
    numpy.ndarray or float
        Shape (...), voxels squared.
    """
    return np.sqrt(np.square(np.maximum(blur, 0)).sum(axis=-1))


def smoothed(volume, mask, blur):
    """A brain with a Gaussian blur.

    Parameters
    ----------
    volume : numpy.ndarray, shape (x, y, z)
        In any units.
    mask : numpy.ndarray of bool, shape (x, y, z)
    blur : array_like, shape (AXES,)
        Variances along the axes, voxels squared.

    Returns
    -------
    numpy.ndarray of float32, shape (x, y, z)
        Means of brain voxels alone, 0 outside the mask.
    """
    mean, _ = _local_mean(volume, mask, np.sqrt(blur))
    return np.where(mask, mean, 0).astype(np.float32)


def sharpened(volume, mask, blur):
    """A brain without a Gaussian blur, as far as a gain of ``STRONGEST`` undoes it.

    Parameters
    ----------
    volume : numpy.ndarray, shape (x, y, z)
        In any units, 0 outside the mask.
    mask : numpy.ndarray of bool, shape (x, y, z)
    blur : array_like, shape (AXES,)
        Variances of the blur along the axes, voxels squared; where negative, nothing is undone.

    Returns
    -------
    numpy.ndarray of float32, shape (x, y, z)
        At least 0, and 0 outside the mask.
    """
    from scipy.fft import irfftn, next_fast_len, rfftn

    from ..anatomy.resampling import content_box

    # A brain may reach the volume's border: the margin lies beyond it then.
    wider = np.pad(mask, MARGIN)
    box = content_box(wider, margin=MARGIN)
    inside, within = wider[box], np.pad(volume, MARGIN)[box]
    # Continued beyond its border: no edge of the mask is to be sharpened.
    mean, _ = _local_mean(within, inside, BEYOND)
    values = np.where(inside, within, mean).astype(np.float32)
    shape = [next_fast_len(n, real=True) for n in values.shape]
    along = _squares(shape)
    blurred = sum(max(float(v), 0) * square for v, square in zip(blur, along, strict=True))
    exponent = np.minimum(2 * np.pi**2 * blurred, np.log(STRONGEST))
    result = irfftn(rfftn(values, shape) * np.exp(exponent).astype(np.float32), shape)[
        tuple(slice(n) for n in values.shape)
    ]
    out = np.zeros(wider.shape, np.float32)
    out[box] = np.where(inside, np.maximum(result, 0), 0)
    return out[(slice(MARGIN, -MARGIN),) * AXES].copy()


def _in_band():
    return (_FREQUENCY > BAND[0]) & (_FREQUENCY < BAND[1])


def _local_mean(volume, mask, sigma):
    """Gaussian mean of the brain's voxels alone, and how much of the Gaussian is brain."""
    from scipy.ndimage import gaussian_filter

    weight = gaussian_filter(mask.astype(np.float32), sigma)
    total = gaussian_filter(np.where(mask, volume, 0).astype(np.float32), sigma)
    return total / np.maximum(weight, 1e-3), weight


def _squares(shape):
    """Squared spatial frequency along each axis, of the terms of ``rfftn``; cycles per voxel."""
    along = *map(np.fft.fftfreq, shape[:-1]), np.fft.rfftfreq(shape[-1])
    return np.meshgrid(*(f**2 for f in along), indexing="ij", sparse=True)


def _part_of(shape):
    """Number of the ring's part that each term of ``rfftn`` belongs to: ring, then axis."""
    squares = _squares(shape)
    ring = np.minimum(np.sqrt(sum(squares)) / _WIDTH, RINGS - 1).astype(int)
    largest = np.argmax(np.stack(np.broadcast_arrays(*squares)), axis=0)
    return ring * AXES + largest
