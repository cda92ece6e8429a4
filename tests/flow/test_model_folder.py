"""Models on disk: what is written is what is read, and damage is refused."""

import gzip
import hashlib
import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from bh_bids.errors import DeviceError, ModelError
from bh_bids.flow.model import load_model, save_model
from bh_bids.flow.slopes import KNOTS
from bh_bids.flow.verify import roundtrip_error


@pytest.fixture
def saved(tmp_path, tiny_config, make_flow):
    flow = make_flow(tiny_config, spread=0.05, dtype=torch.float32)
    mean = np.random.default_rng(0).random(tiny_config.shape, dtype=np.float32) * 1.2
    about = {"Name": "tiny", "Version": "1", "Intensity": {"TargetScale": 7.0}}
    save_model(tmp_path / "tiny", flow, mean, about)
    return tmp_path / "tiny", flow, mean


def redescribe(folder, **changes):
    description = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**description, **changes}))


def replace_weights(folder, change):
    """Change the weights and vouch for them: only their content is wrong."""
    state = load_file(folder / "weights.safetensors")
    save_file(change(state), folder / "weights.safetensors")
    digest = hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
    redescribe(folder, WeightsSHA256=digest)


def test_round_trip(saved, tiny_config):
    folder, flow, mean = saved
    model = load_model(folder)
    assert model.name == "tiny"
    assert model.config == tiny_config
    assert model.space == "MNI152NLin2009aSym"
    assert model.intensity == {"TargetScale": 7.0}
    assert not model.flow.training
    for name, tensor in flow.state_dict().items():
        assert torch.equal(model.flow.state_dict()[name], tensor), name
    digest = hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
    assert model.weights_sha256 == digest
    # Eight bits of the largest value.
    assert np.abs(model.mean - mean).max() <= 0.51 * mean.max() / 255
    assert model.mean.dtype == np.float32
    image = nib.load(folder / "mean.nii.gz")
    np.testing.assert_allclose(image.affine, tiny_config.affine)
    assert image.get_data_dtype() == np.uint8
    assert sorted(p.name for p in folder.iterdir()) == [
        "mean.nii.gz",
        "model.json",
        "weights.safetensors",
    ]


def test_same_model_same_bytes(saved, tmp_path):
    folder, flow, mean = saved
    save_model(tmp_path / "again", flow, mean, {"Name": "tiny"})
    for name in ("weights.safetensors", "mean.nii.gz"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_verify_measures_the_round_trip(saved):
    assert roundtrip_error(load_model(saved[0])) < 1e-4


def test_verify_refuses_a_flow_without_inverse(saved):
    """A channel pressed into the last digit of its shift cannot come back."""
    model = load_model(saved[0])
    norm = model.flow._transforms[0]._transforms[1]._transforms[0]
    norm.log_scale[0], norm.shift[0] = -30.0, 1.0
    with pytest.raises(ModelError, match="not invertible"):
        roundtrip_error(model)


def test_tampered_weights_are_refused(saved):
    path = saved[0] / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ModelError, match="SHA-256"):
        load_model(saved[0])


def test_nan_weights_are_refused(saved):
    def spoil(state):
        name = next(n for n in state if n.endswith("log_scale"))
        state[name][0] = float("nan")
        return state

    replace_weights(saved[0], spoil)
    with pytest.raises(ModelError, match="NaN"):
        load_model(saved[0])


def test_nan_weights_are_not_written(saved, tmp_path, tiny_config):
    _, flow, mean = saved
    with torch.no_grad():
        next(flow.parameters()).fill_(float("inf"))
    with pytest.raises(ModelError, match="NaN or infinity"):
        save_model(tmp_path / "other", flow, mean, {})
    assert not (tmp_path / "other").exists()


def test_missing_tensor_is_refused(saved):
    replace_weights(saved[0], lambda state: dict(list(state.items())[1:]))
    with pytest.raises(ModelError, match="1 missing, 0 extra"):
        load_model(saved[0])


def test_wrong_shapes_are_refused(saved):
    config = json.loads((saved[0] / "model.json").read_text())["Config"]
    redescribe(saved[0], Config={**config, "hidden_channels": 16})
    with pytest.raises(ModelError, match="shape"):
        load_model(saved[0])


def test_weights_that_are_no_safetensors_are_refused(saved):
    (saved[0] / "weights.safetensors").write_bytes(b"no weights at all")
    redescribe(saved[0], WeightsSHA256=hashlib.sha256(b"no weights at all").hexdigest())
    with pytest.raises(ModelError, match="safetensors"):
        load_model(saved[0])


