"""Published checkpoints: made here with nflows' own classes, never with ours."""

import copy
import io
import json
import pickle
import tarfile
import warnings
from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
import torch
from nflows import transforms
from nflows.distributions import StandardNormal
from nflows.flows import Flow
from nflows.nn.nets import ConvResidualNet
from nflows.utils import create_alternating_binary_mask, create_mid_split_binary_mask
from safetensors.torch import save as save_safetensors
from torch import nn

from bh_bids.errors import ModelError
from bh_bids.flow.config import FlowConfig
from bh_bids.flow.interchange import (
    export_checkpoint,
    import_checkpoint,
    infer_config,
    published_state,
)
from bh_bids.flow.model import load_model, save_model

SMALL = {"levels": 2, "steps": 2, "hidden": 6, "blocks": 1, "bins": 5, "batch_norm": True}
PUBLISHED = {"levels": 4, "steps": 7, "hidden": 96, "blocks": 3, "bins": 8, "batch_norm": True}


def plain_flow(shape, *, levels, steps, hidden, blocks, bins, batch_norm, bound=3.0, mask=None):
    """The published architecture, of nflows' classes alone."""
    mask = mask or create_mid_split_binary_mask

    def conditioner(n_in, n_out):
        return ConvResidualNet(
            n_in, n_out, hidden_channels=hidden, num_blocks=blocks, use_batch_norm=batch_norm
        )

    flow = transforms.MultiscaleCompositeTransform(levels)
    channels, height, width = 1, *shape
    for _ in range(levels):
        channels, height, width = 4 * channels, height // 2, width // 2
        parts = [transforms.SqueezeTransform()]
        for _ in range(steps):
            coupling = transforms.PiecewiseRationalQuadraticCouplingTransform(
                mask(channels), conditioner, num_bins=bins, tails="linear", tail_bound=bound
            )
            parts.append(
                transforms.CompositeTransform(
                    [
                        transforms.ActNorm(channels),
                        transforms.OneByOneConvolution(channels),
                        coupling,
                    ]
                )
            )
        parts.append(transforms.OneByOneConvolution(channels))
        hidden_shape = flow.add_transform(
            transforms.CompositeTransform(parts), (channels, height, width)
        )
        channels = hidden_shape[0] if hidden_shape else None
    return flow


def trained_like(flow, seed=0, spread=0.1):
    """Every parameter and statistic away from its initial value."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(spread * torch.randn(parameter.shape, generator=generator))
        for name, buffer in flow.named_buffers():
            if name.endswith("initialized"):
                buffer.fill_(True)
            elif name.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
            elif name.endswith("running_mean"):
                buffer.copy_(0.1 * torch.randn(buffer.shape, generator=generator))
    return flow.eval()


def stripped(state):
    """As published: without ActNorm's flags."""
    return OrderedDict((k, v) for k, v in state.items() if not k.endswith("initialized"))


@pytest.fixture(scope="module")
def plain():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return trained_like(plain_flow((16, 24), **SMALL))


@pytest.fixture
def state(plain):
    return OrderedDict((k, v.clone()) for k, v in stripped(plain.state_dict()).items())


GIVEN = {"slice_shape": [16, 24], "slices": 6, "bits": 8}


@pytest.fixture
def keep(tmp_path):
    """Save something as a checkpoint; returns its path."""

    def save(content, name="checkpoint.pt", **options):
        torch.save(content, tmp_path / name, **options)
        return tmp_path / name

    return save


