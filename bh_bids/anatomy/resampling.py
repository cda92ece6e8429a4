"""Resampling of volumes on RAS axes through linear maps, in one interpolation."""

import numpy as np
from scipy import ndimage

SHEARED = 1e-3
"""Cosine between two voxel axes from which on a grid is sheared: ITK's images cannot hold it."""
MUCH_FINER = 1.25
"""Ratio of voxel sizes from which on what lies between the coarser voxels is averaged."""
_PAD = 4
"""Voxels kept around the content, more than a cubic spline's reach."""


def resample(volume, affine, shape, target_affine, matrix=None, order=1):
    """Resample a volume on another grid, through a linear map if given.

    Parameters
    ----------
    volume : numpy.ndarray, shape (x, y, z)
        0 is background: all-zero borders cost nothing.
    affine : numpy.ndarray, shape (4, 4)
        Voxel indices of ``volume`` to RAS+ mm.
    shape : tuple of int
        Shape of the result.
    target_affine : numpy.ndarray, shape (4, 4)
        Voxel indices of the result to RAS+ mm.
    matrix : numpy.ndarray, shape (4, 4), optional
        RAS+ mm of the volume to RAS+ mm of the result; identity by default.
    order : int
        Order of the interpolating spline: 0 nearest, 1 linear, 3 cubic.

    Returns
    -------
    numpy.ndarray of float32, shape ``shape``
        Zero where the volume does not reach.
    """
    volume = np.asarray(volume, dtype=np.float32)
    box = content_box(volume != 0, margin=_PAD)
    if box is None:
        return np.zeros(shape, dtype=np.float32)
    matrix = np.eye(4) if matrix is None else matrix
    to_volume = np.linalg.inv(affine) @ np.linalg.inv(matrix) @ target_affine
    to_volume[:3, 3] -= [side.start for side in box]
    # A border of zeros, so that the content fades out instead of ending.
    content = np.pad(volume[box], 1)
    to_volume[:3, 3] += 1
    # The last row of a product of matrices may be off by rounding, which scipy refuses.
    return ndimage.affine_transform(
        content,
        to_volume[:3, :3],
        offset=to_volume[:3, 3],
        output_shape=tuple(shape),
        order=order,
        output=np.float32,
    )


def extend(log_field, coarse, shape, affine):
    """Resample a log field; beyond the coarse grid its border value holds on.

    Parameters
    ----------
    log_field : numpy.ndarray, shape (i, j, k)
    coarse : numpy.ndarray, shape (4, 4)
        Affine of its grid.
    shape, affine : tuple of int, numpy.ndarray of shape (4, 4)
        Grid wanted.

    Returns
    -------
    numpy.ndarray of float32, shape ``shape``
    """
    to_coarse = np.linalg.inv(coarse) @ affine
    return ndimage.affine_transform(
        log_field,
        to_coarse[:3, :3],
        offset=to_coarse[:3, 3],
        output_shape=shape,
        order=1,
        mode="nearest",
        output=np.float32,
    )


def content_box(mask, margin=0):
    """Bounding box of a mask.

    Parameters
    ----------
    mask : numpy.ndarray of bool, shape (x, y, z)
    margin : int
        Voxels added on every side, within the array.

    Returns
    -------
    tuple of slice or None
        None if the mask is empty.
    """
    found = ndimage.find_objects(np.asarray(mask).astype(np.uint8))
    if not found:
        return None
    return tuple(
        slice(max(0, side.start - margin), min(size, side.stop + margin))
        for side, size in zip(found[0], mask.shape, strict=True)
    )


def box_affine(affine, box):
    """Affine of the part of a volume inside a box.

    Parameters
    ----------
    affine : numpy.ndarray, shape (4, 4)
    box : tuple of slice

    Returns
    -------
    numpy.ndarray, shape (4, 4)
    """
    inner = affine.copy()
    inner[:3, 3] += affine[:3, :3] @ [side.start for side in box]
    return inner


