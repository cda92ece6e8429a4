"""From a volume to a stack of axial slices cropped to the brain, and back."""

import numpy as np

from ..errors import InputError
from ..flow.content import MARGIN, content


class SliceBox:
    """The smallest stack of axial slices that holds a brain, with sides the flow accepts.

    Parameters
    ----------
    mask : numpy.ndarray of bool, shape (x, y, z)
        Brain mask.
    side_multiple : int
        The slices' sides become multiples of it (``FlowConfig.side_multiple``). The box may reach
        beyond the volume; there it is background.
    margin : int
        Voxels kept around the brain in x and y.

    Attributes
    ----------
    slice_shape : tuple of int
        Sides (h, w) of the cropped slices.
    occupied : numpy.ndarray of int
        Positions, in the stack, of the slices that hold brain; the flow sees no others.

    Raises
    ------
    InputError
        If the mask is empty.
    """

    def __init__(self, mask, side_multiple, margin=MARGIN):
        mask = np.asarray(mask, dtype=bool)
        if not mask.any():
            raise InputError("The brain mask is empty: there is nothing to harmonize.")
        self.volume_shape, self._multiple, self._margin = mask.shape, side_multiple, margin
        self.start, sides = [], []
        for axis in (0, 1):
            used = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
            first, last = int(used[0]) - margin, int(used[-1]) + margin
            side = -(-(last - first + 1) // side_multiple) * side_multiple
            slack = side - (last - first + 1)
            # Within the volume where there is room, so that real voxels fill the box.
            first = max(first - slack // 2, 0)
            self.start.append(max(min(first, mask.shape[axis] - side), 0))
            sides.append(side)
        filled = np.flatnonzero(mask.any(axis=(0, 1)))
        self.start.append(int(filled[0]))
        sides.append(int(filled[-1] - filled[0] + 1))
        self.slice_shape = tuple(sides[:2])
        self.shape = tuple(sides)
        self.occupied = filled - filled[0]

    def extract(self, volume):
        """Stack (n, h, w) of a volume (x, y, z), contiguous; background beyond the volume is 0."""
        box = self._inner(volume)
        stack = np.zeros((self.shape[2], *self.slice_shape), dtype=volume.dtype)
        stack[:, : box.shape[0], : box.shape[1]] = box.transpose(2, 0, 1)
        return stack

    def insert(self, stack):
        """Volume (x, y, z) of a stack (n, h, w); 0 outside the box."""
        volume = np.zeros(self.volume_shape, dtype=stack.dtype)
        box = self._inner(volume)
        box[...] = stack[:, : box.shape[0], : box.shape[1]].transpose(1, 2, 0)
        return volume

    def content(self, occupied):
        """:func:`bh_bids.flow.content.content` of slices of the box, (h, w), with its margin."""
        return content(occupied, self._multiple, self._margin)

    def grid_index(self, positions):
        """Indices k on the volume's grid of positions in the stack."""
        return np.asarray(positions) + self.start[2]

    def _inner(self, volume):
        return volume[tuple(slice(s, s + n) for s, n in zip(self.start, self.shape, strict=True))]
