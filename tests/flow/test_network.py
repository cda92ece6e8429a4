"""The flow against its Jacobian, nflows' own transforms, and the definition of a density."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nflows import transforms
from nflows.nn.nets import ConvResidualNet
from nflows.utils import create_mid_split_binary_mask

from bh_bids.errors import InputError
from bh_bids.flow.config import FlowConfig
from bh_bids.flow.layers import STD_FLOOR, FlooredActNorm, InvertibleConvolution
from bh_bids.flow.network import CENTRE, TargetFlow, dequantise


def slices(shape, seed=1, n=2):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((n, 1, *shape), generator=generator, dtype=torch.float64)


def nflows_reference(config, slice_shape):
    """The same architecture from nflows' own classes alone."""
    flow = transforms.MultiscaleCompositeTransform(config.levels)
    shape = (1, *slice_shape)
    for _ in range(config.levels):
        squeeze = transforms.SqueezeTransform()
        channels, h, w = squeeze.get_output_shape(*shape)
        steps = []
        for _ in range(config.steps):
            coupling = transforms.PiecewiseRationalQuadraticCouplingTransform(
                create_mid_split_binary_mask(channels),
                lambda i, o: ConvResidualNet(
                    i, o, config.hidden_channels, num_blocks=config.blocks
                ),
                num_bins=config.bins,
                tails="linear",
                tail_bound=config.tail_bound,
            )
            convolution = transforms.OneByOneConvolution(channels)
            step = [transforms.ActNorm(channels), convolution, coupling]
            steps.append(transforms.CompositeTransform(step))
        level = [squeeze, *steps, transforms.OneByOneConvolution(channels)]
        shape = flow.add_transform(transforms.CompositeTransform(level), (channels, h, w))
    return flow.double().eval()


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_equals_nflows_with_the_same_weights(make_flow, levels):
    config = FlowConfig(levels=levels, steps=2, hidden_channels=6, blocks=2, bins=5)
    flow = make_flow(config)
    reference = nflows_reference(config, (16, 24))
    reference.load_state_dict(flow.state_dict())
    x = slices((16, 24))
    z, logabsdet = flow(x)
    expected, expected_logabsdet = reference(x - CENTRE)
    torch.testing.assert_close(z, expected, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(logabsdet, expected_logabsdet, rtol=1e-6, atol=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nflows' triangular_solve is deprecated
        returned, _ = reference.inverse(z)
    torch.testing.assert_close(flow.inverse(z, (16, 24)), returned + CENTRE, rtol=0, atol=1e-6)


@pytest.mark.parametrize("levels, batch_norm", [(1, False), (2, False), (3, True)])
def test_log_determinant_is_the_jacobians(make_flow, levels, batch_norm):
    config = FlowConfig(
        levels=levels, steps=2, hidden_channels=6, blocks=1, bins=4, batch_norm=batch_norm
    )
    flow = make_flow(config)
    x = slices((8, 8), n=1)
    jacobian = torch.autograd.functional.jacobian(lambda v: flow(v)[0][0], x).reshape(64, 64)
    expected = torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(flow(x)[1][0], expected, rtol=1e-9, atol=1e-9)


@settings(max_examples=12, deadline=None)
@given(h=st.integers(1, 5), w=st.integers(1, 5), n=st.integers(1, 3), seed=st.integers(0, 99))
def test_inverse_undoes_forward_for_any_size(make_flow_once, h, w, n, seed):
    flow = make_flow_once
    shape = (8 * h, 8 * w)
    x = slices(shape, seed, n) * 1.4 - 0.1
    z, _ = flow(x)
    assert z.shape == (n, 64 * h * w)
    torch.testing.assert_close(flow.inverse(z, shape), x, rtol=0, atol=1e-7)
    z = torch.randn(z.shape, generator=torch.Generator().manual_seed(seed), dtype=z.dtype)
    torch.testing.assert_close(flow(flow.inverse(z, shape))[0], z, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def make_flow_once(request):
    config = FlowConfig(levels=3, steps=2, hidden_channels=6, blocks=1, bins=4)
    torch.manual_seed(0)
    flow = TargetFlow(config)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return flow.double().eval()


def test_single_precision_round_trip(make_flow):
    flow = make_flow(FlowConfig(steps=2, hidden_channels=8, blocks=1), spread=0.05)
    x = slices((32, 40), n=2).float()
    flow = flow.float()
    with torch.inference_mode():
        z, _ = flow(x)
        returned = flow.inverse(z, (32, 40))
    assert (returned - x).abs().mean() < 1e-5


def test_density_integrates_to_one(make_flow):
    config = FlowConfig(levels=1, steps=2, hidden_channels=4, blocks=1, bins=4)
    flow = make_flow(config, spread=0.3)
    # Importance sampling of the 4-dimensional slice from a heavier-tailed proposal.
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn((4000, 4), generator=generator, dtype=torch.float64)
    with torch.inference_mode():
        samples = flow.inverse(latents, (2, 2)).flatten(1)
        proposal = torch.distributions.MultivariateNormal(
            samples.mean(0), 2.0 * torch.cov(samples.T)
        )
        with torch.random.fork_rng():
            torch.manual_seed(1)
            x = proposal.sample((200_000,))
        weights = (flow.log_prob(x.view(-1, 1, 2, 2)) - proposal.log_prob(x)).exp()
    error = weights.std() / math.sqrt(len(weights))
    assert error < 0.02
    assert abs(weights.mean() - 1) < 5 * error


def test_bits_per_dim_of_a_known_density():
    """Untouched 1x1 convolutions and near-identity splines leave a unit Gaussian around 0.5."""
    config = FlowConfig(levels=2, steps=1, hidden_channels=4, blocks=1, bins=4, bits=6)
    torch.manual_seed(0)
    flow = TargetFlow(config).double().eval()
    with torch.no_grad():
        for module in flow.modules():
            if hasattr(module, "final_layer"):
                module.final_layer.weight.zero_()
                module.final_layer.bias.zero_()
                # softplus(constant) + 1e-3 = 1: the splines become the identity.
                bias = module.final_layer.bias.view(-1, 3 * config.bins - 1)
                bias[:, 2 * config.bins :] = math.log(math.expm1(1 - 1e-3))
    x = slices((8, 12))
    nats = 0.5 * (x - 0.5).square().flatten(1).mean(1) + 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(flow.bits_per_dim(x), nats / math.log(2) + 6, rtol=1e-6, atol=1e-6)


def test_dequantise_stays_in_the_values_own_step():
    x = torch.tensor([0.0, 0.25, 0.9, 1.3])
    for noise in (0.0, 0.5, 0.999):
        spread = dequantise(x, 8, torch.full_like(x, noise))
        assert torch.equal((spread * 256 + 1e-4).round(), (x * 256).round())
    assert torch.equal(dequantise(torch.zeros(3), 8, torch.full((3,), 0.5)), torch.zeros(3))


@pytest.mark.parametrize("shape", [(1, 1, 12, 16), (1, 2, 16, 16), (1, 16, 16)])
def test_refuses_slices_it_cannot_squeeze(make_flow, shape):
    flow = make_flow(FlowConfig(steps=1, hidden_channels=4, blocks=1), dtype=torch.float32)
    with pytest.raises(InputError, match="multiples of 8"):
        flow(torch.zeros(shape))


def test_refuses_latents_of_another_size(make_flow):
    flow = make_flow(FlowConfig(steps=1, hidden_channels=4, blocks=1), dtype=torch.float32)
    with pytest.raises(InputError, match="do not belong"):
        flow.inverse(torch.zeros(1, 100), (16, 16))


def test_actnorm_normalises_and_survives_constant_channels():
    layer = FlooredActNorm(3).double().train()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((4, 3, 8, 8), generator=generator, dtype=torch.float64) * 5 + 2
    x[:, 1] = 0.7  # background
    y, logabsdet = layer(x)
    assert layer.initialized
    assert torch.isfinite(y).all() and torch.isfinite(logabsdet).all()
    torch.testing.assert_close(y[:, [0, 2]].mean(dim=(0, 2, 3)), torch.zeros(2).double())
    torch.testing.assert_close(
        y[:, [0, 2]].std(dim=(0, 2, 3), correction=0), torch.ones(2).double()
    )
    assert y[:, 1].abs().max() < 1e-9
    assert layer.log_scale[1].item() == pytest.approx(-math.log(STD_FLOOR))


def test_actnorm_is_initialised_once_and_remembers_it(make_flow):
    layer = FlooredActNorm(2).train()
    layer(torch.randn(2, 2, 4, 4))
    again = FlooredActNorm(2).train()
    again.load_state_dict(layer.state_dict())
    again(torch.randn(2, 2, 4, 4) * 9)
    assert torch.equal(again.log_scale, layer.log_scale)


def test_convolution_matrix_matches_numpy():
    torch.manual_seed(0)
    layer = InvertibleConvolution(6)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    matrix = layer.matrix().detach().numpy()
    _, logabsdet = np.linalg.slogdet(matrix)
    assert logabsdet == pytest.approx(float(layer.logabsdet().detach()), abs=1e-6)
    x = torch.randn(1, 6, 2, 2)
    expected = np.einsum("ij,njhw->nihw", matrix, x.numpy())
    expected += layer.bias.detach().numpy()[:, None, None]
    np.testing.assert_allclose(layer(x)[0].detach().numpy(), expected, atol=1e-5)


def conditioned(conditions, **sizes):
    return FlowConfig(
        levels=2, steps=2, hidden_channels=6, blocks=1, bins=4, conditions=conditions, **sizes
    )


def context_of(config, shape, n=1, seed=3):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand((n, len(config.conditions), *shape), generator=generator).double()
    for k, condition in enumerate(config.conditions):
        if condition == "mask":
            maps[:, k] = (maps[:, k] > 0.3).double()
        if condition == "noise":
            maps[:, k] = config.noise_code(0.02)
    return maps


ALL = ("mask", "previous", "mean", "noise")


@pytest.mark.parametrize("conditions", [("noise",), ("mask",), ("mask", "noise"), ALL])
def test_conditioned_flow_is_a_bijection_with_its_jacobian(make_flow, conditions):
    config = conditioned(conditions)
    flow = make_flow(config)
    x, context = slices((8, 8), n=1), context_of(config, (8, 8))
    z, logabsdet = flow(x, context)
    jacobian = torch.autograd.functional.jacobian(lambda v: flow(v, context)[0][0], x)
    expected = torch.linalg.slogdet(jacobian.reshape(64, 64)).logabsdet
    torch.testing.assert_close(logabsdet[0], expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(flow.inverse(z, (8, 8), context), x, rtol=0, atol=1e-8)


@pytest.mark.parametrize("condition", ALL)
def test_every_condition_reaches_the_density(make_flow, condition):
    config = conditioned(ALL)
    flow = make_flow(config)
    x, context = slices((16, 16), n=2), context_of(config, (16, 16), n=2)
    changed = context.clone()
    changed[:, ALL.index(condition)] = 1 - changed[:, ALL.index(condition)]
    assert (flow(x, context)[0] - flow(x, changed)[0]).abs().max() > 1e-3


def test_with_a_full_mask_every_position_counts(make_flow):
    config = conditioned(("mask",))
    flow = make_flow(config)
    x = slices((16, 8), n=3)
    context = torch.ones(3, 1, 16, 8, dtype=torch.float64)
    z, logabsdet = flow(x, context)
    expected = logabsdet - 0.5 * (z.square().sum(dim=1) + 128 * math.log(2 * math.pi))
    torch.testing.assert_close(flow.log_prob(x, context), expected, rtol=1e-10, atol=1e-9)
    assert flow.dimensions(x, context).tolist() == [128.0] * 3


def test_the_brains_density_is_that_of_brain_given_background(make_flow):
    """With the couplings' nets cut to 1x1, halves of the slice are independent: counting one half
    is the density of a slice of that half alone."""
    config = conditioned(("mask",), slice_shape=(32, 32))
    flow = make_flow(config)
    with torch.no_grad():
        for name, parameter in flow.named_parameters():
            if "conv_layers" in name and parameter.dim() == 4:
                parameter[:, :, [0, 0, 0, 1, 1, 2, 2, 2], [0, 1, 2, 0, 2, 0, 1, 2]] = 0
    x = slices((16, 8), n=2)
    context = torch.zeros(2, 1, 16, 8, dtype=torch.float64)
    context[:, :, :8] = 1
    half = flow.log_prob(x[:, :, :8], context[:, :, :8])
    torch.testing.assert_close(flow.log_prob(x, context), half, rtol=1e-10, atol=1e-9)
    assert flow.dimensions(x, context).tolist() == [64.0] * 2


def test_a_context_of_another_shape_is_refused(make_flow):
    flow = make_flow(conditioned(("mask", "noise")))
    x = slices((8, 8))
    with pytest.raises(InputError, match="mask, noise"):
        flow(x)
    with pytest.raises(InputError, match="takes no context"):
        make_flow(conditioned(()))(x, torch.ones(2, 1, 8, 8))


def test_noise_code_spans_its_range_in_the_logarithm():
    config = FlowConfig(conditions=("noise",), noise_range=(0.004, 0.04))
    assert config.noise_code(0.004) == pytest.approx(-1)
    assert config.noise_code(0.04) == pytest.approx(1)
    assert config.noise_code(math.sqrt(0.004 * 0.04)) == pytest.approx(0)
