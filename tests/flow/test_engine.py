"""The inference engine against plain nflows and the flow it was built from."""

import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nflows import transforms
from nflows.nn.nets import ConvResidualNet
from nflows.utils import create_mid_split_binary_mask
from torch.nn import functional as F

from bh_bids.errors import InputError, ModelError
from bh_bids.flow import graphs, stages
from bh_bids.flow.config import FlowConfig
from bh_bids.flow.engine import CHUNK_VALUES, FlowEngine
from bh_bids.flow.network import CENTRE, TargetFlow

PAPER = {"levels": 4, "steps": 7, "hidden_channels": 96, "blocks": 3, "batch_norm": True}
ALL = ("mask", "previous", "mean", "noise")


def small(**sizes):
    """A configuration that takes no time."""
    few = {"levels": 2, "steps": 2, "hidden_channels": 6, "blocks": 1, "bins": 4}
    return FlowConfig(**{**few, **sizes})


def brains(n, shape, seed=0):
    """Smooth slices with a little noise in an ellipse, 0 around it; about [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((n, 1, shape[0] // 8, shape[1] // 8), generator=generator)
    smooth = F.interpolate(coarse, size=shape, mode="bicubic", align_corners=False)
    noise = torch.randn((n, 1, *shape), generator=generator)
    grid = torch.meshgrid(*[torch.linspace(-1, 1, side) for side in shape], indexing="ij")
    mask = (grid[0] ** 2 + grid[1] ** 2 < 0.8).float()
    return (0.15 + 0.8 * smooth + 0.01 * noise).clamp(0, 1) * mask


def contexts(config, n, shape, seed=3):
    """Random maps of the right kind, or None."""
    if not config.conditions:
        return None
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand((n, len(config.conditions), *shape), generator=generator)
    for k, condition in enumerate(config.conditions):
        if condition == "mask":
            maps[:, k] = (maps[:, k] > 0.3).float()
        if condition == "noise":
            maps[:, k] = config.noise_code(0.02)
    return maps


def trained_like(config, shape, seed=0):
    """A flow as training leaves one: normalised activations, splines that bend, some mixing.

    One pass over slices sets ActNorm and the running statistics of batch norm.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        flow = TargetFlow(config).train()
        with torch.no_grad():
            for module in flow.modules():
                _disturb(module, config)
            flow(brains(4, shape, seed + 1), contexts(config, 4, shape))
    return flow.eval()


def _disturb(module, config):
    kind = type(module).__name__
    if kind == "BatchNorm2d":
        module.momentum = 1.0
        module.weight.uniform_(0.5, 1.5)
        module.bias.normal_(0, 0.2)
    elif kind == "InvertibleConvolution":
        for entries in (module.lower_entries, module.upper_entries, module.bias):
            entries.normal_(0, 0.05)
        module.unconstrained_upper_diag.add_(0.1 * torch.randn_like(module.bias))
    elif kind == "ConvResidualNet":
        for block in module.blocks:
            torch.nn.init.kaiming_normal_(block.conv_layers[1].weight).mul_(0.05)
        hidden, rows = config.hidden_channels, 3 * config.bins - 1
        weight = module.final_layer.weight.normal_(0, 0.3 / math.sqrt(hidden))
        # Logits of widths and heights are divided by the root of the hidden channels.
        weight.view(-1, rows, hidden)[:, : 2 * config.bins] *= math.sqrt(hidden) / 2
        module.final_layer.bias.normal_(0, 0.3)


def plain_nflows(config, slice_shape):
    """The same architecture from nflows' own classes alone; it takes slices less 1/2."""
    flow = transforms.MultiscaleCompositeTransform(config.levels)
    shape = (1, *slice_shape)
    for _ in range(config.levels):
        squeeze = transforms.SqueezeTransform()
        channels, h, w = squeeze.get_output_shape(*shape)
        level = [squeeze]
        for _ in range(config.steps):
            coupling = transforms.PiecewiseRationalQuadraticCouplingTransform(
                create_mid_split_binary_mask(channels),
                lambda i, o: ConvResidualNet(
                    i,
                    o,
                    config.hidden_channels,
                    num_blocks=config.blocks,
                    use_batch_norm=config.batch_norm,
                ),
                num_bins=config.bins,
                tails="linear",
                tail_bound=config.tail_bound,
            )
            level += [transforms.ActNorm(channels), transforms.OneByOneConvolution(channels)]
            level[-2:] = [transforms.CompositeTransform([*level[-2:], coupling])]
        level.append(transforms.OneByOneConvolution(channels))
        shape = flow.add_transform(transforms.CompositeTransform(level), (channels, h, w))
    return flow.eval()


