"""harmonize() with a small but real TargetFlow, and the benchmark that measures it."""

import importlib.util
import json
import sys
from functools import partial
from pathlib import Path

import nibabel as nib
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


def load_benchmark():
    path = Path(__file__).parents[2] / "benchmarks" / "harmonization.py"
    if not path.is_file():
        pytest.skip("benchmarks/ is not part of this installation")
    spec = importlib.util.spec_from_file_location("bh_benchmark_harmonization", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_benchmark_writes_its_table(small_model, tools, tmp_path, monkeypatch, capsys):
    derivatives = tmp_path / "derivatives"
    for seed, label in enumerate(("01", "02", "03")):
        volume, mask = tools.volume(seed=seed)
        folder = derivatives / f"sub-{label}" / "anat"
        folder.mkdir(parents=True)
        stem = f"sub-{label}_space-MNI152NLin2009aSym_res-1_desc-"
        for name, array in (("preproc_T1w", volume * 900), ("brain_mask", mask)):
            image = nib.Nifti1Image(array.astype(np.float32), CONFIG.affine)
            nib.save(image, folder / f"{stem}{name}.nii.gz")
    benchmark = load_benchmark()
    arguments = [
        "harmonization.py", str(derivatives), "--model", str(tmp_path / "small"), "--gaps", "none",
        "gamma0.7", "--methods", "source", "hm", "paper-identity", "--slices-step", "2",
        "--device", "cpu", "--output", str(tmp_path / "out"),
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", arguments)
    benchmark.main()
    table = (tmp_path / "out" / "harmonization.md").read_text()
    assert table.splitlines()[-1].startswith("| seconds per scan |")
    assert "| gap | source | hm | paper-identity |" in table and "| gamma0.7 |" in table
    records = json.loads((tmp_path / "out" / "harmonization.json").read_text())
    assert {r["participant"] for r in records} == {"03"}
    assert len(records) == 6
    assert table in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [arguments[0], str(tmp_path / "nowhere"), *arguments[2:]])
    with pytest.raises(SystemExit, match="No scan of a held-out participant"):
        benchmark.main()
