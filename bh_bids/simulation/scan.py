"""One scan of one head at one site."""

import zlib
from dataclasses import dataclass

import nibabel as nib
import numpy as np
from scipy import ndimage

from .anatomy import BRAIN_CENTRE, label_anatomy, make_participant
from .fields import receive_field, transmit_field
from .signal import rician
from .sites import white_matter_signal
from .tissues import CODES, KINDS, TISSUES

_STEP = 0.02  # Of the finite differences of the signal.


@dataclass(frozen=True)
class Truth:
    """Ground truth of a scan, on its grid.

    Attributes
    ----------
    brain : numpy.ndarray of bool, shape (x, y, z)
    csf, gm, wm : numpy.ndarray of float32, shape (x, y, z)
        Fractions of the voxel, within the brain.
    """

    brain: np.ndarray
    csf: np.ndarray
    gm: np.ndarray
    wm: np.ndarray

    def segmentation(self):
        """Most likely tissue, with BIDS' common labels: 1 grey matter, 2 white matter, 3 CSF.

        Returns
        -------
        numpy.ndarray of uint8, shape (x, y, z)
        """
        best = np.argmax(np.stack([self.gm, self.wm, self.csf]), axis=0).astype(np.uint8) + 1
        return np.where(self.brain, best, 0).astype(np.uint8)


def generator(*keys):
    """Random generator of a purpose: whole numbers and names make its seed.

    Parameters
    ----------
    *keys : int or str

    Returns
    -------
    numpy.random.Generator
    """
    numbers = [k if isinstance(k, int) else zlib.crc32(k.encode()) for k in keys]
    return np.random.default_rng(numbers)


def scan_grid(site, voxel_size=None, top=100.0):
    """Shape and affine of a site's images.

    Parameters
    ----------
    site : Site
    voxel_size : float or sequence of float, optional
        In place of the site's, along right-left, anterior-posterior, inferior-superior (mm).
    top : float
        World coordinate of the upper end of the field of view in mm.

    Returns
    -------
    shape : tuple of int
        Of the stored array.
    affine : numpy.ndarray, shape (4, 4)
        Stored voxel to scanner (RAS, mm).
    """
    sizes = np.broadcast_to(site.voxel_size if voxel_size is None else voxel_size, 3).astype(float)
    counts = np.maximum(np.round(np.asarray(site.field_of_view) / sizes), 1).astype(int)
    extent = (counts - 1) * sizes
    affine = np.diag([*sizes, 1.0])
    affine[:3, 3] = [-extent[0] / 2, BRAIN_CENTRE[1] - extent[1] / 2 + 8, top - extent[2]]
    ras = nib.orientations.axcodes2ornt("RAS")
    stored = nib.orientations.axcodes2ornt(tuple(site.orientation))
    turn = nib.orientations.ornt_transform(ras, stored)
    affine = affine @ nib.orientations.inv_ornt_aff(turn, tuple(counts))
    shape = np.empty(3, dtype=int)
    shape[turn[:, 0].astype(int)] = counts
    return tuple(int(n) for n in shape), affine


def head_position(rng, rotation, shift):
    """Random rigid transform of the head in the scanner, about the brain's middle.

    Parameters
    ----------
    rng : numpy.random.Generator
    rotation, shift : float
        Standard deviation about and along each axis, in degrees and mm.

    Returns
    -------
    numpy.ndarray, shape (4, 4)
        Head's to scanner's coordinates.
    """
    from scipy.spatial.transform import Rotation

    angles = np.clip(rng.normal(0, 1, 3), -2.5, 2.5) * rotation
    moved = np.clip(rng.normal(0, 1, 3), -2.5, 2.5) * shift
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    matrix[:3, 3] = BRAIN_CENTRE + moved - matrix[:3, :3] @ BRAIN_CENTRE
    return matrix


