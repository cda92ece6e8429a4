"""How much memory each step takes."""

from functools import lru_cache

TYPICAL_MEGAVOXELS = 11.5
"""Of a scan whose header cannot be read: a head at 1 mm, 256 x 256 x 176."""

STEP_GB = {
    "conform": (0.10, 0.009),
    "brain_mask": (0.45, 0.030),
    "native_mask": (0.11, 0.008),
    "bias_field": (0.31, 0.011),
    "register": (0.39, 0.009),
    "resample": (0.32, 0.013),
    "within_template": (0.40, 0.0165),
    "from_template": (0.25, 0.020),
    "checks": (0.42, 0.013),
    "native_grid": (0.52, 0.018),
    "metrics": (0.24, 0.0),
    "plot_brain": (0.15, 0.014),
    "plot_registration": (0.29, 0.0),
    "plot_harmonization": (0.66, 0.0),
    "sidecar_preproc": (0.27, 0.0),
    "sink": (0.10, 0.0),
}
"""GiB of a step's process, libraries included: of an empty scan, and for each million voxels.

From runs with ``--low-mem --resource-monitor``, read by ``benchmarks/resources.py``, on scans of
5.9 and 15 million voxels; ``within_template`` and ``from_template`` on two of 12.5 million, so that
their first number is a guess. docs/hpc.md has the record.
"""


def step_gb(step, scan, scans=1):
    """Memory that a step of a scan takes.

    Parameters
    ----------
    step : str
        A key of :data:`STEP_GB`.
    scan : bh_bids.dataset.Scan
    scans : int
        How many of its size the step holds at once.

    Returns
    -------
    float
        GiB.
    """
    least, per_million = STEP_GB[step]
    return round(least + scans * per_million * _megavoxels(scan.path), 2)


@lru_cache(maxsize=1024)
def _megavoxels(path):
    import nibabel as nib

    from .anatomy.images import UNREADABLE

    try:
        x, y, z = (max(0, side) for side in nib.load(path).shape[:3])
    except UNREADABLE:
        return TYPICAL_MEGAVOXELS
    return min(x * y * z / 1e6, 1024.0)
