"""From a brain mask to the model's grid, and back to the scan's own."""

import numpy as np

from .resampling import content_box, extend, low_pass, resample, voxel_sizes

# What a mapping leaves is rounding up to here (target units), and not worth an interpolation.
NEGLIGIBLE = 1e-5


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
        Cubic interpolation, not negative, 0 outside the mask. Of much finer voxels the detail that
        the grid cannot hold is taken away first (:func:`.resampling.low_pass`).
    mask : numpy.ndarray of bool, shape ``shape``
    """
    # Around the brain the scan is kept as it is, so that cubic interpolation meets no edge that
    # masking made.
    box = content_box(mask, margin=6)
    around = np.zeros_like(volume)
    around[box] = low_pass(volume[box], voxel_sizes(affine), voxel_sizes(grid).mean())
    moved = resample(around, affine, shape, grid, matrix, order=3)
    moved_mask = resample(mask, affine, shape, grid, matrix, order=1) > 0.5
    return np.where(moved_mask, np.maximum(moved, 0), 0).astype(np.float32), moved_mask


def to_native_grid(native, mask, affine, matrix, source, harmonized, grid, mapping):
    """Carry a harmonization from the model's grid to the scan's own.

    The mapping of intensities is applied to the native volume itself, which so keeps every detail
    of the scan; of the field, which is smooth, and of what the mapping does not account for (noise
    that was taken away, a blur that was undone), the *change* is interpolated, by cubic splines:
    straight lines would leave half as much noise again. Where nothing was changed the scan stays
    as it was.

    Noise is taken away between the model's voxels as far as these tell of it: of white noise on
    voxels of 1 mm and turned axes two fifths stay, of voxels of 1.33 mm a quarter, and on voxels of
    0.7 mm and less nearly all.

    Parameters
    ----------
    native : numpy.ndarray, shape (x, y, z)
        Bias-corrected scan on its own RAS grid, in the units of ``source``.
    mask : numpy.ndarray of bool, shape (x, y, z)
        Brain mask on the same grid.
    affine : numpy.ndarray, shape (4, 4)
    matrix : numpy.ndarray, shape (4, 4)
        RAS+ mm of the scan to RAS+ mm of the model's space.
    source, harmonized : numpy.ndarray, shape (i, j, k)
        Before and after on the model's grid, target units, 0 outside the brain.
    grid : numpy.ndarray, shape (4, 4)
        The model's grid.
    mapping : bh_bids.mapping.mapping.Mapping
        What of the change is a mapping of intensities and a field.

    Returns
    -------
    numpy.ndarray of float32, shape (x, y, z)
        Target units, 0 outside the mask.
    """

    to_model = np.linalg.inv(matrix)
    field = mapping.log_field()
    inside = source > 0
    rest = np.where(inside, harmonized - mapping(source, field), 0).astype(np.float32)
    # A mask may reach below the model's grid: the field goes on there.
    native_field = None if field is None else extend(field, to_model @ grid, native.shape, affine)
    mapped = mapping(native, native_field)
    if np.abs(rest).max(initial=0) > NEGLIGIBLE:
        mapped = mapped + resample(
            _grow(rest, inside), grid, native.shape, affine, to_model, order=3
        )
    return np.where(mask, np.maximum(mapped, 0), 0).astype(np.float32)


def _grow(values, inside, voxels=8):
    """Continue values beyond a mask, farther than a cubic spline feels that they end."""
    from scipy import ndimage

    box = content_box(inside, margin=voxels)
    if box is None:
        return values
    grown = np.zeros_like(values)
    distance, nearest = ndimage.distance_transform_edt(~inside[box], return_indices=True)
    grown[box] = np.where(distance <= voxels, values[box][tuple(nearest)], 0)
    return grown
