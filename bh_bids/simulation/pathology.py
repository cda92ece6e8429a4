"""Anatomy that few target scans have: large ventricles, a cut field of view, lesions.

Every function takes a skull-stripped T1w volume on a grid of RAS axes in a template's space, with
its brain mask, and returns a changed one. They know the brain's box, not millimetres: a voxel
counts as 1 mm.
"""

from typing import NamedTuple

import numpy as np

from ..errors import InputError
from ..evaluation.tissue import tissue_modes

# Where the lateral ventricles lie, as shares of the brain's box: centre and semi-axes.
VENTRICLES_AT = (0.5, 0.56, 0.57)
VENTRICLES_WITHIN = (0.22, 0.27, 0.15)
# A lesion's intensity over that of the white matter around it.
DARK, BRIGHT = 0.6, 1.25
# Share of the brain's height below which no lesion is put.
LESIONS_ABOVE = 0.45


class Lesions(NamedTuple):
    """A volume with lesions.

    Attributes
    ----------
    volume : numpy.ndarray of float32, shape (x, y, z)
    labels : numpy.ndarray of uint8, shape (x, y, z)
        0 where there is none, else the lesion's number.
    """

    volume: np.ndarray
    labels: np.ndarray


def ventricles(volume, mask):
    """Lateral ventricles of a T1w brain.

    Parameters
    ----------
    volume : numpy.ndarray, shape (x, y, z)
    mask : numpy.ndarray of bool, shape (x, y, z)

    Returns
    -------
    numpy.ndarray of bool, shape (x, y, z)
        Dark voxels (nearer to the mode of cerebrospinal fluid than to that of grey matter) deep in
        the brain's middle, in pieces whose centre lies there too.

    Raises
    ------
    InputError
        If nothing of the kind is there.
    """
    from scipy.ndimage import binary_opening, center_of_mass, label

    modes = tissue_modes(volume, mask)
    away = _off_centre(mask)
    dark = mask & (volume < (modes["CSF"] + modes["GM"]) / 2) & (away < 1)
    pieces, count = label(binary_opening(dark))
    numbers = np.arange(1, count + 1)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
    numbers = numbers[sizes >= 0.1 * sizes.max(initial=0)]
    middles = np.array(center_of_mass(pieces > 0, pieces, numbers)).reshape(-1, 3)
    near = away[tuple(np.rint(middles).astype(int).T)] < 0.6
    found = np.isin(pieces, numbers[near])
    if not found.any():
        raise InputError("No ventricles were found in the middle of the brain.")
    return found


def enlarge_ventricles(volume, mask, growth=3.0, reach=15.0):
    """Move the lateral ventricles' border outwards; the tissue around them is compressed.

    Parameters
    ----------
    volume : numpy.ndarray, shape (x, y, z)
    mask : numpy.ndarray of bool, shape (x, y, z)
    growth : float
        Voxels by which the border moves; less than a third of ``reach``, so that no tissue is
        folded.
    reach : float
        Voxels from the border from which on nothing is changed.

    Returns
    -------
    numpy.ndarray of float32, shape (x, y, z)

    Raises
    ------
    InputError
        If no ventricles are found, or ``growth`` is not less than a third of ``reach``.
    """
    if not 0 <= growth < reach / 3:
        raise InputError("Ventricles may grow by less than a third of what the warp reaches.")
    distance = _signed_distance(ventricles(volume, mask))
    # A box with all that moves: beyond it nothing needs to be looked up.
    near = mask & (distance < reach)
    box = tuple(slice(max(int(i.min()) - 8, 0), int(i.max()) + 9) for i in np.nonzero(near))
    changed = np.where(mask, volume, 0).astype(np.float32)
    changed[box] = np.where(
        near[box], _moved_inwards(changed[box], distance[box], near[box], growth, reach),
        changed[box],
    )  # fmt: skip
    return changed


def _moved_inwards(volume, distance, near, growth, reach, steps=6):
    """Value of each voxel's origin: as much nearer to the ventricles as the warp says."""
    from scipy.ndimage import map_coordinates

    start = distance[near]
    fade = np.cos(np.clip((start - growth) / (reach - growth), 0, 1) * np.pi / 2) ** 2
    downhill = [-g.astype(np.float32) for g in np.gradient(distance)]
    points = np.stack(np.nonzero(near)).astype(np.float32)
    # In steps, so that the path ends in the middle of a ventricle narrower than its growth
    # (the distance's slope is 0 there) and never reaches the tissue on its other side.
    for _ in range(steps):
        points += (growth / steps * fade) * np.stack(
            [map_coordinates(d, points, order=1, mode="nearest") for d in downhill]
        )
    found = volume.copy()
    values = map_coordinates(volume, points, order=3, mode="nearest")
    found[near] = np.clip(values, volume[near].min(), volume[near].max())
    return found


