"""Smooth fields of a scanner: the receive sensitivity and the flip angle's profile.

Both live in the scanner's coordinates (RAS, mm, the isocentre at 0) and do not move with the
head. They are made on a coarse lattice and interpolated.
"""

import numpy as np

_RADIUS = 95.0  # About the head's half length in mm.
_LATTICE = 8.0


def _lattice(shape, affine):
    """World coordinates, in units of the head's radius, of a lattice over a grid."""
    sizes = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    counts = [max(int(np.ceil(n * s / _LATTICE)), 2) for n, s in zip(shape, sizes, strict=True)]
    voxels = np.meshgrid(
        *[np.linspace(0, n - 1, c) for n, c in zip(shape, counts, strict=True)], indexing="ij"
    )
    points = np.einsum("ij,jxyz->ixyz", affine[:3, :3], np.stack(voxels))
    return (points + affine[:3, 3].reshape(3, 1, 1, 1)) / _RADIUS


def upsample(field, shape):
    """Trilinear interpolation of a lattice to a grid with the same corners.

    Parameters
    ----------
    field : numpy.ndarray, shape (x, y, z)
    shape : sequence of int, length 3

    Returns
    -------
    numpy.ndarray of float32, shape ``shape``
    """
    import torch

    tensor = torch.from_numpy(np.ascontiguousarray(field, dtype=np.float32))[None, None]
    full = torch.nn.functional.interpolate(
        tensor, size=tuple(shape), mode="trilinear", align_corners=True
    )
    return full[0, 0].numpy()


def _polynomials(points):
    """Monomials of order one to three in the three coordinates."""
    x, y, z = points
    return [
        x**i * y**j * z**k
        for i in range(4)
        for j in range(4 - i)
        for k in range(4 - i - j)
        if i + j + k > 0
    ]


def receive_field(shape, affine, site, rng):
    """Multiplicative receive sensitivity of a site.

    The logarithm is a polynomial of order three in the scanner's coordinates with the site's own
    random coefficients, scaled to ``site.bias`` within the head, plus the brightness near an
    array coil's elements (``site.coil``) and its fall below the coil.

    Parameters
    ----------
    shape : sequence of int, length 3
    affine : numpy.ndarray, shape (4, 4)
        Voxel to scanner (RAS, mm).
    site : Site
    rng : numpy.random.Generator
        The site's, the same for all of its scans.

    Returns
    -------
    numpy.ndarray of float32, shape ``shape``
        About 1 within the head.
    """
    points = _lattice(shape, affine)
    squared = (points**2).sum(axis=0)
    terms = _polynomials(points)
    weights = rng.standard_normal(len(terms))
    head = squared < 1
    # Beyond the head a polynomial runs away: hold it at the value where it leaves.
    total = sum(w * t for w, t in zip(weights, terms, strict=True))
    inside = total[head] if head.any() else total.ravel()
    deviation = inside.std() or 1.0
    total = 2.0 * np.tanh((total - inside.mean()) / deviation / 2.0)
    below = np.clip(-points[2] - 0.9, 0, None)
    logarithm = site.bias * total + site.coil * (np.minimum(squared, 2.0) - 0.5) - 1.2 * below
    return upsample(np.exp(logarithm), shape)


def transmit_field(shape, affine, site):
    """Flip angle relative to the nominal one, highest in the middle of the head.

    Parameters
    ----------
    shape : sequence of int, length 3
    affine : numpy.ndarray, shape (4, 4)
        Voxel to scanner (RAS, mm).
    site : Site

    Returns
    -------
    numpy.ndarray of float32, shape ``shape``
    """
    squared = np.minimum((_lattice(shape, affine) ** 2).sum(axis=0), 1.5)
    return upsample(1 + site.transmit * (0.5 - squared), shape)
