"""The public function: scales, devices, guards, refusals."""

import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch

import bh_bids
from bh_bids.errors import DeviceError, InputError, ModelError
from bh_bids.harmonization import SOLVERS
from bh_bids.harmonization import harmonize as harmonize_by
from bh_bids.harmonization.device import resolve_device
from bh_bids.harmonization.starts import STARTS
from bh_bids.settings import METHODS

# The method that needs least of a model; what is tested here holds of all.
harmonize = partial(harmonize_by, method="paper")


def test_result_ignores_the_gain_of_the_source(brain, tools):
    volume, mask = brain
    model = tools.model(tools.linear(3.0, -1.0), volume)
    for start in STARTS:
        one, many = (
            harmonize(volume * k, mask, model, start=start, iterations=3, device="cpu")
            for k in (1.0, 4321.5)
        )
        assert np.allclose(one.volume, many.volume, atol=0.2)  # of 1000
        assert many.source_scale == pytest.approx(4321.5 * one.source_scale, rel=1e-5)


def test_a_flat_brain_is_refused_and_one_of_few_levels_told_of(brain, tools):
    volume, mask = brain
    model = tools.model(tools.linear(), volume)
    with pytest.raises(InputError, match="equally bright everywhere"):
        harmonize(np.where(mask, 7.0, 0), mask, model, device="cpu")
    labels = np.where(mask, np.round(volume * 8), 0)
    result = harmonize(labels, mask, model, iterations=1, device="cpu")
    assert any("different intensities" in g for g in result.guards)
    result = harmonize(volume, mask, model, iterations=1, device="cpu")
    assert not any("different intensities" in g for g in result.guards)


def test_the_alternation_says_that_it_leaves_no_lesion_out(brain, tools):
    volume, mask = brain
    model = tools.model(tools.linear(), volume)
    lesion = mask & (volume > np.quantile(volume[mask], 0.9))
    result = harmonize(volume, mask, model, iterations=1, device="cpu", lesion=lesion)
    assert any("leaves no lesion out" in g for g in result.guards)


def test_no_volume_is_a_mistake_and_lesions_may_be_one_array(brain, tools):
    from bh_bids.harmonization import harmonize_together

    volume, mask = brain
    model = tools.model(tools.linear(), volume)
    with pytest.raises(InputError, match="no volume"):
        harmonize_together([], [], model)
    given = {"method": "paper", "device": "cpu", "iterations": 1}
    (result,) = harmonize_together(
        [volume], [mask], model, lesions=np.zeros((1, *volume.shape)), **given
    )
    assert np.isfinite(result.volume).all()
    assert any("no voxel in the brain" in g for g in result.guards)


def test_result_is_in_the_targets_scale_and_empty_outside_the_brain(brain, tools):
    volume, mask = brain
    model = tools.model(tools.linear(), volume)
    with_skull = np.where(mask, volume, 5.0) * 300
    result = harmonize(with_skull, mask, model, iterations=1, shrink=0.0, device="cpu")
    assert result.volume.dtype == np.float32 and result.volume.shape == volume.shape
    assert result.target_scale == 1000.0
    assert not result.volume[~mask].any() and not result.scaled_source[~mask].any()
    assert (result.volume >= 0).all()
    median = np.median(result.volume[mask])
    assert median == pytest.approx(1000 * np.median(model.intensity["Quantiles"]), rel=0.15)
    assert np.percentile(result.scaled_source[mask], 99) == pytest.approx(1, rel=1e-4)


def test_same_input_same_bytes(brain, tools):
    volume, mask = brain
    model = tools.model(tools.linear(3.0, -1.0), volume)
    first, second = (harmonize(volume, mask, model, device="cpu") for _ in range(2))
    assert first.volume.tobytes() == second.volume.tobytes()
    assert first.trace == second.trace


def test_result_says_how_it_was_made(brain, tools):
    volume, mask = brain
    model = tools.model(tools.linear(), volume)
    result = harmonize(volume, mask, model, iterations=2, seed=7, device="cpu")
    assert result.method == "paper" and result.device == "cpu" and result.seed == 7
    assert result.parameters["iterations"] == 2
    assert {"start", "step", "shrink", "edge_weight", "tolerance"} <= set(result.parameters)
    assert result.contrast == pytest.approx(1, abs=1e-5)


def test_input_is_left_alone(brain, tools):
    volume, mask = brain
    kept, kept_mask = volume.copy(), mask.copy()
    harmonize(volume, mask, tools.model(tools.linear(), volume), iterations=1, device="cpu")
    assert np.array_equal(volume, kept) and np.array_equal(mask, kept_mask)


def test_inverted_contrast_is_refused(brain, tools):
    volume, mask = brain
    model = tools.model(tools.linear(), volume)
    with pytest.raises(InputError, match="inverted.*-1.00"):
        harmonize((1.2 - volume) * mask, mask, model, device="cpu")


