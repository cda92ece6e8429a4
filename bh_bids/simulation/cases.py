"""Cases of a benchmark: a truth, and the source that a simulated scanner made of it.

For most gaps the truth is the target scan itself. For some it is a target scan with another
anatomy, or with finer detail, and the scanner's part is gamma 0.7: what a method must undo is the
contrast, what it must leave alone is the rest.
"""

from typing import NamedTuple

import numpy as np

from ..errors import InputError
from .gaps import GAPS, RANDOM_GAPS, apply_gap, finer
from .pathology import add_lesions, cut_field_of_view, enlarge_ventricles

# Gaps of another truth, and the contrast they come with.
OTHER_TRUTHS = ("ventricles", "fov", "lesion", "finer")
OTHERS_CONTRAST = "gamma0.7"
CASES = ("none", *GAPS, *OTHER_TRUTHS)
# What the group level simulates where no gap is named: the paper's three kinds of contrast, and
# what no map of intensities undoes.
DEFAULT_GAPS = (
    "exp", "log", "gamma0.7", "gamma1.3", "gamma1.5", "tissue", "bias25", "noise2", "blur"
)  # fmt: skip
RANDOM_CASES = RANDOM_GAPS | {"lesion"}


class Case(NamedTuple):
    """A truth and its source.

    Attributes
    ----------
    truth, source : numpy.ndarray of float32, shape (x, y, z)
        Target units and near them; 0 outside the mask.
    mask : numpy.ndarray of bool, shape (x, y, z)
        Brain mask of both.
    lesion : numpy.ndarray of uint8, shape (x, y, z), or None
        Numbers of the lesions, 0 where there is none; None in a case without any.
    """

    truth: np.ndarray
    source: np.ndarray
    mask: np.ndarray
    lesion: np.ndarray | None = None


def make_case(gap, truth, mask, seed=0):
    """Make a case of a gap.

    Parameters
    ----------
    gap : str
        One of ``CASES``: "none", a gap of :func:`bh_bids.simulation.gaps.apply_gap`, or another
        truth under gamma 0.7: "ventricles" (enlarged by 3 voxels all around), "fov" (the lowest
        quarter of the brain was not scanned), "lesion" (dark and bright ones in white matter) or
        "finer" (more detail along foot-head than the target's).
    truth : numpy.ndarray, shape (x, y, z)
        Target scan in target units.
    mask : numpy.ndarray of bool, shape (x, y, z)
        Brain mask.
    seed : int
        Of the gap's random part; see ``RANDOM_CASES``.

    Returns
    -------
    Case

    Raises
    ------
    InputError
        If the gap is unknown, shapes differ, or the mask is empty.
    """
    if gap not in CASES:
        raise InputError(f"There is no simulated gap {gap!r}; choose one of {', '.join(CASES)}.")
    truth, mask = np.asarray(truth, dtype=np.float32), np.asarray(mask, dtype=bool)
    if truth.shape != mask.shape:
        raise InputError(f"The volume is {truth.shape}, its brain mask {mask.shape}.")
    lesion = None
    if gap == "ventricles":
        truth = enlarge_ventricles(truth, mask)
    elif gap == "fov":
        mask = cut_field_of_view(mask)
    elif gap == "lesion":
        truth, lesion = add_lesions(truth, mask, seed=seed)
    elif gap == "finer":
        truth = finer(truth, mask)
    truth = np.where(mask, truth, 0).astype(np.float32)
    if gap == "none":
        return Case(truth, truth.copy(), mask)
    contrast = OTHERS_CONTRAST if gap in OTHER_TRUTHS else gap
    return Case(truth, apply_gap(contrast, truth, mask, seed=seed), mask, lesion)
