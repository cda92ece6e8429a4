"""The calibrated objective: its constants in closed form, its gradient, and its stationarity."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

SHAPE, SPREAD = (32, 40, 16), 0.4
CPU = torch.device("cpu")


@pytest.fixture
def objective(monkeypatch):
    """The script as a module, its noise off."""
    import calibrated_objective

    monkeypatch.setattr(calibrated_objective, "SIGMA", 1e-9)
    return calibrated_objective


@pytest.fixture
def knots(objective, bench):
    volume, mask = bench.brain(0)
    return np.quantile(volume[mask], objective.SHARES)


@pytest.fixture
def view(objective, bench, knots):
    """Maker of a participant's slices as a Gaussian of apart voxels sees them, of mean 0.6."""
    config = SimpleNamespace(
        conditions=("mask", "noise"), side_multiple=4, noise_range=(0.004, 0.05),
        noise_code=lambda sigma: 0.0,
    )  # fmt: skip

    def log_prob(x, context):
        return -(context[:, :1] * (x - 0.6) ** 2).sum(dim=(1, 2, 3)) / (2 * SPREAD**2)

    def make(seed, power=1.0):
        volume, mask = bench.brain(seed)
        flow = SimpleNamespace(config=config, log_prob=log_prob)
        mean = np.zeros(SHAPE, np.float32)
        return objective.View(flow, mean, volume**power, mask, knots, 5, CPU)

    return make


def test_the_weight_is_the_spread_that_is_over_the_one_believed_in(objective, view, bench):
    """Of a Gaussian: the mean square distance from its mean and the brain's, by its variance."""
    moments, expected = [], []
    for seed in range(4):
        moments.append(view(seed).moments())
        volume, mask = bench.brain(seed)
        used = np.flatnonzero(mask.any(axis=(0, 1)))
        middle = len(used) // 4, 3 * len(used) // 4
        asked = used[np.unique(np.linspace(*middle, 5).round().astype(int))]
        x = volume[:, :, asked][mask[:, :, asked]].astype(float)
        expected.append(np.mean((x - x.mean()) * (x - 0.6)) / SPREAD**2)
    found = objective.calibrate(moments)
    assert found.weight == pytest.approx(np.mean(expected), rel=1e-4)


def test_target_scans_ask_for_no_change_on_average_and_one_of_another_contrast_does(
    objective, view
):
    views = [view(seed) for seed in range(4)]
    constants = objective.calibrate([v.moments() for v in views])

    def slopes(one):
        logs = torch.zeros(objective.KNOTS, requires_grad=True)
        value = one.objective(logs, constants.weight, constants.potential)
        return torch.autograd.grad(value, logs)[0].numpy()

    each = np.array([slopes(v) for v in views])
    np.testing.assert_allclose(each.mean(axis=0), 0, atol=1e-4)
    assert np.abs(each).max() > 1e-3
    assert np.abs(slopes(view(0, power=1.5))).max() > 2 * np.abs(each).max()


def test_its_gradient_is_its_finite_difference(objective, view):
    one = view(1)
    constants = objective.calibrate([view(seed).moments() for seed in range(4)])
    rng = np.random.default_rng(0)
    start = torch.from_numpy(0.1 * rng.standard_normal(objective.KNOTS)).float()
    logs = start.clone().requires_grad_(True)

    def value(at):
        return one.objective(at, constants.weight, constants.potential)

    (slopes,) = torch.autograd.grad(value(logs), logs)
    step = 0.02
    for k in range(objective.KNOTS):
        off = torch.zeros(objective.KNOTS)
        off[k] = step
        difference = float(value(start + off) - value(start - off)) / (2 * step)
        assert float(slopes[k]) == pytest.approx(difference, rel=0.02, abs=2e-4)


def test_the_ascent_climbs(objective, view):
    one = view(2, power=0.7)
    constants = objective.calibrate([view(seed).moments() for seed in range(4)])
    logs = one.ascend(constants.weight, constants.potential, 20)
    with torch.no_grad():
        before, after = (
            float(one.objective(at, constants.weight, constants.potential))
            for at in (torch.zeros(objective.KNOTS), logs)
        )
    assert after > before


def test_the_potential_is_the_integral_of_what_is_straight_between_knots(objective, knots):
    knots = torch.from_numpy(knots)
    slopes = torch.from_numpy(np.random.default_rng(1).normal(size=objective.KNOTS))
    values = torch.linspace(0, 1.5, 40, dtype=torch.float64)
    found = objective.integral(values, knots, slopes)
    fine = np.linspace(0, 1.5, 200_001)
    height = np.interp(fine, knots, slopes)
    summed = np.r_[0, np.cumsum((height[1:] + height[:-1]) / 2 * np.diff(fine))]
    np.testing.assert_allclose(found, np.interp(values, fine, summed), atol=1e-6)
    weights = objective.hats(values, knots)
    np.testing.assert_allclose(weights @ slopes, np.interp(values, knots, slopes), atol=1e-12)
    places = objective.slope_shares(values, knots)
    expected = np.histogram(values, np.r_[-1, knots[:-1], 9])[0] / len(values)
    np.testing.assert_allclose(places, expected)


def test_the_command_prints_a_row_for_each_participant(
    objective, bench, monkeypatch, capsys, tmp_path
):
    """Of a flow that is told mask and noise."""
    from dataclasses import replace

    from gapbench import participants

    import bh_bids
    from bh_bids.flow.network import TargetFlow

    model = bh_bids.load_model(str(bench.model))
    config = replace(model.config, conditions=("mask", "noise"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        flow = TargetFlow(config).eval()
    told = replace(model, flow=flow)
    monkeypatch.setattr(bh_bids, "load_model", lambda name: told)
    objective.main([str(bench.derivatives), "--slices", "2", "--steps", "2", "--device", "cpu"])
    printed = capsys.readouterr().out
    assert all(f"| {label} (tune) |" in printed for label in ("01", "02", "03"))
    assert "(test)" not in printed and "less the match" in printed
    # Of whom it is measured on, nothing is learned: the known ones are all there is to learn from.
    arguments = ["--split", "test", "--participants", "04", "--slices", "2", "--steps", "1"]
    monkeypatch.setattr(objective, "calibrate", learn := Recorder(objective.calibrate))
    monkeypatch.setattr(participants, "OPENINGS", tmp_path / "openings.jsonl")
    objective.main([str(bench.derivatives), *arguments, "--device", "cpu"])
    assert [len(seen) for seen in learn.seen] == [3, 3]
    assert '"calibrated-objective"' in (tmp_path / "openings.jsonl").read_text()


class Recorder:
    """A function that keeps what it was called with."""

    def __init__(self, function):
        self.function, self.seen = function, []

    def __call__(self, given):
        self.seen.append(given)
        return self.function(given)
