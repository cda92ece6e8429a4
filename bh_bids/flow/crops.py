"""Training crops with their context: drawn, mirrored, noised, the same in any process."""

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ..errors import InputError
from .slices import STEP


class Crops(NamedTuple):
    """Crops and what the flow is told of them.

    Attributes
    ----------
    x : numpy.ndarray of float32, shape (n, 1, h, w)
        Target units, with noise.
    context : numpy.ndarray of float32, shape (n, conditions, h, w), or None
        See :class:`bh_bids.flow.network.TargetFlow`.
    """

    x: np.ndarray
    context: np.ndarray | None


def check_crop(crop, config):
    """Refuse crops that the flow cannot take.

    Parameters
    ----------
    crop : tuple of int
        Sides (x, y).
    config : FlowConfig

    Raises
    ------
    InputError
    """
    multiple = config.side_multiple
    if any(c % multiple or c < multiple for c in crop):
        raise InputError(
            f"The crop {crop[0]} x {crop[1]} must have sides that are multiples of {multiple}."
        )
    if any(c > side for c, side in zip(crop, config.slice_shape, strict=True)):
        raise InputError(
            f"The crop {crop[0]} x {crop[1]} is larger than a slice "
            f"({config.slice_shape[0]} x {config.slice_shape[1]})."
        )


class CropSampler:
    """Draws noised crops and their context, the same ones for the same seed, in any process.

    Parameters
    ----------
    volumes : sequence of Volume
    crop : tuple of int or None
        Sides (x, y) of the crops, or None for whole slices cut to the brains' bounding box.
    config : FlowConfig
    seed : int
    mean : numpy.ndarray, shape ``config.shape``, optional
        The target's mean volume, target units; needed for the condition "mean".
    """

    def __init__(self, volumes, crop, config, seed, mean=None):
        multiple = config.side_multiple
        self._corner = None
        if crop is None:
            self._corner, crop = bounding_box(volumes, multiple)
        check_crop(crop, config)
        self.crop = tuple(crop)
        self._volumes = list(volumes)
        self._config = config
        self._seed = seed
        self._mean = None
        if "mean" in config.conditions:
            self._mean = np.ascontiguousarray(mean.transpose(2, 0, 1), np.float32)
        self._slices = [(v, k) for v, volume in enumerate(volumes) for k in volume.filled]
        self._order = lru_cache(maxsize=2)(self._permutation)

    def __len__(self):
        return len(self._slices)

    def batch(self, step, size, *, augment=True, sigma=None, part=(0, 1)):
        """Crops of one step.

        Every slice is drawn once before any is drawn again. Where a crop lies, whether it is
        mirrored, and its noise depend on the seed and its number (``step * size`` and following)
        alone, so that a resumed or divided training sees what an uninterrupted one would.

        Parameters
        ----------
        step : int
            From 0.
        size : int
            Crops of a batch.
        augment : bool
            Mirror half of the crops left to right.
        sigma : float, optional
            Standard deviation of the noise, target units, where the flow is conditioned on it;
            where not given, log-uniform in the configuration's range, each crop its own.
        part : tuple of int
            (k, n): only the k-th of n parts of the batch, from 0.

        Returns
        -------
        Crops
            Target units. Of a flow that is conditioned on noise, with Gaussian noise in the brain
            and 0 outside; of others, discretised, with dequantisation noise.
        """
        k, n = part
        numbers = range(step * size + size * k // n, step * size + size * (k + 1) // n)
        x, context = zip(*(self._draw(i, augment, sigma) for i in numbers), strict=True)
        return Crops(np.stack(x)[:, None], np.stack(context) if self._config.conditions else None)

    def _permutation(self, epoch):
        return np.random.default_rng([self._seed, 3, epoch]).permutation(len(self._slices))

    def _nth(self, number):
        epoch, place = divmod(number, len(self._slices))
        return self._slices[self._order(epoch)[place]]

    def _draw(self, number, augment, sigma):
        """Crop (h, w) and its maps (conditions, h, w)."""
        rng = np.random.default_rng([self._seed, 2, number])
        config, (v, k) = self._config, self._nth(number)
        volume = self._volumes[v]
        x, y = self._corner or self._place(volume.values[k], rng)
        mirrored = augment and rng.random() < 0.5
        window = slice(x, x + self.crop[0]), slice(y, y + self.crop[1])

        def cut(image):
            return image[window][::-1] if mirrored else image[window]

        levels = cut(volume.values[k])
        below = cut(volume.values[k - 1]) if k else np.zeros_like(levels)
        if "noise" in config.conditions:
            low, high = config.noise_range
            drawn = low * (high / low) ** rng.random()
            sigma = drawn if sigma is None else sigma
            crop, below = (_noised(image, sigma, rng) for image in (levels, below))
        else:
            crop = _dequantised(levels, config.bits, rng)
            below = below * np.float32(STEP)
        maps = np.empty((len(config.conditions), *self.crop), np.float32)
        for i, condition in enumerate(config.conditions):
            if condition == "mask":
                maps[i] = levels > 0
            elif condition == "previous":
                maps[i] = below
            elif condition == "mean":
                maps[i] = cut(self._mean[k])
            else:
                maps[i] = config.noise_code(sigma)
        return crop, maps

    def _place(self, values, rng):
        """Corner of a crop whose middle lies near a random brain voxel."""
        brain = np.flatnonzero(values)
        spot = np.unravel_index(brain[rng.integers(len(brain))], values.shape)
        return tuple(
            int(np.clip(c - side // 2 + rng.integers(-(side // 4), side // 4 + 1), 0, whole - side))
            for c, side, whole in zip(spot, self.crop, values.shape, strict=True)
        )


class Ahead:
    """Prepares the batches of the next steps while one is computed on.

    Parameters
    ----------
    draw : callable
        Gives the batch of a step.
    stop : int
        No step from here on is prepared.
    workers : int
        Threads, and batches ahead; 0 draws each batch when it is asked for. The batches are the
        same for any number.
    """

    def __init__(self, draw, stop, workers=1):
        self._draw, self._stop, self._workers = draw, stop, workers
        self._pool = ThreadPoolExecutor(workers) if workers else None
        self._waiting = {}

    def __call__(self, step):
        """Batch of one step."""
        if self._pool is None:
            return self._draw(step)
        for ahead in range(step, min(step + self._workers + 1, self._stop)):
            if ahead not in self._waiting:
                self._waiting[ahead] = self._pool.submit(self._draw, ahead)
        return self._waiting.pop(step).result()

    def close(self):
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


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
    corner, sides = [], []
    for axis, whole in enumerate(volumes[0].values.shape[1:]):
        first = min(volume.box[2 * axis] for volume in volumes)
        last = max(volume.box[2 * axis + 1] for volume in volumes)
        side = -(-(last - first) // multiple) * multiple
        corner.append(min(first, whole - side))
        sides.append(side)
    return tuple(corner), tuple(sides)


def _noised(levels, sigma, rng):
    """Target units with Gaussian noise in the brain, 0 outside."""
    noise = rng.standard_normal(levels.shape, dtype=np.float32)
    noised = levels * np.float32(STEP) + np.float32(sigma) * noise
    return np.where(levels > 0, noised, np.float32(0))


def _dequantised(levels, bits, rng):
    """Target units, discretised, each value spread over its step."""
    steps = np.float32(2**bits)
    noise = rng.random(levels.shape, dtype=np.float32) - np.float32(0.5)
    return (np.rint(levels * (np.float32(STEP) * steps)) + noise) / steps
