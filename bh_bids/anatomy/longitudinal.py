"""An unbiased template of one participant's scans: no visit's grid is preferred to another's.

Source: Reuter et al., Within-subject template estimation for unbiased longitudinal image analysis,
NeuroImage 61 (2012). The scans are registered rigidly to their average, whose space is moved, after
each round, to where the mean of all transforms is the identity.
"""

import tempfile

import ants
import numpy as np
from scipy.linalg import expm, logm

from ..errors import InputError
from .ants_images import deterministic, to_ants
from .bias import rough_correction
from .registration import REGISTRATION_SPACING, read_affine, write_affine
from .resampling import downsample, resample, voxel_sizes

ROUNDS = 2
"""Registrations to the average, after the first one to a scan."""


def within_template(volumes, affines, *, seed=0):
    """Average of one participant's scans in the space halfway between all of them.

    Parameters
    ----------
    volumes : sequence of numpy.ndarray, shape (x, y, z)
        At least two scans, RAS axes, of any grids.
    affines : sequence of numpy.ndarray, shape (4, 4)
    seed : int
        Seed of the registrations' sampling.

    Returns
    -------
    template : numpy.ndarray of float32, shape (i, j, k)
        Mean of the roughly bias-corrected scans, each at the same level; isotropic voxels of the
        finest scan's volume, over all that any scan shows.
    affine : numpy.ndarray, shape (4, 4)
    matrices : list of numpy.ndarray, shape (4, 4)
        RAS+ mm of each scan to RAS+ mm of the template, rigid.

    Raises
    ------
    InputError
        If there is only one scan.
    """
    if len(volumes) < 2:
        raise InputError("A within-participant template needs at least two scans.")
    levelled = [_levelled(v, a) for v, a in zip(volumes, affines, strict=True)]
    small = [downsample(v, a, REGISTRATION_SPACING) for v, a in zip(levelled, affines, strict=True)]
    matrices = [np.eye(4), *(_rigid(small[0], scan, seed) for scan in small[1:])]
    matrices = halfway(matrices)
    for _ in range(ROUNDS):
        shape, grid = _common_grid(small, matrices, REGISTRATION_SPACING)
        average = _mean(small, matrices, shape, grid), grid
        found = [_rigid(average, scan, seed, m) for scan, m in zip(small, matrices, strict=True)]
        matrices = halfway(found)
    scans = list(zip(levelled, affines, strict=True))
    finest = min(float(np.prod(voxel_sizes(affine)) ** (1 / 3)) for affine in affines)
    shape, grid = _common_grid(scans, matrices, finest)
    return _mean(scans, matrices, shape, grid), grid, matrices


def vote(masks, affines, matrices, shape, grid):
    """The scans' own masks as one mask in the template's space.

    Parameters
    ----------
    masks : sequence of numpy.ndarray of bool, shape (x, y, z)
    affines, matrices : sequence of numpy.ndarray, shape (4, 4)
    shape : tuple of int
    grid : numpy.ndarray, shape (4, 4)

    Returns
    -------
    numpy.ndarray of bool, shape ``shape``
        Where more than half of them lie; of two, where both do.
    """
    moved = (
        resample(mask, affine, shape, grid, matrix)
        for mask, affine, matrix in zip(masks, affines, matrices, strict=True)
    )
    return sum(moved) / len(masks) > 0.5


def halfway(matrices):
    """Move the common space of rigid maps to where the mean of their logarithms is zero.

    Parameters
    ----------
    matrices : sequence of numpy.ndarray, shape (4, 4)
        RAS+ mm of each scan to RAS+ mm of one common space.

    Returns
    -------
    list of numpy.ndarray, shape (4, 4)
        To the space halfway: the same whatever the common space was.
    """
    matrices = [np.asarray(matrix, dtype=np.float64) for matrix in matrices]
    for _ in range(20):
        mean = np.mean([logm(matrix).real for matrix in matrices], axis=0)
        matrices = [expm(-mean) @ matrix for matrix in matrices]
        if np.abs(mean).max() < 1e-10:
            break
    return matrices


def _levelled(volume, affine):
    """A scan without its strongest bias, its bright voxels' median at 1."""
    corrected = rough_correction(volume, affine)
    return corrected / np.median(corrected[corrected > corrected.mean()])


def _rigid(fixed, moving, seed, start=None):
    """Rigid map of a scan's mm to another image's mm, beginning at ``start``."""
    with deterministic(seed), tempfile.TemporaryDirectory() as folder:
        options = {}
        if start is not None:
            options["initial_transform"] = str(write_affine(start, f"{folder}/start.mat"))
        fit = ants.registration(
            to_ants(*fixed), to_ants(*moving), type_of_transform="Rigid",
            outprefix=f"{folder}/rigid_", **options,
        )  # fmt: skip
        return np.linalg.inv(read_affine(fit["fwdtransforms"][0]))


def _common_grid(scans, matrices, spacing):
    """Shape and affine of a grid that holds all scans."""
    corners = []
    for (volume, affine), matrix in zip(scans, matrices, strict=True):
        ends = np.array(list(np.ndindex(2, 2, 2))) * (np.array(volume.shape) - 1)
        to_space = matrix @ affine
        corners.append(ends @ to_space[:3, :3].T + to_space[:3, 3])
    corners = np.concatenate(corners)
    low, high = corners.min(axis=0), corners.max(axis=0)
    grid = np.diag([spacing] * 3 + [1.0])
    grid[:3, 3] = low
    return tuple(int(n) for n in np.ceil((high - low) / spacing) + 1), grid


def _mean(scans, matrices, shape, grid):
    """Mean of all scans on a grid; each counts where it was scanned."""
    total, count = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for (volume, affine), matrix in zip(scans, matrices, strict=True):
        total += resample(volume, affine, shape, grid, matrix)
        count += resample(np.ones(volume.shape, np.float32), affine, shape, grid, matrix)
    return total / np.maximum(count, 1)
