"""How alike two volumes of one brain are: PSNR, SSIM, correlation and mutual information."""

import numpy as np

from ..errors import InputError


def psnr(reference, image, mask, data_range=1.0):
    """Peak signal-to-noise ratio inside the brain.

    Parameters
    ----------
    reference, image : numpy.ndarray, shape (x, y, z)
        Volumes in the same units.
    mask : numpy.ndarray of bool, shape (x, y, z)
        Brain mask; voxels outside do not count.
    data_range : float
        The peak; 1 in target units.

    Returns
    -------
    float
        Decibels; infinite for identical volumes.

    Raises
    ------
    InputError
        If shapes differ or the mask is empty.

    Examples
    --------
    An error of a tenth of the peak everywhere is 20 dB:

    >>> truth = np.full((4, 4, 4), 0.5)
    >>> round(psnr(truth, truth + 0.1, truth > 0), 6)
    20.0
    """
    a, b = _masked(reference, image, mask)
    error = float(np.mean((a - b) ** 2))
    return float("inf") if error == 0 else float(10 * np.log10(data_range**2 / error))


def ssim(reference, image, mask, data_range=1.0, sigma=1.5):
    """Structural similarity with a 3-D Gaussian window, averaged inside the brain.

    Parameters
    ----------
    reference, image : numpy.ndarray, shape (x, y, z)
        Volumes in the same units.
    mask : numpy.ndarray of bool, shape (x, y, z)
        Brain mask; both volumes are set to 0 outside, so the skull or its absence never counts.
    data_range : float
        The peak; 1 in target units.
    sigma : float
        Standard deviation of the window, voxels.

    Returns
    -------
    float
        At most 1, which only identical volumes reach.

    Raises
    ------
    InputError
        If shapes differ or the mask is empty.

    Notes
    -----
    Wang et al. (2004), IEEE Trans. Image Process. 13(4), with their constants, as computed by
    :func:`skimage.metrics.structural_similarity`.
    """
    _masked(reference, image, mask)
    mask = np.asarray(mask, dtype=bool)
    box = tuple(slice(int(a.min()), int(a.max()) + 1) for a in np.nonzero(mask))
    local = _local_ssim(*(np.asarray(v)[box] for v in (reference, image, mask)), data_range, sigma)
    return float(local.mean(dtype=np.float64))


def ssim_slices(reference, image, mask, data_range=1.0, sigma=1.5):
    """Structural similarity of axial slices, each with a 2-D Gaussian window, averaged.

    Parameters
    ----------
    reference, image, mask, data_range, sigma
        See :func:`ssim`.

    Returns
    -------
    float
        Mean over the slices that hold brain of the mean over the slice's brain, so that every
        slice counts alike.

    Raises
    ------
    InputError
        If shapes differ or the mask is empty.
    """
    _masked(reference, image, mask)
    mask = np.asarray(mask, dtype=bool)
    box = tuple(slice(int(a.min()), int(a.max()) + 1) for a in np.nonzero(mask))
    volumes = [np.moveaxis(np.asarray(v)[box], 2, 0) for v in (reference, image, mask)]
    slices = [s for s in zip(*volumes, strict=True) if s[2].any()]
    found = [_local_ssim(*s, data_range, sigma).mean(dtype=np.float64) for s in slices]
    return float(np.mean(found))


def _local_ssim(reference, image, mask, data_range, sigma):
    """Local structural similarity of an array's brain, 0 outside it."""
    from skimage.metrics import structural_similarity

    # The window is cut at 3.5 sigma: a box larger by that much gives the same local values.
    margin = int(3.5 * sigma + 0.5)
    inside = np.pad(mask, margin)
    a, b = (
        np.where(inside, np.pad(v.astype(np.float32), margin), np.float32(0))
        for v in (reference, image)
    )
    _, local = structural_similarity(
        a,
        b,
        data_range=data_range,
        gaussian_weights=True,
        sigma=sigma,
        use_sample_covariance=False,
        full=True,
    )
    return local[inside]


def ncc(reference, image, mask):
    """Centred normalised cross-correlation (Pearson's) inside the brain.

    Parameters
    ----------
    reference, image : numpy.ndarray, shape (x, y, z)
        Volumes in any units.
    mask : numpy.ndarray of bool, shape (x, y, z)
        Brain mask.

    Returns
    -------
    float
        In [-1, 1]; 0 if either volume is constant inside the mask.

    Raises
    ------
    InputError
        If shapes differ or the mask is empty.
    """
    a, b = _masked(reference, image, mask)
    a, b = a - a.mean(), b - b.mean()
    norm = np.sqrt(float(a @ a) * float(b @ b))
    return 0.0 if norm == 0 else float(np.clip(a @ b / norm, -1.0, 1.0))


def nmi(reference, image, mask, bins=64):
    """Normalised mutual information inside the brain: does one image tell the other's intensities?

    Parameters
    ----------
    reference, image : numpy.ndarray, shape (x, y, z)
        Volumes in any units.
    mask : numpy.ndarray of bool, shape (x, y, z)
        Brain mask.
    bins : int
        Per volume, evenly spaced between its percentiles 0.1 and 99.9; values beyond fall into the
        outer bins.

    Returns
    -------
    float
        ``(H(a) + H(b)) / H(a, b)``: 2 where one is a function of the other and back, 1 where
        they are independent or either is constant.

    Raises
    ------
    InputError
        If shapes differ or the mask is empty.

    Notes
    -----
    Studholme et al. (1999), Pattern Recognition 32(1), as computed by
    :func:`skimage.metrics.normalized_mutual_information`.
    """
    from skimage.metrics import normalized_mutual_information

    clipped = [np.clip(v, *np.percentile(v, [0.1, 99.9])) for v in _masked(reference, image, mask)]
    if any(v.min() == v.max() for v in clipped):
        return 1.0
    return float(normalized_mutual_information(*clipped, bins=bins))


def _masked(reference, image, mask):
    reference, image, mask = np.asarray(reference), np.asarray(image), np.asarray(mask, dtype=bool)
    if not reference.shape == image.shape == mask.shape:
        raise InputError(
            f"Volumes to compare must share one grid: {reference.shape}, {image.shape} "
            f"and a mask of {mask.shape}."
        )
    if not mask.any():
        raise InputError("The brain mask is empty: there is nothing to compare.")
    return reference[mask].astype(np.float64), image[mask].astype(np.float64)
