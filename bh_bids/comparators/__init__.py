"""Methods to set beside the harmonization, all with one interface (:class:`Comparator`).

>>> comparator = COMPARATORS["hm"]()
>>> comparator.fit([], [Scan(target, target_mask)])
>>> matched = comparator.apply(source, source_mask)

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
