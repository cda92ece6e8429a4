"""The part of axial slices that a flow is shown: what holds brain, with sides it accepts."""

import numpy as np

# Voxels of background kept around the brain: the flow's convolutions see a few of them.
MARGIN = 4


def content(occupied, side_multiple, margin=MARGIN):
    """Part of a slice that holds what is occupied, its margin, and sides the flow accepts.

    Parameters
    ----------
    occupied : numpy.ndarray of bool, shape (h, w)
        Anything at all.
    side_multiple : int
        ``FlowConfig.side_multiple``.
    margin : int
        Voxels kept around it, as far as the slice goes.

    Returns
    -------
    tuple of slice
        Rows and columns; they start and end at multiples of ``side_multiple``, so that the flow
        divides the part as it does the whole.
    """
    part = []
    for axis, side in enumerate(occupied.shape):
        used = np.flatnonzero(occupied.any(axis=1 - axis))
        first, last = int(used[0]) - margin, int(used[-1]) + margin
        start = max(first // side_multiple, 0) * side_multiple
        part.append(slice(start, min((last // side_multiple + 1) * side_multiple, side)))
    return tuple(part)