def signal_maps(anatomy, site):
    """Noise-free signal of an anatomy and its change with the flip angle, on its own grid.

    The texture enters to first order: T1 deviates by it, proton density by a share of it that is
    small in the brain and large in fat and muscle.

    Parameters
    ----------
    anatomy : Anatomy
    site : Site

    Returns
    -------
    numpy.ndarray of float32, shape (2, x, y, z)
        Signal, and its derivative by the logarithm of the flip angle; white matter's signal is 1.
    """
    scale = white_matter_signal(site)
    signal = site.signals() / scale
    up, down = np.exp(_STEP), np.exp(-_STEP)
    by_t1 = (site.signals(t1_factor=up) - site.signals(t1_factor=down)) / (2 * _STEP * scale)
    by_flip = (site.signals(flip_factor=up) - site.signals(flip_factor=down)) / (2 * _STEP * scale)
    share = np.array([0.1 if t.kind or t.name in ("air", "vitreous") else 2.0 for t in TISSUES])
    tables = [signal, by_flip, by_t1 + share * signal]
    if anatomy.texture is None:
        tables = tables[:2]
    maps = [table.astype(np.float32)[anatomy.classes] for table in tables]
    if anatomy.fractions is not None:
        soft = anatomy.fractions.sum(axis=0) > 0.5
        fractions = anatomy.fractions[:, soft]
        codes = [CODES["csf"], CODES["grey"], CODES["white"]]
        for table, volume in zip(tables, maps, strict=True):
            volume[soft] = table[codes].astype(np.float32) @ fractions
    if anatomy.texture is not None:
        maps[0] += maps[2] * anatomy.texture
    return np.stack(maps[:2])


def sample(volumes, anatomy, to_head, shape, low=None):
    """Resample volumes on an anatomy's grid through its warp to a scan's grid.

    Parameters
    ----------
    volumes : numpy.ndarray of float32, shape (n, x, y, z)
        On the anatomy's grid, or on the part of it that begins at ``low``.
    anatomy : Anatomy
    to_head : numpy.ndarray, shape (4, 4)
        Scan's voxel to the participant's coordinates (RAS, mm).
    shape : tuple of int
        The scan's.
    low : array_like, shape (3,), optional
        First voxel of the part.

    Returns
    -------
    numpy.ndarray of float32, shape (n, *shape)
        Linear interpolation, 0 outside the volumes.
    """
    import torch
    from torch.nn.functional import grid_sample

    origin = anatomy.affine[:3, 3] + anatomy.spacing * (0 if low is None else np.asarray(low))
    corner = origin + anatomy.spacing * (np.array(volumes.shape[1:]) - 1)
    result = np.zeros((len(volumes), *shape), dtype=np.float32)
    box = _reach(anatomy, to_head, shape, origin, corner)
    if box is None:
        return result
    source = torch.from_numpy(np.ascontiguousarray(volumes))[None]
    matrix, offset = _to_unit(to_head, origin, corner)
    warp = anatomy.warp
    if warp is not None:
        end = warp.origin + warp.spacing * (np.array(warp.displacement.shape[1:]) - 1)
        warp_matrix, warp_offset = _to_unit(to_head, warp.origin, end)
        scaled = warp.displacement * (2 / (corner - origin)).reshape(3, 1, 1, 1)
        field = torch.from_numpy(np.ascontiguousarray(scaled[::-1], dtype=np.float32))[None]
    ranges = [torch.arange(part.start, part.stop, dtype=torch.float32) for part in box]
    slab = max(1, 1_000_000 // (len(ranges[1]) * len(ranges[2])))
    for first in torch.split(ranges[0], slab):
        voxels = torch.stack(torch.meshgrid(first, *ranges[1:], indexing="ij"), dim=-1)
        where = (voxels @ matrix + offset)[None]
        if warp is not None:
            at = (voxels @ warp_matrix + warp_offset)[None]
            moved = grid_sample(field, at, padding_mode="border", align_corners=True)
            where += moved.permute(0, 2, 3, 4, 1)
        values = grid_sample(source, where, padding_mode="zeros", align_corners=True)
        start = int(first[0])
        result[:, start : start + len(first), box[1], box[2]] = values[0].numpy()
    return result


def _to_unit(to_head, low, high):
    """Matrix and offset from a voxel to a box's coordinates, -1 to 1, last axis first."""
    import torch

    scale = (2 / (np.asarray(high) - low)).reshape(3, 1)
    matrix = to_head[:3, :3] * scale
    offset = (to_head[:3, 3] - low) * scale[:, 0] - 1
    return (
        torch.from_numpy(np.ascontiguousarray(matrix[::-1].T, dtype=np.float32)),
        torch.from_numpy(np.ascontiguousarray(offset[::-1], dtype=np.float32)),
    )


def _reach(anatomy, to_head, shape, low, high):
    """Part of a scan's grid that a box of the anatomy can reach, or None if none."""
    margin = np.full(3, 2.0)
    if anatomy.warp is not None:
        margin += np.abs(anatomy.warp.displacement).max(axis=(1, 2, 3))
    ends = np.stack([low - margin, high + margin])
    corners = np.array([[ends[i, 0], ends[j, 1], ends[k, 2], 1] for i, j, k in np.ndindex(2, 2, 2)])
    voxels = (corners @ np.linalg.inv(to_head).T)[:, :3]
    start = np.clip(np.floor(voxels.min(axis=0)).astype(int), 0, shape)
    stop = np.clip(np.ceil(voxels.max(axis=0)).astype(int) + 1, 0, shape)
    if (stop <= start).any():
        return None
    return tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))