@pytest.mark.parametrize("name", ["weights.safetensors", "mean.nii.gz"])
def test_missing_file_is_named(saved, name):
    (saved[0] / name).unlink()
    with pytest.raises(ModelError, match=name):
        load_model(saved[0])


def replace_mean(folder, content, vouch=True):
    (folder / "mean.nii.gz").write_bytes(content)
    if vouch:
        redescribe(folder, MeanSHA256=hashlib.sha256(content).hexdigest())


def test_mean_on_another_grid_is_refused(saved):
    image = nib.load(saved[0] / "mean.nii.gz")
    moved = nib.Nifti1Image(np.asarray(image.dataobj), np.eye(4)).to_bytes()
    replace_mean(saved[0], gzip.compress(moved))
    with pytest.raises(ModelError, match="does not lie on the grid"):
        load_model(saved[0])


@pytest.mark.parametrize("content", [b"damaged", b"", gzip.compress(b"no image", mtime=0)])
def test_damaged_mean_is_refused(saved, content):
    replace_mean(saved[0], content)
    with pytest.raises(ModelError, match="mean.nii.gz cannot be read"):
        load_model(saved[0])


def test_tampered_or_truncated_mean_is_refused(saved):
    whole = (saved[0] / "mean.nii.gz").read_bytes()
    other = nib.load(saved[0] / "mean.nii.gz")
    other = nib.Nifti1Image(np.asarray(other.dataobj) * 0.5, other.affine).to_bytes()
    for content in (whole[:-40], gzip.compress(other)):
        replace_mean(saved[0], content, vouch=False)
        with pytest.raises(ModelError, match="mean.nii.gz is not the file that model.json"):
            load_model(saved[0])


def test_models_of_before_the_means_hash_load(saved):
    description = json.loads((saved[0] / "model.json").read_text())
    assert len(description.pop("MeanSHA256")) == 64
    (saved[0] / "model.json").write_text(json.dumps(description))
    assert load_model(saved[0]).calibrated


@pytest.mark.parametrize("name", ["TargetDomain", "Intensity", "Training", "Calibration"])
def test_tables_of_the_description_are_tables(saved, name):
    redescribe(saved[0], **{name: [1, 2]})
    with pytest.raises(ModelError, match=f"{name} in .* must be a JSON object"):
        load_model(saved[0])


def test_truncated_weights_are_refused(saved):
    path = saved[0] / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ModelError, match="SHA-256"):
        load_model(saved[0])
    # Even if the description vouches for them.
    redescribe(saved[0], WeightsSHA256=hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(ModelError, match="safetensors"):
        load_model(saved[0])


@pytest.mark.parametrize(
    "content, message", [("{", "valid JSON"), ("[]", "JSON object"), ("[" * 10**5, "valid JSON")]
)
def test_damaged_description_is_refused(saved, content, message):
    (saved[0] / "model.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(ModelError, match=message):
        load_model(saved[0])


def test_unknown_model_names_what_is_there(tmp_path):
    with pytest.raises(ModelError, match="no model 'nowhere'"):
        load_model("nowhere")
    with pytest.raises(ModelError, match="it has no model.json"):
        load_model(tmp_path)


def test_crash_while_writing_leaves_the_old_model(saved, monkeypatch, tiny_config):
    folder, flow, mean = saved
    before = {p.name: p.read_bytes() for p in folder.iterdir()}

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bh_bids.flow.model._write_mean", fail)
    with pytest.raises(ModelError, match="No space left"):
        save_model(folder, flow, mean, {"Name": "new"})
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_mean_of_another_shape_is_not_written(saved, tmp_path):
    with pytest.raises(ModelError, match="shape"):
        save_model(tmp_path / "other", saved[1], saved[2][1:], {})


@pytest.mark.parametrize("device", ["cuda:99", "nonsense"])
def test_absent_device_is_refused(saved, device):
    with pytest.raises(DeviceError, match=device):
        load_model(saved[0], device=device)


@pytest.mark.parametrize("known", [KNOTS, KNOTS - 1])
def test_slopes_of_another_number_are_those_of_another_version(tmp_path, known):
    """The model then lacks its constants: it says so where it is used, and is calibrated again."""
    model = load_model("default")
    of_slopes = ("slopes_centre", "slopes_scale", "slopes_weights")
    fewer = {name: getattr(model.calibration, name)[:known] for name in of_slopes}
    calibration = replace(model.calibration, **fewer)
    save_model(tmp_path, model.flow, model.mean, model.metadata, calibration)
    assert (load_model(tmp_path).calibration is None) == (known != KNOTS)
