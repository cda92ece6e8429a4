"""A head that needs no data: the MNI152 tissue maps of nilearn in a modelled head.

The grey- and white-matter maps (ICBM 2009a symmetric, 1 mm; Fonov et al. 2011,
doi:10.1016/j.neuroimage.2010.07.033) come with the nilearn wheel, brain only. Everything around
the brain is modelled with signed distances (negative inside, mm): the skull as layers at constant
depth below the closed brain's surface, face and neck as smooth unions of ellipsoids and capsules,
and skin, fat and muscle as layers below the outer surface. It is a head's shape, nobody's face.
"""

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from .anatomy import Anatomy
from .fields import upsample
from .shapes import Canvas, capsule, ellipsoid, grid_axes, union
from .tissues import CODES

NAME = "MNI152NLin2009aSym"
_LOW = np.array([-100.0, -136.0, -150.0])
_HIGH = np.array([100.0, 112.0, 118.0])  # The extent is a multiple of 4 mm.
_LATTICE = 2.0  # Surfaces are smooth: they are made on this lattice and interpolated.

# Distances from the closed brain's surface and depths below the skin, in mm.
_CAVITY, _INNER_TABLE, _DIPLOE, _OUTER_TABLE = 2.2, 4.0, 7.0, 9.0
_SCALP = 15.0
_SKIN, _FAT = 2.2, 6.0
_VAULT_FLOOR = -78.0


def _maps():
    """Grey- and white-matter fractions and the brain mask of the nilearn wheel."""
    # Found without importing nilearn, which takes seconds.
    folder = Path(find_spec("nilearn").origin).parent / "datasets" / "data"
    images = [
        nib.load(folder / f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz")
        for kind in ("t1", "gm", "wm")
    ]
    t1, grey, white = (np.asanyarray(image.dataobj) for image in images)
    scale = np.float32(1 / 255)
    return grey * scale, white * scale, (t1 > 0).astype(np.float32), images[0].affine[:3, 3]


def _grid_shape(spacing):
    return tuple(np.round((_HIGH - _LOW) / spacing).astype(int) + 1)


def _embed(volume, origin, spacing):
    """A 1 mm volume on the head's grid, smoothed to the grid's spacing."""
    full = np.zeros(_grid_shape(1.0), dtype=np.float32)
    start = np.round(origin - _LOW).astype(int)
    full[tuple(slice(s, s + n) for s, n in zip(start, volume.shape, strict=True))] = volume
    while spacing > 1:
        full = _halve(full)
        spacing /= 2
    return full


def _halve(volume):
    """Every second voxel of a volume smoothed by (1, 2, 1) / 4 along each axis."""
    for axis in range(3):
        lines = np.moveaxis(volume, axis, 0)
        padded = np.pad(lines, [(1, 1), (0, 0), (0, 0)])
        lines = 0.5 * padded[1:-1:2] + 0.25 * (padded[:-2:2] + padded[2::2])
        volume = np.moveaxis(lines, 0, axis)
    return np.ascontiguousarray(volume)


def _hull(brain, closing, smoothing):
    """Signed distance to the closed and smoothed surface of the brain, on the lattice."""
    outside = ndimage.distance_transform_edt(~brain) * _LATTICE
    grown = outside <= closing
    inside = ndimage.distance_transform_edt(grown) * _LATTICE
    distance = np.where(grown, closing - inside, outside).astype(np.float32)
    return ndimage.gaussian_filter(distance, smoothing / _LATTICE)


def _outer_surface(axes, scalp):
    """Signed distance to the skin: scalp, face, chin, neck and nose, blended."""
    surface = scalp - _SCALP
    surface = union(surface, ellipsoid(axes, (0, 38, -62), (60, 52, 60)), 18)
    surface = union(surface, ellipsoid(axes, (0, 58, -108), (38, 32, 26)), 16)
    surface = union(surface, capsule(axes, (0, -34, -70), (0, -46, -190), 56), 30)
    return union(surface, ellipsoid(axes, (0, 92, -58), (13, 16, 20)), 10)


def _surfaces(brain, origin):
    """Cavity's and skin's signed distances and a smooth noise of unit deviation, on the lattice."""
    shape = _grid_shape(_LATTICE)
    axes = grid_axes(_LOW, _LATTICE, shape)
    coarse = _embed(brain, origin, _LATTICE) > 0.5
    hull = _hull(coarse, closing=12.0, smoothing=3.5)
    scalp = _hull(coarse, closing=30.0, smoothing=9.0)
    # The skull must stay inside the skin where the smoothed scalp cuts a corner.
    outer = np.minimum(_outer_surface(axes, scalp), hull - _OUTER_TABLE - 3.5)
    rng = np.random.default_rng(20)
    noise = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), 6.0 / _LATTICE)
    noise += noise[::-1]
    return hull, outer, noise / noise.std()


