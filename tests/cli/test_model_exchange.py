"""bh-model import, calibrate, export, list, info and verify, as a user meets them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from bh_bids.cli.model import main
from bh_bids.flow.config import FlowConfig
from bh_bids.flow.interchange import published_state
from bh_bids.flow.model import load_model
from bh_bids.flow.network import TargetFlow

GRID = {"slice_shape": [32, 40], "slices": 12, "bits": 8}


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    """An empty working directory, no user's models, the same threads afterwards."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.delenv("BH_MODELS", raising=False)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def state():
    config = FlowConfig(levels=2, steps=2, hidden_channels=4, blocks=1, bins=4, batch_norm=True,
                        slice_shape=(32, 40))  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        flow = TargetFlow(config)
    return published_state(flow)


@pytest.fixture
def checkpoint(tmp_path, state):
    torch.save({"state_dict": state}, tmp_path / "best.pt")
    (tmp_path / "grid.json").write_text(json.dumps(GRID))
    return tmp_path / "best.pt"


@pytest.fixture
def imported(tmp_path, checkpoint, capsys):
    folder = tmp_path / "models" / "lab"
    arguments = ["import", str(checkpoint), "--output", str(folder)]
    described = ["--description", "a published flow", "--license", "CC-BY-4.0"]
    assert main([*arguments, "--config", str(tmp_path / "grid.json"), *described]) == 0
    capsys.readouterr()
    return folder


@pytest.fixture(scope="module")
def derivatives(tmp_path_factory):
    """Four participants' brains on the imported model's grid, as bh-bids writes them."""
    root = tmp_path_factory.mktemp("derivatives")
    whole = FlowConfig()
    shape = (32, 40, 12)
    corner = [o + (n - m) / 2 for o, n, m in zip(whole.origin, whole.shape, shape, strict=True)]
    affine = np.eye(4)
    affine[:3, 3] = corner
    grid = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    mask = sum(axis**2 for axis in grid) < 0.8
    for k in range(4):
        noise = np.random.default_rng(k).normal(size=shape)
        smooth = gaussian_filter(noise, 2)
        tissue = np.digitize(smooth, np.quantile(smooth, [0.2, 0.6]))
        volume = 100 * (1 + k) * mask * (np.array([0.3, 0.6, 0.9])[tissue] + 0.02 * noise)
        folder = root / f"sub-{k + 1}" / "anat"
        folder.mkdir(parents=True)
        stem = folder / f"sub-{k + 1}_space-{whole.space}_res-1_desc-"
        for suffix, data in (("preproc_T1w", volume), ("brain_mask", mask.astype(np.uint8))):
            data = data.astype(np.float32 if suffix == "preproc_T1w" else np.uint8)
            nib.save(nib.Nifti1Image(data, affine), f"{stem}{suffix}.nii.gz")
    return root


def test_import_calibrate_and_export(imported, derivatives, state, tmp_path, capsys):
    assert load_model(imported).mean is None
    assert main(["info", str(imported)]) == 0
    out = capsys.readouterr().out
    assert "no: bh-model calibrate" in out and "best.pt, SHA-256" in out and "CC-BY-4.0" in out
    assert main(["verify", str(imported)]) == 0
    assert "not calibrated" in capsys.readouterr().out

    arguments = [str(imported), str(derivatives), "--device", "cpu", "--threads", "1"]
    assert main(["calibrate", *arguments, "--manufacturer", "Siemens"]) == 0
    out = capsys.readouterr().out
    assert "calibrated on 4 participants" in out and "bits per dimension" in out
    model = load_model(imported)
    assert model.target_domain["Description"] == "a published flow"
    assert model.target_domain["Manufacturer"] == "Siemens"
    assert main(["info", str(imported)]) == 0
    out = capsys.readouterr().out
    bits = model.metadata["Calibration"]["BitsPerDimension"]
    assert f"4 participants, {bits} bits per dimension" in out
    assert main(["verify", str(imported)]) == 0
    out = capsys.readouterr().out
    assert ", calibrated" in out and model.weights_sha256 in out

    assert main(["export", str(imported), str(tmp_path / "out.pt")]) == 0
    assert "SHA-256" in capsys.readouterr().out
    back = torch.load(tmp_path / "out.pt", weights_only=True)
    assert list(back) == list(state)
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_constants_alone_say_whom_they_were_learned_from(imported, derivatives, capsys):
    arguments = ["calibrate", str(imported), str(derivatives), "--device", "cpu"]
    assert main(arguments) == 0
    path = imported / "model.json"
    content = json.loads(path.read_text())
    del content["CalibrationSHA256"]
    path.write_text(json.dumps({**content, "ExcludedParticipants": ["9"]}))
    capsys.readouterr()
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert (
        "constants of the method 'map', learned from 4 participants (excluded: 9)" in captured.out
    )
    assert "keeps participant(s) 9 for tests" in captured.err
    assert main(["info", str(imported)]) == 0
    row = next(r for r in capsys.readouterr().out.splitlines() if r.startswith("Constants"))
    assert row.split(maxsplit=1)[1] == "4 participants, 1 excluded"


def test_import_says_what_comes_next(checkpoint, tmp_path, capsys):
    folder = tmp_path / "lab"
    assert main(["import", str(checkpoint), "--output", str(folder), "--key", "state_dict"]) == 0
    assert f"bh-model calibrate {folder} DERIVATIVES" in capsys.readouterr().out
    config = load_model(folder).config
    assert config.bits == 12 and config.shape == (144, 176, 160)
    description = json.loads((folder / "model.json").read_text())
    assert description["Name"] == "lab" and description["Calibrated"] is False
    assert description["License"] == "that of the imported checkpoint"


