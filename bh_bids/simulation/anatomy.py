"""A head to scan: tissue classes on a grid, and what makes it one participant's."""

from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from ..errors import InputError
from .fields import upsample
from .labels import tissue_classes
from .tissues import CODES, KINDS, kind_codes
from .warp import Warp, random_warp

BRAIN_CENTRE = np.array([0.0, -20.0, 5.0])
"""World coordinates (RAS, mm) of the brain's middle, about as in MNI space."""


@dataclass(frozen=True)
class Anatomy:
    """Tissues of one head.

    Attributes
    ----------
    classes : numpy.ndarray of uint8, shape (x, y, z)
        Tissue class of every voxel (:data:`bh_bids.simulation.tissues.CODES`), RAS axes.
    brain : numpy.ndarray of bool, shape (x, y, z)
        Ground-truth brain mask.
    affine : numpy.ndarray, shape (4, 4)
        Voxel to world (RAS, mm): voxel sizes on the diagonal and an origin.
    fractions : numpy.ndarray of float32, shape (3, x, y, z), or None
        Volume fractions of CSF, grey and white matter: where they sum to one they stand in for
        the class, elsewhere they are zero. None where only classes are known.
    name : str
        What the head was made from.
    texture : numpy.ndarray of float32, shape (x, y, z), or None
        Relative deviation of T1, the participant's own; the same in all of their scans.
    warp : Warp or None
        Takes the participant's space to this grid's world.
    """

    classes: np.ndarray
    brain: np.ndarray
    affine: np.ndarray
    fractions: np.ndarray | None = None
    name: str = "head"
    texture: np.ndarray | None = None
    warp: Warp | None = None

    @property
    def spacing(self):
        """Voxel size in mm, shape (3,)."""
        return np.diag(self.affine)[:3]

    def bounds(self):
        """World coordinates (mm) of the corners of the box around all tissue.

        Returns
        -------
        low, high : numpy.ndarray, shape (3,)
        """
        box = ndimage.find_objects((self.classes > 0).astype(np.uint8))[0]
        origin = self.affine[:3, 3]
        low = origin + self.spacing * [part.start for part in box]
        return low, origin + self.spacing * [part.stop - 1 for part in box]

    def kind_map(self, kind):
        """Fraction of one kind of tissue in every voxel of the brain.

        Parameters
        ----------
        kind : {"CSF", "GM", "WM"}

        Returns
        -------
        numpy.ndarray of float32, shape (x, y, z)
        """
        members = np.zeros(256, dtype=np.float32)
        members[kind_codes(kind)] = 1
        member = members[self.classes]
        if self.fractions is not None:
            soft = self.fractions.sum(axis=0) > 0.5
            member[soft] = self.fractions[KINDS.index(kind)][soft]
        member[~self.brain] = 0
        return member