def _paint_soft_head(classes, outer, noise):
    """Skin, fat and muscle by depth below the outer surface, with fat between the muscles."""
    classes[outer < 0] = CODES["skin"]
    classes[outer < -_SKIN] = CODES["fat"]
    muscle = outer < -_FAT
    classes[muscle] = CODES["muscle"]
    classes[muscle & (np.abs(noise) < 0.09)] = CODES["fat"]


def _paint_orbits(canvas):
    """Both orbits with eye, optic nerve and fat, maxillary sinuses, petrous bones."""
    for side in (-1, 1):
        cone = ((side * 30, 58, -40), (side * 18, 28, -34))
        canvas.ellipsoid("bone", (side * 31, 60, -40), (20, 20, 18))
        canvas.capsule("bone", *cone, 12)
        canvas.ellipsoid("fat", (side * 31, 60, -40), (18, 18, 16))
        canvas.capsule("fat", *cone, 10)
        canvas.capsule("nerve", (side * 29, 50, -40), (side * 16, 24, -34), 2.0)
        canvas.ellipsoid("vitreous", (side * 32, 64, -40), (12, 12, 12))
        canvas.ellipsoid("bone", (side * 29, 52, -68), (15, 17, 15))
        canvas.ellipsoid("mucosa", (side * 29, 52, -68), (13, 15, 13))
        canvas.ellipsoid("air", (side * 29, 52, -68), (11, 13, 11))
        canvas.ellipsoid("bone", (side * 52, -26, -52), (22, 20, 14))
        canvas.ellipsoid("air", (side * 60, -32, -58), (6, 7, 8))


def _paint_face(canvas):
    """Skull base, nasal cavity, jaw and airway."""
    canvas.ellipsoid("bone", (0, 10, -52), (38, 26, 14))
    canvas.ellipsoid("marrow", (0, 10, -52), (32, 20, 9))
    canvas.ellipsoid("bone", (0, 56, -58), (16, 32, 26))
    canvas.ellipsoid("mucosa", (0, 56, -58), (14, 30, 24))
    canvas.ellipsoid("air", (0, 38, -48), (10, 13, 9))
    for x in (-6, 6):
        canvas.ellipsoid("air", (x, 58, -64), (2.5, 26, 16))
    canvas.bow("bone", (0, 30, -102), (46, 54, 34), 5, below=-84, front=10)
    canvas.bow("marrow", (0, 30, -102), (46, 54, 34), 2, below=-86, front=12)
    canvas.capsule("mucosa", (0, 18, -74), (0, -2, -190), 8)
    canvas.capsule("air", (0, 18, -74), (0, -2, -190), 5)


