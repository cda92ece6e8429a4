"""Means over participants, worst participants, and paired bootstrap intervals."""

from typing import NamedTuple

import numpy as np

RESAMPLES = 10_000


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


class Interval(NamedTuple):
    """A mean difference and its 95 % interval."""

    mean: float
    low: float
    high: float


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


def paired_difference(own, other, seed=0):
    """Mean difference over the participants of both, with its bootstrap interval.

    Parameters
    ----------
    own, other : dict of str to float
        Value per participant.
    seed : int
        Of the resampling.

    Returns
    -------
    Interval or None
        Percentiles 2.5 and 97.5 over 10,000 resamples of participants; None without any.
    """
    shared = [p for p in own if p in other]
    if not shared:
        return None
    differences = np.array([own[p] - other[p] for p in shared])
    draws = np.random.default_rng(seed).integers(0, len(shared), (RESAMPLES, len(shared)))
    means = differences[draws].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(differences.mean()), float(low), float(high))
