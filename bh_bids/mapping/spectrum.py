"""A stationary Gaussian in place of the flow: the ablation, and a reference in closed form.

The target's scans, less their mean volume, have a mean power spectrum. A Gaussian of that spectrum
has the Wiener filter as its denoiser and a likelihood of the noise level in closed form.
"""

import numpy as np

BANDS = 64


def power_spectrum(volumes, mean):
    """Mean power per voxel in ``BANDS`` rings of spatial frequency (0 to 0.87 cycles per voxel).

    Parameters
    ----------
    volumes : iterable of numpy.ndarray, shape (x, y, z)
        Scans in target units, 0 outside the brain.
    mean : numpy.ndarray, shape (x, y, z)

    Returns
    -------
    numpy.ndarray of float64, shape (BANDS,)
        White noise of standard deviation s inside the brain has s**2 in each.
    """
    total, count = np.zeros(BANDS), 0
    for volume in volumes:
        total += _rings(volume, mean)[0]
        count += 1
    return total / count


def noise_level(volume, mean, spectrum, candidates):
    """The candidate noise level under which a scan is most probable.

    Parameters
    ----------
    volume, mean : numpy.ndarray, shape (x, y, z)
        Target units, the volume 0 outside the brain.
    spectrum : numpy.ndarray, shape (BANDS,)
    candidates : sequence of float
        Standard deviations, target units.

    Returns
    -------
    float
    """
    power, counts = _rings(volume, mean)
    # The lowest rings hold contrast and field, not noise.
    rings = slice(BANDS // 4, None)
    scores = []
    for sigma in candidates:
        expected = spectrum[rings] + sigma**2
        scores.append(-(counts[rings] * (np.log(expected) + power[rings] / expected)).sum())
    return float(candidates[int(np.argmax(scores))])


def wiener(volume, mean, spectrum, sigma):
    """The expected clean volume: noise of ``sigma`` filtered out ring by ring.

    Parameters
    ----------
    volume, mean : numpy.ndarray, shape (x, y, z)
        Target units, the volume 0 outside the brain.
    spectrum : numpy.ndarray, shape (BANDS,)
    sigma : float

    Returns
    -------
    numpy.ndarray of float32, shape (x, y, z)
        0 outside the brain.
    """
    from scipy import fft

    mask = volume > 0
    residual = np.where(mask, volume - mean, 0).astype(np.float32)
    gain = (spectrum / (spectrum + sigma**2)).astype(np.float32)
    spectrum_3d = fft.rfftn(residual)
    spectrum_3d *= gain[_ring_of(volume.shape)]
    return np.where(mask, mean + fft.irfftn(spectrum_3d, s=volume.shape), 0).astype(np.float32)


def _rings(volume, mean):
    from scipy import fft

    mask = volume > 0
    residual = np.where(mask, volume - mean, 0).astype(np.float32)
    power = np.abs(fft.rfftn(residual)) ** 2 / max(np.count_nonzero(mask), 1)
    ring = _ring_of(volume.shape).ravel()
    counts = np.bincount(ring, minlength=BANDS).astype(np.float64)
    return np.bincount(ring, weights=power.ravel(), minlength=BANDS) / np.maximum(counts, 1), counts


def _ring_of(shape):
    """Ring of each coefficient of a real transform of a volume."""
    from scipy import fft

    axes = [fft.fftfreq(n) for n in shape[:-1]] + [fft.rfftfreq(shape[-1])]
    square = sum(f**2 for f in np.meshgrid(*axes, indexing="ij", sparse=True))
    return np.minimum((np.sqrt(square) / np.sqrt(0.75) * BANDS).astype(int), BANDS - 1)