def _scan_truth(anatomy, width, to_head, shape):
    """Ground truth on a scan's grid: the fractions as the scan's point spread sees them."""
    found = ndimage.find_objects(anatomy.brain.astype(np.uint8))[0]
    low = [max(part.start - 3, 0) for part in found]
    box = tuple(slice(first, part.stop + 3) for first, part in zip(low, found, strict=True))
    volumes = [anatomy.kind_map(kind)[box] for kind in KINDS]
    volumes = np.stack([*volumes, anatomy.brain[box].astype(np.float32)])
    csf, gm, wm, brain = sample(_blur(volumes, width), anatomy, to_head, shape, low)
    return Truth(brain > 0.5, csf, gm, wm)


def _blur(volumes, width):
    """Gaussian point spread, in place; the width is in voxels along each axis."""
    for volume in volumes:
        ndimage.gaussian_filter(volume, width, output=volume, truncate=3.0)
    return volumes


def simulate_scan(
    anatomy, site, rng, *, voxel_size=None, noise=1.0, skull_stripped=False, site_seed=0
):
    """Scan a head at a site.

    Parameters
    ----------
    anatomy : Anatomy
        A participant's (:func:`bh_bids.simulation.anatomy.make_participant`), or a bare one.
    site : Site
    rng : numpy.random.Generator
        Of the session: head position, gain and noise.
    voxel_size : float or sequence of float, optional
        In place of the site's, in mm. The noise falls with the voxel's volume, as it does.
    noise : float
        Factor on the site's noise; 0 gives a noise-free image.
    skull_stripped : bool
        Keep the brain only.
    site_seed : int
        Seed of the site's receive field, the same for all of its scans.

    Returns
    -------
    volume : numpy.ndarray of int16, shape (x, y, z)
        In the site's orientation.
    affine : numpy.ndarray, shape (4, 4)
        Stored voxel to scanner (RAS, mm).
    truth : Truth
    """
    shape, affine = scan_grid(site, voxel_size)
    to_head = np.linalg.inv(head_position(rng, site.rotation, site.shift)) @ affine
    sizes = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    stored_axes = np.argmax(np.abs(affine[:3, :3]), axis=0)
    ras_sizes = np.empty(3)
    ras_sizes[stored_axes] = sizes

    width = site.blur * ras_sizes / 2.355 / anatomy.spacing
    maps = _blur(signal_maps(anatomy, site), width)
    signal, by_flip = sample(maps, anatomy, to_head, shape)
    truth = _scan_truth(anatomy, width, to_head, shape)

    by_flip *= transmit_field(shape, affine, site) - 1
    signal += by_flip
    signal *= receive_field(shape, affine, site, generator(site_seed, site.name, "receive"))
    sigma = noise * site.noise * np.prod(site.voxel_size) / np.prod(sizes)
    gain = site.gain * float(np.exp(rng.normal(0, 0.08)))
    image = rician(np.maximum(signal, 0), sigma, rng)
    if skull_stripped:
        image *= truth.brain
    image *= np.float32(gain)
    return np.clip(np.round(image), 0, 32767).astype(np.int16), affine, truth


def simulate_head(labels, affine, site, seed=0, **options):
    """Scan a whole-head label map as it is, without a random warp.

    Parameters
    ----------
    labels : numpy.ndarray, shape (x, y, z)
        Whole-head labels on axes nearest to RAS.
    affine : numpy.ndarray, shape (4, 4)
        Voxel to world (mm).
    site : Site
    seed : int
    **options
        Of :func:`simulate_scan`.

    Returns
    -------
    volume, affine, truth
        See :func:`simulate_scan`.

    Raises
    ------
    InputError
        If the labels are not a whole head's.
    """
    anatomy = make_participant(
        label_anatomy(labels, affine), generator(seed, "participant"), strength=0.0
    )
    return simulate_scan(anatomy, site, generator(seed, site.name), site_seed=seed, **options)