def test_a_models_description_serves_as_configuration(imported, checkpoint, tmp_path):
    arguments = ["import", str(checkpoint), "--output", str(tmp_path / "again")]
    assert main([*arguments, "--config", str(imported / "model.json")]) == 0
    assert load_model(tmp_path / "again").config == load_model(imported).config


def refused(arguments, capsys):
    """The one sentence of an error."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 1
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert captured.out == "" and lines[-1].startswith("bh-model: error: ")
    assert "Traceback" not in captured.err
    return lines[-1]


def test_mistakes_of_import(imported, checkpoint, tmp_path, capsys):
    start = ["import", checkpoint, "--output"]
    assert "holds a model already" in refused([*start, imported], capsys)
    new = tmp_path / "new"
    for content, message in (
        ("{", "not valid JSON"), ("[]", "JSON object"), ('{"depth": 1}', "Unknown field"),
        ('{"levels": 4}', "levels=4"), ('{"bits": 99}', "bits"), ('"Config"', "JSON object"),
    ):  # fmt: skip
        (tmp_path / "c.json").write_text(content)
        assert message in refused([*start, new, "--config", tmp_path / "c.json"], capsys)
    assert "cannot be read" in refused([*start, new, "--config", tmp_path / "no.json"], capsys)
    assert "no state dict called" in refused([*start, new, "--key", "ema"], capsys)
    assert "cannot be read" in refused(["import", tmp_path / "no.pt", "--output", new], capsys)
    torch.save([torch.zeros(1)], tmp_path / "list.pt")
    assert "no neural spline flow" in refused(
        ["import", tmp_path / "list.pt", "--output", new], capsys
    )
    assert not new.exists()
    checkpoint.with_name("file").write_text("")
    assert "cannot be written" in refused([*start, checkpoint.with_name("file") / "m"], capsys)


def test_mistakes_of_calibrate_and_export(imported, derivatives, tmp_path, capsys):
    assert "does not exist" in refused(["calibrate", imported, tmp_path / "no"], capsys)
    assert "no model 'nobody'" in refused(["calibrate", "nobody", derivatives], capsys)
    few = ["calibrate", imported, derivatives, "--exclude-participants", "1"]
    assert "Only 3 participant" in refused(few, capsys)
    away = ["calibrate", imported, derivatives, "--device", "nonsense"]
    assert "nonsense" in refused(away, capsys)
    assert "has conditions" in refused(["calibrate", "default", derivatives], capsys)
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refused(["export", imported, tmp_path / "file" / "x"], capsys)
    assert "no model" in refused(["export", tmp_path / "none", tmp_path / "x.pt"], capsys)


def test_list_shows_package_and_user_folders(imported, tmp_path, monkeypatch, capsys):
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["NAME", "BITS/DIM"]
    assert not any(line.startswith("lab ") for line in lines)
    assert any(line.startswith("default ") and " package " in line for line in lines)

    monkeypatch.setenv("BH_MODELS", str(imported.parent))
    (imported.parent / "broken").mkdir()
    (imported.parent / "broken" / "model.json").write_text("{")
    odd = imported.parent / "odd"
    odd.mkdir()
    (odd / "model.json").write_text('{"Config": 1, "Training": [], "TargetDomain": "x"}')
    taken = imported.parent / "default"
    taken.mkdir()
    (taken / "model.json").write_text("{}")
    assert main(["list"]) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "not calibrated; a published flow" in rows["lab"] and "CC-BY-4.0" in rows["lab"]
    assert "damaged" in rows["broken"] and "name taken twice" in rows["default"]
    assert main(["info", "lab"]) == 0
    assert str(imported) in capsys.readouterr().out
    assert "More than one model" in refused(["info", "default"], capsys)


def test_verify_refuses_tampered_files(imported, derivatives, capsys):
    main(["calibrate", str(imported), str(derivatives), "--device", "cpu"])
    for name in ("weights.safetensors", "mean.nii.gz"):
        path = imported / name
        whole = path.read_bytes()
        changed = bytearray(whole)
        changed[len(whole) // 2] ^= 1
        for content in (bytes(changed), whole[:-10], b""):
            path.write_bytes(content)
            assert name in refused(["verify", imported], capsys)
        path.write_bytes(whole)
    assert main(["verify", str(imported)]) == 0


@pytest.mark.parametrize("arguments", [
    ["import"], ["import", "x.pt"], ["calibrate", "model"], ["export", "model"], ["verify"],
])  # fmt: skip
def test_wrong_usage_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


@pytest.mark.parametrize("command", ["import", "calibrate", "export", "list", "info", "verify"])
def test_every_option_is_documented(command, capsys):
    page = Path(__file__).resolve().parents[2] / "docs" / "models.md"
    table = page.read_text(encoding="utf-8").split("### Options of bh-model import and calibrate")[
        1
    ]
    table = table.split("\n#")[0]
    rows = [row for row in table.splitlines() if row.startswith("| `--")]
    rows = [row for row in rows if row.split("|")[2].strip() in ("both", command)]
    documented = {o for row in rows for o in re.findall(r"--[a-z-]+", row.split("|")[1])}
    if command not in ("import", "calibrate"):
        documented = set()
    with pytest.raises(SystemExit):
        main([command, "--help"])
    usage = capsys.readouterr().out.partition("\n\n")[0]
    assert set(re.findall(r"--[a-z-]+", usage)) == documented


def test_help_and_list_import_no_torch():
    code = (
        "import sys\n"
        "from bh_bids.cli.model import main\n"
        "main(['list'])\n"
        "for name in ('import', 'calibrate', 'export', 'info', 'verify', 'list'):\n"
        "    try:\n        main([name, '--help'])\n"
        "    except SystemExit as stopped:\n        assert stopped.code == 0\n"
        "assert 'torch' not in sys.modules and 'nibabel' not in sys.modules\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
