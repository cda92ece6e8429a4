"""Between arrays on RAS axes and ANTs images (LPS), and ANTs made repeatable."""

import ctypes
import os
import sys
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
def silent():
    """Nothing that compiled code prints in this context is seen."""
    kept = [(number, os.dup(number)) for number in (1, 2)]
    _flush()
    with open(os.devnull, "wb") as nowhere:
        for number, _ in kept:
            os.dup2(nowhere.fileno(), number)
    try:
        yield
    finally:
        _flush()  # what waits in buffers would be printed later
        for number, copy in kept:
            os.dup2(copy, number)
            os.close(copy)


def _flush():
    sys.stdout.flush()
    sys.stderr.flush()
    ctypes.CDLL(None).fflush(None)


@contextmanager
def deterministic(seed=0):
    """Registrations in this context repeat bit for bit.

    ``ants.registration(random_seed=...)`` is ignored by antspyx 0.6, its process-wide setting is
    not. Registrations then run on one thread.

    Parameters
    ----------
    seed : int
        Not negative. ITK takes a seed of 0 for the clock, so it gets the next number.
    """
    ants.config.set_ants_deterministic(True, seed_value=int(seed) + 1)
    try:
        yield
    finally:
        ants.config.set_ants_deterministic(False)
