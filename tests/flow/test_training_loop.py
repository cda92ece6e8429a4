"""Training: it learns, it resumes exactly, it survives bad steps."""

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bh_bids.errors import DeviceError, InputError, ModelError
from bh_bids.flow.averaging import WeightAverage
from bh_bids.flow.checkpoint import TrainingLog, save_checkpoint
from bh_bids.flow.config import CONDITIONS
from bh_bids.flow.crops import CropSampler
from bh_bids.flow.model import load_model
from bh_bids.flow.slices import find_scans, read_volume
from bh_bids.flow.trainer import MAX_SKIPPED_IN_A_ROW, Trainer
from bh_bids.flow.training import TrainingSettings, train_model

QUICK = {"batch_size": 4, "crop": (16, 16), "warm_up": 3, "interval": 4, "validation_crops": 8}


def run(derivatives, output, config, steps=12, resume=False, **changes):
    settings = TrainingSettings(**{**QUICK, "steps": steps, **changes})
    return train_model(
        derivatives, output, config, settings, {"Name": "tiny"}, validation=0.3, resume=resume
    )


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    """Drawn again and again they would take most of the time."""
    monkeypatch.setattr("bh_bids.flow.record.plot_learning_curve", lambda *given: None)
    monkeypatch.setattr("bh_bids.flow.record.plot_samples", lambda *given: None)


@pytest.fixture(scope="module")
def uninterrupted(derivatives, tiny_config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted") / "model"
    run(derivatives, folder, tiny_config)
    return folder


def test_learns_more_than_the_marginal_distribution(derivatives, tiny_config, tmp_path):
    """Below the entropy of held-out intensities: no voxel-by-voxel code could be shorter."""
    metadata = run(
        derivatives,
        tmp_path / "m",
        tiny_config,
        steps=150,
        batch_size=8,
        interval=75,
        validation_crops=64,
        warm_up=20,
        learning_rate=2e-2,
    )
    held_out = [
        read_volume(scan, tiny_config)
        for scan in find_scans(derivatives, tiny_config.space)
        if scan.participant in metadata["ValidationParticipants"]
    ]
    crops = CropSampler(held_out, (16, 16), tiny_config, 1).batch(0, 64, augment=False).x
    _, counts = np.unique(np.rint(crops * 256), return_counts=True)
    share = counts / counts.sum()
    entropy = -(share * np.log2(share)).sum()
    assert metadata["Training"]["BitsPerDimension"] < entropy - 0.3


def test_writes_a_whole_model(uninterrupted, tiny_config):
    model = load_model(uninterrupted)
    assert model.config == tiny_config
    metadata = model.metadata
    assert len(metadata["TrainingParticipants"]) == 4
    assert len(metadata["ValidationParticipants"]) == 2
    assert metadata["Training"]["Completed"] is True
    assert set(metadata["Intensity"]) == {"ScalePercentile", "TargetScale", "Quantiles", "Modes"}
    assert model.mean.max() > 0.5
    folder = uninterrupted / "training"
    assert (folder / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [e["step"] for e in entries] == [4, 8, 12]
    assert min(e["validation"] for e in entries) == pytest.approx(
        metadata["Training"]["BitsPerDimension"], abs=1e-3
    )


def test_reported_bits_are_those_of_the_saved_weights(uninterrupted, derivatives, tiny_config):
    model = load_model(uninterrupted)
    held_out = [
        read_volume(scan, tiny_config)
        for scan in find_scans(derivatives, tiny_config.space)
        if scan.participant in model.metadata["ValidationParticipants"]
    ]
    crops = CropSampler(held_out, (16, 16), tiny_config, 1).batch(0, 8, augment=False).x
    bits = float(model.flow.bits_per_dim(torch.from_numpy(crops)).mean())
    assert bits == pytest.approx(model.metadata["Training"]["BitsPerDimension"], abs=2e-4)


class Killed(BaseException):
    """Stands for a signal: nothing catches it."""


@pytest.mark.parametrize("where", ["_one_step", "_state", "_validate"])
def test_resumes_exactly(derivatives, tiny_config, tmp_path, monkeypatch, uninterrupted, where):
    original, calls = getattr(Trainer, where), []
    last = {"_one_step": 11, "_state": 2, "_validate": 3}[where]

    def dies(self, *crops):
        calls.append(self.step)
        if len(calls) == last:
            raise Killed
        return original(self, *crops)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, where, dies)
        with pytest.raises(Killed):
            run(derivatives, tmp_path / "m", tiny_config)
    assert not (tmp_path / "m" / "model.json").exists()
    # What the process drew at random in between must not matter.
    torch.manual_seed(99)
    run(derivatives, tmp_path / "m", tiny_config, resume=True)
    weights = (tmp_path / "m" / "weights.safetensors").read_bytes()
    assert weights == (uninterrupted / "weights.safetensors").read_bytes()
    logs = [
        [
            {k: v for k, v in json.loads(line).items() if k != "seconds"}
            for line in (folder / "training" / "log.jsonl").read_text().splitlines()
        ]
        for folder in (tmp_path / "m", uninterrupted)
    ]
    assert logs[0] == logs[1]


def test_stops_when_the_time_is_over_and_goes_on(derivatives, tiny_config, tmp_path, uninterrupted):
    metadata = run(derivatives, tmp_path / "m", tiny_config, max_minutes=1e-6)
    assert metadata["Training"]["Completed"] is False
    assert metadata["Training"]["Step"] == 1
    load_model(tmp_path / "m")
    metadata = run(derivatives, tmp_path / "m", tiny_config, resume=True)
    assert metadata["Training"]["Completed"] is True
    weights = (tmp_path / "m" / "weights.safetensors").read_bytes()
    assert weights == (uninterrupted / "weights.safetensors").read_bytes()


def test_resume_refuses_other_settings(derivatives, tiny_config, tmp_path):
    run(derivatives, tmp_path / "m", tiny_config, max_minutes=1e-6)
    with pytest.raises(InputError, match="seed"):
        run(derivatives, tmp_path / "m", tiny_config, resume=True, seed=4)
    with pytest.raises(InputError, match="--resume"):
        run(derivatives, tmp_path / "m", tiny_config)


@pytest.mark.parametrize("content", [b"damaged", b""])
def test_damaged_checkpoint_is_named(derivatives, tiny_config, tmp_path, content):
    run(derivatives, tmp_path / "m", tiny_config, max_minutes=1e-6)
    (tmp_path / "m" / "training" / "last.pt").write_bytes(content)
    with pytest.raises(ModelError, match="last.pt cannot be read"):
        run(derivatives, tmp_path / "m", tiny_config, resume=True)


@pytest.mark.parametrize("resume", [False, True])
def test_a_model_without_its_training_is_not_overwritten(
    uninterrupted, derivatives, tiny_config, tmp_path, resume
):
    folder = tmp_path / "m"
    shutil.copytree(uninterrupted, folder, ignore=shutil.ignore_patterns("training"))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ModelError, match="holds a model already: choose another folder"):
        run(derivatives, folder, tiny_config, resume=resume, seed=5)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


