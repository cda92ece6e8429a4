"""The architecture of a target-domain flow and the grid it was trained on."""

import math
from dataclasses import asdict, dataclass, fields

import numpy as np

from ..errors import ModelError

# What the conditioners may see besides their own channels, in the order of the context's maps.
CONDITIONS = ("mask", "previous", "mean", "noise")
# No brain needs a larger grid: a description that asks for one is damaged or hostile.
MOST_VOXELS_ALONG = 1024
_MINIMA = {"levels": 1, "steps": 1, "hidden_channels": 1, "blocks": 1, "bins": 2, "bits": 1}


@dataclass(frozen=True)
class FlowConfig:
    """Sizes of the multi-scale neural spline flow, and the grid of its slices.

    Parameters
    ----------
    levels : int
        Levels of the multi-scale flow; each begins by halving both sides of a slice.
    steps : int
        Steps (ActNorm, 1x1 convolution, coupling) of a level.
    hidden_channels, blocks : int
        Width and number of residual blocks of each coupling's convolutional conditioner.
    bins : int
        Bins of the rational-quadratic splines.
    tail_bound : float
        The splines act on [-tail_bound, tail_bound] and are the identity outside.
    bits : int
        Bits per voxel of the discretised image in "bits per dimension"; target units are cut into
        steps of ``2**-bits``.
    batch_norm : bool
        Batch normalisation in the conditioner, as in the published architecture.
    conditions : tuple of str
        What every conditioner sees besides its own channels, a selection of ``CONDITIONS`` in
        their order: the brain "mask", the "previous" (next lower) slice, the target's "mean"
        volume at the slice, and the level of "noise". None in the published architecture.
    noise_range : tuple of float
        Lowest and highest standard deviation (target units) of the Gaussian noise of the training
        images; of use with the condition "noise" only.
    slice_shape : tuple of int
        Sides (x, y) of an axial slice of the grid.
    slices : int
        Axial slices of the grid.
    voxel_size : tuple of float
        Millimetres.
    origin : tuple of float
        World coordinates (RAS, millimetres) of the centre of voxel (0, 0, 0).
    space : str
        BIDS name of the template space the grid lies in.

    Raises
    ------
    ModelError
        If a value is out of range.
    """

    levels: int = 3
    steps: int = 4
    hidden_channels: int = 32
    blocks: int = 2
    bins: int = 8
    tail_bound: float = 3.0
    bits: int = 8
    batch_norm: bool = False
    conditions: tuple = ()
    noise_range: tuple = (0.004, 0.05)
    slice_shape: tuple = (160, 192)
    slices: int = 160
    voxel_size: tuple = (1.0, 1.0, 1.0)
    origin: tuple = (-80.0, -113.0, -72.0)
    space: str = "MNI152NLin2009aSym"

    def __post_init__(self):
        for name, lowest in _MINIMA.items():
            if not _is_integer(getattr(self, name)) or getattr(self, name) < lowest:
                raise ModelError(_out_of_range(self, name, f"an integer of {lowest} or more"))
        if self.levels > 6:
            raise ModelError(_out_of_range(self, "levels", "at most 6"))
        if self.bins > 64:
            raise ModelError(_out_of_range(self, "bins", "at most 64"))
        if self.bits > 14:
            raise ModelError(_out_of_range(self, "bits", "at most 14"))
        if not _is_number(self.tail_bound) or self.tail_bound <= 0:
            raise ModelError(_out_of_range(self, "tail_bound", "a positive number"))
        if not isinstance(self.batch_norm, bool):
            raise ModelError(_out_of_range(self, "batch_norm", "true or false"))
        if not isinstance(self.space, str) or not self.space.isalnum():
            raise ModelError(_out_of_range(self, "space", "a BIDS label of letters and digits"))
        self._check_conditions()
        self._check_grid()

    def _check_conditions(self):
        given = _as_tuple(self.conditions)
        if given != tuple(c for c in CONDITIONS if c in given) or not isinstance(
            self.conditions, (list, tuple)
        ):
            raise ModelError(
                _out_of_range(self, "conditions", f"some of {', '.join(CONDITIONS)}, in this order")
            )
        ends = _as_tuple(self.noise_range)
        if len(ends) != 2 or not all(_is_number(v) for v in ends) or not 0 < ends[0] < ends[1]:
            raise ModelError(_out_of_range(self, "noise_range", "two growing positive numbers"))
        object.__setattr__(self, "conditions", given)
        object.__setattr__(self, "noise_range", tuple(float(v) for v in ends))

    def _check_grid(self):
        sides = _as_tuple(self.slice_shape)
        if len(sides) != 2 or not all(_is_integer(n) and n > 0 for n in sides):
            raise ModelError(_out_of_range(self, "slice_shape", "two positive integers"))
        if not _is_integer(self.slices) or self.slices < 1:
            raise ModelError(_out_of_range(self, "slices", "a positive integer"))
        if max(*sides, self.slices) > MOST_VOXELS_ALONG:
            raise ModelError(
                f"The model's Config has a grid of {(*sides, self.slices)} voxels: no side may "
                f"have more than {MOST_VOXELS_ALONG}."
            )
        if any(n % self.side_multiple for n in sides):
            raise ModelError(
                _out_of_range(self, "slice_shape", f"two multiples of {self.side_multiple}")
            )
        for name in ("voxel_size", "origin"):
            values = _as_tuple(getattr(self, name))
            if len(values) != 3 or not all(_is_number(v) for v in values):
                raise ModelError(_out_of_range(self, name, "three finite numbers"))
        if min(self.voxel_size) <= 0:
            raise ModelError(_out_of_range(self, "voxel_size", "three positive numbers"))
        object.__setattr__(self, "slice_shape", tuple(int(n) for n in sides))
        object.__setattr__(self, "voxel_size", tuple(float(v) for v in self.voxel_size))
        object.__setattr__(self, "origin", tuple(float(v) for v in self.origin))

    @property
    def shape(self):
        """Shape (x, y, z) of the grid."""
        return (*self.slice_shape, self.slices)

    @property
    def affine(self):
        """Voxel-to-world matrix of the grid, RAS, 4 x 4 float64, millimetres."""
        affine = np.diag([*self.voxel_size, 1.0])
        affine[:3, 3] = self.origin
        return affine

    @property
    def side_multiple(self):
        """The sides of a slice given to the flow must be multiples of this."""
        return 2**self.levels

    @property
    def context_channels(self):
        """Channels of context that a level's conditioners see; the same at every level."""
        images = sum(condition != "noise" for condition in self.conditions)
        return 4 * images + ("noise" in self.conditions)

    def noise_code(self, sigma):
        """Value of the context's "noise" map for a standard deviation in target units.

        Linear in log sigma, from -1 to 1 between the two ends of ``noise_range``.
        """
        low, high = self.noise_range
        return 2 * math.log(sigma / low) / math.log(high / low) - 1

    def to_dict(self):
        """Plain dictionary (lists for tuples), ready for JSON."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values):
        """Build a configuration from :meth:`to_dict`'s output.

        Raises
        ------
        ModelError
            If ``values`` is no dictionary, or a field is unknown or out of range.
        """
        if not isinstance(values, dict):
            raise ModelError("The model's Config must be a table of names and values.")
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ModelError(
                f"Unknown field in the model's Config: {', '.join(unknown)}. "
                "The model may need a newer version of bh-bids."
            )
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def _as_tuple(value):
    return tuple(value) if isinstance(value, (list, tuple)) else ()


def _is_integer(value):
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _out_of_range(config, name, expected):
    return f"The model's Config has {name}={getattr(config, name)!r}: it must be {expected}."