def cut_field_of_view(mask, share=0.25):
    """Brain mask of a scan whose field of view ends above the brain's base.

    Parameters
    ----------
    mask : numpy.ndarray of bool, shape (x, y, z)
    share : float
        Share of the brain's voxels that lie below the first slice kept, at most.

    Returns
    -------
    numpy.ndarray of bool, shape (x, y, z)
    """
    below = np.cumsum(mask.sum(axis=(0, 1))) / max(mask.sum(), 1)
    kept = mask.copy()
    kept[:, :, below <= share] = False
    return kept


def add_lesions(volume, mask, seed=0, count=4, diameters=(5.0, 20.0)):
    """Put round lesions into the cerebral white matter, dark and bright in turn.

    Parameters
    ----------
    volume : numpy.ndarray, shape (x, y, z)
    mask : numpy.ndarray of bool, shape (x, y, z)
    seed : int
        Of places and shapes.
    count : int
        How many at most: there may be no room for all of them.
    diameters : tuple of float
        Voxels; of the smallest and the largest lesion, the others evenly between.

    Returns
    -------
    Lesions
        In a lesion's middle the intensity is ``DARK`` or ``BRIGHT`` times the white matter's mode;
        over 1 voxel at its border it turns into the volume's own.

    Raises
    ------
    InputError
        If there is no white matter to hold a lesion.
    """
    rng = np.random.default_rng(seed)
    modes = tissue_modes(volume, mask)
    white = mask & (np.abs(volume - modes["WM"]) < (modes["WM"] - modes["GM"]) / 2)
    # The stem and the cerebellum hold the deepest white matter, and few lesions.
    rows = np.flatnonzero(mask.any(axis=(0, 1)))
    white[:, :, : rows[0] + int(LESIONS_ABOVE * rows.size)] = False
    depth = _depth(white)
    made = np.array(volume, dtype=np.float32)
    labels = np.zeros(volume.shape, np.uint8)
    free = depth > 0
    for i, diameter in enumerate(np.linspace(diameters[1], diameters[0], count)):
        # A large lesion finds no white matter as deep as its radius: the deepest quarter will do.
        room = np.where(free, depth, 0)
        places = np.flatnonzero(room >= max(min(diameter / 2, 0.6 * room.max()), 1e-3))
        if not places.size:
            break
        centre = np.unravel_index(rng.choice(places), volume.shape)
        radius = _ball_distance(volume.shape, centre, rng, diameter / 2)
        weight = np.where(mask, 1 / (1 + np.exp(np.clip(radius * 4, -50, 50))), 0)
        level = (DARK if i % 2 == 0 else BRIGHT) * modes["WM"]
        made += ((level - made) * weight).astype(np.float32)
        labels[weight > 0.5] = i + 1
        free &= radius > 0.75 * diameter / 2 + 6
    if not labels.any():
        raise InputError("There is no white matter in this volume to hold a lesion.")
    return Lesions(np.where(mask, made, 0).astype(np.float32), labels)


def _ball_distance(shape, centre, rng, radius):
    """Voxels outside (positive) or inside an ellipsoid near a ball of the same volume."""
    stretch = np.exp(rng.normal(0, 0.12, 3))
    stretch /= stretch.prod() ** (1 / 3)
    axes = np.ogrid[tuple(slice(n) for n in shape)]
    scaled = sum(((a - c) / s) ** 2 for a, c, s in zip(axes, centre, stretch, strict=True))
    return np.sqrt(scaled) - radius


def _off_centre(mask):
    """Distance from where the ventricles are expected: 1 on the ellipsoid's surface."""
    axes = np.ogrid[tuple(slice(n) for n in mask.shape)]
    total = 0.0
    for axis, points in enumerate(np.nonzero(mask)):
        first, last = int(points.min()), int(points.max())
        extent = max(last - first, 1)
        unit = (axes[axis] - first) / extent
        total = total + ((unit - VENTRICLES_AT[axis]) / VENTRICLES_WITHIN[axis]) ** 2
    return np.sqrt(total)


def _depth(region):
    from scipy.ndimage import distance_transform_edt

    return distance_transform_edt(region)


def _signed_distance(region):
    """Voxels outside (positive) or inside a region's border, a little smoothed."""
    from scipy.ndimage import gaussian_filter

    distance = np.where(region, 0.5 - _depth(region), _depth(~region) - 0.5)
    return gaussian_filter(distance, 1.0)
