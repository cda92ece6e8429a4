"""Eq. 1's terms: values against formulae, gradients against finite differences."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bh_bids.harmonization.distance import Correlation, EdgeTerm

SIZES = st.integers(0, 10_000)


def random_case(seed, shape=(4, 6, 5)):
    rng = np.random.default_rng(seed)
    mask = torch.from_numpy(rng.random(shape) < 0.8)
    mask[0, 0, :3] = True
    volumes = [torch.from_numpy(rng.random(shape)) for _ in range(3)]
    return [v * mask for v in volumes], mask


@settings(max_examples=30, deadline=None)
@given(seed=SIZES)
def test_correlation_is_pearsons(seed):
    (source, x, _), mask = random_case(seed)
    value, power = Correlation(source, mask)(x)
    a, b = source[mask].numpy(), x[mask].numpy()
    assert value == pytest.approx(np.corrcoef(a, b)[0, 1], abs=1e-12)
    assert power == pytest.approx(b.size * b.var())


@settings(max_examples=30, deadline=None)
@given(seed=SIZES, gain=st.floats(0.1, 10), shift=st.floats(-3, 3))
def test_correlation_ignores_gain_and_level(seed, gain, shift):
    (source, x, _), mask = random_case(seed)
    plain = Correlation(source, mask)(x)[0]
    assert Correlation(source, mask)(gain * x + shift)[0] == pytest.approx(plain, abs=1e-9)
    assert Correlation(gain * source + shift, mask)(x)[0] == pytest.approx(plain, abs=1e-9)
    assert Correlation(source, mask)(-x)[0] == pytest.approx(-plain, abs=1e-9)


def test_correlation_ignores_what_lies_outside_the_mask():
    (source, x, other), mask = random_case(3)
    correlation = Correlation(source, mask)
    assert correlation(torch.where(mask, x, other + 7)) == correlation(x)
    assert (correlation.gradient(x)[~mask] == 0).all()


@settings(max_examples=30, deadline=None)
@given(seed=SIZES)
def test_correlation_gradient_is_exact(seed):
    (source, x, along), mask = random_case(seed)
    correlation, h = Correlation(source, mask), 1e-6
    slope = (correlation(x + h * along)[0] - correlation(x - h * along)[0]) / (2 * h)
    scaled = float((correlation.gradient(x) * along).sum())
    assert scaled == pytest.approx(-slope * correlation(x)[1], rel=1e-4, abs=1e-6)


def test_correlation_of_a_constant_volume_is_zero_and_flat():
    (source, x, _), mask = random_case(0)
    correlation = Correlation(source, mask)
    assert correlation(torch.ones_like(x) * mask) == (0.0, 0.0)
    assert (correlation.gradient(torch.ones_like(x) * mask) == 0).all()


@settings(max_examples=30, deadline=None)
@given(seed=SIZES, step=st.floats(1e-3, 1.95))
def test_descent_turns_by_the_gradient_and_keeps_level_and_contrast(seed, step):
    (source, x, _), mask = random_case(seed)
    correlation = Correlation(source, mask)
    found, plain = correlation.descend(x, step), x - step * correlation.gradient(x)
    assert correlation(found)[0] == pytest.approx(correlation(plain)[0], abs=1e-9)
    assert correlation(found)[1] == pytest.approx(correlation(x)[1], rel=1e-9)
    assert float(found[mask].mean()) == pytest.approx(float(x[mask].mean()), abs=1e-9)
    assert torch.equal(found[~mask], x[~mask])


@settings(max_examples=30, deadline=None)
@given(seed=SIZES, step=st.floats(0.05, 1.95))
def test_image_steps_below_two_always_raise_the_correlation(seed, step):
    (source, x, _), mask = random_case(seed)
    correlation = Correlation(source, mask)
    before = correlation(x)[0]
    for _ in range(200):
        x = correlation.descend(x, step)
        now = correlation(x)[0]
        assert now >= before - 1e-9
        before = now
    assert now == pytest.approx(1, abs=1e-3 if step < 0.2 else 1e-4)


@settings(max_examples=30, deadline=None)
@given(seed=SIZES)
def test_edge_gradient_is_exact(seed):
    (source, x, along), mask = random_case(seed)
    term, h = EdgeTerm(source, mask, percentile=60, delta=0.01), 1e-6
    slope = (term(x + h * along) - term(x - h * along)) / (2 * h)
    assert float((term.gradient(x) * along).sum()) == pytest.approx(slope, rel=1e-4, abs=1e-5)


def test_edge_term_is_the_l1_norm_of_the_quiet_differences():
    (source, x, _), mask = random_case(1)
    term = EdgeTerm(source, mask, percentile=30, delta=1e-9)
    total, pairs = 0.0, 0
    for axis in range(3):
        both = (
            (mask.numpy()[tuple(slice(0, -1) if a == axis else slice(None) for a in range(3))])
            & (mask.numpy()[tuple(slice(1, None) if a == axis else slice(None) for a in range(3))])
        )
        steps = np.abs(np.diff(source.numpy(), axis=axis))
        quiet = both & (steps <= np.quantile(steps[both], 0.3, method="inverted_cdf"))
        total += np.abs(np.diff(x.numpy(), axis=axis))[quiet].sum()
        pairs += quiet.sum()
    assert term(x) == pytest.approx(total, rel=1e-6)
    assert abs(term.pairs - pairs) <= 3  # the k-th value at a rounded rank


def test_edge_mask_lives_although_most_of_the_volume_is_background():
    """The published percentile, taken with the background, is 0 here and masks everything."""
    rng = np.random.default_rng(0)
    mask = torch.zeros(12, 40, 40, dtype=torch.bool)
    mask[2:8, 10:25, 10:25] = True
    source = torch.from_numpy(rng.random(mask.shape)) * mask
    assert np.percentile(np.abs(np.diff(source.numpy(), axis=1)), 30) == 0
    brain_pairs = 3 * int(mask.sum())
    assert 0.2 * brain_pairs < EdgeTerm(source, mask, 30).pairs < 0.35 * brain_pairs


def test_edge_pairs_across_the_brains_border_do_not_count():
    mask = torch.zeros(4, 6, 6, dtype=torch.bool)
    mask[1:3, 2:4, 2:4] = True
    source = torch.where(mask, 0.7, 0.0)
    term = EdgeTerm(source, mask, 100)
    assert term.pairs == 12
    assert term(source) == 0


def test_descent_on_the_edge_term_settles():
    """The smoothing that goes with a step keeps plain descent from rattling."""
    from bh_bids.harmonization.paper import PaperParameters

    parameters = PaperParameters(step=1.0, edge_weight=0.01)
    (source, x, _), mask = random_case(5)
    term = EdgeTerm(source, mask, 100, delta=parameters.smoothing)
    values = []
    for _ in range(300):
        values.append(term(x))
        x = x - parameters.step * parameters.edge_weight * term.gradient(x)
    assert (np.diff(values) <= 1e-9).all()
    assert values[-1] < 0.1 * values[0]
