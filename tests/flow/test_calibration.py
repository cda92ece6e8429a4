"""Imported models: without their target's intensities first, with them after calibration."""

import json
import os
import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

from bh_bids.errors import InputError, ModelError
from bh_bids.flow.calibration import calibrate_model, measure_bits, uncalibrated_stand_in
from bh_bids.flow.model import load_model, save_model
from bh_bids.flow.network import TargetFlow
from bh_bids.flow.slices import find_scans, read_volume
from bh_bids.flow.verify import roundtrip_error


def write_imported(folder, config):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        flow = TargetFlow(config)
        with torch.no_grad():
            for parameter in flow.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    about = {"Name": "lab", "License": "of the checkpoint", "TargetDomain": {"Dataset": "theirs"}}
    save_model(folder, flow, None, {**about, "Imported": {"File": "best.pt"}})
    return folder


@pytest.fixture
def imported(tmp_path, tiny_config):
    """As after an import: weights and a name, no mean, no intensities."""
    return write_imported(tmp_path / "imported", tiny_config)


@pytest.fixture(scope="module")
def calibrated_once(tmp_path_factory, tiny_config, derivatives):
    folder = write_imported(tmp_path_factory.mktemp("models") / "lab", tiny_config)
    before = (folder / "weights.safetensors").read_bytes()
    about = {"TargetDomain": {"Description": "ours", "Dataset": ""}, "License": ""}
    model = calibrate_model(folder, derivatives, about=about)
    assert (folder / "weights.safetensors").read_bytes() == before
    return folder, model


@pytest.fixture
def calibrated(calibrated_once, tmp_path):
    return shutil.copytree(calibrated_once[0], tmp_path / "calibrated")


def test_uncalibrated_model_loads_and_says_what_it_lacks(imported):
    model = load_model(imported)
    assert model.mean is None and not model.calibrated and model.bits_per_dimension is None
    assert sorted(p.name for p in imported.iterdir()) == ["model.json", "weights.safetensors"]
    with pytest.raises(ModelError, match="'lab' was imported.*bh-model calibrate"):
        model.require_calibrated()
    assert roundtrip_error(uncalibrated_stand_in(model)) < 1e-4


def test_calibration_describes_the_domain(calibrated_once, derivatives):
    folder, model = calibrated_once
    model.require_calibrated()
    again = load_model(folder)
    assert again.metadata == model.metadata and "Calibrated" not in model.metadata
    np.testing.assert_array_equal(again.mean, model.mean)

    # Straight from the files, not through the package.
    scans = sorted(derivatives.glob("sub-*/**/*desc-preproc_T1w.nii.gz"))
    scaled, scales = [], []
    for path in scans:
        volume = np.asarray(nib.load(path).dataobj, np.float64)
        mask = nib.load(str(path).replace("preproc_T1w", "brain_mask")).dataobj
        inside = np.asarray(mask) > 0
        scales.append(np.percentile(volume[inside], 99))
        scaled.append(np.where(inside, np.maximum(volume / scales[-1], 0), 0))
    mean = np.mean(scaled, axis=0)
    assert np.abs(model.mean - mean).max() < mean.max() / 255
    assert model.intensity["TargetScale"] == pytest.approx(np.median(scales), rel=1e-6)
    assert len(model.intensity["Quantiles"]) == 257
    modes = model.intensity["Modes"]
    assert 0 < modes["CSF"] < modes["GM"] < modes["WM"] < 1.2

    assert model.target_domain == {"Dataset": "theirs", "Description": "ours"}
    assert model.metadata["License"] == "of the checkpoint"
    found = model.metadata["Calibration"]
    assert found["Participants"] == ["01", "02", "03", "04", "05", "06"] and found["Scans"] == 7
    assert model.bits_per_dimension == found["BitsPerDimension"]


def test_bits_per_dimension_are_those_of_whole_slices(imported, derivatives, tiny_config):
    """Against the flow's own on every slice, each with other noise."""
    flow = load_model(imported).flow
    scans = find_scans(derivatives, tiny_config.space)
    volumes = [read_volume(scan, tiny_config) for scan in scans]
    bits, count = measure_bits(flow, volumes, tiny_config)
    assert measure_bits(flow, volumes, tiny_config) == (bits, count)
    every = []
    for volume in volumes:
        slices = volume.in_target_units().transpose(2, 0, 1)[:, None]
        slices = torch.from_numpy(slices[slices.any(axis=(1, 2, 3))].copy())
        levels = 2**tiny_config.bits
        noise = torch.rand(slices.shape, generator=torch.Generator().manual_seed(7)) - 0.5
        with torch.no_grad():
            every.append(flow.bits_per_dim(((slices * levels).round() + noise) / levels))
    assert bits == pytest.approx(float(torch.cat(every).mean()), abs=0.02)
    assert count == sum(map(len, every))


def test_a_copy_and_models_that_are_calibrated_already(imported, calibrated, derivatives, tmp_path):
    with pytest.raises(ModelError, match="calibrated already: give --output"):
        calibrate_model(calibrated, derivatives)
    with pytest.raises(ModelError, match="holds a model already"):
        calibrate_model(calibrated, derivatives, output=imported)
    before = (calibrated / "model.json").read_bytes()
    calibrate_model(calibrated, derivatives, output=tmp_path / "copy")
    assert load_model(tmp_path / "copy").calibrated
    assert (calibrated / "model.json").read_bytes() == before