def downsample(volume, affine, spacing):
    """Resample a volume to isotropic voxels over the same field of view, without aliasing.

    Parameters
    ----------
    volume : numpy.ndarray, shape (x, y, z)
    affine : numpy.ndarray, shape (4, 4)
        A sheared one, too.
    spacing : float
        Voxel size of the result in mm.

    Returns
    -------
    volume : numpy.ndarray of float32
    affine : numpy.ndarray, shape (4, 4)
        Never sheared: the nearest axes at right angles then.
    """
    sizes = voxel_sizes(affine)
    scaling = spacing / sizes
    # What a wider voxel would have averaged: the difference of two boxes' widths, as a Gaussian.
    sigma = np.sqrt(np.maximum(scaling**2 - 1, 0)) / 2.355
    smooth = ndimage.gaussian_filter(np.asarray(volume, dtype=np.float32), sigma, truncate=3)
    directions = affine[:3, :3] / sizes
    if np.abs(directions.T @ directions - np.eye(3)).max() > SHEARED:
        shape, grid = _upright_grid(volume.shape, affine, spacing)
        return resample(smooth, affine, shape, grid), grid
    shape = tuple(max(1, int(np.ceil(n / s))) for n, s in zip(volume.shape, scaling, strict=True))
    grid = affine.copy()
    grid[:3, :3] = affine[:3, :3] * scaling
    # The first voxel's outer corner stays where it was.
    grid[:3, 3] = affine[:3, 3] + affine[:3, :3] @ ((scaling - 1) / 2)
    return resample(smooth, affine, shape, grid), grid


def low_pass(volume, sizes, spacing):
    """Average over neighbours along axes whose voxels are much finer than those of a coming grid.

    Interpolation alone takes single voxels: it leaves their noise as it is, and folds detail that
    the grid cannot hold into what it can. The weights have the variance of the difference of two
    boxes' widths.

    Parameters
    ----------
    volume : numpy.ndarray, shape (x, y, z)
    sizes : sequence of float
        Its voxel sizes in mm.
    spacing : float
        Of the grid, mm.

    Returns
    -------
    numpy.ndarray, shape (x, y, z)
        The volume itself along axes that are finer by less than :data:`MUCH_FINER`.
    """
    for axis, size in enumerate(sizes):
        if spacing / size < MUCH_FINER:
            continue
        variance = ((spacing / size) ** 2 - 1) / 12
        # Three weights have a variance of a half at most, and no overshoot up to a quarter.
        rounds = int(np.ceil(4 * variance))
        side = variance / rounds / 2
        for _ in range(rounds):
            volume = ndimage.correlate1d(volume, [side, 1 - 2 * side, side], axis, mode="nearest")
    return volume


def _upright_grid(shape, affine, spacing):
    """Grid with axes at right angles, nearest to those of a sheared one, around its volume."""
    left, _, right = np.linalg.svd(affine[:3, :3] / voxel_sizes(affine))
    axes = left @ right
    corners = np.array(list(np.ndindex(2, 2, 2))) * np.asarray(shape) - 0.5
    along = (corners @ affine[:3, :3].T + affine[:3, 3]) @ axes
    low, high = along.min(axis=0), along.max(axis=0)
    counts = np.maximum(np.ceil((high - low) / spacing), 1).astype(int)
    grid = np.eye(4)
    grid[:3, :3] = axes * spacing
    grid[:3, 3] = axes @ (low + spacing / 2)
    return tuple(int(n) for n in counts), grid


def voxel_volume(affine):
    """Volume of a voxel.

    Parameters
    ----------
    affine : numpy.ndarray, shape (4, 4)

    Returns
    -------
    float
        ml.
    """
    return float(abs(np.linalg.det(np.asarray(affine)[:3, :3]))) / 1000


def voxel_sizes(affine):
    """Voxel sizes of an affine.

    Parameters
    ----------
    affine : numpy.ndarray, shape (4, 4)

    Returns
    -------
    numpy.ndarray, shape (3,)
        mm.
    """
    return np.sqrt((np.asarray(affine)[:3, :3] ** 2).sum(axis=0))
