"""N4 bias field correction, estimated at low resolution and applied at full resolution.

Source: Tustison et al., N4ITK: improved N3 bias correction, IEEE TMI 29 (2010).
"""

import ants
import numpy as np

from ..errors import InputError
from .ants_images import deterministic, to_ants
from .resampling import box_affine, content_box, downsample, extend

ESTIMATION_SPACING = 4.0
"""mm; the field is smooth, so estimating it here and applying it at full resolution costs a small
part of the time of N4 at 1 mm."""
NO_NEGATIVE = (
    "give the scan in its original, non-negative intensities, or add a constant to it, so that "
    "none is negative."
)
"""What to do about intensities that were shifted."""


def n4_bias_field(volume, affine, mask, *, iterations=(50, 50, 50), spline_spacing=180.0):
    """Multiplicative bias field of a volume.

    Parameters
    ----------
    volume : numpy.ndarray, shape (x, y, z)
        RAS axes; negative intensities count as 0.
    affine : numpy.ndarray, shape (4, 4)
    mask : numpy.ndarray of bool, shape (x, y, z)
        Where the field is estimated.
    iterations : sequence of int
        N4 iterations per level.
    spline_spacing : float
        Distance of the B-spline mesh's knots in mm.

    Returns
    -------
    numpy.ndarray of float32, shape (x, y, z)
        The field, with geometric mean 1 inside the mask, so that the volume keeps its scale.

    Raises
    ------
    InputError
        If nothing of the mask is left at the low resolution.
    """
    box = content_box(mask, margin=2)
    if box is None:
        raise _nothing_left()
    grid = box_affine(affine, box)
    small, coarse = downsample(np.maximum(volume[box], 0), grid, ESTIMATION_SPACING)
    small_mask = downsample(mask[box], grid, ESTIMATION_SPACING)[0] > 0.5
    if not small_mask.any():
        raise _nothing_left()
    with deterministic():
        field = ants.n4_bias_field_correction(
            to_ants(small, coarse),
            mask=to_ants(small_mask, coarse),
            shrink_factor=1,
            convergence={"iters": list(iterations), "tol": 1e-4},
            spline_param=float(spline_spacing),
            return_bias_field=True,
        ).numpy()
    log_field = np.log(np.clip(field, 1e-3, 1e3))
    log_field -= log_field[small_mask].mean()
    return np.exp(extend(log_field, coarse, volume.shape, affine))


def _nothing_left():
    return InputError(
        f"At {ESTIMATION_SPACING:g} mm nothing is left to estimate the bias field from: check the "
        "scan's brain mask, and its lesion mask if it has one."
    )


def rough_correction(volume, affine):
    """A scan without the strongest of its bias field, before its brain is known.

    Parameters
    ----------
    volume : numpy.ndarray, shape (x, y, z)
        Whole head or brain, RAS axes.
    affine : numpy.ndarray, shape (4, 4)

    Returns
    -------
    numpy.ndarray of float32, shape (x, y, z)

    Raises
    ------
    InputError
        If no intensity is positive.
    """
    inside = volume > max(0.5 * downsample(volume, affine, 4.0)[0].mean(), 0)
    if not inside.any():
        raise InputError(f"No intensity of the scan is positive: they look shifted; {NO_NEGATIVE}")
    return volume / n4_bias_field(volume, affine, inside, iterations=(20, 20))
