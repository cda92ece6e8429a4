"""A mapping of intensities and places, free of any grid."""

from dataclasses import dataclass

import numpy as np

from .field import log_field
from .intensity import IntensityMap, linear_map


@dataclass(frozen=True)
class Mapping:
    """What was done to a scan but for what only an image can say: ``T(s / (field gain))``.

    Attributes
    ----------
    intensity_map : IntensityMap
        Target units (the brain's 99th percentile is 1) to target units.
    coefficients : numpy.ndarray or None
        Of the log-field (:func:`bh_bids.mapping.field.log_field`); None where there is none.
    shape : tuple of int
        Of the model's grid, on which the field is defined.
    tissue_gain : numpy.ndarray of float32 or None
        Log-gain that goes with a voxel's surroundings (:func:`bh_bids.mapping.tissue.tissue_gain`)
        on that grid; None where there is none.
    """

    intensity_map: IntensityMap
    coefficients: np.ndarray | None
    shape: tuple
    tissue_gain: np.ndarray | None = None

    def log_field(self):
        """Log-field on the model's grid, the tissue's gain included, float32; None for none."""
        if self.coefficients is None:
            return self.tissue_gain
        field = log_field(self.coefficients, self.shape)
        return field if self.tissue_gain is None else field + self.tissue_gain

    def __call__(self, values, field=None):
        """Map values, target units; ``field`` is the log-field at them, None for none."""
        values = np.asarray(values, dtype=np.float32)
        return self.intensity_map(values if field is None else values * np.exp(-field))

    def to_dict(self):
        """Plain dictionary, ready for JSON; the tissue's gain, a volume, is not in it."""
        return {
            "Input": self.intensity_map.knots_in.tolist(),
            "Output": self.intensity_map.knots_out.tolist(),
            "Ceiling": self.intensity_map.ceiling,
            "Field": None if self.coefficients is None else list(map(float, self.coefficients)),
            "Shape": list(self.shape),
        }

    @classmethod
    def from_dict(cls, values, tissue_gain=None):
        """A mapping from :meth:`to_dict`'s output and, where there is one, the tissue's gain."""
        field, knots = values["Field"], (np.asarray(values[name]) for name in ("Input", "Output"))
        return cls(
            IntensityMap(*knots, values["Ceiling"]),
            None if field is None else np.asarray(field),
            tuple(values["Shape"]),
            tissue_gain,
        )


def straight_mapping(source, harmonized, mask):
    """The mapping nearest to a method that has none of its own: a straight line, no field.

    Parameters
    ----------
    source, harmonized : numpy.ndarray, shape (x, y, z)
        Target units.
    mask : numpy.ndarray of bool, shape (x, y, z)

    Returns
    -------
    Mapping
    """
    gain, offset = linear_map(source[mask], harmonized[mask])
    knots = np.array([0.0, 1.0])
    return Mapping(IntensityMap(knots, gain * knots + offset), None, source.shape)
