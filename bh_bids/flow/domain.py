"""What a model remembers of its target domain besides the flow.

Scale, quantiles, modes and mean of its intensities, and the constants of the method "map".
"""

import numpy as np

from ..intensity import SCALE_PERCENTILE
from ..mapping.calibration import calibrate
from .engine import FlowEngine
from .slices import STEP
from .slopes import ContrastSlopes

N_QUANTILES = 257
MODE_DIGITS = 5


def describe_domain(volumes, config, release=lambda: None):
    """Intensity statistics and mean volume of the training scans.

    Parameters
    ----------
    volumes : sequence of Volume
        Training scans.
    config : FlowConfig
        Gives the grid.
    release : callable
        Called after each volume, to give its memory back.

    Returns
    -------
    intensity : dict
        ``ScalePercentile``; ``TargetScale``, the median raw intensity that is 1 in target units;
        ``Quantiles``, 257 quantiles from 0 to 100 % of all scans' brain voxels together, target
        units; ``Modes``, the median over scans of the CSF, GM and WM modes, target units.
    mean : numpy.ndarray of float32, shape ``config.shape``
        Mean volume, target units.
    """
    counts = 0
    mean = np.zeros(config.shape, np.float64)
    for volume in volumes:
        counts = counts + volume.counts()
        mean += volume.in_target_units()
        release()
    intensity = {
        "ScalePercentile": SCALE_PERCENTILE,
        "TargetScale": float(np.median([volume.scale for volume in volumes])),
        "Quantiles": pooled_quantiles(counts, N_QUANTILES),
        "Modes": {
            tissue: round(float(np.median([v.modes[tissue] for v in volumes])), MODE_DIGITS)
            for tissue in volumes[0].modes
        },
    }
    return intensity, (mean / len(volumes)).astype(np.float32)


def learn_constants(volumes, mean, intensity, flow, report, release=lambda: None):
    """Constants of the method "map".

    Parameters
    ----------
    volumes : sequence of Volume
        Scans of the target domain. Of each participant the first counts: what is learned of the
        others tells of a participant only if none of the others is the same head again.
    mean : numpy.ndarray, shape ``config.shape``
        Mean volume, target units.
    intensity : dict
        Of :func:`describe_domain`.
    flow : TargetFlow
        It is asked of the contrast, if it can be.
    report : callable
        Called with one sentence at a time.
    release : callable
        Called after each volume, to give its memory back.

    Returns
    -------
    bh_bids.mapping.calibration.Calibration
    """

    firsts = {}
    for volume in volumes:
        firsts.setdefault(volume.participant, volume)
    if len(firsts) < len(volumes):
        report(f"One scan of each of the {len(firsts)} participants is taken for the constants.")

    def scaled():
        for volume in firsts.values():
            yield volume.in_target_units()
            release()

    pooled, config, slopes = intensity.get("Quantiles"), flow.config, None
    if pooled and ContrastSlopes.known_to(config):
        engine = FlowEngine.from_flow(flow, tf32=False)
        slopes = ContrastSlopes(engine, mean, pooled)
    return calibrate(scaled, mean, config.voxel_size, report, pooled=pooled, slopes=slopes)


def pooled_quantiles(counts, number):
    """Quantiles of values given as counts at multiples of ``STEP``.

    Parameters
    ----------
    counts : numpy.ndarray of int64, shape (levels,)
    number : int
        Quantiles, evenly spaced from 0 to 100 %.

    Returns
    -------
    list of float
        Non-decreasing.
    """
    cumulated = np.cumsum(counts)
    ranks = np.linspace(0, cumulated[-1] - 1, number)
    return (np.searchsorted(cumulated, ranks, side="right") * STEP).tolist()