def _paint_spine(canvas):
    """Vertebrae with discs, spinal canal and cord, from the skull base downwards."""
    canvas.capsule("bone", (0, -46, -84), (0, -62, -190), 19, period=19, gap=6, below=-80)
    canvas.capsule("bone", (0, -22, -84), (0, -38, -190), 13, below=-76)
    canvas.capsule("marrow", (0, -22, -84), (0, -38, -190), 10.5, period=19, gap=4, below=-78)
    canvas.capsule("csf", (0, -43, -64), (0, -58, -190), 11)
    canvas.capsule("cord", (0, -44, -64), (0, -59, -190), 5.5)


def _paint_skull(classes, axes, hull, outer, noise):
    """Bone with its diploe, dura and fluid by distance from the brain; muscle beside it."""
    vault = np.broadcast_to(axes[2] > _VAULT_FLOOR, hull.shape)
    near = vault & (hull < _OUTER_TABLE + 4)
    temple = (np.abs(axes[0]) > 46) & (axes[2] < 26) & (axes[1] > -32) & (axes[1] < 54)
    # Between the temporal muscle and the galea, thin and everywhere else, fat fills the scalp.
    scalp = near & (outer < -_FAT) & (outer > -16)
    classes[scalp & ~temple & (classes == CODES["muscle"])] = CODES["fat"]
    classes[near & (hull < _OUTER_TABLE + 1.0)] = CODES["muscle"]
    bone = near & (hull < _OUTER_TABLE)
    classes[bone] = CODES["bone"]
    wobble = hull + 0.9 * noise
    classes[bone & ~temple & (wobble > _INNER_TABLE) & (wobble < _DIPLOE)] = CODES["marrow"]
    classes[bone & ((hull < _CAVITY + 1.2) | (hull > _OUTER_TABLE - 1.3))] = CODES["bone"]
    classes[bone & (hull < _CAVITY)] = CODES["dura"]
    classes[bone & (hull < _CAVITY - 0.9)] = CODES["csf"]


def _tissue_fractions(grey, white, inside):
    """Volume fractions of CSF, grey and white matter from the averaged maps.

    An average of many brains is blurred, and thin sulci are lost in it; weighting the rest of
    the sum as fluid and squaring makes it as crisp as one brain's.
    """
    fractions = np.zeros((3, *grey.shape), dtype=np.float32)
    box = ndimage.find_objects((grey + white > 0.02).astype(np.uint8))[0]
    grey, white, inside = grey[box], white[box], inside[box]
    fluid = 1.7 * np.clip(1 - grey - white, 0, 1)
    squares = [fluid * fluid, grey * grey, white * white]
    total = sum(squares)
    for part, square in zip(fractions, squares, strict=True):
        np.divide(square, total, out=part[box], where=inside)
    return fractions


@lru_cache(maxsize=1)
def embedded_head(spacing=1):
    """The embedded whole head.

    Parameters
    ----------
    spacing : {1, 2, 4}
        Voxel size of the grid in mm.

    Returns
    -------
    Anatomy
        In MNI152NLin2009aSym's world coordinates; it is shared between calls, do not change its
        arrays.
    """
    axes = grid_axes(_LOW, spacing, _grid_shape(spacing))
    *maps, origin = _maps()
    hull, outer, noise = (
        upsample(surface, _grid_shape(spacing)) for surface in _surfaces(maps[2], origin)
    )
    grey, white, mask = (_embed(volume, origin, spacing) for volume in maps)
    brain = mask > 0.5

    classes = np.zeros(brain.shape, dtype=np.uint8)
    _paint_soft_head(classes, outer, noise)
    canvas = Canvas(classes, axes, (outer < -3) & (hull > _OUTER_TABLE))
    _paint_orbits(canvas)
    _paint_face(canvas)
    _paint_skull(classes, axes, hull, outer, noise)
    _paint_spine(Canvas(classes, axes, (outer < -_FAT) & ~brain))
    classes[brain] = CODES["csf"]
    fractions = _tissue_fractions(grey, white, classes == CODES["csf"])
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = _LOW
    return Anatomy(classes, brain, affine, fractions=fractions, name=NAME)