def test_doubtful_contrast_is_said(brain, tools):
    volume, mask = brain
    other = np.where(mask, tools.volume(seed=9)[0], 0)
    result = harmonize(other, mask, tools.model(tools.linear(), volume), device="cpu")
    assert abs(result.contrast) < 0.2 and not result.contrast < -0.2
    assert any("resembles" in g for g in result.guards)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_few_bad_voxels_are_left_out_and_said(brain, tools, bad):
    volume, mask = brain
    volume = volume.copy()
    volume[16, 20, 6] = bad
    result = harmonize(volume, mask, tools.model(tools.linear(), brain[0]), device="cpu")
    assert np.isfinite(result.volume).all() and result.volume[16, 20, 6] == 0
    assert any("not finite" in g for g in result.guards)


def test_many_bad_voxels_are_refused(brain, tools):
    volume, mask = brain
    volume = volume.copy()
    volume[:, 20:] = np.nan
    with pytest.raises(InputError, match="not finite"):
        harmonize(volume, mask, tools.model(tools.linear(), brain[0]), device="cpu")


def test_negative_intensities_count_as_zero_and_are_said(brain, tools):
    volume, mask = brain
    volume = np.where(mask, volume, 0).copy()
    volume[10:14, 15:25] *= -1
    result = harmonize(volume, mask, tools.model(tools.linear(), brain[0]), device="cpu")
    assert (result.volume >= 0).all()
    assert any("negative" in g for g in result.guards)


@pytest.mark.parametrize("what", ["volume", "mask", "empty", "zero"])
def test_unusable_input_is_refused_in_one_sentence(brain, tools, what):
    volume, mask = brain
    model = tools.model(tools.linear(), volume)
    cases = {
        "volume": (volume[:-1], mask, r"volume has shape \(31, 40, 12\)"),
        "mask": (volume, mask[:, :-1], r"brain mask has shape"),
        "empty": (volume, np.zeros_like(mask), "mask is empty"),
        "zero": (np.zeros_like(volume), mask, "finite and positive"),
    }
    image, brain_mask, sentence = cases[what]
    with pytest.raises(InputError, match=sentence):
        harmonize(image, brain_mask, model, device="cpu")


def test_unknown_method_and_parameter_are_refused_with_the_choices(brain, tools):
    volume, mask = brain
    model = tools.model(tools.linear(), volume)
    with pytest.raises(InputError, match="no method 'magic'.*map, paper"):
        harmonize(volume, mask, model, method="magic")
    with pytest.raises(InputError, match="no parameter 'stepp'.*step"):
        harmonize(volume, mask, model, stepp=1.0)


@pytest.mark.parametrize(
    ("intensity", "sentence"),
    [({"Quantiles": [0, 1]}, "TargetScale"), ({"TargetScale": 3.0}, "Quantiles")],
)
def test_a_model_without_intensities_is_refused(brain, tools, intensity, sentence):
    volume, mask = brain
    model = tools.model(tools.linear(), volume)
    model.intensity = intensity
    with pytest.raises(ModelError, match=sentence):
        harmonize(volume, mask, model, start="gain", device="cpu")


def test_a_mask_beside_the_mean_volume_is_refused_or_said(brain, tools):
    volume, mask = brain
    model = tools.model(tools.linear(), np.zeros_like(volume))
    with pytest.raises(InputError, match="does not meet"):
        harmonize(volume, mask, model, start="mean", device="cpu")
    result = harmonize(volume, mask, model, start="gain", iterations=1, device="cpu")
    assert any("does not meet" in g for g in result.guards)


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")
    assert resolve_device("cpu") == torch.device("cpu")
    with pytest.raises(DeviceError, match="cuda"):
        resolve_device("cuda")
    with pytest.raises(DeviceError, match="no device 'abacus'"):
        resolve_device("abacus")
    with pytest.raises(DeviceError, match="no device 'mps'"):
        resolve_device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("auto") == torch.device("cuda:0")
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(DeviceError, match="no CUDA device 2"):
        resolve_device("cuda:2")


def test_harmonize_asks_for_the_device_before_it_works(brain, tools, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    volume, mask = brain
    with pytest.raises(DeviceError):
        harmonize(volume, mask, tools.model(tools.linear(), volume), device="cuda:0")


def test_public_names_and_a_cheap_import():
    assert bh_bids.harmonize is harmonize_by
    # The command line offers what there is, without importing it.
    assert METHODS == tuple(SOLVERS)
    assert {"harmonize", "load_model", "__version__"} <= set(dir(bh_bids))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = bh_bids.nothing
    code = (
        "import sys, bh_bids; "
        "print(bh_bids.__version__, 'torch' in sys.modules, 'numpy' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split()[1:] == ["False", "False"]


def test_starts_have_the_targets_level_and_contrast(brain, tools):
    volume, mask = brain
    rng = np.random.default_rng(0)
    target = np.sort(rng.normal(0.6, 0.15, 20_000).clip(0))
    quantiles = np.quantile(target, np.linspace(0, 1, 257))
    model = tools.model(tools.linear(), 0.3 * volume + 0.1 * mask, quantiles=quantiles)
    source = 0.5 * volume
    for name in ("mean", "histogram"):
        inside = STARTS[name](source, mask, model)[mask]
        assert inside.mean() == pytest.approx(0.6, abs=0.01)
        assert inside.std() == pytest.approx(0.15, abs=0.02)
    gain = STARTS["gain"](source, mask, model)
    assert np.ptp(gain[mask] / source[mask]) < 1e-5
