"""Means over participants and worst participants of the benchmark's metrics."""

from typing import NamedTuple

import numpy as np


class Metric(NamedTuple):
    """How a metric is told.

    Attributes
    ----------
    name, title : str
    digits : int
    factor : float
        From the record's unit to the table's.
    more_is_better : bool
    absolute : bool
        Signs cancel in a mean: sizes are averaged.
    """

    name: str
    title: str
    digits: int
    factor: float = 1.0
    more_is_better: bool = True
    absolute: bool = False


METRICS = (
    Metric("psnr", "PSNR in dB", 1),
    Metric("ssim", "SSIM", 3),
    Metric("contrast_error", "Tissue contrast error: |GM/WM - truth's|, in percent", 1, 100, False),
    Metric("local_ncc", "Local correlation (9 x 9 x 9 voxels)", 3),
    Metric("stripes", "Stripes: steps of the gain between slices, in percent", 2, 100, False),
    Metric("wm_change", "Change of white matter's mean (size), in percent", 2, 100, False, True),
    Metric("lesion_kept", "Lesion contrast kept, in percent", 0, 100),
)


def by_participant(records, gap, method, metric):
    """Mean over seeds of each participant's metric; participants without a value are left out."""
    values = {}
    for r in records:
        if r["gap"] == gap and r["method"] == method and r[metric.name] is not None:
            value = r[metric.name] * metric.factor
            values.setdefault(r["participant"], []).append(abs(value) if metric.absolute else value)
    return {p: float(np.mean(v)) for p, v in sorted(values.items())}


def worst(values, metric):
    """The least favourable of some values; of a share that should be 100 %, the farthest."""
    values = np.asarray(list(values))
    if metric.name == "lesion_kept":
        return float(values[np.argmax(np.abs(values - 100))])
    return float(values.min() if metric.more_is_better else values.max())
