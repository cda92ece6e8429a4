"""Random diffeomorphic warps: the exponential of a smooth stationary velocity field.

Scaling and squaring (Arsigny et al. 2006, doi:10.1007/11866565_113): the field is halved until
its flow is almost the identity plus the field, and that flow is composed with itself as often.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage


@dataclass(frozen=True)
class Warp:
    """A displacement field in mm on a regular lattice of world coordinates.

    Attributes
    ----------
    displacement : numpy.ndarray of float32, shape (3, x, y, z)
        Added to a point of the participant's space it gives the point of the template's space.
    origin : numpy.ndarray, shape (3,)
        World coordinates (RAS, mm) of the first lattice point.
    spacing : float
        Distance of the lattice points in mm.
    """

    displacement: np.ndarray
    origin: np.ndarray
    spacing: float


def exponential(velocity, spacing, fraction=0.25):
    """Flow of a stationary velocity field at time one.

    Parameters
    ----------
    velocity : numpy.ndarray, shape (3, x, y, z)
        Velocity in mm per unit of time, smooth on the lattice.
    spacing : float
        Distance of the lattice points in mm.
    fraction : float
        The field is halved until no step exceeds this fraction of the spacing.

    Returns
    -------
    numpy.ndarray of float64, shape (3, x, y, z)
        Displacement in mm: the flow is ``x + displacement(x)``.
    """
    field = np.asarray(velocity, dtype=np.float64) / spacing
    longest = np.sqrt((field**2).sum(axis=0)).max()
    squarings = int(max(0, np.ceil(np.log2(max(longest / fraction, 1.0)))))
    field = field / 2**squarings
    lattice = np.indices(field.shape[1:], dtype=np.float64)
    for _ in range(squarings):
        points = lattice + field
        field = field + np.stack(
            [ndimage.map_coordinates(part, points, order=3, mode="nearest") for part in field]
        )
    return field * spacing


def jacobian_determinant(displacement, spacing):
    """Determinant of the Jacobian of ``x + displacement(x)``; positive where nothing folds.

    Parameters
    ----------
    displacement : numpy.ndarray, shape (3, x, y, z)
        In mm.
    spacing : float
        Distance of the lattice points in mm.

    Returns
    -------
    numpy.ndarray of float64, shape (x, y, z)
    """
    jacobian = np.empty(displacement.shape[1:] + (3, 3))
    for row in range(3):
        slopes = np.gradient(np.asarray(displacement[row], dtype=np.float64), spacing)
        for column in range(3):
            jacobian[..., row, column] = slopes[column] + (row == column)
    return np.linalg.det(jacobian)


def random_velocity(shape, spacing, rng, scales):
    """Sum of smooth Gaussian random vector fields.

    Parameters
    ----------
    shape : sequence of int, length 3
    spacing : float
        Distance of the lattice points in mm.
    rng : numpy.random.Generator
    scales : sequence of (float, float)
        Smoothing (standard deviation of the Gaussian, mm) and standard deviation (mm) of each
        component of the summed fields.

    Returns
    -------
    numpy.ndarray of float64, shape (3, x, y, z)
    """
    total = np.zeros((3, *shape))
    for smoothing, deviation in scales:
        for axis in range(3):
            noise = rng.standard_normal(shape)
            field = ndimage.gaussian_filter(noise, smoothing / spacing, mode="reflect")
            total[axis] += field * (deviation / field.std())
    return total


def random_warp(
    low,
    high,
    rng,
    *,
    spacing=6.0,
    scales=((26.0, 2.6), (9.0, 0.9)),
    strength=1.0,
    growth=(0.0, 0.0, 0.0),
    centre=(0.0, 0.0, 0.0),
):
    """A participant's diffeomorphic warp over a box of world coordinates.

    Parameters
    ----------
    low, high : array_like, shape (3,)
        Corners of the box in mm (RAS).
    rng : numpy.random.Generator
    spacing : float
        Distance of the lattice points in mm.
    scales : sequence of (float, float)
        See :func:`random_velocity`.
    strength : float
        Factor on the random velocities.
    growth : array_like, shape (3,)
        Logarithm of the scaling along each axis about ``centre``; the flow of the velocity
        ``growth * (x - centre)`` is that scaling.
    centre : array_like, shape (3,)
        World coordinates in mm.

    Returns
    -------
    Warp
    """
    low, high = np.asarray(low, dtype=float), np.asarray(high, dtype=float)
    shape = tuple(np.ceil((high - low) / spacing).astype(int) + 1)
    velocity = strength * random_velocity(shape, spacing, rng, scales)
    for axis in range(3):
        points = low[axis] + spacing * np.arange(shape[axis]) - centre[axis]
        line = [1, 1, 1]
        line[axis] = -1
        velocity[axis] += (growth[axis] * points).reshape(line)
    return Warp(exponential(velocity, spacing).astype(np.float32), low, float(spacing))
