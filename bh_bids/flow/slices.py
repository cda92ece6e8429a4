"""Training scans: found in a derivatives folder, divided, read in target units."""

import re
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from ..errors import InputError
from ..intensity import to_target_units
from ..jsonfiles import read_json
from .checks import check_intensities, check_mask, warnings_about

# Volumes are kept as multiples of this in 16 bits: exact for all discretisations of up to 14 bits.
STEP = 2.0**-14
LARGEST = 2**16 - 1
# No crop is drawn from a slice with fewer brain voxels: it would teach the flow only background.
MIN_BRAIN_VOXELS = 200
MIN_PARTICIPANTS = 4


@dataclass(frozen=True)
class Scan:
    """One preprocessed scan: its participant's label, its two files, and how its checks ended.

    The verdict, of the anatomical checks, is "pass", "warn" or "fail", "" where none is known.
    """

    participant: str
    image: Path
    mask: Path
    verdict: str = ""

    @property
    def usable(self):
        """Whether the anatomical checks have not failed."""
        return self.verdict != "fail"


@dataclass(frozen=True)
class Volume:
    """One scan, in memory or in a store on disk.

    Attributes
    ----------
    participant : str
        Label, without "sub-".
    values : numpy.ndarray of uint16, shape (slices, x, y)
        Target units in multiples of ``STEP``, axial slices first; 0 outside the brain mask, at
        least 1 inside, so that the mask is where they are positive.
    scale : float
        Raw intensity that is 1 in target units.
    modes : dict of str to float
        Modes of "CSF", "GM" and "WM", target units.
    filled : tuple of int
        Slices with enough brain, not constant, from which crops are drawn.
    box : tuple of int
        Smallest box (x0, x1, y0, y1) that holds the brain in every slice.
    voxels : int
        In the brain mask.
    warnings : tuple of str
        What may be wrong with the scan.
    """

    participant: str
    values: np.ndarray
    scale: float
    modes: dict
    filled: tuple
    box: tuple
    voxels: int
    warnings: tuple

    def in_target_units(self):
        """The whole volume (x, y, z), float32, target units."""
        return self.values.transpose(1, 2, 0) * np.float32(STEP)

    def counts(self):
        """Brain voxels at each multiple of ``STEP``, int64, shape (65536,)."""
        return np.bincount(self.values[self.values > 0], minlength=LARGEST + 1)


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
        If the folder or such scans are missing, or a scan has no brain mask or no content.
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
        for path in (image, mask):
            if path.is_symlink() and not path.exists():
                raise InputError(
                    f"{path} is a dangling link: fetch its content first (datalad get, git annex "
                    "get)."
                )
        if not image.is_file():
            raise InputError(f"{image} is no file: remove it, or preprocess the scan again.")
        if not mask.is_file():
            raise InputError(f"{image} has no brain mask: {mask.name} is missing.")
        scans.append(Scan(label.group(1), image, mask, _verdict(image)))
    return scans


def _verdict(image):
    """Of the anatomical checks, by the image's sidecar; "" where it tells none."""
    sidecar = image.with_name(image.name.replace(".nii.gz", ".json"))
    try:
        verdict = read_json(sidecar)["AnatomicalChecks"]["Verdict"]
    except (OSError, ValueError, LookupError, TypeError):
        return ""
    return verdict if isinstance(verdict, str) else ""


def split_participants(scans, *, validation=0.12, exclude=(), seed=0):
    """Divide participants, never scans, into training, validation and excluded.

    Parameters
    ----------
    scans : sequence of Scan
        Those whose anatomical checks failed do not count.
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
        If a label is unknown or named twice, or one for validation has no usable scan, or fewer
        than four participants remain, or none for training.
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
    left = participants_left(scans, named, "to train on")
    failed = sorted(set(held) - set(left))
    if failed:
        raise InputError(
            f"All scans of participant(s) {', '.join(failed)} failed the anatomical checks: choose "
            "others for validation."
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


def participants_left(scans, excluded, purpose):
    """Participants who are not excluded and have a scan whose anatomical checks did not fail.

    Parameters
    ----------
    scans : sequence of Scan
    excluded : collection of str
        Labels, without "sub-".
    purpose : str
        What they are for, named in the message.

    Returns
    -------
    list of str
        Labels, sorted.

    Raises
    ------
    InputError
        If they are fewer than four.
    """
    given = {scan.participant for scan in scans}.difference(excluded)
    left = {scan.participant for scan in scans if scan.usable} & given
    if len(left) < MIN_PARTICIPANTS:
        failed = len(given) - len(left)
        without = f", without {failed} whose anatomical checks failed" if failed else ""
        raise InputError(
            f"Only {len(left)} participant(s) {purpose}{without}: at least {MIN_PARTICIPANTS} are "
            "needed."
        )
    return sorted(left)


def read_volume(scan, config):
    """Read one scan on the model's grid, check it and scale it to target units.

    Parameters
    ----------
    scan : Scan
    config : FlowConfig
        Gives the grid.

    Returns
    -------
    Volume

    Raises
    ------
    InputError
        If a file cannot be read, lies on another grid, or holds NaN, infinity or one constant, or
        the mask is none of a brain.
    """
    # Heavy and owned by another part of the package: only training needs it.
    from ..evaluation.tissue import tissue_modes

    volume = _read_on_grid(scan.image, config)
    mask = _read_on_grid(scan.mask, config) > 0.5
    check_mask(scan, mask)
    check_intensities(scan, volume, mask)
    try:
        scaled, scale = to_target_units(volume, mask)
        modes = tissue_modes(scaled, mask)
    except InputError as error:
        raise InputError(f"{scan.image}: {error}") from None
    levels = np.rint(np.clip(scaled, 0, LARGEST * STEP) / STEP).astype(np.uint16)
    levels[mask] = np.maximum(levels[mask], 1)
    values = np.ascontiguousarray(levels.transpose(2, 0, 1))
    varied = [k for k in enough_brain(values) if np.ptp(values[k][values[k] > 0])]
    if not varied:
        raise InputError(
            f"No slice of {scan.image} has {MIN_BRAIN_VOXELS} brain voxels that are not all equal."
        )
    return Volume(
        participant=scan.participant,
        values=values,
        scale=scale,
        modes=modes,
        filled=tuple(varied),
        box=_box(mask),
        voxels=int(np.count_nonzero(mask)),
        warnings=(*warnings_about(scan, volume, mask), *_about_flat(scan, values, varied)),
    )


def enough_brain(values):
    """Slices with at least ``MIN_BRAIN_VOXELS`` brain voxels, of values (slices, x, y); list."""
    brain = np.count_nonzero(values, axis=(1, 2))
    return np.flatnonzero(brain >= MIN_BRAIN_VOXELS).tolist()


def _about_flat(scan, values, varied):
    flat = len(enough_brain(values)) - len(varied)
    if flat:
        yield f"{flat} slice(s) of {scan.image} are constant inside the brain mask and left out."


def _box(mask):
    sides = []
    for axis in (0, 1):
        used = np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))
        sides += [int(used[0]), int(used[-1]) + 1]
    return tuple(sides)


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