def test_excluded_participants_do_not_count(imported, calibrated, derivatives, tmp_path):
    whole = load_model(calibrated)
    model = calibrate_model(imported, derivatives, exclude=["sub-06", "05"])
    found = model.metadata["Calibration"]
    assert found["Participants"] == ["01", "02", "03", "04"]
    assert found["ExcludedParticipants"] == ["05", "06"] and found["Scans"] == 5
    assert model.intensity["TargetScale"] < whole.intensity["TargetScale"]
    with pytest.raises(InputError, match="No scans of participant.s. nobody"):
        calibrate_model(imported, derivatives, output=tmp_path / "m", exclude=["nobody"])


@pytest.mark.parametrize("table", ["", "Calibration", "Constants"])
def test_missing_constants_are_not_learned_from_the_models_test_participants(
    calibrated, derivatives, table
):
    (calibrated / "calibration.safetensors").unlink()
    path = calibrated / "model.json"
    content = json.loads(path.read_text())
    del content["CalibrationSHA256"]
    (content.setdefault(table, {}) if table else content)["ExcludedParticipants"] = ["06"]
    path.write_text(json.dumps(content))
    before = load_model(calibrated)
    assert before.calibration is None

    said, about = [], {"TargetDomain": {"Dataset": "doi:10.1/x"}, "License": ""}
    given = {"exclude": ["sub-05"], "about": about, "report": said.append}
    model = calibrate_model(calibrated, derivatives, **given)
    assert model.calibration.scans == 4
    assert "The model keeps participant(s) 06 for tests: they are left out." in said
    found = model.metadata["Constants"]
    assert found["Participants"] == ["01", "02", "03", "04"]
    assert found["ExcludedParticipants"] == ["05", "06"] and "bh-bids" in found["Software"]
    # What was asked to be told of the target is told; the rest stays.
    assert model.target_domain == {**content["TargetDomain"], "Dataset": "doi:10.1/x"}
    for name in content.keys() - {"Constants", "TargetDomain"}:
        assert model.metadata[name] == content[name]
    np.testing.assert_array_equal(model.mean, before.mean)


def test_a_new_description_forgets_whom_older_constants_came_from(
    calibrated, derivatives, tmp_path
):
    path = calibrated / "model.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "Constants": {"Participants": ["01"]}}))
    copy = calibrate_model(calibrated, derivatives, output=tmp_path / "copy")
    assert "Constants" not in copy.metadata and copy.metadata["Calibration"]["Scans"] == 7


def test_scans_that_failed_their_checks_describe_no_target(imported, derivatives, tmp_path):
    folder = tmp_path / "derivatives"
    shutil.copytree(derivatives, folder)
    for label, verdict in (("06", "fail"), ("05", "warn")):
        stem = f"sub-{label}_space-MNI152NLin2009aSym_res-1_desc-preproc_T1w"
        sidecar = folder / f"sub-{label}" / "anat" / f"{stem}.json"
        sidecar.write_text(json.dumps({"AnatomicalChecks": {"Verdict": verdict}}))
    said = []
    model = calibrate_model(imported, folder, report=said.append)
    found = model.metadata["Calibration"]
    assert found["Participants"] == ["01", "02", "03", "04", "05"] and found["Scans"] == 6
    warnings = [sentence for sentence in said if "anatomical checks" in sentence]
    assert [sentence.startswith("Warning: ") for sentence in warnings] == [True, True]
    assert warnings[0].endswith(": sub-06.") and warnings[1].endswith(": sub-05.")


def test_few_participants_and_other_grids_are_refused(
    imported, derivatives, tmp_path, scan_writer, volume_maker, tiny_config
):
    with pytest.raises(InputError, match="does not exist"):
        calibrate_model(imported, tmp_path / "nowhere")
    volume, mask = volume_maker(tiny_config, 0)
    for k in range(3):
        folder = tmp_path / "few" / f"sub-{k}" / "anat"
        scan_writer(folder, f"sub-{k}", volume, mask, tiny_config.affine)
    with pytest.raises(InputError, match="Only 3 participant"):
        calibrate_model(imported, tmp_path / "few")
    for k in range(4):
        folder = tmp_path / "shifted" / f"sub-{k}" / "anat"
        scan_writer(folder, f"sub-{k}", volume, mask, np.eye(4))
    with pytest.raises(InputError, match="--anat-only --model"):
        calibrate_model(imported, tmp_path / "shifted")
    assert not load_model(imported).calibrated


def test_conditional_models_are_not_described_anew(derivatives, tmp_path, make_flow, tiny_config):
    flow = make_flow(replace(tiny_config, conditions=("mean",)), dtype=torch.float32)
    save_model(tmp_path / "m", flow, np.zeros(tiny_config.shape, np.float32), {"Name": "m"})
    with pytest.raises(ModelError, match="has conditions"):
        calibrate_model(tmp_path / "m", derivatives, output=tmp_path / "other")


def test_a_removed_mean_is_damage_not_a_missing_calibration(calibrated):
    (calibrated / "mean.nii.gz").unlink()
    with pytest.raises(ModelError, match="mean.nii.gz is missing"):
        load_model(calibrated)


def test_interrupted_calibration_leaves_an_uncalibrated_model(imported, derivatives, monkeypatch):
    put = os.replace

    def stop(source, target):
        if str(target).endswith("model.json"):
            raise KeyboardInterrupt
        put(source, target)

    monkeypatch.setattr("bh_bids.flow.model.os.replace", stop)
    with pytest.raises(KeyboardInterrupt):
        calibrate_model(imported, derivatives)
    monkeypatch.undo()
    assert (imported / "mean.nii.gz").exists()
    assert not load_model(imported).calibrated
    assert calibrate_model(imported, derivatives).calibrated
