"""Whether a stage has anything to do: how far what it found is beyond what target scans show.

What is usual is the 95th percentile of what the same stage finds on the target's own training
scans. Each gate gives the share of the stage that is applied, 0 to 1, and what it was decided on,
for the sidecar. The contrast's gate is in :mod:`bh_bids.harmonization.contrast`, for it weighs the
ruler's word, too.
"""

import numpy as np

from ..mapping.field import WHOLE
from ..mapping.resolution import blur_size

# From so many times the usual a stage is applied, in full from so many: a field's spread, a blur's
# size, and how uneven the local contrast is.
FIELD, BLURRED, UNEVEN = (1.3, 1.8), (1.5, 2.0), (2.0, 2.5)
# What target scans are taken to show at least, for few may differ by less: log units, voxels
# squared, log units.
LEAST_FIELD, LEAST_BLUR, LEAST_UNEVEN = 0.010, 0.05, 0.03
# What is added to a field's limits where all of the brain is missing, in proportion.
MISSING = 0.12
# Noise of this level and more is taken away, target units.
NOISY = 0.012


def field_gate(spread, coverage, calibration):
    """Share of a bias field to be divided out.

    Parameters
    ----------
    spread : float
        Of the field found, logarithms.
    coverage : float
        Share of the brain that was scanned: what is found on whole target scans says less of a
        part of one.
    calibration : bh_bids.mapping.calibration.Calibration

    Returns
    -------
    weight : float
    decision : dict
    """
    usual = max(_usual(calibration.null_spread), LEAST_FIELD)
    missing = MISSING * (1 - coverage) if coverage < WHOLE else 0.0
    limits = (limit + missing for limit in _times(usual, FIELD))
    return _decided(spread, usual + missing, limits, "Spread")


def blur_gate(blur, calibration):
    """Share of a blur to be undone.

    Parameters
    ----------
    blur : numpy.ndarray, shape (3,)
        Along each axis, voxels squared; negative where the scan is sharper than usual.
    calibration : bh_bids.mapping.calibration.Calibration

    Returns
    -------
    weight : float
    decision : dict
    """
    usual = max(_usual(blur_size(calibration.null_blur)), LEAST_BLUR)
    weight, decision = _decided(float(blur_size(blur)), usual, _times(usual, BLURRED), "Blur")
    return weight, decision | {"BlurAlongAxes": [round(float(along), 4) for along in blur]}


def tissue_gate(size, calibration):
    """Share of a gain that goes with the tissue to be divided out.

    Parameters
    ----------
    size : float
        Unevenness of the local contrast.
    calibration : bh_bids.mapping.calibration.Calibration

    Returns
    -------
    weight : float
    decision : dict
    """
    usual = max(_usual(calibration.null_unevenness), LEAST_UNEVEN)
    return _decided(size, usual, _times(usual, UNEVEN), "Unevenness")


def ramp(value, low, high):
    """0 up to ``low``, 1 from ``high``, straight between."""
    return float(np.clip((value - low) / (high - low), 0, 1))


def _usual(null):
    return float(np.quantile(null, 0.95))


def _times(usual, factors):
    return tuple(usual * factor for factor in factors)


def _decided(figure, usual, limits, name):
    weight = ramp(figure, *limits)
    return weight, {
        "Applied": weight > 0,
        "Weight": round(weight, 4),
        name: round(figure, 4),
        f"Usual{name}": round(usual, 4),
    }