def nflows_inverse(reference, z):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nflows' triangular_solve is deprecated
        return reference.inverse(z)[0] + CENTRE


@pytest.mark.parametrize("winograd", [False, True])
@pytest.mark.parametrize(
    "levels, batch_norm, shape", [(1, True, (12, 8)), (3, False, (40, 24)), (3, True, (24, 56))]
)
def test_equals_plain_nflows_in_double_precision(levels, batch_norm, shape, winograd):
    config = small(levels=levels, blocks=2, bins=5, batch_norm=batch_norm)
    flow = trained_like(config, (32, 40)).double()
    reference = plain_nflows(config, shape).double()
    reference.load_state_dict(flow.state_dict())
    engine = FlowEngine.from_flow(flow, winograd=winograd)
    x = brains(3, shape).double() * 1.3 - 0.1
    with torch.inference_mode():
        expected, expected_logabsdet = reference(x - CENTRE)
        z, logabsdet = engine(x)
        torch.testing.assert_close(z, expected, rtol=0, atol=1e-9)
        torch.testing.assert_close(logabsdet, expected_logabsdet, rtol=1e-10, atol=1e-9)
        expected = nflows_inverse(reference, z)
        torch.testing.assert_close(engine.inverse(z, shape), expected, rtol=0, atol=1e-9)
        torch.testing.assert_close(engine.inverse(z, shape), x, rtol=0, atol=1e-9)


@pytest.mark.parametrize("winograd", [False, True])
@pytest.mark.parametrize("conditions", [(), ("noise",), ("mask", "noise"), ALL])
def test_equals_the_flow_it_was_built_from(conditions, winograd):
    config = small(conditions=conditions)
    flow = trained_like(config, (32, 40)).double()
    engine = FlowEngine.from_flow(flow, winograd=winograd)
    x, context = brains(3, (16, 24)).double(), contexts(config, 3, (16, 24))
    context = None if context is None else context.double()
    with torch.inference_mode():
        z, logabsdet = flow(x, context)
        for found in (engine(x, context), (engine(x, context, logabsdet=False)[0], logabsdet)):
            torch.testing.assert_close(found[0], z, rtol=0, atol=1e-10)
            torch.testing.assert_close(found[1], logabsdet, rtol=1e-11, atol=1e-9)
        assert engine(x, context, logabsdet=False)[1] is None
        returned = engine.inverse(z, (16, 24), context)
        torch.testing.assert_close(returned, flow.inverse(z, (16, 24), context), rtol=0, atol=1e-10)
        for method in ("log_prob", "bits_per_dim", "dimensions"):
            expected = getattr(flow, method)(x, context)
            found = getattr(engine, method)(x, context)
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-9)
        torch.testing.assert_close(engine.evaluate(x, context)[0], z, rtol=0, atol=1e-10)


