"""Training slices: from a derivatives folder to dequantised crops in target units."""

import re
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from ..errors import InputError
from ..intensity import to_target_units

# Volumes are kept as multiples of this in 16 bits: exact for all discretisations of up to 14 bits.
STEP = 2.0**-14
LARGEST = 2**16 - 1
# A slice with fewer brain voxels than this teaches the flow only background.
MIN_BRAIN_VOXELS = 200
MIN_PARTICIPANTS = 4


@dataclass(frozen=True)
class Scan:
    """One preprocessed scan: its participant's label and its two files."""

    participant: str
    image: Path
    mask: Path


@dataclass(frozen=True)
class Volume:
    """One scan in memory.

    Attributes
    ----------
    participant : str
        Label, without "sub-".
    values : numpy.ndarray of uint16, shape (slices, x, y)
        Target units in multiples of ``STEP``, axial slices first; 0 outside the brain.
    scale : float
        Raw intensity that is 1 in target units.
    offset : int
        Index, on the grid, of the first slice kept.
    counts : numpy.ndarray of int64, shape (65536,)
        Voxels in the brain mask at each multiple of ``STEP``.
    """

    participant: str
    values: np.ndarray
    scale: float
    offset: int
    counts: np.ndarray

    def in_target_units(self, slices):
        """The whole volume (x, y, z), float32, target units; ``slices`` is the grid's number."""
        count, x, y = self.values.shape
        volume = np.zeros((x, y, slices), np.float32)
        volume[:, :, self.offset : self.offset + count] = self.values.transpose(1, 2, 0)
        return volume * np.float32(STEP)


def find_scans(derivatives, space):
    """Preprocessed T1w scans of a derivatives folder, any session and run, sorted by file name.

    Parameters
    ----------
    derivatives : str or pathlib.Path
        Folder with ``sub-*/[ses-*/]anat``.
    space : str
        Template space the scans must be in.

    Returns
    -------
    list of Scan

    Raises
    ------
    InputError
        If the folder or such scans are missing, or a scan has no brain mask.
    """
    root = Path(derivatives)
    if not root.is_dir():
        raise InputError(f"The derivatives folder {root} does not exist.")
    ending = f"_space-{space}_res-1_desc-preproc_T1w.nii.gz"
    folders = ("sub-*/anat", "sub-*/ses-*/anat")
    images = sorted(path for folder in folders for path in root.glob(f"{folder}/*{ending}"))
    if not images:
        raise InputError(
            f"No preprocessed scans (sub-*{ending}) in {root}: run bh-bids with "
            "--anat-only on the target dataset first, or give its output folder."
        )
    scans = []
    for image in images:
        label = re.match(r"sub-([A-Za-z0-9]+)_", image.name)
        if label is None:
            raise InputError(f"{image} does not begin with 'sub-<label>_'.")
        mask = image.with_name(image.name.replace("desc-preproc_T1w", "desc-brain_mask"))
        if not mask.is_file():
            raise InputError(f"{image} has no brain mask: {mask.name} is missing.")
        scans.append(Scan(label.group(1), image, mask))
    return scans


def split_participants(scans, *, validation=0.12, exclude=(), seed=0):
    """Divide participants, never scans, into training, validation and excluded.

    Parameters
    ----------
    scans : sequence of Scan
    validation : float or sequence of str
        Fraction of the participants drawn for validation (at least one), or their labels.
    exclude : sequence of str
        Labels of participants kept for tests.
    seed : int
        Of the draw.

    Returns
    -------
    training, validation : list of str
        Labels, sorted.

    Raises
    ------
    InputError
        If a label is unknown or named twice, or fewer than four participants remain, or none for
        training.
    """
    everyone = sorted({scan.participant for scan in scans})
    named = [_plain(label) for label in exclude]
    listed = not isinstance(validation, (int, float))
    held = [_plain(label) for label in validation] if listed else []
    unknown = sorted({*named, *held} - set(everyone))
    if unknown:
        raise InputError(f"No scans of participant(s) {', '.join(unknown)} in the derivatives.")
    both = sorted(set(named) & set(held))
    if both:
        raise InputError(f"Participant(s) {', '.join(both)} are both excluded and for validation.")
    left = [label for label in everyone if label not in named]
    if len(left) < MIN_PARTICIPANTS:
        raise InputError(
            f"Only {len(left)} participant(s) to train on: at least {MIN_PARTICIPANTS} are needed."
        )
    if not listed:
        if not 0 < validation < 1:
            raise InputError(f"The validation fraction {validation:g} must lie between 0 and 1.")
        count = min(max(1, round(validation * len(left))), len(left) - 1)
        held = np.random.default_rng([seed, 1]).permutation(left)[:count].tolist()
    training = [label for label in left if label not in held]
    if not training or not held:
        raise InputError("Both the training and the validation sets need a participant.")
    return training, sorted(set(held))


