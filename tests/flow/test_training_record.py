"""What a training shows: samples at three temperatures, curves, events for TensorBoard."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from bh_bids.errors import InputError
from bh_bids.flow.crops import Crops
from bh_bids.flow.figures import mosaic, plot_learning_curve, plot_samples
from bh_bids.flow.record import Record, fullest, sample
from bh_bids.flow.training import TrainingSettings, train_model

SETTINGS = {
    **{"steps": 4, "batch_size": 2, "crop": (16, 16), "interval": 2, "validation_crops": 2},
}
ENTRY = {"step": 2, "training": 3.0, "validation": 3.5, "rate": 1e-3, "skipped": 0, "seconds": 1.0}


@pytest.fixture
def crops(tiny_config):
    def make(conditions=()):
        rng = np.random.default_rng(0)
        x = rng.random((3, 1, 16, 24), dtype=np.float32)
        context = rng.random((3, len(conditions), 16, 24), dtype=np.float32)
        context[:, :1] = context[:, :1] > 0.5
        return Crops(x, context if conditions else None)

    return make


def test_samples_are_what_the_flow_maps_to_scaled_latents(make_flow, tiny_config, crops):
    flow = make_flow(tiny_config, spread=0.05, dtype=torch.float32)
    samples = sample(flow, crops(), (0.5, 1.0), seed=3)
    latents = {t: flow(torch.from_numpy(x[:, None]))[0].detach() for t, x in samples.items()}
    torch.testing.assert_close(2 * latents[0.5], latents[1.0], rtol=1e-3, atol=1e-3)
    assert latents[1.0].std() == pytest.approx(1, abs=0.05)
    again = sample(flow, crops(), (0.5, 1.0), seed=3)
    np.testing.assert_array_equal(samples[1.0], again[1.0])


def test_samples_lie_in_the_brain(make_flow, tiny_config, crops):
    conditions = ("mask", "mean")
    flow = make_flow(replace(tiny_config, conditions=conditions), dtype=torch.float32)
    given = crops(conditions)
    samples = sample(flow, given)
    assert list(samples) == [0.7, 0.85, 1.0]
    for images in samples.values():
        assert images.shape == (3, 16, 24) and not images[given.context[:, 0] == 0].any()


def test_slices_with_the_most_brain_are_shown(crops):
    given = crops(("mask", "mean"))
    given.x[0, :, :8] = 0
    given.x[2, :, :2] = 0
    shown = fullest(given, 2)
    for name in ("x", "context"):
        np.testing.assert_array_equal(getattr(shown, name), getattr(given, name)[[1, 2]])


def test_mosaic_shows_slices_upright():
    """Anterior (high y) on top, the first x on the left."""
    rows = np.zeros((2, 3, 4, 6))
    rows[1, 2, 0, 5] = 1
    image = mosaic(rows)
    assert image.shape == (12, 12)
    assert np.argwhere(image).tolist() == [[6, 8]]


def test_figure_of_samples(tmp_path):
    slices = np.random.default_rng(0).random((2, 40, 60))
    plot_samples(slices, {0.7: slices, 1.0: slices}, tmp_path / "s.png")
    assert imread(tmp_path / "s.png").std() > 0.1


def test_learning_curve_with_nothing_to_show(tmp_path):
    plot_learning_curve([], tmp_path / "a.png")
    diverged = [{**ENTRY, "training": None, "validation": None}]
    plot_learning_curve(diverged, tmp_path / "b.png", best=2)
    assert imread(tmp_path / "b.png").shape == (400, 600, 4)


def test_training_draws_both_figures_and_tells_tensorboard(derivatives, tiny_config, tmp_path):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    ).EventAccumulator
    config = replace(tiny_config, conditions=("mask", "noise"))
    for limits in ({"max_minutes": 1e-6}, {}):
        settings = TrainingSettings(**SETTINGS, **limits, tensorboard=True)
        train_model(derivatives, tmp_path, config, settings, {}, validation=0.3, resume=True)
    folder = tmp_path / "training"
    for name in ("samples.png", "learning_curve.png"):
        assert imread(folder / name).std() > 0.05
    events = accumulator(str(folder / "tensorboard")).Reload()
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    names = {"bits/training": "training", "bits/validation": "validation", "rate": "rate"}
    for shown, name in names.items():
        found = [(e.step, e.value) for e in events.Scalars(shown)]
        assert found == [(e["step"], pytest.approx(e[name])) for e in entries]
    tags = events.Tags()
    assert any(tag.startswith("bits/validation, noise") for tag in tags["scalars"])
    assert {f"samples/temperature {t}" for t in ("0.7", "0.85", "1")} <= {
        tag.rpartition("/")[0] if tag[-1].isdigit() and tag.count("/") > 1 else tag
        for tag in tags["images"]
    }


def test_tensorboard_that_is_missing_ends_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match="install tensorboard"):
        Record(tmp_path, 0, tensorboard=True)