def head_files(folder):
    """Label maps of a folder, in the order of their names.

    Parameters
    ----------
    folder : str or pathlib.Path

    Returns
    -------
    list of pathlib.Path

    Raises
    ------
    InputError
        If the folder is missing or holds no NIfTI file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"There is no folder of heads at {folder}: give one of label maps.")
    files = sorted(p for p in folder.iterdir() if p.name.endswith((".nii", ".nii.gz")))
    if not files:
        raise InputError(f"The folder of heads {folder} holds no .nii or .nii.gz label map.")
    return files


def load_head(path, spacing=1.0):
    """Anatomy of a whole-head label map.

    Parameters
    ----------
    path : str or pathlib.Path
        NIfTI file in any orientation.
    spacing : float
        Grid wanted in mm: the map is subsampled to about it, for coarse simulations.

    Returns
    -------
    Anatomy
        On RAS axes, cropped to the head, its brain's middle at :data:`BRAIN_CENTRE`.

    Raises
    ------
    InputError
        If the file cannot be read or is not such a map.
    """
    path = Path(path)
    try:
        image = nib.as_closest_canonical(nib.load(path))
        labels = np.asanyarray(image.dataobj)
    except Exception as error:
        raise InputError(f"{path} cannot be read as a NIfTI label map: {error}") from error
    name = path.name.removesuffix(".gz").removesuffix(".nii")
    return label_anatomy(labels, image.affine, spacing=spacing, name=name, where=str(path))


def label_anatomy(labels, affine, *, spacing=1.0, name="head", where="the label map"):
    """Anatomy of a label map in memory.

    Parameters
    ----------
    labels : numpy.ndarray, shape (x, y, z)
        Labels on axes nearest to RAS.
    affine : numpy.ndarray, shape (4, 4)
        Voxel to world (mm); only its voxel sizes are used, see :func:`load_head`.
    spacing : float
        See :func:`load_head`.
    name, where : str
        Name of the head, and of its file in errors.

    Returns
    -------
    Anatomy

    Raises
    ------
    InputError
        If the labels are not a whole head's.
    """
    labels = np.asanyarray(labels)
    if labels.ndim != 3:
        raise InputError(f"{where} has {labels.ndim} dimensions: a label map has three.")
    sizes = np.sqrt((np.asarray(affine, dtype=float)[:3, :3] ** 2).sum(axis=0))
    steps = np.maximum(np.round(spacing / sizes), 1).astype(int)
    labels = labels[tuple(slice(step // 2, None, step) for step in steps)]
    sizes = sizes * steps
    found = ndimage.find_objects((labels != 0).astype(np.uint8))
    if not found:
        raise InputError(f"{where} is empty: give whole-head label maps.")
    labels = np.pad(labels[found[0]], 2)
    classes, brain = tissue_classes(labels, sizes, where)
    _drop_specks(classes)
    _marble(classes, sizes)
    box = ndimage.find_objects(brain.astype(np.uint8))[0]
    middle = np.array([(part.start + part.stop - 1) / 2 for part in box])
    grid = np.diag([*sizes, 1.0])
    grid[:3, 3] = BRAIN_CENTRE - middle * sizes
    return Anatomy(classes, brain, grid, name=name)


def _drop_specks(classes):
    """Turn all but the largest connected piece of tissue into air, in place."""
    pieces, count = ndimage.label(classes > 0)
    if count > 1:
        sizes = np.bincount(pieces.ravel())
        sizes[0] = 0
        classes[pieces != sizes.argmax()] = CODES["air"]


def _marble(classes, spacing):
    """Thin planes of fat between muscles, which label maps do not tell apart, in place."""
    shape = classes.shape
    step = np.maximum(2.0 / spacing, 1.0)
    coarse = tuple(np.ceil((np.asarray(shape) - 1) / step).astype(int) + 1)
    rng = np.random.default_rng(20)
    noise = ndimage.gaussian_filter(rng.standard_normal(coarse), 6.0 / (spacing * step))
    planes = np.abs(upsample(noise / noise.std(), shape)) < 0.08
    classes[planes & (classes == CODES["muscle"])] = CODES["fat"]


def tissue_texture(shape, spacing, rng):
    """Relative deviation of T1 from its class: fine grain, patches and slow trends.

    Parameters
    ----------
    shape : sequence of int, length 3
    spacing : numpy.ndarray, shape (3,)
        Voxel size in mm.
    rng : numpy.random.Generator

    Returns
    -------
    numpy.ndarray of float32, shape (x, y, z)
        Standard deviation about 0.04.
    """
    total = np.zeros(shape, dtype=np.float32)
    for smoothing, deviation in ((0.8, 0.022), (3.0, 0.02), (14.0, 0.025)):
        # A field of this smoothness needs no finer lattice than half its width.
        step = np.maximum(smoothing / 2.0 / spacing, 1.0)
        coarse = tuple(np.ceil((np.asarray(shape) - 1) / step).astype(int) + 1)
        noise = rng.standard_normal(coarse, dtype=np.float32)
        noise = ndimage.gaussian_filter(noise, smoothing / (spacing * step), mode="reflect")
        noise *= np.float32(deviation / noise.std())
        total += upsample(noise, shape)
    return total


def make_participant(anatomy, rng, *, strength=1.0, size=1.0):
    """One participant's head: another shape and another texture of the same tissues.

    Parameters
    ----------
    anatomy : Anatomy
    rng : numpy.random.Generator
    strength : float
        Factor on the random warp; 0 leaves the shape as it is.
    size : float
        Linear size of the head relative to the anatomy's.

    Returns
    -------
    Anatomy
        With ``texture`` and ``warp``; the grid is the same.
    """
    low, high = anatomy.bounds()
    # Participant to template is the inverse of growing.
    growth = -np.log(size) - strength * rng.normal(0.0, 0.025, 3)
    warp = random_warp(
        low - 28.0, high + 28.0, rng, strength=strength, growth=growth, centre=BRAIN_CENTRE
    )
    texture = tissue_texture(anatomy.classes.shape, anatomy.spacing, rng)
    return replace(anatomy, texture=texture, warp=warp)
