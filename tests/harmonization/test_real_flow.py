"""harmonize() with a small but real TargetFlow."""

from functools import partial

import numpy as np
import pytest
import torch

from bh_bids.flow.config import FlowConfig
from bh_bids.flow.model import load_model, save_model
from bh_bids.flow.network import TargetFlow
from bh_bids.harmonization import harmonize as harmonize_by
from bh_bids.harmonization.slices import SliceBox

harmonize = partial(harmonize_by, method="paper")

CONFIG = FlowConfig(levels=2, steps=2, hidden_channels=8, blocks=1, slice_shape=(32, 40), slices=12)


@pytest.fixture
def small_model(tmp_path, tools):
    """A flow with random weights, initialised on a brain, saved and loaded as users do."""
    volume, mask = tools.volume()
    torch.manual_seed(0)
    flow = TargetFlow(CONFIG).train()
    stack = torch.from_numpy(SliceBox(mask, 4).extract(volume))[:, None]
    with torch.no_grad():
        flow(stack)
    quantiles = np.quantile(volume[mask], np.linspace(0, 1, 257))
    metadata = {
        "Name": "small",
        "Version": "1.0.0",
        "TrainingParticipants": ["01"],
        "ValidationParticipants": ["02"],
        "ExcludedParticipants": ["03"],
        "TargetDomain": {},
        "Intensity": {"TargetScale": 1500.0, "Quantiles": quantiles.tolist()},
    }
    save_model(tmp_path / "small", flow, volume, metadata)
    return load_model(tmp_path / "small")


def test_trace_agrees_with_the_flows_own_verdict(small_model, tools):
    """Latents and bits per dimension of the last iterate, asked of the flow itself."""
    volume, mask = tools.volume(seed=3)
    source = np.where(mask, np.maximum(volume, 0) ** 0.7, 0) * 700
    result = harmonize(
        source, mask, small_model, start="histogram", iterations=3, tolerance=0, device="cpu"
    )
    assert np.isfinite(result.volume).all() and not result.guards[1:]
    box = SliceBox(mask, small_model.config.side_multiple)
    stack = torch.from_numpy(box.extract(result.volume / np.float32(1500)))[box.occupied][:, None]
    with torch.no_grad():
        z, _ = small_model.flow(stack)
        bits = small_model.flow.bits_per_dim(stack)
    last = result.trace[-1]
    assert last["latent"] == pytest.approx(float(z.square().mean()), rel=1e-4)
    assert last["bits_per_dim"] == pytest.approx(float(bits.mean()), rel=1e-4)


def test_the_latent_step_lowers_the_latent_norm(small_model, tools):
    volume, mask = tools.volume()
    shrunk, kept = (
        harmonize(volume, mask, small_model, start="gain", shrink=a, step=0.01, iterations=5,
                  tolerance=0, edge_weight=0.0, device="cpu").trace[-1]["latent"]
        for a in (0.02, 0.0)
    )  # fmt: skip
    assert shrunk < 0.95 * kept


def test_same_bytes_with_a_real_flow(small_model, tools):
    volume, mask = tools.volume(seed=4)
    first, second = (
        harmonize(volume, mask, small_model, iterations=2, device="cpu").volume for _ in range(2)
    )
    assert first.tobytes() == second.tobytes()


def test_parameters_of_the_flow_are_left_alone(small_model, tools):
    volume, mask = tools.volume()
    before = {k: v.clone() for k, v in small_model.flow.state_dict().items()}
    harmonize(volume, mask, small_model, iterations=1, device="cpu")
    after = small_model.flow.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
