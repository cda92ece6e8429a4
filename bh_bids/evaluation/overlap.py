"""How far two labellings of one brain agree."""

import numpy as np

from ..errors import InputError


def dice(reference, labels, label=3):
    """Dice coefficient of one label: twice the shared voxels over the sum of both.

    Parameters
    ----------
    reference, labels : numpy.ndarray of int, shape (x, y, z)
    label : int
        3 is white matter.

    Returns
    -------
    float
        In [0, 1]; NaN where neither holds the label.

    Raises
    ------
    InputError
        If shapes differ.
    """
    shared, one, other = _counts(reference, labels, label)
    return 2 * shared / (one + other) if one + other else float("nan")


def iou(reference, labels, label=3):
    """Intersection over union of one label (Jaccard's index).

    Parameters
    ----------
    reference, labels, label
        See :func:`dice`.

    Returns
    -------
    float
        In [0, 1]; NaN where neither holds the label.

    Raises
    ------
    InputError
        If shapes differ.
    """
    shared, one, other = _counts(reference, labels, label)
    union = one + other - shared
    return shared / union if union else float("nan")


def _counts(reference, labels, label):
    if np.shape(reference) != np.shape(labels):
        raise InputError(
            f"Labels to compare must share one grid: {np.shape(reference)} and {np.shape(labels)}."
        )
    a, b = np.asarray(reference) == label, np.asarray(labels) == label
    return int((a & b).sum()), int(a.sum()), int(b.sum())
