"""A mapping of intensities and places, free of any grid."""

from dataclasses import dataclass

import numpy as np

from .field import log_field
from .intensity import IntensityMap, linear_map


@dataclass(frozen=True)
class Mapping:
    """What was done to a scan but for what only an image can say: ``T(s / field)``.

    Attributes
    ----------
    intensity_map : IntensityMap
        Target units (the brain's 99th percentile is 1) to target units.
    coefficients : numpy.ndarray or None
        Of the log-field (:func:`bh_bids.mapping.field.log_field`); None where there is none.
    shape : tuple of int
        Of the model's grid, on which the field is defined.
    """

    intensity_map: IntensityMap
    coefficients: np.ndarray | None
    shape: tuple

    def log_field(self):
        """Log-field on the model's grid, float32; None where there is none."""
        if self.coefficients is None:
            return None
        return log_field(self.coefficients, self.shape)

    def __call__(self, values, field=None):
        """Map values, target units; ``field`` is the log-field at them, None for none."""
        values = np.asarray(values, dtype=np.float32)
        return self.intensity_map(values if field is None else values * np.exp(-field))

    def to_dict(self):
        """Plain dictionary, ready for JSON."""
        return {
            "Input": self.intensity_map.knots_in.tolist(),
            "Output": self.intensity_map.knots_out.tolist(),
            "Ceiling": self.intensity_map.ceiling,
            "Field": None if self.coefficients is None else list(map(float, self.coefficients)),
            "Shape": list(self.shape),
        }

    @classmethod
    def from_dict(cls, values):
        """A mapping from :meth:`to_dict`'s output."""
        field, knots = values["Field"], (np.asarray(values[name]) for name in ("Input", "Output"))
        return cls(
            IntensityMap(*knots, values["Ceiling"]),
            None if field is None else np.asarray(field),
            tuple(values["Shape"]),
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
