"""Where the three tissues of a T1w brain lie on the intensity axis, and which a voxel is of."""

import numpy as np

from ..errors import InputError

TISSUES = ("CSF", "GM", "WM")
N_BINS = 512
MIN_VOXELS = 100
# Shares of a brain mask that are CSF, grey and white matter, to place the classes at the start;
# published volumes of healthy adults lie near these, and EM forgets them.
START_SHARES = (0.16, 0.46, 0.38)


def tissue_modes(volume, mask):
    """Modes of cerebrospinal fluid, grey and white matter in a T1w volume.

    A mixture of three Gaussians is fitted to the brain's histogram by expectation-maximisation;
    each tissue's mode is then the peak of the smoothed histogram within one standard deviation
    of its class, or the class's mean where the histogram has no peak there (as is common for
    CSF, and for all tissues of a noisy image).

    Parameters
    ----------
    volume : numpy.ndarray, shape (x, y, z)
        T1w intensities in any units.
    mask : numpy.ndarray of bool, shape (x, y, z)
        Brain mask.

    Returns
    -------
    dict of str to float
        Keys "CSF", "GM" and "WM", in the volume's units, strictly increasing.

    Raises
    ------
    InputError
        If fewer than 100 voxels of the mask are finite, or all of them are equal.
    """
    centres, counts, means, spreads, (low, high) = _fit(volume, mask)
    modes = _refine(centres, counts, means, spreads)
    return {t: float(low + m * (high - low)) for t, m in zip(TISSUES, modes, strict=True)}


def label_tissues(volume, mask, priors=None):
    """Cerebrospinal fluid, grey and white matter of a T1w volume, the likeliest at each voxel.

    Three Gaussians at the modes of :func:`tissue_modes`, of one spread: without priors, a voxel
    is of the tissue whose mode is nearest. Good enough to compare tissues' intensities between
    images; no segmentation to measure anatomy with.

    Parameters
    ----------
    volume : numpy.ndarray, shape (x, y, z)
        T1w intensities in any units.
    mask : numpy.ndarray of bool, shape (x, y, z)
        Brain mask.
    priors : sequence of numpy.ndarray, shape (x, y, z), optional
        Probability of grey and of white matter in an average brain, on the volume's grid, 0-1.
        All tissues are equally probable everywhere where not given.

    Returns
    -------
    numpy.ndarray of uint8, shape (x, y, z)
        1 CSF, 2 grey matter, 3 white matter; 0 outside the mask and where not finite.

    Raises
    ------
    InputError
        As of :func:`tissue_modes`.
    """
    mask = np.asarray(mask, dtype=bool)
    centres, counts, means, spreads, (low, high) = _fit(volume, mask)
    modes = _refine(centres, counts, means, spreads)
    inside = mask & np.isfinite(volume)
    values = (np.asarray(volume, dtype=np.float64)[inside] - low) / (high - low)
    log_joint = -0.5 * (values - modes[:, None]) ** 2 / np.mean(spreads**2)
    if priors is not None:
        grey, white = (np.asarray(p, dtype=np.float64)[inside] for p in priors)
        # An average brain is registered affinely only: no tissue is impossible anywhere.
        log_joint += np.log(np.stack([np.clip(1 - grey - white, 0, 1), grey, white]) + 0.1)
    labels = np.zeros(mask.shape, np.uint8)
    labels[inside] = 1 + np.argmax(log_joint, axis=0)
    return labels


def _fit(volume, mask):
    """Histogram of the brain on 0-1, means and spreads of its tissues, intensities at 0 and 1."""
    values = np.asarray(volume, dtype=np.float64)[np.asarray(mask, dtype=bool)]
    values = values[np.isfinite(values)]
    if values.size < MIN_VOXELS:
        raise InputError(
            f"The brain mask holds {values.size} finite voxels: at least {MIN_VOXELS} are needed "
            "to find the modes of three tissues."
        )
    # Vessels, dura and the background's leftovers lie in the tails: they are no tissue's mode.
    low, high = np.percentile(values, [0.1, 99.8])
    if not high > low:
        raise InputError("All intensities inside the brain mask are equal: no tissue can be told.")
    unit = (values - low) / (high - low)
    unit = unit[(unit >= 0) & (unit <= 1)]
    counts, edges = np.histogram(unit, bins=N_BINS, range=(0.0, 1.0))
    centres = (edges[:-1] + edges[1:]) / 2
    means, spreads, _ = _mixture(centres, counts, np.quantile(unit, _start_quantiles()))
    return centres, counts, means, spreads, (low, high)


def _start_quantiles():
    """Quantile at the middle of each tissue's share of the brain."""
    shares = np.array(START_SHARES)
    return np.cumsum(shares) - shares / 2


def _mixture(centres, counts, means, n_iterations=300, tolerance=1e-6):
    """Fit three Gaussians to a histogram by EM; returns ordered means, spreads and shares."""
    weights = counts / counts.sum()
    means = np.asarray(means, dtype=np.float64).copy()
    spreads = np.full(3, 0.1)
    shares = np.array(START_SHARES)
    floor = 2.0 / N_BINS
    for _ in range(n_iterations):
        log_joint = (
            -0.5 * ((centres - means[:, None]) / spreads[:, None]) ** 2
            - np.log(spreads[:, None])
            + np.log(shares[:, None])
        )
        joint = np.exp(log_joint - log_joint.max(axis=0))
        posterior = joint / joint.sum(axis=0) * weights
        # A small pseudo-count keeps a class alive in an image that lacks it.
        mass = posterior.sum(axis=1) + 1e-4
        shares = mass / mass.sum()
        new_means = (posterior @ centres + 1e-4 * means) / mass
        variance = (posterior * (centres - new_means[:, None]) ** 2).sum(axis=1) / mass
        spreads = np.sqrt(np.maximum(variance, floor**2))
        shift = np.abs(new_means - means).max()
        means = new_means
        if shift < tolerance:
            break
    order = np.argsort(means)
    return means[order], spreads[order], shares[order]


def _refine(centres, counts, means, spreads):
    """Move each class's mean to the smoothed histogram's peak near it, where there is one."""
    from scipy.ndimage import gaussian_filter1d
    from scipy.signal import find_peaks

    smooth = gaussian_filter1d(counts.astype(np.float64), N_BINS / 64, mode="nearest")
    peaks, _ = find_peaks(smooth, prominence=0.01 * smooth.max())
    borders = np.concatenate([[0.0], (means[:-1] + means[1:]) / 2, [1.0]])
    modes = means.copy()
    for k in range(3):
        near = [
            p
            for p in peaks
            if borders[k] < centres[p] < borders[k + 1]
            and abs(centres[p] - means[k]) <= max(spreads[k], 0.02)
        ]
        if near:
            modes[k] = centres[max(near, key=lambda p: smooth[p])]
    # Degenerate inputs (two grey levels only) may merge classes; the order is still promised.
    for k in (1, 2):
        modes[k] = max(modes[k], np.nextafter(modes[k - 1], np.inf))
    return modes
