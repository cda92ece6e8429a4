"""The comparators that train nothing: matches to the target's histogram or to a reference scan."""

from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from .base import Comparator, check_fitted
from .histogram import gain_match, histogram_match
from .nyul import nyul_match
from .ssimh import ssimh

N_QUANTILES = 257
# The background is most of an image: as many more quantiles leave the brain as many as above.
N_QUANTILES_WHOLE = 2049


@dataclass(eq=False)
class QuantileMatch(Comparator):
    """A match to the pooled quantiles of the target's scans.

    It can be made without scans from those a model remembers:
    ``HistogramMatch().restore({"quantiles": model.intensity["Quantiles"]})``.
    """

    def __post_init__(self):
        self._quantiles = None

    def _fit(self, sources, targets, *, seed, device, report):
        self._quantiles = pooled_quantiles(scan.volume[scan.mask] for scan in targets)

    def apply(self, volume, mask):
        """See :meth:`Comparator.apply`."""
        check_fitted(self, self._quantiles)
        return self._match(volume, mask, self._quantiles)

    def state(self):
        """See :meth:`Comparator.state`."""
        check_fitted(self, self._quantiles)
        return {"quantiles": self._quantiles}

    def restore(self, state):
        """See :meth:`Comparator.restore`."""
        self._quantiles = np.asarray(_only(self, state, "quantiles"), dtype=np.float64)
        return self


class GainMatch(QuantileMatch):
    """One gain: the ablation of every method that does more."""

    name, title = "gain", "Gain-matched source"
    _match = staticmethod(gain_match)


class HistogramMatch(QuantileMatch):
    """Histogram match inside the brain."""

    name, title = "hm", "Histogram match, brain"
    _match = staticmethod(histogram_match)


class NyulMatch(QuantileMatch):
    """Nyul's landmarks."""

    name, title = "nyul", "Nyul's landmarks"
    _match = staticmethod(nyul_match)


class WholeImageMatch(QuantileMatch):
    """Histogram match of the whole image, background and all, as BlindHarmony compares itself to.

    The background's share decides which intensities correspond: a brain that is larger than the
    target's is darkened. It is here to be compared with, not to be used.
    """

    name, title = "hm-whole", "Histogram match, whole image"

    def _fit(self, sources, targets, *, seed, device, report):
        whole = (np.where(scan.mask, scan.volume, 0).ravel() for scan in targets)
        self._quantiles = pooled_quantiles(whole, N_QUANTILES_WHOLE)

    @staticmethod
    def _match(volume, mask, quantiles):
        everything = np.ones(np.shape(mask), dtype=bool)
        matched = histogram_match(np.where(mask, volume, 0), everything, quantiles)
        return np.where(mask, matched, np.float32(0))


@dataclass(eq=False)
class SpectrumSwap(Comparator):
    """SSIMH: the lowest frequencies of every slice are a reference's.

    Parameters
    ----------
    reference : str
        "mean" for the mean of the target's scans, else the label of the participant whose target
        scan is the reference. The choice decides the result.
    """

    name, title = "ssimh", "SSIMH"
    reference: str = "mean"

    def __post_init__(self):
        self._reference = None

    def _fit(self, sources, targets, *, seed, device, report):
        if self.reference == "mean":
            total = sum(np.where(s.mask, s.volume, 0).astype(np.float64) for s in targets)
            self._reference = (total / len(targets)).astype(np.float32)
            return
        for scan in targets:
            if scan.participant == self.reference:
                self._reference = np.where(scan.mask, scan.volume, np.float32(0))
                return
        raise InputError(
            f"SSIMH's reference, participant {self.reference!r}, has no scan of the target: name "
            "one that has, or use 'mean'."
        )

    def apply(self, volume, mask):
        """See :meth:`Comparator.apply`."""
        check_fitted(self, self._reference)
        return ssimh(volume, mask, self._reference)

    def state(self):
        """See :meth:`Comparator.state`."""
        check_fitted(self, self._reference)
        return {"reference": self._reference}

    def restore(self, state):
        """See :meth:`Comparator.restore`."""
        self._reference = np.asarray(_only(self, state, "reference"), dtype=np.float32)
        return self


def pooled_quantiles(parts, number=N_QUANTILES):
    """Quantiles of all values together, a part in memory at a time.

    Parameters
    ----------
    parts : iterable of numpy.ndarray, shape (n,)
        Target units. Counted in steps of 2^-14 from 0 to 4, as for the models.
    number : int
        Quantiles, evenly spaced from 0 to 100 %.

    Returns
    -------
    numpy.ndarray of float64, shape (number,)
    """
    from ..flow import domain
    from ..flow.slices import LARGEST, STEP

    counts = 0
    for values in parts:
        levels = np.clip(np.rint(values / STEP), 0, LARGEST).astype(np.int64)
        counts = counts + np.bincount(levels, minlength=LARGEST + 1)
    return np.asarray(domain.pooled_quantiles(counts, number))


def _only(comparator, state, key):
    if set(state) != {key}:
        raise InputError(f"This is no state of {comparator.title}: it must hold {key!r} alone.")
    return state[key]
