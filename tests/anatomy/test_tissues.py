"""Tissue labels of a phantom whose tissues are known."""

import tempfile
from pathlib import Path

import numpy as np
import pytest

from bh_bids.anatomy.tissues import LABELS, atropos_labels, labels_of_maps, relabel
from bh_bids.errors import InputError


@pytest.fixture(scope="module")
def phantom():
    """Three shells with noise, on a larger grid; truth, volume and mask."""
    rng = np.random.default_rng(0)
    radius = np.sqrt(((np.indices((32, 36, 34)) - 16.0) ** 2).sum(axis=0))
    truth = np.select([radius < 8, radius < 11, radius < 13], [3, 2, 1], 0).astype(np.int8)
    volume = np.array([0, 0.25, 0.6, 0.95])[truth] + 0.04 * rng.standard_normal(truth.shape)
    return truth, (600 * volume).astype(np.float32), truth > 0


def test_atropos_finds_the_tissues_and_the_same_ones_again(phantom, tmp_path, monkeypatch):
    truth, volume, mask = phantom
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    labels = atropos_labels(volume, mask)
    assert labels.dtype == np.int8 and not labels[~mask].any()
    assert np.mean(labels[mask] == truth[mask]) > 0.99
    assert labels.tobytes() == atropos_labels(volume, mask).tobytes()
    assert tempfile.gettempdir() == str(tmp_path) and not list(Path(tmp_path).iterdir())


def test_a_brain_that_cannot_be_segmented_is_refused(phantom):
    _, volume, mask = phantom
    with pytest.raises(InputError, match="cannot be segmented"):
        atropos_labels(np.ones_like(volume), mask)
    with pytest.raises(InputError, match="cannot be segmented"):
        atropos_labels(volume, np.zeros_like(mask))


def test_probability_maps_give_the_most_probable_tissue(phantom):
    truth, _, mask = phantom
    maps = {tissue: 0.2 + 0.5 * (truth == number) for tissue, number in LABELS.items()}
    assert np.array_equal(labels_of_maps(maps, mask), truth)
    nowhere = {tissue: np.where(truth == 2, 0, part) for tissue, part in maps.items()}
    assert np.array_equal(labels_of_maps(nowhere, mask), np.where(truth == 2, 0, truth))
    with pytest.raises(InputError, match="one each"):
        labels_of_maps({"GM": maps["GM"]}, mask)
    with pytest.raises(InputError, match="several grids"):
        labels_of_maps(maps | {"GM": maps["GM"][1:]}, mask)


def test_a_segmentation_is_renumbered_by_its_own_values(phantom):
    truth, _, mask = phantom
    theirs = np.array([0, 3, 42, 2])[truth]
    theirs[16, 16, 16] = 77
    made = relabel(theirs, {"CSF": 3, "GM": [3000, 42], "WM": 2}, mask)
    assert made[16, 16, 16] == 0 and np.sum(made != truth) == 1
    with pytest.raises(InputError, match="CSF, GM, WM"):
        relabel(theirs, {"GM": 1}, mask)
    with pytest.raises(InputError, match="different grids"):
        relabel(theirs[1:], {"CSF": 3, "GM": 1, "WM": 2}, mask)