@settings(max_examples=15, deadline=None)
@given(h=st.integers(1, 6), w=st.integers(1, 6), n=st.integers(1, 3), seed=st.integers(0, 99))
def test_inverse_undoes_forward_for_any_size(engine_of_two_levels, h, w, n, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand((n, 1, 4 * h, 4 * w), generator=generator, dtype=torch.float64) * 1.4 - 0.2
    with torch.inference_mode():
        z, _ = engine_of_two_levels(x, logabsdet=False)
        returned = engine_of_two_levels.inverse(z, (4 * h, 4 * w))
    torch.testing.assert_close(returned, x, rtol=0, atol=1e-8)


@pytest.fixture(scope="module")
def engine_of_two_levels():
    config = small(batch_norm=True)
    return FlowEngine.from_flow(trained_like(config, (32, 40)).double(), winograd=True)


def close_in_single_precision(flow, shape, slices):
    """The issue's bounds against plain nflows with the same weights, both in float32."""
    reference = plain_nflows(flow.config, shape)
    reference.load_state_dict(flow.state_dict())
    engine = FlowEngine.from_flow(flow)
    x = brains(slices, shape, seed=9)
    with torch.inference_mode():
        expected, expected_logabsdet = reference(x - CENTRE)
        z, logabsdet = engine(x)
        inverse = engine.inverse(expected, shape)
        expected_inverse = nflows_inverse(reference, expected)
        returned = engine.inverse(z, shape)
    for found, wanted in ((z, expected), (inverse, expected_inverse)):
        difference = (found - wanted).abs().flatten()
        assert difference.mean() < 5e-6
        assert difference.quantile(0.99) < 1e-4
    per_voxel = (logabsdet - expected_logabsdet).abs() / (shape[0] * shape[1])
    assert per_voxel.max() < 5e-6
    assert (returned - x).abs().mean() < 1e-5


def test_single_precision_at_the_papers_width():
    config = FlowConfig(**{**PAPER, "levels": 3, "steps": 3})
    close_in_single_precision(trained_like(config, (48, 64)), (48, 56), slices=2)


@pytest.mark.slow
def test_single_precision_at_the_papers_size():
    config = FlowConfig(**PAPER, slice_shape=(144, 176), bits=12)
    close_in_single_precision(trained_like(config, (144, 176)), (144, 176), slices=3)


def test_chunks_of_slices_do_not_change_the_result(monkeypatch):
    config = small(hidden_channels=8, conditions=ALL)
    flow = trained_like(config, (32, 40)).double()
    x, context = brains(5, (16, 24)).double(), contexts(config, 5, (16, 24)).double()
    whole = FlowEngine.from_flow(flow)
    monkeypatch.setattr("bh_bids.flow.engine.CHUNK_VALUES", 2 * 8 * 96)
    chunked = FlowEngine.from_flow(flow)
    assert CHUNK_VALUES > 5 * 8 * 96
    with torch.inference_mode():
        z, logabsdet = whole(x, context)
        found = chunked(x, context)
        torch.testing.assert_close(found[0], z, rtol=0, atol=1e-12)
        torch.testing.assert_close(found[1], logabsdet, rtol=1e-12, atol=0)
        returned = chunked.inverse(z, (16, 24), context)
        torch.testing.assert_close(returned, x, rtol=0, atol=1e-9)


def test_gradients_of_the_log_density_are_the_flows():
    config = small(conditions=ALL, batch_norm=True)
    flow = trained_like(config, (32, 40)).double()
    engine = FlowEngine.from_flow(flow, winograd=True)
    context = contexts(config, 2, (16, 24)).double()
    found, expected = (
        torch.autograd.grad(model.log_prob(x, context).sum(), x)[0]
        for model in (engine, flow)
        for x in [brains(2, (16, 24)).double().requires_grad_()]
    )
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    z = torch.randn((1, 384), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: engine.inverse(v, (16, 24), context[:1])[..., :2], z)


def test_an_engine_keeps_the_weights_it_was_built_from():
    config = small(levels=1, steps=1)
    flow = trained_like(config, (16, 16))
    x = brains(1, (16, 16))
    engine = FlowEngine.from_flow(flow)
    before = engine(x)[0]
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.1)
    assert torch.equal(engine(x)[0], before)
    assert not torch.equal(FlowEngine.from_flow(flow)(x)[0], before)


def test_same_bytes_from_the_same_slices():
    engine = FlowEngine.from_flow(trained_like(small(hidden_channels=48), (32, 40)))
    x = brains(3, (32, 40))
    with torch.inference_mode():
        first, second = (engine.inverse(engine(x)[0], (32, 40)) for _ in range(2))
    assert first.numpy().tobytes() == second.numpy().tobytes()


def test_refuses_what_does_not_fit():
    config = small(steps=1)
    flow = trained_like(config, (16, 16))
    engine = FlowEngine.from_flow(flow)
    with pytest.raises(InputError, match="multiples of 4"):
        engine(torch.zeros(1, 1, 10, 8))
    with pytest.raises(InputError, match="takes no context"):
        engine(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8))
    with pytest.raises(InputError, match="do not belong"):
        engine.inverse(torch.zeros(1, 60), (8, 8))
    state = flow.state_dict()
    with pytest.raises(ModelError, match="not those of the model's Config"):
        FlowEngine.from_state_dict(state, small(steps=2))
    del state["_transforms.0._transforms.1._transforms.0.shift"]
    with pytest.raises(ModelError, match="not those of the model's Config"):
        FlowEngine.from_state_dict(state, config)


