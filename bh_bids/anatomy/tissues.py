"""Tissue labels: Atropos on a T1w brain, and those that others made."""

import tempfile
from contextlib import contextmanager

import numpy as np

from ..errors import InputError

# Labels of the three tissues, in the order of their T1w intensities.
LABELS = {"CSF": 1, "GM": 2, "WM": 3}
MIN_VOXELS = 1000


def atropos_labels(volume, mask):
    """Segment a T1w brain into cerebrospinal fluid, grey and white matter.

    Parameters
    ----------
    volume : numpy.ndarray, shape (x, y, z)
        Free of bias, any units.
    mask : numpy.ndarray of bool, shape (x, y, z)
        Brain mask.

    Returns
    -------
    numpy.ndarray of int8, shape (x, y, z)
        :data:`LABELS`; 0 outside the mask. The same bytes at every call.

    Raises
    ------
    InputError
        If the brain holds fewer than 1000 voxels, is constant, or Atropos finds no three classes.

    Notes
    -----
    Avants et al., Neuroinformatics 9 (2011): a Gaussian mixture with a Markov random field of the
    nearest neighbours (weight 0.1), started from k-means, at most 5 iterations.
    """
    import ants

    mask = np.asarray(mask, dtype=bool)
    if np.count_nonzero(mask) < MIN_VOXELS or np.ptp(np.asarray(volume)[mask]) == 0:
        raise InputError(
            f"A brain of {np.count_nonzero(mask)} voxels or of one intensity cannot be segmented."
        )
    box = tuple(slice(p.min(), p.max() + 1) for p in np.nonzero(mask))
    inside = mask[box]
    image = np.where(inside, np.asarray(volume, dtype=np.float32)[box], 0)
    with _temporary_files():
        try:
            found = ants.atropos(
                a=ants.from_numpy(image),
                x=ants.from_numpy(inside.astype(np.float32)),
                i="kmeans[3]",
                m="[0.1,1x1x1]",
                c="[5,0]",
                r=0,
            )["segmentation"].numpy()
        except Exception as error:
            raise InputError(f"Atropos could not segment the brain: {error}") from None
    labels = np.zeros(mask.shape, np.int8)
    labels[box] = _by_intensity(found, image, inside)
    return labels


def _by_intensity(found, image, mask):
    """Classes numbered from dark to bright."""
    means = {c: float(image[mask & (found == c)].mean()) for c in np.unique(found[mask]) if c > 0}
    if len(means) != len(LABELS):
        raise InputError(f"Atropos found {len(means)} classes in the brain, not three tissues.")
    labels = np.zeros(mask.shape, np.int8)
    for number, c in enumerate(sorted(means, key=means.get), start=1):
        labels[mask & (found == c)] = number
    return labels


@contextmanager
def _temporary_files():
    """Remove what is left in the folder for temporary files: antspyx leaves Atropos' maps there."""
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = folder
        try:
            yield
        finally:
            tempfile.tempdir = before


def labels_of_maps(probabilities, mask):
    """Labels of tissue probability maps (``label-<tissue>_probseg``).

    Parameters
    ----------
    probabilities : dict of str to numpy.ndarray, shape (x, y, z)
        Keys "CSF", "GM" and "WM", on one grid.
    mask : numpy.ndarray of bool, shape (x, y, z)
        Brain mask.

    Returns
    -------
    numpy.ndarray of int8, shape (x, y, z)
        The most probable of :data:`LABELS`; 0 outside the mask and where all maps are 0.

    Raises
    ------
    InputError
        If a tissue lacks or a grid differs.
    """
    if set(probabilities) != set(LABELS):
        raise InputError(f"Probability maps of {', '.join(LABELS)} are needed, one each.")
    mask = np.asarray(mask, dtype=bool)
    maps = [np.asarray(probabilities[tissue]) for tissue in LABELS]
    if any(m.shape != mask.shape for m in maps):
        raise InputError("The tissue probability maps and the brain mask are on several grids.")
    maps = np.stack(maps)
    labels = np.where(mask & (maps.max(axis=0) > 0), maps.argmax(axis=0) + 1, 0)
    return labels.astype(np.int8)


def relabel(segmentation, values, mask):
    """Labels of a discrete segmentation (``dseg``) that numbers its tissues otherwise.

    Parameters
    ----------
    segmentation : numpy.ndarray of int, shape (x, y, z)
    values : dict of str to (int or sequence of int)
        The segmentation's values of "CSF", "GM" and "WM"; fMRIPrep's are
        ``{"GM": 1, "WM": 2, "CSF": 3}``.
    mask : numpy.ndarray of bool, shape (x, y, z)
        Brain mask.

    Returns
    -------
    numpy.ndarray of int8, shape (x, y, z)
        :data:`LABELS`; 0 outside the mask and for any other value.

    Raises
    ------
    InputError
        If a tissue lacks or the grids differ.
    """
    if set(values) != set(LABELS):
        raise InputError(f"Say which values are {', '.join(LABELS)}.")
    segmentation, mask = np.asarray(segmentation), np.asarray(mask, dtype=bool)
    if segmentation.shape != mask.shape:
        raise InputError("The segmentation and the brain mask are on different grids.")
    labels = np.zeros(mask.shape, np.int8)
    for tissue, number in LABELS.items():
        labels[mask & np.isin(segmentation, values[tissue])] = number
    return labels
