"""Signed distances of simple shapes, and painting tissue classes with them.

Distances are in mm, negative inside; coordinates are open grids of world coordinates.
"""

import numpy as np

from .tissues import CODES


def grid_axes(low, spacing, shape):
    """World coordinates of a grid's voxels along each axis, ready to broadcast.

    Parameters
    ----------
    low : array_like, shape (3,)
        World coordinates of the first voxel in mm.
    spacing : float
        Voxel size in mm.
    shape : sequence of int, length 3

    Returns
    -------
    tuple of numpy.ndarray of float32
        Shapes (x, 1, 1), (1, y, 1) and (1, 1, z).
    """
    return np.ix_(
        *[
            (start + spacing * np.arange(count)).astype(np.float32)
            for start, count in zip(low, shape, strict=True)
        ]
    )


def ellipsoid(axes, centre, radii):
    """About the signed distance to an ellipsoid, exact in sign and near its surface.

    Parameters
    ----------
    axes : tuple of numpy.ndarray
        See :func:`grid_axes`.
    centre, radii : sequence of float, length 3

    Returns
    -------
    numpy.ndarray of float32, shape (x, y, z)
    """
    unit = [(axis - c) / r for axis, c, r in zip(axes, centre, radii, strict=True)]
    norm = np.sqrt(sum(u**2 for u in unit))
    slope = np.sqrt(sum((u / r) ** 2 for u, r in zip(unit, radii, strict=True)))
    return (norm - 1) * np.maximum(norm / np.maximum(slope, 1e-6), min(radii) / 2)


def capsule(axes, start, end, radius):
    """Signed distance to a capsule.

    Parameters
    ----------
    axes : tuple of numpy.ndarray
        See :func:`grid_axes`.
    start, end : sequence of float, length 3
        Ends of its middle line.
    radius : float

    Returns
    -------
    numpy.ndarray of float32, shape (x, y, z)
    """
    along = [e - s for s, e in zip(start, end, strict=True)]
    offset = [axis - np.float32(s) for axis, s in zip(axes, start, strict=True)]
    share = sum(o * np.float32(a) for o, a in zip(offset, along, strict=True))
    share = np.clip(share / np.float32(sum(a * a for a in along)), 0, 1)
    squares = sum((o - share * np.float32(a)) ** 2 for o, a in zip(offset, along, strict=True))
    return np.sqrt(squares) - np.float32(radius)


def union(first, second, width):
    """Signed distance to two shapes blended into one (polynomial smooth minimum).

    Parameters
    ----------
    first, second : numpy.ndarray
        Signed distances.
    width : float
        Where the distances differ by less, they are blended.

    Returns
    -------
    numpy.ndarray
    """
    share = np.clip(0.5 + 0.5 * (second - first) / width, 0, 1)
    return second + (first - second) * share - width * share * (1 - share)


class Canvas:
    """Paints shapes into a volume of tissue classes, each within its own bounding box.

    Parameters
    ----------
    classes : numpy.ndarray of uint8, shape (x, y, z)
        Changed in place.
    axes : tuple of numpy.ndarray
        See :func:`grid_axes`.
    free : numpy.ndarray of bool, shape (x, y, z)
        Where painting is allowed.
    """

    def __init__(self, classes, axes, free):
        self._classes = classes
        self._axes = axes
        self._free = free

    def _box(self, low, high):
        slices = []
        for axis, first, last in zip(self._axes, low, high, strict=True):
            start, stop = np.searchsorted(axis.ravel(), (first, last))
            slices.append(slice(int(start), int(stop)))
        box = tuple(slices)
        axes = tuple(
            axis[tuple(s if n == k else slice(None) for n, s in enumerate(box))]
            for k, axis in enumerate(self._axes)
        )
        return box, axes

    def _paint(self, name, box, inside):
        self._classes[box][self._free[box] & inside] = CODES[name]

    def ellipsoid(self, name, centre, radii):
        """Paint an ellipsoid of a tissue class."""
        low = [c - r for c, r in zip(centre, radii, strict=True)]
        high = [c + r for c, r in zip(centre, radii, strict=True)]
        box, axes = self._box(low, high)
        self._paint(name, box, ellipsoid(axes, centre, radii) < 0)

    def capsule(self, name, start, end, radius, *, below=np.inf, period=None, gap=0.0):
        """Paint a capsule, if asked only below a height and with a gap every period of height."""
        low = np.minimum(start, end) - radius
        high = np.maximum(start, end) + radius
        high[2] = min(high[2], below)
        box, axes = self._box(low, high)
        inside = capsule(axes, start, end, radius) < 0
        if period is not None:
            inside &= np.mod(axes[2], period) >= gap
        self._paint(name, box, inside)

    def bow(self, name, centre, radii, thickness, *, below, front):
        """Paint the shell of an ellipsoid, half a thickness to each side, as a jaw lies."""
        low = [c - r - thickness for c, r in zip(centre, radii, strict=True)]
        high = [c + r + thickness for c, r in zip(centre, radii, strict=True)]
        low[1] = front
        high[2] = below
        box, axes = self._box(low, high)
        self._paint(name, box, np.abs(ellipsoid(axes, centre, radii)) < thickness)
