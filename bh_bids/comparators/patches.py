"""Training patches: 2-D slices of scans, and crops drawn from them near the brain."""

import numpy as np

from ..errors import InputError

# Axis of a volume (x, y, z) that runs across the slices of a plane.
PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}
# No crop is drawn from a slice with fewer brain voxels.
MIN_BRAIN_VOXELS = 200


def collect_slices(scans, plane, share):
    """Slices of scans, each cut to its brain, few enough to be kept in memory.

    Parameters
    ----------
    scans : iterable of tuple of numpy.ndarray, shape (x, y, z)
        Each a scan's channels on one grid, of which the last is its brain mask. They are taken
        one at a time.
    plane : str
        Key of :data:`PLANES`.
    share : int
        At most so many slices of each scan, evenly spaced through its brain.

    Returns
    -------
    list of numpy.ndarray of float16, shape (channels, h, w)
        0 outside the mask, whose channel is the last. Of the axial plane h runs along x and w
        along y; the order of the axes is always that of the volume.

    Raises
    ------
    InputError
        If a scan's channels are on several grids, or no slice holds enough brain.
    """
    kept = []
    for channels in scans:
        shapes = {channel.shape for channel in channels}
        if len(shapes) > 1:
            raise InputError(
                f"Scans to train on must share one grid, and these are {sorted(shapes)}."
            )
        mask = np.moveaxis(channels[-1], PLANES[plane], 0)
        filled = np.flatnonzero(mask.sum(axis=(1, 2)) >= MIN_BRAIN_VOXELS)
        if filled.size > share:
            filled = filled[np.linspace(0, filled.size - 1, share).round().astype(int)]
        stack = [np.moveaxis(channel, PLANES[plane], 0) for channel in channels]
        for k in filled:
            inside = mask[k]
            box = tuple(slice(p.min(), p.max() + 1) for p in np.nonzero(inside))
            image = np.stack([np.where(inside, part[k], 0)[box] for part in stack])
            kept.append(image.astype(np.float16))
    if not kept:
        raise InputError(
            f"No {plane} slice of the scans to train on holds {MIN_BRAIN_VOXELS} brain voxels."
        )
    return kept


class PatchSampler:
    """Crops of slices, the same ones for the same seed and step.

    Parameters
    ----------
    slices : sequence of numpy.ndarray, shape (channels, h, w)
        Of :func:`collect_slices`.
    crop : int
        Side of the square crops.
    seed : int or sequence of int
    mirror : bool
        Whether half of the crops are mirrored along their first axis: left to right, but in the
        sagittal plane.
    """

    def __init__(self, slices, crop, seed, mirror):
        self._slices = slices
        self._crop = crop
        self._seed = list(np.atleast_1d(seed))
        self._mirror = mirror

    def batch(self, step, size):
        """Crops of one step.

        Parameters
        ----------
        step, size : int

        Returns
        -------
        torch.Tensor of float32, shape (size, channels, crop, crop)
            0 where a crop reaches beyond its brain.
        """
        import torch

        rng = np.random.default_rng([*self._seed, step])
        return torch.from_numpy(np.stack([self._draw(rng) for _ in range(size)]))

    def _draw(self, rng):
        image = self._slices[rng.integers(len(self._slices))]
        patch = np.zeros((image.shape[0], self._crop, self._crop), np.float32)
        inner, outer = [slice(None)], [slice(None)]
        for side in image.shape[1:]:
            # From the whole brain's crops, those that hold as much of it as they can.
            spare = side - self._crop
            first = int(rng.integers(min(spare, 0), max(spare, 0) + 1))
            inner.append(slice(max(-first, 0), max(-first, 0) + min(side, self._crop)))
            outer.append(slice(max(first, 0), max(first, 0) + min(side, self._crop)))
        patch[tuple(inner)] = image[tuple(outer)]
        if self._mirror and rng.random() < 0.5:
            patch = patch[:, ::-1]
        return patch