full_disk = pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")


@full_disk
def test_full_disk_ends_with_a_sentence_and_the_training_goes_on(
    derivatives, tiny_config, tmp_path, uninterrupted
):
    run(derivatives, tmp_path / "m", tiny_config, max_minutes=1e-6)
    folder = tmp_path / "m" / "training"
    before = (folder / "last.pt").read_bytes()
    (folder / "last.pt.part").symlink_to("/dev/full")
    with pytest.raises(ModelError, match="last.pt cannot be written .No space left.*--resume"):
        run(derivatives, tmp_path / "m", tiny_config, resume=True)
    assert (folder / "last.pt").read_bytes() == before
    assert not os.path.lexists(folder / "last.pt.part")
    run(derivatives, tmp_path / "m", tiny_config, resume=True)
    weights = (tmp_path / "m" / "weights.safetensors").read_bytes()
    assert weights == (uninterrupted / "weights.safetensors").read_bytes()


@full_disk
def test_log_on_a_full_disk(tmp_path):
    path = tmp_path / "log.jsonl"
    log = TrainingLog(path, 0)
    path.unlink()
    path.symlink_to("/dev/full")
    with pytest.raises(ModelError, match="log.jsonl cannot be written .*free space and go on"):
        log.append({"step": 1})
    path.unlink()
    path.write_text('{"step": 2}\n')
    (tmp_path / "log.jsonl.part").symlink_to("/dev/full")
    with pytest.raises(ModelError, match="log.jsonl cannot be written .*free space and go on"):
        TrainingLog(path, 2)
    assert path.read_text() == '{"step": 2}\n'


def test_figure_on_a_full_disk(derivatives, tiny_config, tmp_path, monkeypatch):
    def full(*given):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("bh_bids.flow.record.plot_learning_curve", full)
    with pytest.raises(ModelError, match="learning_curve.png cannot be written"):
        run(derivatives, tmp_path / "m", tiny_config)


def test_checkpoint_is_on_the_disk_before_it_replaces_the_last(tmp_path, monkeypatch):
    done, put = [], os.replace

    def replace_noted(*paths):
        done.append("replace")
        put(*paths)

    monkeypatch.setattr(os, "fsync", lambda _: done.append("fsync"))
    monkeypatch.setattr(os, "replace", replace_noted)
    save_checkpoint(tmp_path, {"step": 1})
    assert done == ["fsync", "replace"]


def test_checkpoint_that_runs_code_is_refused(derivatives, tiny_config, tmp_path):
    class Attack:
        def __reduce__(self):
            return (print, ("code ran",))

    run(derivatives, tmp_path / "m", tiny_config, max_minutes=1e-6)
    torch.save({"fingerprint": Attack()}, tmp_path / "m" / "training" / "last.pt")
    with pytest.raises(ModelError, match="cannot be read"):
        run(derivatives, tmp_path / "m", tiny_config, resume=True)


