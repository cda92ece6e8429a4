"""The alternation with a flow that sees mask, neighbour, mean and noise level."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bh_bids.flow.config import FlowConfig
from bh_bids.harmonization import harmonize
from bh_bids.harmonization.slices import SliceBox
from bh_bids.harmonization.starts import STARTS

CONFIG = FlowConfig(
    levels=2, steps=2, hidden_channels=6, blocks=1, bins=4, slice_shape=(32, 40), slices=12,
    conditions=("mask", "previous", "mean", "noise"),
)  # fmt: skip


@pytest.fixture
def case(tools, make_flow):
    """A model with a random conditioned flow, a scan and its mask."""
    volume, mask = tools.volume()
    flow = make_flow(CONFIG, spread=0.1, dtype=torch.float32)
    mean = np.where(mask, tools.volume(seed=2)[0], 0)
    quantiles = np.quantile(volume[mask], np.linspace(0, 1, 257))
    model = tools.model(flow.requires_grad_(False), mean, quantiles=quantiles)
    model.config = CONFIG
    return SimpleNamespace(model=model, volume=volume, mask=mask)


def slices_and_context(case, volume):
    """Occupied slices of a volume, and what their flow is told, put together by hand."""
    box = SliceBox(case.mask, CONFIG.side_multiple)
    stack, mask, mean = (
        box.extract(v.astype(np.float32)) for v in (volume, case.mask, case.model.mean)
    )
    below = np.concatenate([np.zeros_like(stack[:1]), stack[:-1]])
    # The least noise of the training: the lower end of the code.
    maps = [mask, below, mean, np.full_like(stack, -1)]
    context = torch.from_numpy(np.stack(maps, axis=1))
    return torch.from_numpy(stack)[:, None][box.occupied], context[box.occupied], box


def test_the_trace_is_the_flow_s_verdict_under_its_conditions(case):
    result = harmonize(
        case.volume, case.mask, case.model, method="paper", start="histogram", iterations=2,
        tolerance=0, batch_slices=5, device="cpu",
    )  # fmt: skip
    start = STARTS["histogram"](result.scaled_source, case.mask, case.model)
    for record, volume in (
        (result.trace[0], start), (result.trace[-1], result.volume / result.target_scale),
    ):  # fmt: skip
        x, context, _ = slices_and_context(case, volume)
        with torch.no_grad():
            bits = case.model.flow.bits_per_dim(x, context)
            z, _ = case.model.flow(x, context)
        assert record["bits_per_dim"] == pytest.approx(float(bits.mean()), rel=1e-4)
        assert record["latent"] == pytest.approx(float(z.square().mean()), rel=1e-4)


def test_the_latent_step_goes_and_returns_under_the_same_conditions(case):
    """With next to no image step the result is f^-1(0.9 f(x | c) | c)."""
    result = harmonize(
        case.volume, case.mask, case.model, method="paper", start="histogram", iterations=1,
        shrink=0.1, step=1e-9, edge_weight=0.0, tolerance=0, device="cpu",
    )  # fmt: skip
    start = STARTS["histogram"](result.scaled_source, case.mask, case.model)
    x, context, box = slices_and_context(case, start)
    with torch.no_grad():
        z, _ = case.model.flow(x, context)
        moved = case.model.flow.inverse(0.9 * z, box.slice_shape, context)
    expected = box.insert(moved[:, 0].clamp_min(0).numpy())[case.mask]
    found = result.volume[case.mask] / result.target_scale
    assert np.abs(found - expected).max() < 2e-4
    assert np.abs(found - start[case.mask]).max() > 0.02
    assert math.isfinite(result.trace[-1]["objective"])
