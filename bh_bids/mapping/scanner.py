"""The scanner prior: how a scan's contrast is divided between the scanner and the participant.

The quantiles of a scan tell what there is to explain, and not by whom. But scanners and
participants do not deviate alike. What a scanner makes of intensities bends slowly over all of
them: a gain, a power, a gain of each tissue. Participants deviate as the training scans do among
each other, in few ways and by little: ventricles large or small, a cortex bright or dark. Let s, t
and u be the quantiles of the scan, those that the target would have shown, and those that are
expected. The map h that undoes the scanner, and the participant's deviation d, obey

    log t = h(log s) = log u + d,    hence    log u - log s = (h(log s) - log s) - d.

With Gaussian priors of both this is one linear regression. It goes by the scan's intensities
brought to the expected's mean and spread, so that a gain and a power of the scan change nothing.
"""

import numpy as np

from .intensity import SHARES, TAIL

# Prior standard deviations of what undoes a scanner, on log-intensities: a gain; a power; its bend;
# a gain of each tissue, with straight lines between these shares of the brain; and what is smooth
# over so many log-units.
GAIN, POWER, BEND = 10.0, 0.5, 0.2
TISSUE, TISSUES = 0.1, (0.04, 0.35, 0.85)
SMOOTH, LENGTH = 0.15, 1.0
# Standard deviation of what neither explains, log units.
NOISE = 0.006
# Of the brain's darkest and brightest voxels so many quantiles are not gone by.
DARK = 8
TOLD = slice(DARK, -TAIL)
# Target units; for logarithms.
DARKEST = 1e-3
# No participant deviates by more, log units.
LARGEST = 1.0
ROUNDING = 1e-9


def own_deviation(own, expected, spread):
    """What of a scan's deviation from the expected quantiles is the participant's own.

    Parameters
    ----------
    own : numpy.ndarray, shape (LEVELS,)
        Quantiles of the scan; neither their unit nor a power of them matters.
    expected : numpy.ndarray, shape (LEVELS,)
        Quantiles that are expected of a target scan, target units.
    spread : numpy.ndarray, shape (n, LEVELS)
        Of target scans' log-quantiles about the expected: its product with itself is their
        covariance (:func:`spread_of`).

    Returns
    -------
    numpy.ndarray, shape (LEVELS,)
        Target units: the expected quantiles and it are what the target would have shown.
    """
    usual = log_quantiles(expected)
    seen = _alike(np.log(np.maximum(own[TOLD], ROUNDING)), usual[TOLD])
    rows = np.concatenate([_scanner(seen), -spread[:, TOLD]]) / NOISE
    rest = (usual[TOLD] - seen) / NOISE
    weights = np.linalg.solve(np.eye(len(rows)) + rows @ rows.T, rows @ rest)
    deviation = np.clip(weights[-len(spread) :] @ spread, -LARGEST, LARGEST)
    return np.exp(usual + deviation) - np.exp(usual)


def log_quantiles(quantiles):
    """Logarithms of quantiles, of which the darkest are taken for :data:`DARKEST`."""
    return np.log(np.maximum(quantiles, DARKEST))


def spread_of(deviations, count):
    """Deviations in at most so many directions whose products are those of all of them.

    Parameters
    ----------
    deviations : numpy.ndarray, shape (n, LEVELS)
    count : int

    Returns
    -------
    numpy.ndarray, shape (min(n, count), LEVELS)
        Its product with itself is the mean product of the deviations (about 0, not their mean),
        as nearly as so many directions allow.
    """
    _, sizes, modes = np.linalg.svd(deviations / np.sqrt(len(deviations)), full_matrices=False)
    return sizes[:count, None] * modes[:count]


def _alike(seen, usual):
    """Log-intensities times a power and a gain: the straight line that is nearest to the usual."""
    centred = seen - seen.mean()
    power = centred @ usual / max(centred @ centred, ROUNDING)
    return usual.mean() + power * centred


def _scanner(seen):
    """What may undo a scanner, as rows of standard normal weights; shape (n, ranks)."""
    x = seen - seen.mean()
    knots = np.interp(TISSUES, SHARES[TOLD], seen)
    hats = [np.interp(seen, knots, row) for row in np.eye(len(TISSUES))]
    sizes, modes = np.linalg.eigh(np.exp(-0.5 * ((x[:, None] - x) / LENGTH) ** 2))
    kept = sizes > ROUNDING * sizes[-1]
    smooth = SMOOTH * np.sqrt(sizes[kept]) * modes[:, kept]
    straight = [GAIN * np.ones_like(x), POWER * x, BEND * x**2]
    return np.stack([*straight, *(TISSUE * np.array(hats)), *smooth.T])
