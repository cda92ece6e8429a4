"""Whether a stage has anything to do: how far what it found is beyond what target scans show.

What is usual is the 95th percentile of what the same stage finds on the target's own training
scans; a field's gate goes by the evidence that there is one. Each gate gives the share of the stage
that is applied, 0 to 1, and what it was decided on, for the sidecar. The contrast's gate is in
:mod:`bh_bids.harmonization.contrast`, for it weighs the ruler's word, too.
"""

import numpy as np

from ..mapping.field import WHOLE
from ..mapping.null_field import expected_field
from ..mapping.resolution import blur_size

# From so many times the usual a stage is applied, in full from so many: a blur's size, and how
# uneven the local contrast is.
BLURRED, UNEVEN = (1.5, 2.0), (2.0, 2.5)
# What target scans are taken to show at least, for few may differ by less: voxels squared, log
# units.
LEAST_BLUR, LEAST_UNEVEN = 0.05, 0.03
# From this evidence a field is divided out, in full from this: logarithms of likelihood ratios.
FIELD = (5.0, 10.0)
# Where a share of the brain is missing, anatomy feigns a field larger by so many times that share.
MISSING = 15.0
# With less of the target's mean brain than this, neither a field nor a gain by tissue is told: of
# a slab of a fifth, evidence of up to 140 was found in scans that have no field.
LITTLE = 0.4
# Noise of this level and more is taken away, target units.
NOISY = 0.012
# With more noise than this the flow is not asked of the contrast: target scans show less.
QUIET = 0.006


def field_gate(found, coverage, calibration):
    """The bias field in what was found, and the share of it that is to be divided out.

    Parameters
    ----------
    found : numpy.ndarray, shape (functions,)
        See :func:`bh_bids.mapping.field.find_field`.
    coverage : float
        Share of the brain that was scanned: what is found on whole target scans says less of a
        part of one.
    calibration : bh_bids.mapping.calibration.Calibration

    Returns
    -------
    field : numpy.ndarray of float64, shape (functions,)
        Expected, whatever its share.
    weight : float
        0 to 1.
    decision : dict
        Whether and how far it is applied, and on what evidence, for the sidecar.
    """
    larger = 1 + MISSING * (1 - coverage) if coverage < WHOLE else 1.0
    field, evidence = expected_field(found, calibration.null_covariance * larger**2)
    weight = ramp(evidence, *FIELD)
    return (
        field,
        weight,
        {
            "Applied": weight > 0,
            "Weight": round(weight, 4),
            "Evidence": round(evidence, 2),
            "UsualEvidence": FIELD[0],
        },
    )


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
        0 to 1.
    decision : dict
        Whether and how far it is applied, the figure and what is usual, for the sidecar.
    """
    size, null = float(blur_size(blur)), blur_size(calibration.null_blur)
    weight, decision = _decided("Blur", size, null, LEAST_BLUR, BLURRED)
    return weight, decision | {"BlurAlongAxes": [round(float(along), 4) for along in blur]}


def tissue_gate(size, calibration):
    """Share of a gain that goes with the tissue to be divided out.

    Parameters
    ----------
    size : float
        Unevenness of the local contrast, log units.
    calibration : bh_bids.mapping.calibration.Calibration

    Returns
    -------
    weight : float
        0 to 1.
    decision : dict
        Whether and how far it is applied, the figure and what is usual, for the sidecar.
    """
    return _decided("Unevenness", size, calibration.null_unevenness, LEAST_UNEVEN, UNEVEN)


def ramp(value, low, high):
    """0 up to ``low``, 1 from ``high``, straight between."""
    return float(np.clip((value - low) / (high - low), 0, 1))


def _decided(name, figure, null, least, factors):
    """Weight and decision on a figure, from those of target scans."""
    usual = max(float(np.quantile(null, 0.95)), least)
    weight = ramp(figure, *(usual * factor for factor in factors))
    return weight, {
        "Applied": weight > 0,
        "Weight": round(weight, 4),
        name: round(figure, 4),
        f"Usual{name}": round(usual, 4),
    }
