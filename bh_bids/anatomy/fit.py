"""From a brain mask to the model's grid, and back to the scan's own."""

import numpy as np

from .resampling import content_box, resample


def to_model_grid(volume, affine, mask, matrix, shape, grid):
    """Resample a bias-corrected brain on the model's grid.

    Parameters
    ----------
    volume : numpy.ndarray, shape (x, y, z)
        Bias-corrected T1w volume, RAS axes; may have its skull.
    affine : numpy.ndarray, shape (4, 4)
    mask : numpy.ndarray of bool, shape (x, y, z)
    matrix : numpy.ndarray, shape (4, 4)
        RAS+ mm of the scan to RAS+ mm of the model's space.
    shape : tuple of int
    grid : numpy.ndarray, shape (4, 4)
        The model's grid.

    Returns
    -------
    volume : numpy.ndarray of float32, shape ``shape``
        Cubic interpolation, not negative, 0 outside the mask.
    mask : numpy.ndarray of bool, shape ``shape``
    """
    # Around the brain the scan is kept as it is, so that cubic interpolation meets no edge that
    # masking made.
    box = content_box(mask, margin=6)
    around = np.zeros_like(volume)
    around[box] = volume[box]
    moved = resample(around, affine, shape, grid, matrix, order=3)
    moved_mask = resample(mask, affine, shape, grid, matrix, order=1) > 0.5
    return np.where(moved_mask, np.maximum(moved, 0), 0).astype(np.float32), moved_mask


def to_native_grid(native, mask, affine, matrix, source, harmonized, grid):
    """Carry a harmonization from the model's grid to the scan's own.

    What is interpolated is the *change*, ``harmonized - source``, not the image: the native volume
    keeps every detail of the scan, and where nothing was changed it stays as it was.

    Parameters
    ----------
    native : numpy.ndarray, shape (x, y, z)
        Bias-corrected scan on its own RAS grid, scaled to the units of ``source``.
    mask : numpy.ndarray of bool, shape (x, y, z)
        Brain mask on the same grid.
    affine : numpy.ndarray, shape (4, 4)
    matrix : numpy.ndarray, shape (4, 4)
        RAS+ mm of the scan to RAS+ mm of the model's space.
    source, harmonized : numpy.ndarray, shape (i, j, k)
        Before and after on the model's grid, in the same units, 0 outside the brain.
    grid : numpy.ndarray, shape (4, 4)
        The model's grid.

    Returns
    -------
    numpy.ndarray of float32, shape (x, y, z)
        0 outside the mask.
    """
    change = _grow(harmonized - source, source > 0)
    back = resample(change, grid, native.shape, affine, np.linalg.inv(matrix), order=1)
    return np.where(mask, np.maximum(native + back, 0), 0).astype(np.float32)


def _grow(values, inside, voxels=3):
    """Continue values a few voxels beyond a mask, so that its border interpolates to no zero."""
    from scipy import ndimage

    box = content_box(inside, margin=voxels)
    if box is None:
        return values
    grown = np.zeros_like(values)
    distance, nearest = ndimage.distance_transform_edt(~inside[box], return_indices=True)
    grown[box] = np.where(distance <= voxels, values[box][tuple(nearest)], 0)
    return grown
