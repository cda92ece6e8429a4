"""Gain and histogram matches against closed forms and scikit-image."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.exposure import match_histograms

from bh_bids.comparators.histogram import gain_match, histogram_match
from bh_bids.errors import InputError

GRID = np.linspace(0, 1, 257)


def brain(seed=0, shape=(24, 24, 24)):
    rng = np.random.default_rng(seed)
    mask = rng.random(shape) < 0.5
    return (rng.gamma(4, 0.15, shape) * mask).astype(np.float32), mask


def test_match_of_a_scans_own_quantiles_is_the_scan():
    volume, mask = brain()
    matched = histogram_match(volume, mask, np.quantile(volume[mask], GRID))
    assert np.abs(matched - volume)[mask].mean() < 2e-3
    assert not matched[~mask].any()


def test_match_undoes_any_increasing_map_inside_the_brain():
    volume, mask = brain()
    volume = volume.astype(np.float64)  # single precision would merge neighbours into ties
    quantiles = np.quantile(volume[mask], GRID)
    straight = histogram_match(volume, mask, quantiles)
    body = mask & (volume <= quantiles[-2])  # the tail beyond is not matched by rank
    for source in (volume**0.5, np.log1p(volume) * 4000, np.exp(volume) - 30):
        matched = histogram_match(source, mask, quantiles)
        assert np.allclose(matched[body], straight[body], atol=1e-4)


def test_match_agrees_with_scikit_image():
    (source, mask), (target, _) = brain(0), brain(1)
    target = target[target > 0] ** 0.7
    matched = histogram_match(source, mask, np.quantile(target, GRID))[mask]
    expected = match_histograms(source[mask], target)
    low, high = np.quantile(source[mask], [0.01, 0.99])
    inner = (source[mask] > low) & (source[mask] < high)
    assert np.abs(matched - expected)[inner].max() < 0.01
    assert np.abs(matched - expected)[inner].mean() < 2e-3


def test_matched_histogram_is_the_targets():
    source, mask = brain(2)
    quantiles = np.linspace(0.2, 0.9, 257) ** 2
    matched = histogram_match(source, mask, quantiles)[mask]
    assert np.allclose(np.quantile(matched, GRID), quantiles, atol=5e-3)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), levels=st.integers(1, 12))
def test_match_is_monotone_and_ties_stay_ties(seed, levels):
    rng = np.random.default_rng(seed)
    source = rng.integers(0, levels, (6, 6, 6)).astype(np.float32)
    quantiles = np.sort(rng.random(257))
    matched = histogram_match(source, np.ones(source.shape, bool), quantiles)
    order = np.argsort(source, axis=None)
    assert (np.diff(matched.ravel()[order]) >= 0).all()
    for level in np.unique(source):
        values = matched[source == level]
        assert np.ptp(values) == 0
        # The level's mid-rank, counted one voxel at a time.
        rank = (np.sum(source < level) + 0.5 * values.size) / source.size
        if rank <= GRID[-2]:
            assert values[0] == pytest.approx(np.interp(rank, GRID, quantiles), abs=1e-6)


def test_one_bright_voxel_in_the_target_does_not_stretch_the_tail():
    volume, mask = brain(7)
    quantiles = np.quantile(volume[mask], GRID)
    plain = histogram_match(volume, mask, quantiles)
    quantiles[-1] = 40.0
    spiked = histogram_match(volume, mask, quantiles)
    assert np.abs(spiked - volume).max() < 0.5
    assert np.abs(spiked - plain).mean() < 1e-4


def test_tail_follows_a_linear_gap_to_its_end():
    volume, mask = brain(8)
    quantiles = np.quantile(volume[mask], GRID)
    matched = histogram_match(300 * volume + 20 * mask, mask, quantiles)
    tail = mask & (volume > quantiles[-2])
    assert tail.sum() > 20
    assert np.abs(matched - volume)[tail].max() < 0.02


def test_background_takes_no_part():
    source, mask = brain(3)
    quantiles = np.linspace(0, 1, 257)
    other = np.where(mask, source, 77)
    assert np.array_equal(
        histogram_match(source, mask, quantiles), histogram_match(other, mask, quantiles)
    )
    assert np.array_equal(gain_match(source, mask, quantiles), gain_match(other, mask, quantiles))


@pytest.mark.parametrize("gain", [1e-3, 0.5, 3000.0])
def test_gain_of_a_scaled_target_is_found(gain):
    volume, mask = brain(4)
    quantiles = np.quantile(volume[mask], GRID)
    assert np.allclose(gain_match(volume * gain, mask, quantiles), volume, rtol=1e-4)


def test_gain_is_the_least_squares_one():
    volume, mask = brain(5)
    quantiles = np.sqrt(np.quantile(volume[mask], GRID))
    found = gain_match(volume, mask, quantiles)
    gain = float(found[mask].sum() / volume[mask].sum())
    used = (GRID >= 0.02) & (GRID <= 0.98)
    own = np.quantile(volume[mask], GRID[used])
    expected = np.linalg.lstsq(own[:, None], quantiles[used], rcond=None)[0][0]
    assert gain == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("match", [gain_match, histogram_match])
def test_unusable_input_is_refused(match):
    volume, mask = brain(6)
    fine = np.linspace(0, 1, 257)
    with pytest.raises(InputError, match="empty"):
        match(volume, np.zeros_like(mask), fine)
    with pytest.raises(InputError, match="mask"):
        match(volume, mask[1:], fine)
    with pytest.raises(InputError, match="finite"):
        match(np.where(mask, np.nan, 0), mask, fine)
    with pytest.raises(InputError, match="decrease"):
        match(volume, mask, fine[::-1])
    with pytest.raises(InputError, match="at least two"):
        match(volume, mask, [0.5])


def test_gain_of_an_empty_brain_is_refused():
    with pytest.raises(InputError, match="zero"):
        gain_match(np.zeros((4, 4, 4)), np.ones((4, 4, 4), bool), GRID)
