"""The latent half of the alternation against the flow's own methods, slice by slice."""

import threading
from functools import partial

import numpy as np
import pytest
import torch

from bh_bids.errors import InputError
from bh_bids.flow.config import FlowConfig
from bh_bids.flow.context import slice_context
from bh_bids.flow.engine import FlowEngine
from bh_bids.harmonization.latent import LatentStep

ALL = ("mask", "previous", "mean", "noise")


@pytest.fixture
def random_flow(make_flow):
    """Small; of the conditions given."""
    few = {"levels": 2, "steps": 2, "hidden_channels": 6, "blocks": 1, "bins": 4}
    return lambda conditions=(): make_flow(FlowConfig(**few, conditions=conditions), spread=0.1)


@pytest.fixture
def stack(tools):
    """Slices of a brain, their mask, and another brain for a mean."""
    volumes = (tools.volume(seed=1)[0], tools.volume()[1], tools.volume(seed=2)[0])
    return [torch.from_numpy(v[..., 2:10].astype(float)).permute(2, 0, 1) for v in volumes]


def test_measures_and_shrinks_as_the_flow_does(stack, random_flow):
    x, _, _ = stack
    flow, occupied, before = random_flow(), [0, 2, 3, 7], x.clone()
    step = LatentStep(flow, occupied, bits=flow.config.bits, batch_slices=3)
    report = step(x)
    assert torch.equal(x, before)
    kept = step.shrink(x, 0.1)
    with torch.no_grad():
        slices = before[occupied][:, None]
        z, _ = flow(slices)
        expected = flow.inverse(0.9 * z, x.shape[1:])
        bits = flow.bits_per_dim(slices)
    torch.testing.assert_close(x[occupied], expected[:, 0], rtol=0, atol=1e-9)
    assert torch.equal(x[[1, 4, 5, 6]], before[[1, 4, 5, 6]])
    assert kept == []
    assert report.square == pytest.approx(float(z.square().sum()), rel=1e-9)
    assert report.latent == pytest.approx(float(z.square().mean()), rel=1e-9)
    assert report.bits_per_dim == pytest.approx(float(bits.mean()), rel=1e-9)


def test_each_thread_takes_slices_of_its_own(stack, set_threads, random_flow):
    """As many at once as before, none shared by two threads, and the same values."""
    given, flow, batches = stack[0], random_flow(), []

    def context(stack, positions):
        batches.append((threading.get_ident(), torch.get_num_threads(), positions))

    found = []
    for threads in (1, 2):
        set_threads(threads)
        x = given.clone()
        step = LatentStep(flow, range(8), flow.config.bits, 4, context)
        found.append((step(x), step.shrink(x, 0.1), x))
    (one, *same), (two, *expected) = found
    assert one.bits_per_dim == pytest.approx(two.bits_per_dim, rel=1e-12)
    assert same[0] == expected[0] and torch.allclose(same[1], expected[1], rtol=0, atol=1e-12)
    assert [part for *_, part in batches[:2]] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert sorted(part for *_, part in batches[2:]) == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert {count for _, count, _ in batches[2:]} == {1}
    assert threading.get_ident() not in {thread for thread, *_ in batches[2:]}


def test_an_engine_serves_as_its_flow(stack, random_flow):
    x, _, _ = stack
    flow = random_flow()
    found, expected = x.clone(), x.clone()
    for given, stack in ((FlowEngine.from_flow(flow), found), (flow, expected)):
        step = LatentStep(given, [1, 2])
        step(stack)
        step.shrink(stack, 0.1)
    assert torch.equal(found, expected)


def test_a_conditioned_flow_is_told_of_its_slices(stack, random_flow):
    x, mask, mean = stack
    flow = random_flow(ALL)
    context = partial(slice_context, flow.config, mask=mask, mean=mean, sigma=0.01)
    occupied, before = list(range(8)), x.clone()
    given = context(before, occupied)
    code = flow.config.noise_code(0.01)
    assert given.shape == (8, 4, *x.shape[1:])
    assert torch.equal(given[:, 0], mask) and torch.equal(given[:, 2], mean)
    assert torch.equal(given[1:, 1], before[:-1]) and not given[0, 1].any()
    torch.testing.assert_close(given[:, 3], torch.full_like(x, code))
    for batch_slices in (1, 3, 8):
        x = before.clone()
        step = LatentStep(flow, occupied, flow.config.bits, batch_slices, context)
        report = step(x)
        step.shrink(x, 0.1)
        with torch.no_grad():
            z, _ = flow(before[:, None], given)
            expected = flow.inverse(0.9 * z, x.shape[1:], given)
            bits = flow.bits_per_dim(before[:, None], given)
        torch.testing.assert_close(x, expected[:, 0], rtol=0, atol=1e-9)
        assert report.bits_per_dim == pytest.approx(float(bits.mean()), rel=1e-9)


def test_context_of_a_part_of_the_stack(stack):
    x, mask, mean = stack
    config = FlowConfig(conditions=("previous", "noise"))
    given = slice_context(config, x, np.array([0, 5]), mask=mask, mean=mean)
    assert torch.equal(given[1, 0], x[4]) and not given[0, 0].any()
    torch.testing.assert_close(given[:, 1], torch.full_like(given[:, 1], -1.0))
    assert slice_context(FlowConfig(), x, [0], mask=mask, mean=mean) is None
    with pytest.raises(InputError, match="positive number"):
        slice_context(config, x, [0], mask=mask, mean=mean, sigma=0.0)


def test_a_slice_that_fails_keeps_its_values(stack, tools):
    class Fails(tools.linear):
        def inverse(self, z, slice_shape):
            x = super().inverse(z, slice_shape)
            x[1] = float("nan")
            return x

    x, _, _ = stack
    before = x.clone()
    step = LatentStep(Fails(gain=2.0), range(8), batch_slices=4)
    step(x)
    assert step.shrink(x, 0.5) == [1, 5]
    assert torch.equal(x[[1, 5]], before[[1, 5]])
    torch.testing.assert_close(x[[0, 2, 7]], 0.5 * before[[0, 2, 7]])
