"""Between arrays on RAS axes and ANTs images (LPS), and ANTs made repeatable."""

from contextlib import contextmanager

import ants
import numpy as np

_LPS = np.array([-1.0, -1.0, 1.0])


def to_ants(volume, affine):
    """Give a volume on any orthogonal grid to ANTs.

    Parameters
    ----------
    volume : numpy.ndarray, shape (x, y, z)
    affine : numpy.ndarray, shape (4, 4)
        Voxel indices to RAS+ mm, without shear.

    Returns
    -------
    ants.ANTsImage
        float32, in ITK's LPS coordinates.
    """
    spacing = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    return ants.from_numpy(
        np.ascontiguousarray(volume, dtype=np.float32),
        origin=(_LPS * affine[:3, 3]).tolist(),
        spacing=spacing.tolist(),
        direction=_LPS[:, None] * (affine[:3, :3] / spacing),
    )


@contextmanager
def deterministic(seed=0):
    """Registrations in this context repeat bit for bit.

    ``ants.registration(random_seed=...)`` is ignored by antspyx 0.6, its process-wide setting is
    not.

    Parameters
    ----------
    seed : int
    """
    ants.config.set_ants_deterministic(True, seed_value=int(seed))
    try:
        yield
    finally:
        ants.config.set_ants_deterministic(False)


def resample(volume, affine, shape, target_affine, transforms=(), interpolator="linear"):
    """Resample a volume on another grid, through transforms if any, in one interpolation.

    Parameters
    ----------
    volume : numpy.ndarray, shape (x, y, z)
    affine : numpy.ndarray, shape (4, 4)
    shape : tuple of int
        Shape of the result.
    target_affine : numpy.ndarray, shape (4, 4)
        Grid of the result.
    transforms : sequence of path-like
        ITK transforms from the volume's space to the target's, as ``antsApplyTransforms`` takes
        them (last applied first).
    interpolator : {"linear", "lanczosWindowedSinc", "nearestNeighbor", "bSpline"}

    Returns
    -------
    numpy.ndarray of float32, shape ``shape``
        Zero where the volume does not reach.
    """
    fixed = to_ants(np.zeros(shape, dtype=np.float32), target_affine)
    moved = ants.apply_transforms(
        fixed=fixed,
        moving=to_ants(volume, affine),
        transformlist=[str(path) for path in transforms],
        interpolator=interpolator,
    )
    return np.ascontiguousarray(moved.numpy(), dtype=np.float32)


def downsampled_grid(shape, affine, spacing):
    """Grid over the same field of view with isotropic voxels of a given size.

    Parameters
    ----------
    shape : tuple of int
    affine : numpy.ndarray, shape (4, 4)
    spacing : float
        mm.

    Returns
    -------
    shape : tuple of int
    affine : numpy.ndarray, shape (4, 4)
    """
    sizes = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    new_shape = tuple(max(1, int(np.ceil(n * s / spacing))) for n, s in zip(shape, sizes))
    scaling = spacing / sizes
    new = affine.copy()
    new[:3, :3] = affine[:3, :3] * scaling
    # The first voxel's outer corner stays where it was.
    new[:3, 3] = affine[:3, 3] + affine[:3, :3] @ ((scaling - 1) / 2)
    return new_shape, new
