"""bh-model as a user meets it: exit codes, sentences, files."""

import json
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from bh_bids.cli.model import main
from bh_bids.flow.config import FlowConfig

SMALL = ["--levels", "2", "--steps-per-level", "1", "--hidden-channels", "4", "--blocks", "1"]
SMALL += ["--bins", "4", "--crop", "16", "24", "--batch-size", "2", "--steps", "2"]
SMALL += ["--interval", "1", "--validation-crops", "2", "--device", "cpu", "--threads", "1"]
TOLD = ["--description", "a test scanner", "--validation-participants", "0.25"]


@pytest.fixture(autouse=True)
def same_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def derivatives(tmp_path_factory):
    """Four participants with a small brain in the whole grid."""
    root = tmp_path_factory.mktemp("derivatives")
    config = FlowConfig()
    box = (slice(60, 100), slice(80, 110), slice(70, 80))
    for k in range(4):
        noise = np.random.default_rng(k).normal(size=(40, 30, 10))
        smooth = gaussian_filter(noise, 2)
        tissue = np.digitize(smooth, np.quantile(smooth, [0.2, 0.6]))
        volume = np.zeros(config.shape, np.float32)
        volume[box] = 100 * (1 + k) * (np.array([0.3, 0.6, 0.9])[tissue] + 0.02 * noise)
        folder = root / f"sub-{k + 1}" / "anat"
        folder.mkdir(parents=True)
        stem = folder / f"sub-{k + 1}_space-{config.space}_res-1_desc-"
        for suffix, data in (
            ("preproc_T1w", volume),
            ("brain_mask", (volume > 0).astype(np.uint8)),
        ):
            nib.save(nib.Nifti1Image(data, config.affine), f"{stem}{suffix}.nii.gz")
    return root


@pytest.fixture(scope="module")
def trained(derivatives, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "small"
    assert main(["train", str(derivatives), "--output", str(folder), *SMALL, *TOLD]) == 0
    return folder


def test_train_writes_a_described_model(trained):
    description = json.loads((trained / "model.json").read_text())
    assert description["Name"] == "small"
    assert description["TargetDomain"]["Description"] == "a test scanner"
    assert description["Training"]["crop"] == [16, 24]
    assert len(description["TrainingParticipants"]) == 3


def test_info(trained, capsys):
    assert main(["info", str(trained)]) == 0
    out = capsys.readouterr().out
    assert "a test scanner" in out and "3 training, 1 validation" in out and "complete" in out


def test_verify(trained, capsys):
    assert main(["verify", str(trained)]) == 0
    assert "files whole" in capsys.readouterr().out


def test_verify_damaged_weights(trained, tmp_path, capsys):
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in trained.glob("*.*"):
        (copy / path.name).write_bytes(path.read_bytes())
    (copy / "weights.safetensors").write_bytes(b"0" * 100)
    assert main(["verify", str(copy)]) == 1
    assert "SHA-256" in capsys.readouterr().err


def test_resume_of_a_finished_training_changes_nothing(trained, derivatives):
    before = (trained / "weights.safetensors").read_bytes()
    arguments = ["train", str(derivatives), "--output", str(trained), *SMALL, *TOLD, "--resume"]
    assert main(arguments) == 0
    assert (trained / "weights.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    "change, message",
    [
        (["--crop", "20", "18"], "multiples of 4"),
        (["--crop", "0"], "multiples of 4"),
        (["--crop", "256"], "larger than a slice"),
        (["--seed", "-1"], "seed"),
        (["--crop", "big"], "--crop needs"),
        (["--steps", "0"], "steps"),
        (["--levels", "9"], "levels"),
        (["--exclude-participants", "1"], "at least 4"),
        (["--validation-participants", "nobody"], "nobody"),
        (["--device", "nonsense"], "nonsense"),
    ],
)
def test_mistakes_end_with_one_sentence(derivatives, tmp_path, capsys, change, message):
    arguments = ["train", str(derivatives), "--output", str(tmp_path / "m"), *SMALL, *change]
    assert main(arguments) == 1
    err = capsys.readouterr().err.strip().splitlines()[-1]
    assert err.startswith("bh-model: error:") and message in err
    assert not (tmp_path / "m").exists(), "what is wrong is told before anything is read"


def test_wrong_folders(tmp_path, capsys):
    assert main(["train", str(tmp_path / "no"), "--output", str(tmp_path / "m")]) == 1
    assert "does not exist" in capsys.readouterr().err
    assert main(["train", str(tmp_path), "--output", str(tmp_path / "m")]) == 1
    assert "No preprocessed scans" in capsys.readouterr().err
    assert main(["info", str(tmp_path)]) == 1
    assert "model.json" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["train"], ["info"], ["unknown"]])
def test_wrong_usage_exits_with_2(arguments):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_list_names_the_packaged_models(monkeypatch, trained, capsys):
    monkeypatch.setattr("bh_bids.flow.registry.PACKAGED_MODELS", trained.parent)
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert "small" in out and "a test scanner" in out


def test_help_is_fast_because_it_imports_no_torch():
    code = (
        "import sys\n"
        "from bh_bids.cli.model import main\n"
        "try:\n    main(['train', '--help'])\nexcept SystemExit:\n    pass\n"
        "assert 'torch' not in sys.modules and 'nibabel' not in sys.modules\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "examples:" in result.stdout
