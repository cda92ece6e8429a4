"""Is this a scan to train on? What is refused, and what is only remarked."""

import numpy as np

from ..errors import InputError

# A brain fills a quarter to 40 % of the grid; a head, or a mask of ones, more.
LARGEST_BRAIN = 0.6
# Shares of voxels beyond which an image and its mask do not belong together.
OUTSIDE, EMPTY_INSIDE = 0.01, 0.05
# A mask so many times larger or smaller than the others' median shows something else.
UNLIKE_OTHERS = 1.5


def check_mask(scan, mask):
    """Refuse a brain mask that is empty or no brain's.

    Parameters
    ----------
    scan : Scan
        Named in the message.
    mask : numpy.ndarray of bool, shape (x, y, z)

    Raises
    ------
    InputError
    """
    share = np.count_nonzero(mask) / mask.size
    if share == 0:
        raise InputError(f"{scan.mask} is empty.")
    if share > LARGEST_BRAIN:
        raise InputError(
            f"{scan.mask} covers {share:.0%} of the grid, which no brain does: preprocess the scan "
            "again, or leave the participant out."
        )


def check_intensities(scan, volume, mask):
    """Refuse a scan with NaN, infinity or one constant.

    Parameters
    ----------
    scan : Scan
        Named in the message.
    volume : numpy.ndarray, shape (x, y, z)
        Raw units.
    mask : numpy.ndarray of bool, shape (x, y, z)

    Raises
    ------
    InputError
    """
    if not np.isfinite(volume).all():
        raise InputError(f"{scan.image} holds NaN or infinity: preprocess it again.")
    if np.ptp(volume[mask]) == 0:
        raise InputError(f"{scan.image} is constant inside its brain mask.")


def warnings_about(scan, volume, mask):
    """Say whether a scan and its mask belong together.

    Parameters
    ----------
    scan : Scan
        Named in the sentences.
    volume : numpy.ndarray, shape (x, y, z)
        Raw units.
    mask : numpy.ndarray of bool, shape (x, y, z)

    Returns
    -------
    list of str
        Sentences; empty where all is well.
    """
    sentences = []
    brain = np.count_nonzero(mask)
    outside = np.count_nonzero(volume[~mask]) / brain
    if outside > OUTSIDE:
        sentences.append(
            f"{scan.image} is not skull-stripped: {outside:.0%} as many voxels as its brain has "
            "are not zero outside the mask. They are ignored."
        )
    empty = np.count_nonzero(volume[mask] == 0) / brain
    if empty > EMPTY_INSIDE:
        sentences.append(
            f"{scan.image} is zero in {empty:.0%} of its brain mask: it may have been stripped by "
            "another mask. Look at it."
        )
    return sentences


def about_verdicts(scans):
    """Name the scans whose anatomical checks failed, which are left out, or ended with a warning.

    Parameters
    ----------
    scans : sequence of Scan

    Returns
    -------
    list of str
        At most one sentence of each kind.
    """
    sentences = []
    for verdict, told in (
        ("fail", "Left out, for the anatomical checks of mask and registration failed"),
        ("warn", "Used, though the anatomical checks warn of mask or registration"),
    ):
        names = [scan.image.name.split("_space-")[0] for scan in scans if scan.verdict == verdict]
        if names:
            sentences.append(f"{told} (AnatomicalChecks in the sidecar): {', '.join(names)}.")
    return sentences


def unlike_others(volumes):
    """Name the scans whose brain mask has another size than most.

    Parameters
    ----------
    volumes : sequence of Volume

    Returns
    -------
    list of str
        Sentences; empty where all is well.
    """
    median = float(np.median([volume.voxels for volume in volumes]))
    return [
        f"The brain mask of participant {volume.participant} is {volume.voxels / median:.1f} times "
        "as large as most: one may hold the skull, or lack part of the brain. Look at it."
        for volume in volumes
        if not 1 / UNLIKE_OTHERS < volume.voxels / median < UNLIKE_OTHERS
    ]
