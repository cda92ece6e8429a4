"""How a brain's intensities are distributed, in all and by tissue, and how far from a target's."""

import numpy as np

from ..errors import InputError
from .tissue import TISSUES

N_QUANTILES = 257


def intensity_quantiles(volume, region, number=N_QUANTILES):
    """Evenly spaced quantiles of the intensities of a region.

    Parameters
    ----------
    volume : numpy.ndarray, shape (x, y, z)
    region : numpy.ndarray of bool, shape (x, y, z)
    number : int
        From 0 to 100 %.

    Returns
    -------
    numpy.ndarray of float64, shape (number,)

    Raises
    ------
    InputError
        If the region is empty.
    """
    values = np.asarray(volume)[np.asarray(region, dtype=bool)]
    if not values.size:
        raise InputError("The region holds no voxel: there are no intensities to describe.")
    return np.quantile(values.astype(np.float64), np.linspace(0, 1, number))


def wasserstein(quantiles, target_quantiles):
    """Wasserstein distance of two distributions that are given by their quantiles.

    Parameters
    ----------
    quantiles, target_quantiles : array_like, shape (q,)
        Evenly spaced in probability from 0 to 100 %, of the same number; see
        :func:`intensity_quantiles`.

    Returns
    -------
    float
        Mean distance that probability has to be moved, in the quantiles' unit.

    Raises
    ------
    InputError
        If their numbers differ or are below two.
    """
    from scipy.integrate import trapezoid

    a, b = (np.asarray(q, dtype=np.float64) for q in (quantiles, target_quantiles))
    if a.shape != b.shape or a.ndim != 1 or a.size < 2:
        raise InputError(
            f"Distributions are compared by equally many quantiles, not {a.shape} and {b.shape}."
        )
    return float(trapezoid(np.abs(a - b), dx=1 / (a.size - 1)))


def contrast_ratios(volume, labels):
    """Ratios of the tissues' mean intensities, and how well grey and white matter part.

    Parameters
    ----------
    volume : numpy.ndarray, shape (x, y, z)
        Any units.
    labels : numpy.ndarray of int, shape (x, y, z)
        1 CSF, 2 grey and 3 white matter.

    Returns
    -------
    dict of str to float
        "gm_wm" and "csf_wm", ratios of means; "cnr", the difference of white and grey matter's
        means over the root mean square of their standard deviations. NaN where a tissue is
        missing or the divisor is 0.
    """
    means, variances = {}, {}
    for number, tissue in enumerate(TISSUES, start=1):
        values = np.asarray(volume)[labels == number].astype(np.float64)
        means[tissue] = float(values.mean()) if values.size else np.nan
        variances[tissue] = float(values.var()) if values.size else np.nan
    spread = np.sqrt((variances["GM"] + variances["WM"]) / 2)
    white = means["WM"] or np.nan
    return {
        "gm_wm": means["GM"] / white,
        "csf_wm": means["CSF"] / white,
        "cnr": float((means["WM"] - means["GM"]) / spread) if spread > 0 else float("nan"),
    }