def read_volume(scan, config):
    """Read one scan on the model's grid and scale it to target units.

    Parameters
    ----------
    scan : Scan
    config : FlowConfig
        Gives the grid.

    Returns
    -------
    Volume
        Slices without enough brain at both ends are left out.

    Raises
    ------
    InputError
        If a file cannot be read, lies on another grid, or holds NaN, infinity or one constant, or
        the mask is empty.
    """
    volume = _read_on_grid(scan.image, config)
    mask = _read_on_grid(scan.mask, config) > 0.5
    if not mask.any():
        raise InputError(f"{scan.mask} is empty.")
    if not np.isfinite(volume).all():
        raise InputError(f"{scan.image} holds NaN or infinity: preprocess it again.")
    if np.ptp(volume[mask]) == 0:
        raise InputError(f"{scan.image} is constant inside its brain mask.")
    try:
        scaled, scale = to_target_units(volume, mask)
    except InputError as error:
        raise InputError(f"{scan.image}: {error}") from None
    filled = np.flatnonzero(np.count_nonzero(mask, axis=(0, 1)) >= MIN_BRAIN_VOXELS)
    if not len(filled):
        raise InputError(f"No slice of {scan.mask} has {MIN_BRAIN_VOXELS} brain voxels.")
    first, last = filled[0], filled[-1] + 1
    levels = np.rint(np.clip(scaled, 0, LARGEST * STEP) / STEP).astype(np.uint16)
    counts = np.bincount(levels[mask], minlength=LARGEST + 1)
    values = np.ascontiguousarray(levels[:, :, first:last].transpose(2, 0, 1))
    return Volume(scan.participant, values, scale, int(first), counts)


class CropSampler:
    """Draws dequantised crops, the same ones for the same seed and step, in any process.

    Parameters
    ----------
    volumes : sequence of Volume
    crop : tuple of int or None
        Sides (x, y) of the crops, or None for whole slices cut to the brain's bounding box.
    config : FlowConfig
    seed : int
    """

    def __init__(self, volumes, crop, config, seed):
        multiple = config.side_multiple
        self._corner = None
        if crop is None:
            self._corner, crop = bounding_box(volumes, multiple)
        if any(c % multiple or c < multiple for c in crop):
            raise InputError(
                f"The crop {crop[0]} x {crop[1]} must have sides that are multiples of {multiple}."
            )
        if any(c > side for c, side in zip(crop, config.slice_shape, strict=True)):
            raise InputError(
                f"The crop {crop[0]} x {crop[1]} is larger than a slice "
                f"({config.slice_shape[0]} x {config.slice_shape[1]})."
            )
        self.crop = tuple(crop)
        self._volumes = list(volumes)
        self._bits = config.bits
        self._seed = seed
        self._slices = [(v, k) for v, vol in enumerate(volumes) for k in range(len(vol.values))]
        self._order = (None, None)

    def __len__(self):
        return len(self._slices)

    def batch(self, step, size, augment=True):
        """Crops of one step.

        Every slice is drawn once before any is drawn again; the crop's place, its mirroring and
        its noise depend on the seed and the step alone, so that a resumed training sees what an
        uninterrupted one would.

        Parameters
        ----------
        step : int
            From 0.
        size : int
            Crops of a batch.
        augment : bool
            Mirror half of the crops left to right.

        Returns
        -------
        numpy.ndarray of float32, shape (size, 1, x, y)
            Target units, discretised, with dequantisation noise.
        """
        rng = np.random.default_rng([self._seed, 2, step])
        chosen = [self._nth(step * size + i) for i in range(size)]
        crops = np.stack([self._crop(v, k, rng, augment) for v, k in chosen])[:, None]
        levels = np.float32(2**self._bits)
        noise = rng.random(crops.shape, dtype=np.float32)
        return (np.rint(crops * (np.float32(STEP) * levels)) + noise - np.float32(0.5)) / levels

    def _nth(self, position):
        epoch, place = divmod(position, len(self._slices))
        if self._order[0] != epoch:
            rng = np.random.default_rng([self._seed, 3, epoch])
            self._order = (epoch, rng.permutation(len(self._slices)))
        return self._slices[self._order[1][place]]

    def _crop(self, volume, index, rng, augment):
        values = self._volumes[volume].values[index]
        x, y = self._corner or self._place(values, rng)
        piece = values[x : x + self.crop[0], y : y + self.crop[1]]
        mirror = augment and rng.random() < 0.5
        return (piece[::-1] if mirror else piece).astype(np.float32)

    def _place(self, values, rng):
        """Corner of a crop whose middle lies near a random brain voxel."""
        brain = np.flatnonzero(values)
        spot = brain[rng.integers(len(brain))] if len(brain) else values.size // 2
        return tuple(
            int(np.clip(c - side // 2 + rng.integers(-(side // 4), side // 4 + 1), 0, whole - side))
            for c, side, whole in zip(
                np.unravel_index(spot, values.shape), self.crop, values.shape, strict=True
            )
        )


def bounding_box(volumes, multiple):
    """Corner and sides (multiples of ``multiple``) of the box that holds all volumes' brains.

    Parameters
    ----------
    volumes : sequence of Volume
    multiple : int
        Must divide the sides of the volumes' slices.

    Returns
    -------
    corner, sides : tuple of int
        Along (x, y).
    """
    used = np.any([volume.values.any(axis=0) for volume in volumes], axis=0)
    corner, sides = [], []
    for axis, whole in enumerate(used.shape):
        filled = np.flatnonzero(used.any(axis=1 - axis))
        side = -(-(filled[-1] + 1 - filled[0]) // multiple) * multiple
        corner.append(int(min(filled[0], whole - side)))
        sides.append(int(side))
    return tuple(corner), tuple(sides)


def _read_on_grid(path, config):
    try:
        image = nib.load(path)
        array = np.asarray(image.dataobj, dtype=np.float32)
    except Exception as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    if array.shape != config.shape or not np.allclose(image.affine, config.affine, atol=1e-2):
        raise InputError(
            f"{path} (shape {array.shape}) does not lie on the model's grid "
            f"({config.space}, shape {config.shape})."
        )
    return array


def _plain(label):
    return str(label).removeprefix("sub-")
