"""Synthetic heads and the measures that anatomy is judged by."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage


def rigid_scaled(angles=(0.12, -0.08, 0.15), shift=(6.0, -9.0, 4.0), scales=(0.93, 1.04, 0.97)):
    """A 4 x 4 map of mm to mm: scaling, rotations about x, y, z in radians, shift in mm."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.diag(scales)
    for axis, angle in enumerate(angles):
        i, j = [(1, 2), (2, 0), (0, 1)][axis]
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        matrix[:3, :3] = turn @ matrix[:3, :3]
    matrix[:3, 3] = shift
    return matrix


def millimetres(affine, indices):
    """World coordinates (n, 3) of voxel indices (n, 3)."""
    return np.asarray(indices) @ affine[:3, :3].T + affine[:3, 3]


def move(volume, affine, matrix, order=1):
    """The volume as it looks after ``matrix`` (mm to mm) moved it, on its own grid, by scipy."""
    pull = np.linalg.inv(affine) @ np.linalg.inv(matrix) @ affine
    return ndimage.affine_transform(volume, pull, order=order)


def whole_head(brain, noise=3.0, seed=0):
    """A brain with fluid, bone, scalp, a neck, and noise in the air around."""
    rng = np.random.default_rng(seed)
    pad = 6
    volume = np.pad(brain.volume, pad)
    mask = np.pad(brain.mask, pad)
    affine = brain.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ np.full(3, pad)
    distance = ndimage.distance_transform_edt(~ndimage.binary_closing(mask, iterations=4)) * 4
    head = np.where(mask, volume, 0)
    for low, high, level in ((0, 4, 45), (4, 11, 12), (11, 20, 230)):
        shell = (distance > low) & (distance <= high) & ~mask
        head[shell] = level
    head[(distance <= 0) & ~mask] = 45
    air = rng.normal(0, noise, (2, *head.shape))
    head = np.hypot(head + air[0], air[1])
    return SimpleNamespace(volume=head.astype(np.float32), affine=affine, mask=mask)


def dice(first, second):
    return 2 * (first & second).sum() / (first.sum() + second.sum())


@pytest.fixture(scope="session")
def tools():
    return SimpleNamespace(
        matrix=rigid_scaled, world=millimetres, move=move, head=whole_head, dice=dice
    )
