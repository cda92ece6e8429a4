"""N4 bias field correction, estimated at low resolution and applied at full resolution.

Source: Tustison et al., N4ITK: improved N3 bias correction, IEEE TMI 29 (2010).
"""

import ants
import numpy as np

from .ants_images import deterministic, downsampled_grid, resample, to_ants

ESTIMATION_SPACING = 2.0
"""mm; the field is smooth, so estimating it here and applying it at full resolution costs a tenth
of the time of N4 at 1 mm."""


def n4_bias_field(volume, affine, mask, *, iterations=(50, 50, 30, 20), spline_spacing=180.0):
    """Multiplicative bias field of a volume.

    Parameters
    ----------
    volume : numpy.ndarray, shape (x, y, z)
        Non-negative intensities, RAS axes.
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
    """
    shape, grid = downsampled_grid(volume.shape, affine, ESTIMATION_SPACING)
    small = np.maximum(resample(volume, affine, shape, grid), 0)
    small_mask = resample(mask, affine, shape, grid) > 0.5
    with deterministic():
        field = ants.n4_bias_field_correction(
            to_ants(small, grid),
            mask=to_ants(small_mask, grid),
            shrink_factor=2,
            convergence={"iters": list(iterations), "tol": 1e-7},
            spline_param=float(spline_spacing),
            return_bias_field=True,
        ).numpy()
    log_field = np.log(np.clip(field, 1e-3, 1e3))
    log_field -= log_field[small_mask].mean()
    return np.exp(_extend(log_field, grid, volume.shape, affine))


def _extend(log_field, grid, shape, affine):
    """Resample a log field; where the coarse grid does not reach, its border value holds on."""
    padded = np.pad(log_field, 2, mode="edge")
    shifted = grid.copy()
    shifted[:3, 3] -= grid[:3, :3] @ np.full(3, 2.0)
    return resample(padded, shifted, shape, affine)
