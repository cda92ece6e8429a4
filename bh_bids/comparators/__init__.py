"""Methods to set beside the harmonization, all with one interface (:class:`Comparator`).

>>> import numpy as np
>>> target = np.linspace(0.1, 1, 1000).reshape(10, 10, 10)
>>> source, mask = target**2, np.ones(target.shape, dtype=bool)
>>> fitted = COMPARATORS["hm"]().fit([], [Scan(target, mask)])
>>> bool(np.abs(fitted.apply(source, mask) - target).max() < 0.02)
True

``fit_cached`` keeps what was trained, by content.
"""

from .base import Comparator, LazyScans, Scan
from .cache import fit_cached
from .cyclegan import CycleGAN
from .matching import GainMatch, HistogramMatch, NyulMatch, SpectrumSwap, WholeImageMatch
from .unet import PairedUNet, ThreePlaneUNet

COMPARATORS = {
    kind.name: kind
    for kind in (
        GainMatch,
        HistogramMatch,
        WholeImageMatch,
        NyulMatch,
        SpectrumSwap,
        PairedUNet,
        ThreePlaneUNet,
        CycleGAN,
    )
}
# Those that take seconds.
FAST = tuple(name for name, kind in COMPARATORS.items() if not kind.trains)

__all__ = ["COMPARATORS", "FAST", "Comparator", "LazyScans", "Scan", "fit_cached"]