def check_same_map(plain, flow, shape, atol):
    """z, log-determinant and inverse, in float64: nflows' input is shifted, ours not."""
    plain, flow = plain.double(), flow.double()
    x = torch.rand((2, 1, *shape), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        z, logabsdet = plain(x - 0.5)
        ours, our_logabsdet = flow(x)
        back = flow.inverse(z, shape)
        plain_back = plain.inverse(z)[0] + 0.5
    torch.testing.assert_close(ours, z, atol=atol, rtol=0)
    torch.testing.assert_close(our_logabsdet, logabsdet, atol=atol * x[0].numel(), rtol=0)
    torch.testing.assert_close(back, plain_back, atol=10 * atol, rtol=0)


def test_small_checkpoint_gives_the_same_flow(plain, state, keep):
    flow, origin = import_checkpoint(keep(state), GIVEN)
    assert origin["File"] == "checkpoint.pt" and len(origin["SHA256"]) == 64
    config = flow.config
    assert (config.levels, config.steps, config.hidden_channels) == (2, 2, 6)
    assert (config.blocks, config.bins, config.batch_norm) == (1, 5, True)
    assert config.tail_bound == 3.0 and config.shape == (16, 24, 6) and not flow.training
    check_same_map(copy.deepcopy(plain), flow, (16, 24), 1e-9)


def test_published_size(keep):
    """Once at full size: number of parameters, defaults, the same latents, the same bytes back."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = plain_flow((48, 32), **PUBLISHED)
    trained_like(plain, spread=0.03)
    assert sum(p.numel() for p in plain.parameters()) == 14_486_534
    assert sum(name.endswith("initialized") for name in plain.state_dict()) == 28
    path = keep(stripped(plain.state_dict()))
    flow, _ = import_checkpoint(path)
    assert sum(p.numel() for p in flow.parameters()) == 14_486_534
    config = flow.config
    assert (config.bits, config.tail_bound, config.slice_shape) == (12, 3.0, (144, 176))
    # The middle of the grid is the middle of the default one.
    middle, default = (
        c.affine @ [*((np.array(c.shape) - 1) / 2), 1] for c in (config, FlowConfig())
    )
    np.testing.assert_allclose(middle, default)
    given, back = torch.load(path, weights_only=True), published_state(flow)
    assert list(given) == list(back)
    assert all(torch.equal(given[name], back[name]) for name in given)
    check_same_map(plain, flow, (48, 32), 1e-9)


def test_round_trip_is_exact(state, keep, tmp_path):
    flow, _ = import_checkpoint(keep(state), GIVEN)
    save_model(tmp_path / "model", flow, None, {"Name": "small"})
    exported = tmp_path / "new" / "exported.pt"
    digest = export_checkpoint(load_model(tmp_path / "model").flow, exported)
    back = torch.load(exported, weights_only=True)
    assert list(back) == list(state)
    for name, tensor in state.items():
        assert back[name].dtype == tensor.dtype and back[name].is_contiguous()
        assert back[name].numpy().tobytes() == tensor.contiguous().numpy().tobytes(), name
    # The same flow, the same file, whatever its name.
    assert export_checkpoint(flow, tmp_path / "other.pt") == digest
    assert (tmp_path / "other.pt").read_bytes() == exported.read_bytes()
    assert sorted(p.name for p in exported.parent.iterdir()) == ["exported.pt"]


def test_nflows_loads_what_was_exported(plain, state, keep, tmp_path):
    export_checkpoint(import_checkpoint(keep(state), GIVEN)[0], tmp_path / "exported.pt")
    fresh = plain_flow((16, 24), **SMALL)
    found = fresh.load_state_dict(
        torch.load(tmp_path / "exported.pt", weights_only=True), strict=False
    )
    assert not found.unexpected_keys
    assert all(name.endswith("initialized") for name in found.missing_keys)


def test_flags_that_are_there_are_kept_or_refused(plain, keep):
    state = dict(plain.state_dict())
    import_checkpoint(keep(state), GIVEN)
    name = next(name for name in state if name.endswith("initialized"))
    with pytest.raises(ModelError, match="before its first training step"):
        import_checkpoint(keep({**state, name: torch.tensor(False)}), GIVEN)


@pytest.mark.parametrize("batch_norm, blocks, bins", [(False, 2, 8), (True, 3, 2)])
def test_architecture_is_read_off_the_tensors(keep, batch_norm, blocks, bins):
    sizes = {**SMALL, "batch_norm": batch_norm, "blocks": blocks, "bins": bins, "levels": 3}
    flow, _ = import_checkpoint(keep(stripped(plain_flow((16, 16), **sizes).state_dict())))
    config = flow.config
    assert (config.levels, config.steps, config.hidden_channels) == (3, 2, 6)
    assert (config.blocks, config.bins, config.batch_norm) == (blocks, bins, batch_norm)


@pytest.mark.parametrize("wrap", [
    lambda s: {"state_dict": s, "epoch": 3},
    lambda s: {"model": s, "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}}},
    lambda s: {"training": {"flow": s}, "loss": [1.0, 2.0]},
    lambda s: OrderedDict((f"module.{k}", v) for k, v in s.items()),
    lambda s: {"state_dict": {f"module._transform.{k}": v for k, v in s.items()}},
    lambda s: {k: nn.Parameter(v) if v.is_floating_point() else v for k, v in s.items()},
])  # fmt: skip
def test_wrappings_are_taken_off(state, keep, wrap):
    flow, _ = import_checkpoint(keep(wrap(state)), GIVEN)
    given = published_state(flow)
    assert all(torch.equal(given[name], tensor) for name, tensor in state.items())


def test_files_of_old_versions_of_torch(state, keep):
    path = keep(state, _use_new_zipfile_serialization=False)
    flow, _ = import_checkpoint(path, GIVEN)
    assert torch.equal(
        published_state(flow)["_transforms.1._transforms.3.bias"],
        state["_transforms.1._transforms.3.bias"],
    )


@pytest.mark.parametrize("double", [torch.float64, torch.float16, torch.bfloat16])
def test_other_precisions_become_float32(state, keep, double):
    changed = {k: v.to(double) if v.is_floating_point() else v for k, v in state.items()}
    back = published_state(import_checkpoint(keep(changed), GIVEN)[0])
    for name, tensor in changed.items():
        assert torch.equal(back[name], tensor.to(state[name].dtype))


def in_flow(plain, *front):
    transform = transforms.CompositeTransform([*front, plain]) if front else plain
    return Flow(transform, StandardNormal([16 * 24]))


def test_flow_with_preprocessing(plain, keep):
    """nflows' Flow, on integers of 5 bits, scaled and shifted by one or by two transforms."""
    one = [transforms.PointwiseAffineTransform(shift=-0.5, scale=2.0**-5)]
    two = [
        transforms.CompositeTransform(
            [
                transforms.PointwiseAffineTransform(scale=2.0**-5),
                transforms.PointwiseAffineTransform(shift=-0.5),
            ]
        )
    ]
    for front in (one, two):
        whole = in_flow(plain, *front).state_dict()
        flow, origin = import_checkpoint(keep(stripped(whole)), {**GIVEN, "bits": 5})
        assert flow.config.bits == 5 and origin["Prefix"] == "_transform._transforms.1."
        flow, _ = import_checkpoint(keep(stripped(whole)), {"slice_shape": [16, 24]})
        assert flow.config.bits == 5
        with pytest.raises(ModelError, match="scales its input by 2.-5"):
            import_checkpoint(keep(stripped(whole)), {**GIVEN, "bits": 8})
    shifted = in_flow(plain, transforms.PointwiseAffineTransform(shift=-0.5))
    flow, _ = import_checkpoint(keep(stripped(shifted.state_dict())), GIVEN)
    assert flow.config.bits == 8
    # The constant that older versions kept.
    older = {**in_flow(plain).state_dict(), "_distribution._log_z": torch.tensor(353.0)}
    import_checkpoint(keep(stripped(older)), GIVEN)


@pytest.mark.parametrize("front, message", [
    (transforms.PointwiseAffineTransform(shift=-1.0, scale=2.0), "maps its input by 2 x"),
    (transforms.PointwiseAffineTransform(shift=-0.5, scale=0.3), "maps its input by 0.3 x"),
    (transforms.PointwiseAffineTransform(shift=torch.zeros(16, 24)), "maps its input by"),
    (transforms.IdentityTransform(), "without tensors"),
    (transforms.ActNorm(1), "no part of such a flow"),
])  # fmt: skip
def test_other_preprocessing_is_refused(plain, keep, front, message):
    with pytest.raises(ModelError, match=message):
        import_checkpoint(keep(stripped(in_flow(plain, front).state_dict())), GIVEN)


class Payload:
    """Unpickled, it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("write", [
    lambda content, path: torch.save(content, path),
    lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False),
    lambda content, path: path.write_bytes(pickle.dumps(content)),
    lambda content, path: path.write_bytes(pickle.dumps(content, protocol=0)),
])  # fmt: skip
def test_no_pickle_is_executed(state, tmp_path, write):
    trap = tmp_path / "executed"
    path = tmp_path / "malicious.pt"
    write({"state_dict": state, "extra": Payload(trap)}, path)
    with pytest.raises(ModelError, match="malicious.pt (is|holds)") as caught:
        import_checkpoint(path, GIVEN)
    assert not trap.exists()
    assert "weights_only" not in str(caught.value) and "\n" not in str(caught.value)
    # The trap works: it is our reading that does not spring it.
    pickle.loads(pickle.dumps(Payload(trap))).close()
    assert trap.exists()


def test_torchscript_and_whole_modules_are_refused(plain, keep, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "script.pt")
        with pytest.raises(ModelError, match="script.pt"):
            import_checkpoint(tmp_path / "script.pt")
    with pytest.raises(ModelError, match="other things than tensors"):
        import_checkpoint(keep(nn.Linear(2, 2)))


def resnet_like():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3))
    return net.state_dict()


@pytest.mark.parametrize("content", [
    resnet_like(), [1, 2, 3], {}, torch.zeros(3), {"state_dict": resnet_like()}, "text", None,
    {"a": {"b": {"c": {"_transforms.0._transforms.1._transforms.0.log_scale": torch.zeros(4)}}}},
])  # fmt: skip
def test_what_is_no_flow_is_refused(keep, content):
    with pytest.raises(ModelError, match="no neural spline flow"):
        import_checkpoint(keep(content))


def test_files_that_are_no_checkpoints(state, keep, tmp_path):
    path = keep(state)
    whole = path.read_bytes()
    older = keep(state, "older.pt", _use_new_zipfile_serialization=False).read_bytes()
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("storages"))
    for content in (
        whole[: len(whole) // 2], whole[:-30], older[: len(older) // 2], b"", b"PK\x03\x04",
        b"\x80", save_safetensors({k: v.contiguous() for k, v in state.items()}),
        archive.getvalue(), b"not a checkpoint at all" * 100, json.dumps({"a": 1}).encode(),
    ):  # fmt: skip
        path.write_bytes(content)
        with pytest.raises(ModelError, match="checkpoint.pt (is|holds)") as caught:
            import_checkpoint(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="cannot be read"):
        import_checkpoint(tmp_path)
    with pytest.raises(ModelError, match="cannot be read"):
        import_checkpoint(tmp_path / "missing.pt")


FIRST = "_transforms.0._transforms.1._transforms."
CONVOLUTION = FIRST + "2.transform_net.blocks.0.conv_layers.0.weight"


def poisoned(tensor, value):
    tensor = tensor.clone()
    tensor.view(-1)[0] = value
    return tensor


@pytest.mark.parametrize("name, change, message", [
    (FIRST + "1.bias", None, "lacks .*1.bias .1 tensors missing"),
    (FIRST + "1.extra", lambda t: torch.zeros(3), "also holds .*extra"),
    (FIRST + "0.shift", lambda t: torch.zeros(5), "shape .5,., not .4,."),
    (FIRST + "0.shift", lambda t: poisoned(t, float("nan")), "NaN"),
    (FIRST + "0.shift", lambda t: t.long(), "of type torch.int64"),
    (FIRST + "0.shift", lambda t: t.to(torch.complex64), "of type torch.complex64"),
    (FIRST + "0.shift", lambda t: poisoned(t.double(), 1e300), "32-bit"),
    (FIRST + "0.shift", lambda t: t.to_sparse(), "no plain tensor"),
    (FIRST + "0.shift", lambda t: 3.0, "no plain tensor"),
    (FIRST + "1.permutation._permutation", lambda t: torch.zeros_like(t), "no permutation"),
    (FIRST + "2.identity_features", lambda t: t - 1, "couples other channels"),
    (FIRST + "2.transform_net.blocks.0.batch_norm_layers.0.running_var",
     lambda t: poisoned(t, -1.0), "negative variance"),
    (CONVOLUTION, lambda t: t[..., :1, :1].clone(), "shape .6, 6, 1, 1."),
    (FIRST + "2.transform_net.initial_layer.weight", None, "lacks .*initial_layer.weight"),
    (FIRST + "2.transform_net.initial_layer.weight", lambda t: t[..., 0, 0].clone(), "shape"),
    (FIRST + "2.transform_net.initial_layer.weight", lambda t: torch.zeros(6, 3, 1, 1),
     "conditional flow"),
    (FIRST + "2.transform_net.initial_layer.weight", lambda t: torch.zeros(10**6, 2, 1, 1),
     "shape"),
    (FIRST + "2.transform_net.final_layer.weight", lambda t: torch.zeros(30, 6, 1, 1),
     "no rational-quadratic"),
    (FIRST + "0.log_scale", None, "same number of steps"),
    ("_transforms.7._transforms.1._transforms.0.log_scale", lambda t: torch.zeros(4),
     "same number of steps"),
    ("second._transforms.0._transforms.1._transforms.0.log_scale", lambda t: torch.zeros(4),
     "exactly one"),
    ("embedding.weight", lambda t: torch.zeros(4), "no part of such a flow"),
    (5, lambda t: torch.zeros(4), "without a name"),
])  # fmt: skip
def test_flawed_checkpoints_are_refused(state, keep, name, change, message):
    if change is None:
        del state[name]
    else:
        state[name] = change(state.get(name))
    with pytest.raises(ModelError, match=message) as caught:
        import_checkpoint(keep(state), GIVEN)
    assert "\n" not in str(caught.value)


def test_few_bytes_cannot_claim_to_be_a_huge_flow(keep):
    """A stride of 0 makes a tensor of any size; none is built before that is seen."""
    one = torch.zeros(1)
    prefix = FIRST + "2.transform_net."
    state = {
        FIRST + "0.log_scale": torch.zeros(4),
        prefix + "initial_layer.weight": one.expand(10**6).view(10**6, 1, 1, 1).expand(-1, 2, 1, 1),
        prefix + "final_layer.weight": one.expand(46, 10**6, 1, 1),
        prefix + "blocks.0.conv_layers.0.weight": one.expand(10**6, 10**6, 3, 3),
    }
    with pytest.raises(ModelError, match="share their values"):
        import_checkpoint(keep(state))


def test_other_couplings_are_refused(keep):
    """nflows' alternating mask keeps other channels: its tensors fit, its function does not."""
    flow = plain_flow((16, 24), **SMALL, mask=create_alternating_binary_mask)
    with pytest.raises(ModelError, match="couples other channels"):
        import_checkpoint(keep(stripped(flow.state_dict())), GIVEN)


def test_several_flows_need_a_key(state, keep):
    averaged = {name: tensor.clone() for name, tensor in state.items()}
    averaged[FIRST + "0.shift"] += 1
    path = keep({"model": state, "ema": {"shadow": averaged}})
    with pytest.raises(ModelError, match="several flows .model, ema.shadow.: choose one"):
        import_checkpoint(path, GIVEN)
    flow, _ = import_checkpoint(path, GIVEN, key="ema.shadow")
    assert torch.equal(published_state(flow)[FIRST + "0.shift"], averaged[FIRST + "0.shift"])
    with pytest.raises(ModelError, match="no state dict called 'other'"):
        import_checkpoint(path, GIVEN, key="other")


@pytest.mark.parametrize("given, message", [
    ({"levels": 3}, "levels=3, but the checkpoint's tensors say 2"),
    ({"conditions": ["mask"]}, "conditions="),
    ({"depth": 3}, "Unknown field in the configuration: depth"),
    ({"slice_shape": [15, 24]}, "two multiples of 4"),
    ({"bits": "many"}, "bits"),
    ({"tail_bound": -1}, "tail_bound"),
])  # fmt: skip
def test_configurations_that_do_not_fit(state, given, message):
    with pytest.raises(ModelError, match=message):
        infer_config(state, given)


def test_a_given_origin_and_agreeing_sizes_are_kept(state):
    config = infer_config(state, {**GIVEN, "levels": 2, "origin": [1, 2, 3], "tail_bound": 2.5})
    assert config.origin == (1.0, 2.0, 3.0) and config.tail_bound == 2.5
    whole = FlowConfig()
    assert infer_config(state, {"slice_shape": [160, 192]}).origin == whole.origin


def test_conditional_flows_have_no_such_form(make_flow, tiny_config):
    flow = make_flow(replace(tiny_config, conditions=("mask", "noise")))
    with pytest.raises(ModelError, match="mask, noise.*share the model's folder"):
        published_state(flow)


def test_export_into_a_place_that_cannot_be_written(make_flow, tiny_config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="cannot be written"):
        export_checkpoint(make_flow(tiny_config), tmp_path / "file" / "out.pt")
