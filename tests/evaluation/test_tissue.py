"""Tissue modes against mixtures whose modes are known."""

import numpy as np
import pytest

from bh_bids.errors import InputError
from bh_bids.evaluation.tissue import label_tissues, tissue_modes


def phantom(modes, noise, seed=0, shares=(0.12, 0.48, 0.40), n=40):
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, size=(n, n, n), p=shares)
    volume = np.asarray(modes)[labels] + rng.normal(0, noise, labels.shape)
    return volume.astype(np.float32), np.ones(labels.shape, bool)


@pytest.mark.parametrize("noise", [0.02, 0.05, 0.08])
def test_modes_of_a_known_mixture(noise):
    volume, mask = phantom((0.2, 0.5, 0.8), noise)
    found = tissue_modes(volume, mask)
    assert list(found) == ["CSF", "GM", "WM"]
    assert np.allclose(list(found.values()), (0.2, 0.5, 0.8), atol=0.03)


def test_modes_scale_and_shift_with_the_units():
    volume, mask = phantom((0.2, 0.5, 0.8), 0.04)
    found = np.array(list(tissue_modes(volume, mask).values()))
    raw = np.array(list(tissue_modes(volume * 4000 + 50, mask).values()))
    assert np.allclose(raw, found * 4000 + 50, rtol=1e-4)


def test_voxels_outside_the_mask_do_not_count():
    volume, mask = phantom((0.2, 0.5, 0.8), 0.04)
    expected = tissue_modes(volume[:20], mask[:20])
    mask[20:] = False
    volume[20:] = 9.0
    assert tissue_modes(volume, mask) == expected


def test_bright_outliers_and_nan_do_not_move_the_modes():
    volume, mask = phantom((0.2, 0.5, 0.8), 0.04)
    volume[0, 0] = np.nan
    volume[1, :, 0] = 30.0
    found = list(tissue_modes(volume, mask).values())
    assert np.allclose(found, (0.2, 0.5, 0.8), atol=0.03)


def test_modes_are_ordered_on_degenerate_input():
    rng = np.random.default_rng(1)
    volume = rng.choice([0.3, 0.7], size=(20, 20, 20))
    csf, gm, wm = tissue_modes(volume, np.ones(volume.shape, bool)).values()
    assert csf < gm < wm


@pytest.mark.parametrize("filled", [0, 50])
def test_too_few_voxels_are_refused(filled):
    volume, mask = phantom((0.2, 0.5, 0.8), 0.04, n=10)
    mask[:] = False
    mask.flat[:filled] = True
    with pytest.raises(InputError, match="finite voxels"):
        tissue_modes(volume, mask)


def test_a_constant_brain_is_refused():
    with pytest.raises(InputError, match="equal"):
        tissue_modes(np.ones((10, 10, 10)), np.ones((10, 10, 10), bool))


def slabs(noise):
    """Fluid, grey and white matter side by side, and an average brain that is moved and blurred."""
    truth = np.zeros((45, 20, 20), int)
    truth[:10], truth[10:30], truth[30:] = 1, 2, 3
    volume = np.array([0, 0.3, 0.6, 0.85])[truth]
    volume += np.random.default_rng(1).normal(0, noise, truth.shape)
    ramp = np.clip((np.arange(45)[:, None, None] - 6) / 6, 0, 1) * np.ones(truth.shape)
    white = np.clip((np.arange(45)[:, None, None] - 25) / 6, 0, 1) * np.ones(truth.shape)
    return truth, volume, np.stack([ramp - white, white])


def test_without_priors_the_nearest_mode_counts():
    truth, volume, _ = slabs(0.06)
    mask = np.ones(truth.shape, bool)
    modes = np.array(list(tissue_modes(volume, mask).values()))
    nearest = 1 + np.abs(volume[..., None] - modes).argmin(axis=-1)
    assert np.array_equal(label_tissues(volume, mask), nearest)
    assert (nearest == truth).mean() > 0.97


def test_priors_tell_apart_what_intensity_does_not():
    """Where noise mixes the tissues, where a voxel lies says more than how bright it is."""
    truth, volume, priors = slabs(0.15)
    mask = np.ones(truth.shape, bool)
    found = label_tissues(volume, mask, priors)
    assert (found == truth).mean() > (label_tissues(volume, mask) == truth).mean() + 0.05
    even = np.full_like(priors, 1 / 3)
    assert np.array_equal(label_tissues(volume, mask, even), label_tissues(volume, mask))


def test_labels_leave_out_what_is_no_brain():
    truth, volume, priors = slabs(0.03)
    mask = np.ones(truth.shape, bool)
    mask[:, :3] = False
    volume[40, 10, 10] = np.nan
    labels = label_tissues(volume, mask, priors)
    assert not labels[:, :3].any() and labels[40, 10, 10] == 0
    assert set(np.unique(labels[:, 3:])) == {0, 1, 2, 3}