def test_runs_on_without_a_compiler(monkeypatch, caplog):
    def no_compiler(function, **options):
        def fail(*args, **kwargs):
            raise RuntimeError("no C++ compiler\nand more")

        return fail

    monkeypatch.setattr(torch, "compile", no_compiler)
    config = small(steps=1)
    flow = trained_like(config, (16, 16)).double()
    x = brains(1, (16, 16)).double()
    with torch.inference_mode():
        found, _ = FlowEngine.from_flow(flow, compile=True)(x)
        torch.testing.assert_close(found, flow(x)[0], rtol=0, atol=1e-10)
    assert "no C++ compiler" in caplog.text and "and more" not in caplog.text


@pytest.mark.slow
def test_compiled_equals_eager():
    config = small()
    flow = trained_like(config, (32, 40)).double()
    engine = FlowEngine.from_flow(flow, compile=True)
    x = brains(2, (32, 40)).double()
    with torch.inference_mode():
        z, logabsdet = engine(x)
        expected, expected_logabsdet = flow(x)
        torch.testing.assert_close(z, expected, rtol=0, atol=1e-9)
        torch.testing.assert_close(logabsdet, expected_logabsdet, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(engine.inverse(z, (32, 40)), x, rtol=0, atol=1e-9)


def test_residual_blocks_are_nflows_own():
    """Direct convolution with folded batch norm against nflows' network, term by term."""
    config = small(levels=1, steps=1, hidden_channels=5, blocks=2, batch_norm=True)
    flow = trained_like(config, (16, 16)).double()
    engine = FlowEngine.from_flow(flow)
    net = flow._transforms[0]._transforms[1]._transforms[2].transform_net
    stream = torch.randn((2, 5, 6, 7), dtype=torch.float64)
    expected = stream
    for block in net.blocks:
        expected = block(expected)
    blocks = engine._stages[0]._conditioners[0]._blocks
    found = stages.residual_blocks(stream.permute(0, 2, 3, 1).contiguous(), blocks)
    torch.testing.assert_close(found.permute(0, 3, 1, 2), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("tf32, tolerance", [(False, 1e-4), (True, 2e-2)])
def test_cuda_equals_the_cpu_eager_and_replayed(tf32, tolerance):
    config = small(levels=3, hidden_channels=96, batch_norm=True, conditions=ALL)
    flow = trained_like(config, (48, 64))
    x, context = brains(4, (48, 64)), contexts(config, 4, (48, 64))
    with torch.inference_mode():
        expected, expected_logabsdet = FlowEngine.from_flow(flow)(x, context)
        engine = FlowEngine.from_flow(flow.cuda(), tf32=tf32)
        # The third call records a graph, the fourth replays it, with other slices before it.
        for _ in range(3):
            engine(x.flip(0).cuda(), context.flip(0).cuda())
        z, logabsdet = engine(x.cuda(), context.cuda())
        assert (z.cpu() - expected).abs().mean() < tolerance
        assert ((logabsdet.cpu() - expected_logabsdet).abs() / x[0].numel()).max() < tolerance
        for _ in range(4):
            returned = engine.inverse(z, (48, 64), context.cuda())
        assert (returned.cpu() - x).abs().mean() < 1e-4 + tolerance / 10


def test_graphs_are_recorded_once_a_shape_comes_again(monkeypatch):
    calls, replays = [], []

    def record(function, tensors):
        def replay(*given):
            replays.append(given)
            return function(*given)

        return replay if tensors[0].shape[0] < 9 else None

    def double(x, nothing):
        calls.append(len(x))
        return [2 * x, nothing]

    monkeypatch.setattr(graphs, "record", record)
    cache = graphs.GraphCache(size=2)
    for k in range(5):
        found = cache.run("double", double, torch.full((3,), float(k)), None)
        assert torch.equal(found[0], torch.full((3,), 2.0 * k)) and found[1] is None
    assert len(replays) == 5 - graphs.WARM_UP
    for n in (9, 4, 5):
        for _ in range(4):
            cache.run("double", double, torch.zeros(n), None)
    # The second shape cannot be recorded, and there is no room for a third.
    assert len(replays) == 5 - graphs.WARM_UP and len(calls) == 5 + 12
    cache.run("double", double, torch.zeros(3, requires_grad=True), None)
    assert len(replays) == 5 - graphs.WARM_UP


def test_built_in_inference_mode_it_still_differentiates():
    config = small()
    flow = trained_like(config, (32, 40))
    with torch.inference_mode():
        engine = FlowEngine.from_flow(flow)
    x = brains(1, (16, 24)).requires_grad_()
    engine.log_prob(x).sum().backward()
    assert x.grad.abs().max() > 0
