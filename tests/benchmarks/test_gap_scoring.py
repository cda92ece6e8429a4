"""Methods and scores of the benchmark against closed forms."""

import time
from types import SimpleNamespace

import numpy as np
import pytest

from bh_bids.evaluation.similarity import psnr
from bh_bids.flow.model import load_model
from bh_bids.simulation.cases import Case, make_case


def case_of(bench, gap="gamma0.7", seed=0):
    return make_case(gap, *bench.brain(3), seed=seed)


def test_the_global_ceiling_is_the_conditional_mean(bench):
    """Four source levels: the ceiling is the truth's mean at each of them."""
    rng = np.random.default_rng(0)
    mask = rng.random((20, 20, 20)) < 0.8
    source = np.where(mask, rng.integers(1, 5, mask.shape), 0).astype(np.float32)
    truth = np.where(mask, np.sin(source) + 0.1 * rng.standard_normal(mask.shape), 0)
    from gapbench.methods import ceiling_global

    best = ceiling_global(Case(truth.astype(np.float32), source, mask))
    for level in range(1, 5):
        at = mask & (source == level)
        assert np.allclose(best[at], truth[at].mean(), atol=1e-5)
    assert not best[~mask].any()


def test_the_global_ceiling_undoes_any_monotone_map_and_no_bias(bench):
    from gapbench.methods import ceiling_global

    monotone, local = case_of(bench), case_of(bench, "bias25")
    assert psnr(monotone.truth, ceiling_global(monotone), monotone.mask) > 55
    reached = psnr(local.truth, ceiling_global(local), local.mask)
    assert psnr(local.truth, local.source, local.mask) < reached < 35


def test_each_method_gives_target_units_inside_the_brain(bench):
    from gapbench.methods import METHODS, available

    model = load_model(bench.model)
    case = case_of(bench)
    names, notes = available(["source", "gain", "hm", "nyul", "ssimh", "paper-identity"])
    assert not notes
    for name in names:
        made = METHODS[name].run(case, model, "cpu", 0)
        assert made.shape == case.mask.shape and not made[~case.mask].any(), name
        assert 0.8 < np.percentile(made[case.mask], 99) < 1.3, name


def test_n4_removes_a_bias_before_the_match():
    pytest.importorskip("ants")
    from gapbench.methods import METHODS

    shape = (16, 20, 12)
    rng = np.random.default_rng(0)
    flat = (0.6 + 0.02 * rng.standard_normal(shape)).astype(np.float32)
    field = np.exp(np.linspace(-0.3, 0.3, shape[0], dtype=np.float32))[:, None, None]
    case = Case(flat, flat * field, np.ones(shape, bool))
    model = SimpleNamespace(
        config=SimpleNamespace(affine=np.diag([8.0, 8.0, 8.0, 1.0])),
        intensity={"Quantiles": np.quantile(flat, np.linspace(0, 1, 257))},
    )
    left = {}
    for name in ("hm", "n4+hm"):
        made = METHODS[name].run(case, model, "cpu", 0)
        left[name] = np.ptp(made.mean(axis=(1, 2)))
    assert left["n4+hm"] < 0.3 * left["hm"]


def test_the_methods_of_a_case_share_its_n4_field(bench, monkeypatch):
    bias = pytest.importorskip("bh_bids.anatomy.bias", reason="antspyx is missing")
    from gapbench.methods import METHODS

    model = load_model(bench.model)
    cases = [case_of(bench, gap) for gap in ("bias25", "tissue")]
    slopes = iter((0.3, -0.2))
    fields = []

    def estimate(source, affine, mask):
        slope = next(slopes)
        fields.append(np.exp(np.linspace(-slope, slope, len(source)))[:, None, None])
        return fields[-1]

    monkeypatch.setattr(bias, "n4_bias_field", estimate)
    for k, case in enumerate(cases):
        for name in ("hm", "nyul", "ssimh"):
            made = METHODS[f"n4+{name}"].run(case, model, "cpu", 0)
            corrected = case._replace(source=case.source / fields[k])
            assert np.array_equal(made, METHODS[name].run(corrected, model, "cpu", 0)), name


def test_methods_that_treat_slices_apart_see_the_scored_ones_only():
    from gapbench.methods import Method
    from gapbench.scoring import run_method

    seen = []

    def look(case, model, device, seed):
        seen.append(np.flatnonzero(case.mask.any(axis=(0, 1))).tolist())
        return case.source

    full = np.ones((4, 4, 9), bool)
    case = Case(full.astype(np.float32), full.astype(np.float32), full)
    for apart in (True, False):
        run_method(Method(look, slices_apart=apart), case, None, "cpu", 0, 4)
    assert seen == [[0, 4, 8], list(range(9))]


def test_peak_memory_is_that_of_the_method_alone():
    from gapbench.methods import Method
    from gapbench.scoring import run_method

    full = np.ones((2, 2, 2), bool)
    case = Case(full, full, full)

    def hungry(*_):
        return np.ones(50_000_000).sum()

    large, small = (
        run_method(Method(run), case, None, "cpu", 0, 1)[1]["memory"]
        for run in (hungry, lambda *_: 0)
    )
    if large is None:
        pytest.skip("this kernel does not let a process forget its peak")
    assert large - small == pytest.approx(4e8, rel=0.2)


def test_time_waited_is_not_time_worked():
    from gapbench.methods import Method
    from gapbench.scoring import run_method

    full = np.ones((2, 2, 2), bool)
    waits = Method(lambda *_: time.sleep(0.2))
    costs = run_method(waits, Case(full, full, full), None, "cpu", 0, 1)[1]
    assert costs["seconds"] >= 0.2 and costs["cpu_seconds"] < 0.1


@pytest.mark.parametrize("step", [1, 3])
def test_scores_are_those_of_the_scored_slices(bench, step):
    from gapbench.scoring import MOST_DECIBELS, Scorer

    case = case_of(bench, "lesion")
    scorer = Scorer(case, step)
    perfect = scorer.score(case.truth)
    assert perfect["psnr"] == MOST_DECIBELS and perfect["ssim"] == pytest.approx(1)
    assert perfect["lesion_kept"] == pytest.approx(1)
    assert perfect["contrast_error"] == perfect["wm_change"] == perfect["stripes"] == 0
    # What lies on other slices does not count.
    scored = np.zeros(case.mask.shape[2], bool)
    scored[::step] = True
    assert scorer.score(np.where(scored, case.truth, 7)) == perfect
    worse = scorer.score(case.truth + 0.1)
    assert worse["psnr"] == pytest.approx(20, abs=1e-3)
    assert scorer.score(1.05 * case.truth)["wm_change"] == pytest.approx(0.05, abs=1e-5)
    assert Scorer(case_of(bench), step).score(case.truth)["lesion_kept"] is None
