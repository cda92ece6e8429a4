"""Two processes train what one would have; convolutions with fewer digits, what all digits do."""

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bh_bids.errors import DeviceError, InputError
from bh_bids.flow.config import CONDITIONS
from bh_bids.flow.distributed import Group, joined
from bh_bids.flow.network import TargetFlow
from bh_bids.flow.precision import reduce_precision
from bh_bids.flow.training import TrainingSettings, train_model

SETTINGS = {
    **{"steps": 8, "batch_size": 6, "crop": (16, 16), "warm_up": 2, "interval": 2},
    **{"validation_crops": 7, "learning_rate": 1e-2},
}
# What torchrun runs: arguments are derivatives, output, configuration, settings.
PROGRAM = """
import json, sys
import torch
from bh_bids.flow.config import FlowConfig
from bh_bids.flow.training import TrainingSettings, train_model
torch.set_num_threads(1)
derivatives, output, config, settings = sys.argv[1:]
settings = json.loads(settings)
settings["crop"] = tuple(settings["crop"])
train_model(
    derivatives, output, FlowConfig.from_dict(json.loads(config)), TrainingSettings(**settings),
    {}, validation=0.3, resume=True, report=print,
)
"""


@pytest.fixture(scope="module")
def config(tiny_config):
    return replace(tiny_config, conditions=CONDITIONS)


def torchrun(derivatives, output, config, program):
    """Go on with a training in two processes over gloo; returns the finished command."""
    program.write_text(PROGRAM)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", str(program), str(derivatives), str(output)]
    command += [json.dumps(config.to_dict()), json.dumps(asdict(TrainingSettings(**SETTINGS)))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def entries(folder):
    lines = (folder / "training" / "log.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def one_process(derivatives, config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one") / "m"
    train_model(derivatives, folder, config, TrainingSettings(**SETTINGS), {}, validation=0.3)
    return folder


@pytest.mark.parametrize("before", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_two_processes_train_what_one_does(derivatives, config, one_process, tmp_path, before):
    """Same curve and weights but for the order of sums, also where one process began."""
    if before:
        settings = TrainingSettings(**SETTINGS, max_minutes=1e-6)
        train_model(derivatives, tmp_path / "m", config, settings, {}, validation=0.3)
    result = torchrun(derivatives, tmp_path / "m", config, tmp_path / "program.py")
    assert result.returncode == 0, result.stderr
    assert "Warning" not in result.stderr
    # Only the first process speaks.
    assert result.stdout.count("Step 8 of 8") == 1
    assert result.stdout.count("Reading 7 scans.") == (1 - before)
    assert ("Going on from step 1." in result.stdout) == bool(before)
    curves = [entries(folder) for folder in (tmp_path / "m", one_process)]
    assert [e["step"] for e in curves[0]] == [2, 4, 6, 8]
    for name in ("training", "validation"):
        values = [[e[name] for e in curve] for curve in curves]
        np.testing.assert_allclose(*values, atol=3e-5)
    weights = [load_file(f / "weights.safetensors") for f in (tmp_path / "m", one_process)]
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=1e-3, atol=1e-4)
    assert json.loads((tmp_path / "m" / "model.json").read_text())["Training"]["Processes"] == 2


def test_more_processes_than_crops(derivatives, config, tmp_path, monkeypatch):
    @contextmanager
    def three(device):
        yield Group(device, 0, 3)

    monkeypatch.setattr("bh_bids.flow.training.joined", three)
    monkeypatch.setattr(Group, "wait", lambda group: None)
    settings = TrainingSettings(**{**SETTINGS, "batch_size": 2})
    with pytest.raises(InputError, match="batch_size must be at least 1 for each process"):
        train_model(derivatives, tmp_path / "m", config, settings, {})


def test_alone_a_process_is_its_own_group():
    with joined("cpu") as group:
        assert group.first and group.part == (0, 1)
        assert group.sums(2, torch.tensor(3.0)) == [2.0, 3.0]
        assert not torch.distributed.is_initialized()


def test_more_processes_than_gpus(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("LOCAL_RANK", "64")
    with pytest.raises(DeviceError, match="--nproc-per-node"):
        with joined("cuda"):
            pass


def flow_and_batch(config):
    torch.manual_seed(0)
    flow = TargetFlow(config).train()
    x = 0.5 + 0.2 * torch.randn(4, 1, 16, 16)
    context = torch.rand(4, len(config.conditions), 16, 16)
    context[:, 0] = 1
    with torch.no_grad():
        flow(x, context)
        for parameter in flow.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return flow, x, context


def gradients(flow, x, context):
    flow.zero_grad()
    Group("cpu").likelihood(flow)(x, context).sum().backward()
    return torch.cat([p.grad.flatten() for p in flow.parameters()])


def test_bfloat16_convolutions_give_nearly_the_same_gradient(config):
    flow, x, context = flow_and_batch(config)
    exact, reference = flow.log_prob(x, context), gradients(flow, x, context)
    seen = []
    coupling = next(m for m in flow.modules() if hasattr(m, "transform_net"))
    last = coupling.transform_net.final_layer
    last.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    reduce_precision(flow, "bf16", "cpu")
    rounded = flow.log_prob(x, context)
    assert seen == [torch.bfloat16] and rounded.dtype == torch.float32
    # Hundredths of a bit per dimension; not the same, or nothing was rounded.
    difference = (rounded - exact).abs().max() / x[0].numel()
    assert 0 < difference < 0.02
    found = gradients(flow, x, context)
    assert torch.isfinite(found).all()
    assert torch.cosine_similarity(found, reference, dim=0) > 0.99


def test_bfloat16_training_follows_the_exact_one(derivatives, config, one_process, tmp_path):
    settings = TrainingSettings(**SETTINGS, precision="bf16")
    train_model(derivatives, tmp_path / "m", config, settings, {}, validation=0.3)
    curves = [entries(folder) for folder in (tmp_path / "m", one_process)]
    for name in ("training", "validation"):
        values = [[e[name] for e in curve] for curve in curves]
        np.testing.assert_allclose(*values, atol=0.03)
        assert values[0] != values[1]


def test_unknown_precision():
    with pytest.raises(InputError, match="float32, tf32, bf16"):
        TrainingSettings(precision="fp8")
