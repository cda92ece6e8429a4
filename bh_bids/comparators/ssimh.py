"""SSIMH: a slice keeps its own details and takes the reference's lowest frequencies."""

import numpy as np

from ..errors import InputError
from ..intensity import to_target_units

LOWEST = 3


def ssimh(source, mask, reference, lowest=LOWEST):
    """Replace the lowest frequencies of every axial slice by a reference's.

    Parameters
    ----------
    source : numpy.ndarray, shape (x, y, z)
        Intensities in any units, brought to target units first (one scale for the volume).
    mask : numpy.ndarray of bool, shape (x, y, z)
        Brain mask.
    reference : numpy.ndarray, shape (x, y, z)
        A volume in target units whose slices lie where the source's lie, for example the target
        domain's mean. The choice is the caller's: it decides the result.
    lowest : int
        So many coefficients of the 2-D discrete cosine transform along each axis are replaced.

    Returns
    -------
    numpy.ndarray of float32, shape (x, y, z)
        Not below 0; 0 outside the mask. Slices without brain stay 0.

    Raises
    ------
    InputError
        If shapes differ, or the mask is empty.

    Notes
    -----
    As described with BlindHarmony: lowest 3 x 3 coefficients of the slice's 2-D DCT.
    """
    from scipy.fft import dctn, idctn

    mask = np.asarray(mask, dtype=bool)
    if not np.shape(source) == mask.shape == np.shape(reference):
        raise InputError(
            f"Source, mask and reference must share one grid: {np.shape(source)}, {mask.shape} "
            f"and {np.shape(reference)}."
        )
    scaled, _ = to_target_units(source, mask)
    used = mask.any(axis=(0, 1))
    own, other = (
        dctn(np.asarray(v, dtype=np.float64)[:, :, used], axes=(0, 1), norm="ortho")
        for v in (scaled, reference)
    )
    own[:lowest, :lowest] = other[:lowest, :lowest]
    made = np.zeros(mask.shape, dtype=np.float32)
    made[:, :, used] = np.maximum(idctn(own, axes=(0, 1), norm="ortho"), 0)
    return np.where(mask, made, 0).astype(np.float32)
