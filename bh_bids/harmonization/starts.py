"""Where a solver starts: the first guess of the harmonized volume, in target units."""

import numpy as np

from ..comparators.histogram import gain_match, histogram_match
from ..errors import InputError, ModelError

# Target units; where the mean volume exceeds this, participants have brain.
COMMON_BRAIN = 0.05


def mean_start(source, mask, model):
    """The target domain's mean volume with an individual's level and contrast.

    An average of participants has less contrast than each of them, and a centred correlation
    never gives it back. So the mean volume is brought, inside the brain, to the mean and the
    standard deviation of the target domain's pooled quantiles.
    """
    start = np.where(mask, model.mean, 0).astype(np.float64)
    if not (mask & (model.mean > COMMON_BRAIN)).any():
        raise InputError(
            "The brain mask does not meet the model's mean volume: the scan is not registered "
            f"to the model's space {model.space}."
        )
    level, contrast = start[mask].mean(), start[mask].std()
    quantiles = target_quantiles(model)
    grades = (quantiles[1:] + quantiles[:-1]) / 2
    # The last grade ends at the brightest voxel of all scans: a vessel, not the brain's contrast.
    grades[-1] = quantiles[-2]
    start[mask] = grades.mean() + (start[mask] - level) * grades.std() / max(contrast, 1e-6)
    return start.astype(np.float32)


def gain_start(source, mask, model):
    """The source times the gain that best brings its quantiles to the target's."""
    return gain_match(source, mask, target_quantiles(model))


def histogram_start(source, mask, model):
    """The source with its brain's histogram matched to the target's."""
    return histogram_match(source, mask, target_quantiles(model))


STARTS = {"mean": mean_start, "gain": gain_start, "histogram": histogram_start}


def target_quantiles(model):
    """The model's pooled brain quantiles from 0 to 100 %, target units.

    Raises
    ------
    ModelError
        If the model has none.
    """
    quantiles = model.intensity.get("Quantiles")
    if not quantiles:
        raise ModelError(
            f"The model '{model.name}' has no Intensity.Quantiles in its model.json: "
            "train it again with this version."
        )
    return np.asarray(quantiles, dtype=np.float64)
