"""The benchmark of the flow's speed measures what it says."""

import importlib
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bh_bids.flow.config import FlowConfig
from bh_bids.flow.network import TargetFlow

FOLDER = Path(__file__).parents[2] / "benchmarks"
CONFIG = FlowConfig(
    levels=2, steps=2, hidden_channels=6, blocks=1, bins=4, batch_norm=True, slice_shape=(16, 24)
)


@pytest.fixture
def speed(monkeypatch):
    if not (FOLDER / "flow_speed.py").is_file():
        pytest.skip("benchmarks/ is not part of this installation")
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("flow_speed")


def test_operations_are_those_torch_counts(speed):
    flow = TargetFlow(CONFIG).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        flow(torch.rand(1, 1, 16, 24))
    # The rest is the module multiplying the factors of its 1x1 convolutions.
    counted = counter.get_flop_counts()["Global"][torch.ops.aten.convolution]
    assert speed.flops(CONFIG, (16, 24)) == counted


def test_the_plain_flow_is_the_flow(speed):
    flow = speed.flow_of(CONFIG)
    plain = speed.plain_flow(CONFIG, (16, 24))
    plain.load_state_dict(flow.state_dict())
    x = torch.rand(2, 1, 16, 24)
    with torch.no_grad():
        z, logabsdet = flow(x)
        expected, expected_logabsdet = plain(x - 0.5)
    torch.testing.assert_close(z, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logabsdet, expected_logabsdet, rtol=1e-4, atol=1e-2)
    again = speed.flow_of(CONFIG).state_dict()
    assert all(torch.equal(v, again[k]) for k, v in flow.state_dict().items())


def test_published_procedure_pulls_the_start_to_the_source(speed):
    class Counting:
        """The identity, counting its passes."""

        forward = backward = 0

        def __call__(self, x):
            self.forward += len(x)
            return x.flatten(1), None

        def inverse(self, z):
            self.backward += len(z)
            return z.reshape(-1, 1, 96, 96), None

    flow, source = Counting(), speed.slices_of_brain(3, (96, 96), seed=2) * 700
    source[2] = 0  # an empty slice is harmonized as well
    start = torch.full_like(source, 0.5) * (source > 0)
    found = speed.harmonize_as_published(flow, source, start, iterations=4, batch=2)
    assert (flow.forward, flow.backward) == (3 * (1 + 4), 3 * 4)
    assert found.min() >= 0 and found.max() <= 1
    cosine = torch.nn.functional.cosine_similarity(found.flatten(1), source.flatten(1))
    before = torch.nn.functional.cosine_similarity(start.flatten(1), source.flatten(1))
    assert (cosine[:2] > before[:2]).all()


def test_tables(speed, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(speed, "SHAPE", (16, 24))
    monkeypatch.setattr(speed, "SMALL", CONFIG)
    output = tmp_path / "table.md"
    arguments = "iteration accelerator --quick --threads 1 --repeats 2 --batches 1".split()
    monkeypatch.setattr(sys, "argv", ["flow_speed.py", *arguments, "--output", str(output)])
    speed.main()
    text = output.read_text()
    assert "| plain nflows | 1 |" in text and "1.00 (1.00 to 1.00)" in text
    assert "| engine, no log-determinant | 1 |" in text
    assert text in capsys.readouterr().out + "\n"
    monkeypatch.setattr(sys, "argv", ["flow_speed.py", "everything"])
    with pytest.raises(SystemExit):
        speed.main()
    assert "no such table: everything" in capsys.readouterr().err
