"""All scans, gaps, seeds and methods: which are missing, and their measurement."""

from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from bh_bids import load_model
from bh_bids.errors import BHError
from bh_bids.simulation.cases import RANDOM_CASES

from .heads import HeadScans
from .methods import METHODS
from .participants import Scan, identity
from .records import code_state
from .scoring import Scorer, one_thread, run_method
from .trained import fitted_for, train_all


class Unit(NamedTuple):
    """Methods to run on one scan with one gap and one seed."""

    scan: Scan | HeadScans
    gap: str
    seed: int
    methods: tuple


class Setting(NamedTuple):
    """What all units of a run share.

    Networks are trained on the split "tune" of ``derivatives`` and kept in the folder
    ``networks``; without these there are none.
    """

    model: str
    device: str
    step: int
    derivatives: Path | None = None
    networks: Path | None = None


def needed_seeds(gap, method, seeds):
    """Seeds that make a difference: one is enough where nothing is drawn."""
    drawn = gap in RANDOM_CASES or METHODS[method].seeded
    return list(seeds) if drawn else list(seeds)[:1]


def record_key(model, setting, scan, gap, method, seed):
    """Key of a record, as in ``records.KEY``."""
    shared = (identity(model), setting.step, setting.device)
    return (*shared, scan.split, scan.participant, gap, method, seed)


def plan(scans, gaps, methods, seeds, model, setting):
    """Units and keys of everything that a table needs."""
    units, keys = [], []
    for scan in scans:
        for gap in gaps:
            for seed in seeds:
                asked = tuple(m for m in methods if seed in needed_seeds(gap, m, seeds))
                if asked:
                    units.append(Unit(scan, gap, seed, asked))
                    keys += [record_key(model, setting, scan, gap, m, seed) for m in asked]
    return units, keys


def missing(units, records, model, setting):
    """Units with the methods that have no record."""
    left = []
    for unit in units:
        methods = tuple(
            m
            for m in unit.methods
            if record_key(model, setting, unit.scan, unit.gap, m, unit.seed) not in records
        )
        if methods:
            left.append(unit._replace(methods=methods))
    return left


def code_states(methods):
    """State of the code that each method depends on."""
    states = {solver: code_state(solver) for solver in (True, False)}
    return {name: states[METHODS[name].solver is not None] for name in methods}


def measure(units, setting, records, states, jobs=1, tell=print):
    """Measure units; records are kept after every one."""
    train_all(units, setting)
    if jobs == 1:
        finished = (measure_unit(u, setting, states) for u in units)
        _collect(finished, len(units), records, tell)
        return
    context = get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=one_thread) as pool:
        futures = [pool.submit(measure_unit, u, setting, states) for u in units]
        try:
            _collect((f.result() for f in as_completed(futures)), len(units), records, tell)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _collect(finished, count, records, tell):
    for i, (found, problems) in enumerate(finished, start=1):
        records.add(found)
        for problem in problems:
            tell(problem)
        for r in found:
            tell(
                f"[{i}/{count}] sub-{r['participant']} {r['gap']} seed {r['seed']} {r['method']}: "
                f"{r['psnr']:.2f} dB, SSIM {r['ssim']:.4f}, {r['seconds']:.1f} s"
            )


def measure_unit(unit, setting, states):
    """Records of one unit, and sentences on what could not be measured."""
    model = _model(setting.model)
    where = f"sub-{unit.scan.participant} {unit.gap} seed {unit.seed}"
    try:
        case = unit.scan.case(unit.gap, unit.seed)
        scorer = Scorer(case, setting.step)
    except BHError as error:
        return [], [f"Not measured: {where}: {error}"]
    found, problems = [], []
    for name in unit.methods:
        method = METHODS[name]
        try:
            knows = model if method.trained_on is None else fitted_for(name, unit, setting)
            result, costs = run_method(method, case, knows, setting.device, unit.seed, setting.step)
        except BHError as error:
            problems.append(f"Not measured: {where} {name}: {error}")
            continue
        found.append(
            {
                "model": identity(model),
                "step": setting.step,
                "device": setting.device,
                "split": unit.scan.split,
                "participant": unit.scan.participant,
                "gap": unit.gap,
                "method": name,
                "seed": unit.seed,
                **scorer.score(result),
                **costs,
                "code": states[name],
            }
        )
    return found, problems


@lru_cache(maxsize=1)
def _model(name):
    return load_model(name)
