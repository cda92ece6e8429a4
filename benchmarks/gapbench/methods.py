"""The methods of the tables: from a case's source to target units."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from bh_bids.comparators.histogram import gain_match, histogram_match
from bh_bids.comparators.nyul import nyul_match
from bh_bids.comparators.ssimh import ssimh
from bh_bids.harmonization import SOLVERS, harmonize
from bh_bids.intensity import to_target_units

ORACLE_BINS = 2048

# Networks as large, and trained as long, as one would with a GPU at hand.
LARGE = {
    "features": (32, 64, 128, 256, 256, 32),
    "steps": 4000,
    "batch_size": 16,
    "learning_rate": 1e-3,
}
LARGE_GAN = {
    "features": (16, 32, 64, 64, 64, 16),
    "steps": 1500,
    "batch_size": 8,
    "learning_rate": 1e-3,
}


class IdentityFlow:
    """What is left of ``paper`` when its flow knows nothing."""

    def __call__(self, x, context=None):
        return x.flatten(1), x.new_zeros(len(x))

    def inverse(self, z, slice_shape, context=None):
        """Slices of latents."""
        return z.reshape(-1, 1, *slice_shape)

    def to(self, device):
        """The identity has no place."""
        return self


@dataclass(frozen=True)
class Method:
    """One column of the tables.

    Attributes
    ----------
    run : callable
        ``run(case, model, device, seed)`` gives a volume in target units.
    solver : str or None
        The method of ``harmonize`` it calls.
    seeded : bool
        Whether its result depends on the seed.
    slices_apart : bool
        It treats slices apart, so that it needs to see only those that are scored.
    trained_on : str or None
        Of a comparator that trains: the gap whose pairs it learns from; "own" for the very gap it
        is scored on. ``run`` then takes the fitted comparator in the model's place.
    comparator : str or None
        Its name.
    settings : dict
        Of its training, where they are not the group level's.
    """

    run: Callable
    solver: str | None = None
    seeded: bool = False
    slices_apart: bool = False
    trained_on: str | None = None
    comparator: str | None = None
    settings: dict = field(default_factory=dict)


def _trained(comparator, gap, **settings):
    return Method(
        lambda case, fitted, *_: fitted.apply(case.source, case.mask),
        trained_on=gap,
        comparator=comparator,
        settings=settings,
    )


def _to_quantiles(match):
    return lambda source, mask, model: match(source, mask, model.intensity["Quantiles"])


def _to_mean(source, mask, model):
    return ssimh(source, mask, model.mean)


class _N4:
    """N4's field of the case that was asked for last.

    The methods of a case that start with it share it, so its time is that of the first of them.
    """

    def __init__(self):
        self._source = self._field = None

    def __call__(self, case, affine):
        # N4 is a matter of anatomy's dependencies; who does not ask for it does not load them.
        from bh_bids.anatomy.bias import n4_bias_field

        if self._source is not case.source:
            self._field = n4_bias_field(case.source, affine, case.mask)
            self._source = case.source
        return self._field


_n4 = _N4()


def _match(match):
    return Method(lambda case, model, *_: match(case.source, case.mask, model))


def _after_n4(match):
    return Method(
        lambda case, model, *_: match(
            case.source / _n4(case, model.config.affine), case.mask, model
        )
    )


def _solver(name, *, identity=False, slices_apart=False, **parameters):
    def run(case, model, device, seed):
        if identity:
            model = replace(model, flow=IdentityFlow())
        result = harmonize(
            case.source, case.mask, model, method=name, device=device, seed=seed, **parameters
        )
        return result.volume / np.float32(result.target_scale)

    return Method(run, name, slices_apart=slices_apart)


def ceiling_global(case, model=None, device=None, seed=0):
    """What no map of intensities can beat: the mean of the truth at each source intensity.

    It knows the truth, so it is no method. Bins are quantiles and even steps together (the long
    tail of bright voxels needs the latter), with straight lines between their means.
    """
    source, truth = (v[case.mask].astype(np.float64) for v in (case.source, case.truth))
    edges = np.union1d(
        np.quantile(source, np.linspace(0, 1, ORACLE_BINS + 1)),
        np.linspace(source.min(), source.max(), ORACLE_BINS + 1),
    )
    which = np.searchsorted(edges, source, side="right")
    count = np.bincount(which)
    used = count > 0
    x, y = (np.bincount(which, v)[used] / count[used] for v in (source, truth))
    best = np.zeros(case.mask.shape, np.float32)
    best[case.mask] = np.interp(source, x, y)
    return best


METHODS = {
    "source": Method(lambda case, *_: to_target_units(case.source, case.mask)[0]),
    "gain": _match(_to_quantiles(gain_match)),
    "hm": _match(_to_quantiles(histogram_match)),
    "nyul": _match(_to_quantiles(nyul_match)),
    "ssimh": _match(_to_mean),
    "n4+hm": _after_n4(_to_quantiles(histogram_match)),
    "n4+nyul": _after_n4(_to_quantiles(nyul_match)),
    "n4+ssimh": _after_n4(_to_mean),
    "paper": _solver("paper", slices_apart=True),
    "paper-identity": _solver("paper", identity=True, slices_apart=True),
    "paper-gain": _solver("paper", start="gain", slices_apart=True),
    "paper-histogram": _solver("paper", start="histogram", slices_apart=True),
    "map": _solver("map"),
    "map-nobias": _solver("map", bias=False),
    "map-noresolution": _solver("map", resolution=False),
    "map-notissue": _solver("map", tissue=False),
    "map-nocontrast": _solver("map", contrast=False),
    "map-noruler": _solver("map", ruler=False),
    "map-noslopes": _solver("map", slopes=False),
    "map-nodivision": _solver("map", division=False),
    "map-histogram": _solver("map", ruler=False, division=False),
    "map-nonoise": _solver("map", noise=False),
    "map-identity-flow": _solver("map", flow="identity"),
    "map-gaussian": _solver("map", flow="gaussian"),
    "ceiling-global": Method(ceiling_global),
    "unet": _trained("unet", "own"),
    "unet-3plane": _trained("unet-3plane", "own"),
    "cyclegan": _trained("cyclegan", "own"),
    "unet-other": _trained("unet", "gamma0.7"),
    "unet-large": _trained("unet", "own", **LARGE),
    "cyclegan-large": _trained("cyclegan", "own", **LARGE_GAN),
}
# Other starts of the paper's method were compared once, and networks take minutes to train for
# each gap; both are there for who asks.
DEFAULT_METHODS = tuple(
    name
    for name, method in METHODS.items()
    if name not in ("paper-gain", "paper-histogram") and method.trained_on is None
)
OURS, REFERENCE = "map", "hm"


def available(names):
    """The methods that can run, and notes on those that cannot."""
    missing = [n for n in names if METHODS[n].solver not in (None, *SOLVERS)]
    notes = [f"Left out: {n} (there is no solver {METHODS[n].solver!r})." for n in missing]
    return [n for n in names if n not in missing], notes