def test_bad_steps_are_skipped_and_counted(derivatives, tiny_config, tmp_path, monkeypatch):
    original = CropSampler.batch

    def spoiled(self, step, size, augment=True, **options):
        batch = original(self, step, size, augment=augment, **options)
        if augment and step in (3, 5):
            batch.x[0, 0, 0, 0] = np.nan
        return batch

    monkeypatch.setattr(CropSampler, "batch", spoiled)
    metadata = run(derivatives, tmp_path / "m", tiny_config)
    assert metadata["Training"]["SkippedSteps"] == 2
    load_model(tmp_path / "m")


def test_divergence_ends_with_a_sentence(derivatives, tiny_config, tmp_path, monkeypatch):
    original = CropSampler.batch

    def spoiled(self, step, size, augment=True, **options):
        batch = original(self, step, size, augment=augment, **options)
        return batch._replace(x=batch.x * np.float32("nan" if augment else 1))

    monkeypatch.setattr(CropSampler, "batch", spoiled)
    steps = MAX_SKIPPED_IN_A_ROW + 5
    with pytest.raises(ModelError, match="diverged"):
        run(derivatives, tmp_path / "m", tiny_config, steps=steps, interval=steps)


def test_learning_rate_rises_and_falls():
    settings = TrainingSettings(steps=100, warm_up=10, learning_rate=2.0)
    rates = [settings.rate(k) for k in range(101)]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == rates[10] == pytest.approx(2.0)
    assert rates[55] == pytest.approx(1.0)
    assert rates[100] == pytest.approx(0.0)


@pytest.mark.parametrize(
    "change",
    [{"steps": 0}, {"learning_rate": 0.0}, {"max_minutes": -1.0}, {"warm_up": -1}, {"seed": -1}],
)
def test_impossible_settings(change):
    with pytest.raises(InputError, match=next(iter(change))):
        TrainingSettings(**change)


def test_absent_device(derivatives, tiny_config, tmp_path):
    with pytest.raises(DeviceError, match="cuda:99"):
        run(derivatives, tmp_path / "m", tiny_config, device="cuda:99")


def test_log_forgets_what_came_after_the_checkpoint(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 2}\n{"step": 4}\n{"step": 6}\n{"st')
    log = TrainingLog(path, 4)
    log.append({"step": 5})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [2, 4, 5]


def test_log_that_a_power_failure_spoiled(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step": 2}\n\0\0\xff\xfe')
    assert TrainingLog(path, 4).entries == [{"step": 2}]


def test_conditioned_training_resumes_exactly_and_reports_both_noises(
    derivatives, tiny_config, tmp_path
):
    config = replace(tiny_config, conditions=CONDITIONS)
    run(derivatives, tmp_path / "a", config, steps=8)
    run(derivatives, tmp_path / "b", config, steps=8, max_minutes=1e-6, workers=0)
    summary = run(derivatives, tmp_path / "b", config, steps=8, resume=True, workers=3)["Training"]
    weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]
    by_noise = summary["BitsPerDimensionByNoise"]
    low, high = config.noise_range
    assert [float(s) for s in by_noise] == pytest.approx([low, (low * high) ** 0.5], rel=1e-3)
    assert np.mean(list(by_noise.values())) == pytest.approx(summary["BitsPerDimension"], abs=1e-3)


def test_average_of_weights_is_the_recursion(tiny_config, make_flow):
    flow = make_flow(tiny_config, seed=1, dtype=torch.float32)
    average = WeightAverage(flow, 0.6)
    name, parameter = next(iter(flow.named_parameters()))
    expected = parameter.detach().double()
    rng = torch.Generator().manual_seed(0)
    for step in range(20):
        with torch.no_grad():
            parameter.copy_(torch.randn(parameter.shape, generator=rng))
        average.update(flow, step)
        decay = min(0.6, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * parameter.detach().double()
    kept = dict(average.flow.named_parameters())[name]
    torch.testing.assert_close(kept.double(), expected, rtol=1e-5, atol=1e-6)


def test_patience_ends_a_training_that_gets_no_better(derivatives, tiny_config, tmp_path):
    """With such a rate the flow soon gets worse; the best weights stay."""
    changes = {"steps": 200, "learning_rate": 0.5, "interval": 2, "patience": 2, "clip": 100.0}
    metadata = run(derivatives, tmp_path / "m", tiny_config, **changes)
    training = metadata["Training"]
    assert training["Step"] < 200 and training["Completed"] is True
    assert training["BestStep"] == training["Step"] - 2 * 2
    again = run(derivatives, tmp_path / "m", tiny_config, resume=True, **changes)
    assert again["Training"]["Step"] == training["Step"]
