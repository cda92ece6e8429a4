"""How alike two volumes of one brain are: PSNR, SSIM and correlation inside the mask."""

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
    from skimage.metrics import structural_similarity

    _masked(reference, image, mask)
    mask = np.asarray(mask, dtype=bool)
    # The window is cut at 3.5 sigma: a box larger by that much gives the same local values.
    margin = int(3.5 * sigma + 0.5)
    box = tuple(slice(int(a.min()), int(a.max()) + 1) for a in np.nonzero(mask))
    inside = np.pad(mask[box], margin)
    a, b = (
        np.where(inside, np.pad(np.asarray(v)[box].astype(np.float32), margin), np.float32(0))
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
    return float(local[inside].mean(dtype=np.float64))


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
