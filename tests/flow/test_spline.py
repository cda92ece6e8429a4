"""The branch-free spline against nflows', its own inverse and automatic differentiation."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nflows.transforms.splines import unconstrained_rational_quadratic_spline

from bh_bids.flow.spline import rational_quadratic_spline

BOUND = 3.0


def draw(seed, bins=8, spread=2.0, shape=(2, 3, 4, 5), reach=4.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    n, c, h, w = shape
    inputs = (torch.rand(shape, generator=generator, dtype=dtype) * 2 - 1) * reach
    parameters = [
        torch.randn((n, c, k, h, w), generator=generator, dtype=dtype) * spread
        for k in (bins, bins, bins - 1)
    ]
    return inputs, parameters


def nflows_spline(inputs, parameters, inverse):
    last = [p.permute(0, 1, 3, 4, 2).contiguous() for p in parameters]
    return unconstrained_rational_quadratic_spline(
        inputs, *last, inverse=inverse, tails="linear", tail_bound=BOUND
    )


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    bins=st.integers(2, 12),
    spread=st.floats(0, 6),
    inverse=st.booleans(),
)
def test_equals_nflows(seed, bins, spread, inverse):
    inputs, parameters = draw(seed, bins, spread)
    outputs, logabsdet = rational_quadratic_spline(inputs, *parameters, BOUND, inverse=inverse)
    expected, expected_logabsdet = nflows_spline(inputs, parameters, inverse)
    torch.testing.assert_close(outputs, expected, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(logabsdet, expected_logabsdet, rtol=1e-5, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), spread=st.floats(0, 4))
def test_inverse_undoes_forward(seed, spread):
    inputs, parameters = draw(seed, spread=spread)
    outputs, forward = rational_quadratic_spline(inputs, *parameters, BOUND)
    returned, backward = rational_quadratic_spline(outputs, *parameters, BOUND, inverse=True)
    torch.testing.assert_close(returned, inputs, rtol=0, atol=1e-8)
    torch.testing.assert_close(backward, -forward, rtol=0, atol=1e-5)


@pytest.mark.parametrize("inverse", [False, True])
def test_log_determinant_is_the_derivative(inverse):
    inputs, parameters = draw(3)
    inputs.requires_grad_(True)
    outputs, logabsdet = rational_quadratic_spline(inputs, *parameters, BOUND, inverse=inverse)
    (slope,) = torch.autograd.grad(outputs.sum(), inputs)
    torch.testing.assert_close(logabsdet, slope.log(), rtol=1e-8, atol=1e-8)


def test_gradients_of_parameters_match_finite_differences():
    inputs, parameters = draw(5, bins=4, shape=(1, 1, 2, 2), reach=2.5)
    variables = (inputs, *parameters)
    for variable in variables:
        variable.requires_grad_(True)
    for inverse in (False, True):
        assert torch.autograd.gradcheck(
            lambda *v, inverse=inverse: rational_quadratic_spline(*v, BOUND, inverse=inverse),
            variables,
        )


def test_tails_are_the_identity_and_join_at_the_bound():
    inputs, parameters = draw(7, reach=50.0)
    outside = inputs.abs() > BOUND
    outputs, logabsdet = rational_quadratic_spline(inputs, *parameters, BOUND)
    assert torch.equal(outputs[outside], inputs[outside])
    assert (logabsdet[outside] == 0).all()
    for bound in (-BOUND, BOUND):
        edge = torch.full_like(inputs, bound)
        outputs, logabsdet = rational_quadratic_spline(edge, *parameters, BOUND)
        torch.testing.assert_close(outputs, edge)
        torch.testing.assert_close(logabsdet, torch.zeros_like(edge), rtol=0, atol=1e-9)


@pytest.mark.parametrize("inverse", [False, True])
def test_extreme_parameters_stay_finite_in_single_precision(inverse):
    inputs, parameters = draw(11, spread=60.0, shape=(4, 4, 16, 16), dtype=torch.float32)
    inputs.requires_grad_(True)
    for p in parameters:
        p.requires_grad_(True)
    outputs, logabsdet = rational_quadratic_spline(inputs, *parameters, BOUND, inverse=inverse)
    assert torch.isfinite(outputs).all() and torch.isfinite(logabsdet).all()
    (outputs.sum() + logabsdet.sum()).backward()
    assert all(torch.isfinite(v.grad).all() for v in (inputs, *parameters))
