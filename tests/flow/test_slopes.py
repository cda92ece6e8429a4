"""What a flow asks of the contrast: a closed form, finite differences, and what it ignores."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bh_bids.flow import slopes as module
from bh_bids.flow.config import FlowConfig
from bh_bids.flow.engine import FlowEngine
from bh_bids.flow.slopes import KNOTS, SHARES, ContrastSlopes, ramps

SHAPE = (32, 40, 16)
QUANTILES = np.linspace(0, 1.2, 257)


def brain(seed=0):
    """Values that grow with the rank, as after a match, in an ellipsoid."""
    rng = np.random.default_rng(seed)
    mask = sum(a**2 for a in np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij"))
    mask = mask < 0.9
    return np.where(mask, rng.uniform(0.05, 1.2, SHAPE), 0).astype(np.float32), mask


@pytest.fixture(scope="module")
def engine(make_flow):
    config = FlowConfig(
        levels=2, steps=2, hidden_channels=8, blocks=1, bins=4, slice_shape=SHAPE[:2],
        slices=SHAPE[2], conditions=("mask", "previous", "noise"),
    )  # fmt: skip
    return FlowEngine.from_flow(make_flow(config, spread=0.1), tf32=False)


def gaussian(spread):
    """A density under which each voxel is apart, of mean 0.5."""

    def log_prob(x, context):
        inside = context[:, :1]
        return -(inside * (x - 0.5) ** 2).sum(dim=(1, 2, 3)) / (2 * spread**2)

    config = SimpleNamespace(
        conditions=("mask", "noise"), side_multiple=4, noise_range=(0.004, 0.05),
        noise_code=lambda sigma: 0.0,
    )  # fmt: skip
    return SimpleNamespace(
        config=config, device=torch.device("cpu"), dtype=torch.float64, log_prob=log_prob
    )


def test_of_a_gaussian_they_are_known(monkeypatch):
    monkeypatch.setattr(module, "SIGMA", 1e-12)
    volume, mask = brain()
    mean = np.where(mask, 0.5, 0)
    slopes = ContrastSlopes(gaussian(0.3), mean, QUANTILES)
    found = slopes(volume, mask)
    asked = slice(4, 12)  # the middle half of slices 1 to 14
    inside = mask[:, :, asked]
    values = volume[:, :, asked][inside].astype(np.float64)
    edges = np.r_[0, np.interp(SHARES, np.linspace(0, 1, 257), QUANTILES)[:-1], np.inf]
    # What lies between two knots goes with the slope there.
    parts = [np.clip(values, a, b) - a for a, b in zip(edges, edges[1:], strict=False)]
    expected = np.array([-((values - 0.5) * part).sum() for part in parts])
    np.testing.assert_allclose(found, expected / expected.sum(), rtol=1e-6)
    # As shares, a surer density asks for the same.
    again = ContrastSlopes(gaussian(0.1), mean, QUANTILES)(volume, mask)
    np.testing.assert_allclose(again, found, rtol=1e-6)


def test_they_are_the_densitys_finite_differences(engine):
    volume, mask = brain(1)
    slopes = ContrastSlopes(engine, np.where(mask, 0.6, 0), QUANTILES)
    z, step = 8, 1e-4
    found = slopes._of_slice(volume, mask, z)
    for k in range(KNOTS):
        logs = torch.zeros(2, KNOTS, dtype=torch.float64)
        logs[0, k], logs[1, k] = step, -step
        up, down = (float(slopes._density(volume, mask, z, row)) for row in logs)
        assert found[k] == pytest.approx((up - down) / (2 * step), rel=1e-3, abs=1e-3)


def test_the_map_is_straight_between_knots_and_the_identity_at_slopes_of_one():
    knots = torch.linspace(0.1, 1.0, KNOTS, dtype=torch.float64)
    values = torch.linspace(0, 1.5, 301, dtype=torch.float64)
    parts = ramps(values, knots)
    np.testing.assert_allclose(parts.sum(dim=-1), values, atol=1e-12)
    rates = torch.arange(1.0, KNOTS + 1, dtype=torch.float64)
    edges = np.r_[0, knots[:-1], 2.0]
    levels = np.r_[0, np.cumsum(np.diff(edges) * rates.numpy())]
    np.testing.assert_allclose(parts @ rates, np.interp(values, edges, levels), atol=1e-12)


def test_neither_threads_nor_what_lies_outside_the_mask_matter(engine):
    volume, mask = brain(2)
    slopes = ContrastSlopes(engine, np.where(mask, 0.6, 0), QUANTILES)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = slopes(volume, mask)
        torch.set_num_threads(2)
        np.testing.assert_array_equal(slopes(volume, mask), alone)
    finally:
        torch.set_num_threads(threads)
    assert np.isfinite(alone).all() and alone.sum() == pytest.approx(1)
    np.testing.assert_array_equal(slopes(np.where(mask, volume, 0.7), mask), alone)


def test_what_cannot_be_told_is_not_a_number(engine):
    volume, mask = brain(3)
    slopes = ContrastSlopes(engine, np.where(mask, 0.6, 0), QUANTILES)
    end = mask.copy()
    end[:, :, 2:] = False
    assert np.isnan(slopes(volume, end)).all()
    # A density that asks for more contrast, not less, is none of a target's.
    flow = gaussian(0.3)
    rising = SimpleNamespace(
        config=flow.config, device=flow.device, dtype=flow.dtype,
        log_prob=lambda x, context: -flow.log_prob(x, context),
    )  # fmt: skip
    assert np.isnan(ContrastSlopes(rising, np.where(mask, 0.5, 0), QUANTILES)(volume, mask)).all()


def test_it_can_be_asked_where_no_gradients_are_kept(engine):
    volume, mask = brain(4)
    slopes = ContrastSlopes(engine, np.where(mask, 0.6, 0), QUANTILES)
    usual = slopes(volume, mask)
    with torch.inference_mode():
        within = ContrastSlopes(engine, np.where(mask, 0.6, 0), QUANTILES, batch_slices=1)
        np.testing.assert_array_equal(within(volume, mask), usual)


def test_which_flows_can_be_asked():
    config = FlowConfig(conditions=("mask", "noise"))
    assert ContrastSlopes.known_to(config)
    for low, high in ((0.004, 0.016), (0.03, 0.05)):
        # Never trained at the noise that is added.
        assert not ContrastSlopes.known_to(replace(config, noise_range=(low, high)))
    for conditions in ((), ("mask",), ("noise",), ("mask", "previous", "mean")):
        assert not ContrastSlopes.known_to(FlowConfig(conditions=conditions))
