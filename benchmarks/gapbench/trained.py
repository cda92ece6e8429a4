"""Networks trained on simulated gaps, on other participants than those they are scored on."""

from functools import lru_cache, partial

from bh_bids import load_model
from bh_bids.comparators import COMPARATORS, LazyScans, Scan, fit_cached
from bh_bids.errors import BHError, InputError
from bh_bids.intensity import to_target_units

from .methods import METHODS
from .participants import find_scans

# Seeds of the training pairs' gaps start here: no scored case has one of them.
FIRST_SEED = 1000


@lru_cache(maxsize=1)
def trainees(setting):
    """Every second participant of the split "tune", for all gaps and methods."""
    if setting.derivatives is None:
        raise InputError("networks are trained on target scans with simulated gaps only.")
    return find_scans(setting.derivatives, load_model(setting.model), ("tune",))[::2]


@lru_cache(maxsize=4)
def fitted(name, gap, setting):
    """The comparator of a method, trained on a gap or taken from the folder of networks.

    Raises
    ------
    InputError
        If there is nothing to train on or no folder to keep networks in.
    """
    if setting.networks is None:
        raise InputError("networks need --output, where they are kept.")
    method = METHODS[name]
    gap = gap if method.trained_on == "own" else method.trained_on
    numbered = list(enumerate(trainees(setting), start=FIRST_SEED))
    sources, targets = (
        LazyScans(partial(_scan, scan, gap, seed, part) for seed, scan in numbered)
        for part in ("source", "truth")
    )
    return fit_cached(
        COMPARATORS[method.comparator](**method.settings),
        sources,
        targets,
        setting.networks,
        device=setting.device,
        report=lambda sentence: print(f"Gap {gap}: {sentence}", flush=True),
    )


# Read several times for each network, and gaps take seconds to make: both parts of all trainees.
@lru_cache(maxsize=32)
def _scan(scan, gap, seed, part):
    case = scan.case(gap, seed)
    volume, _ = to_target_units(getattr(case, part), case.mask)
    return Scan(volume, case.mask, scan.participant)


def train_all(units, setting):
    """Train what units need before processes share the work; what cannot be says so later."""
    for name, gap in dict.fromkeys((m, u.gap) for u in units for m in u.methods):
        if METHODS[name].trained_on is not None:
            try:
                fitted(name, gap, setting)
            except BHError:
                continue
    _scan.cache_clear()


def fitted_for(name, unit, setting):
    """The comparator of a method for a unit; refused for a participant it was trained on."""
    if unit.scan.participant in {scan.participant for scan in trainees(setting)}:
        raise InputError("it was trained on this participant.")
    return fitted(name, unit.gap, setting)
