"""Measures of harm against closed forms and windows counted one at a time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bh_bids.errors import InputError
from bh_bids.evaluation.harm import (
    contrast_error,
    lesion_contrast_kept,
    local_ncc,
    local_ncc_map,
    stripes,
    tissue_classes,
    white_matter_change,
)


def layers(noise=0.02, shape=(24, 24, 24)):
    """Three slabs: fluid, grey and white matter."""
    volume = np.repeat([0.2, 0.55, 0.9], 8)[:, None, None] * np.ones(shape)
    volume = volume + noise * np.random.default_rng(0).standard_normal(shape)
    return volume.astype(np.float32), np.ones(shape, bool)


def test_classes_are_the_slabs_without_their_borders():
    volume, mask = layers(0.01)
    classes = tissue_classes(volume, mask)
    expected = np.zeros_like(mask)
    expected[9:15, 1:-1, 1:-1] = True
    assert np.array_equal(classes["GM"], expected)
    expected = np.zeros_like(mask)
    expected[17:23, 1:-1, 1:-1] = True
    assert np.array_equal(classes["WM"], expected)
    lesion = np.zeros_like(mask)
    lesion[20, 10, 10] = True
    assert (classes["WM"] ^ tissue_classes(volume, mask, lesion)["WM"]).sum() == 7


def test_contrast_error_and_white_matter_change_are_ratios_of_means():
    volume, mask = layers(0.0)
    volume += 1e-3 * np.random.default_rng(1).standard_normal(volume.shape).astype(np.float32)
    classes = tissue_classes(volume, mask)
    grey_up = np.where(volume < 0.7, volume * 1.1, volume)
    assert contrast_error(volume, grey_up, classes) == pytest.approx(0.1 * 0.55 / 0.9, rel=1e-2)
    assert white_matter_change(volume, grey_up, classes) == pytest.approx(0, abs=1e-9)
    assert contrast_error(volume, 3 * volume, classes) == pytest.approx(0, abs=1e-6)
    assert white_matter_change(volume, 0.97 * volume, classes) == pytest.approx(-0.03, abs=1e-6)
    nothing = {t: np.zeros_like(mask) for t in classes}
    assert np.isnan(contrast_error(volume, volume, nothing))
    assert np.isnan(white_matter_change(volume, volume, nothing))


def test_local_ncc_is_the_mean_of_windows_counted_one_at_a_time():
    rng = np.random.default_rng(3)
    a = rng.random((8, 9, 10))
    b = a + 0.5 * rng.random(a.shape)
    mask = np.zeros(a.shape, bool)
    mask[1:7, 1:8, 2:] = rng.random((6, 7, 8)) < 0.85
    found = []
    for x, y, z in zip(*np.nonzero(mask), strict=True):
        window = tuple(slice(max(i - 1, 0), i + 2) for i in (x, y, z))
        inside = mask[window]
        if inside.sum() >= 13.5:
            found.append(np.corrcoef(a[window][inside], b[window][inside])[0, 1])
    assert local_ncc(a, b, mask, window=3) == pytest.approx(np.mean(found), abs=1e-9)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 99), gain=st.floats(0.1, 50), shift=st.floats(-5, 5))
def test_local_ncc_ignores_gain_and_level(seed, gain, shift):
    rng = np.random.default_rng(seed)
    a = rng.random((8, 8, 8))
    b = rng.random(a.shape)
    mask = np.ones(a.shape, bool)
    assert local_ncc(a, gain * a + shift, mask, 5) == pytest.approx(1, abs=1e-9)
    assert local_ncc(a, -a, mask, 5) == pytest.approx(-1, abs=1e-9)
    expected = local_ncc(a, b, mask, 5)
    assert local_ncc(a, gain * b + shift, mask, 5) == pytest.approx(expected, abs=1e-6)


def test_local_ncc_sees_structure_lost_in_one_half():
    rng = np.random.default_rng(5)
    a = rng.random((20, 20, 20)).astype(np.float32)
    b = a.copy()
    b[10:] = 0.5
    mask = np.ones(a.shape, bool)
    assert local_ncc(a, b, mask, 3) == pytest.approx(0.5, abs=0.03)
    assert np.isnan(local_ncc(np.ones_like(a), a, mask, 3))


def test_stripes_are_the_spread_of_steps_between_slices():
    volume, mask = layers()
    volume = np.clip(volume, 0.01, None)
    assert stripes(volume, volume, mask) == 0
    assert stripes(volume, 7 * volume, mask) == pytest.approx(0, abs=1e-6)
    drift = np.exp(0.02 * np.arange(24))
    assert stripes(volume, volume * drift, mask) == pytest.approx(0, abs=1e-5)
    # Every other slice up by 3 %: steps of +log 1.03 and -log 1.03 in turn.
    comb = np.where(np.arange(24) % 2, 1.03, 1.0)
    steps = np.diff(np.log(comb))
    assert stripes(volume, volume * comb, mask) == pytest.approx(steps.std(), rel=1e-3)
    random = np.exp(np.random.default_rng(0).normal(0, 0.1, 24))
    expected = np.diff(np.log(random)).std()
    assert stripes(volume, volume * random, mask) == pytest.approx(expected, rel=1e-3)


def test_stripes_need_slices():
    volume, mask = layers()
    mask[:, :, 2:] = False
    assert np.isnan(stripes(volume, volume, mask))


def test_lesion_contrast_is_kept_erased_or_exaggerated():
    volume = np.full((30, 30, 30), 0.8, np.float32)
    labels = np.zeros(volume.shape, np.uint8)
    labels[5:10, 5:10, 5:10], labels[18:24, 18:24, 18:24] = 1, 2
    mask = np.ones(volume.shape, bool)
    truth = np.select([labels == 1, labels == 2], [0.4, 1.0], volume).astype(np.float32)
    assert lesion_contrast_kept(truth, 5 * truth, labels, mask) == pytest.approx(1)
    assert lesion_contrast_kept(truth, volume, labels, mask) == pytest.approx(0, abs=1e-6)
    half = 0.5 * (truth + volume)
    assert lesion_contrast_kept(truth, half, labels, mask) == pytest.approx(0.5, abs=1e-5)
    one_gone = np.where(labels == 2, 0.8, truth)
    assert lesion_contrast_kept(truth, one_gone, labels, mask) == pytest.approx(0.5, abs=1e-5)
    turned = np.where(labels == 2, 0.6, np.where(labels == 1, 1.2, volume))
    assert lesion_contrast_kept(truth, turned, labels, mask) == pytest.approx(-1, abs=1e-5)
    with pytest.raises(InputError, match="no lesion"):
        lesion_contrast_kept(truth, truth, np.zeros_like(labels), mask)


@pytest.mark.parametrize("measure", [local_ncc, stripes])
def test_unlike_grids_are_refused(measure):
    volume, mask = layers()
    with pytest.raises(InputError, match="one grid"):
        measure(volume, volume[1:], mask)


def test_the_local_map_says_where_structure_was_lost():
    rng = np.random.default_rng(0)
    truth = rng.random((30, 30, 30))
    image = truth.copy()
    image[20:, 20:, 20:] = rng.random((10, 10, 10))
    found = local_ncc_map(truth, 2 * image + 3, np.ones(truth.shape, bool), window=5)
    assert found[10, 10, 10] == pytest.approx(1, abs=1e-9)
    assert abs(found[25, 25, 25]) < 0.4
    window = (slice(23, 28),) * 3
    expected = np.corrcoef(truth[window].ravel(), image[window].ravel())[0, 1]
    assert found[25, 25, 25] == pytest.approx(expected, abs=1e-6)
