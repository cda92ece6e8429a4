"""Simulated gaps: closed forms, statistics of their random parts, and their seeds."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.stats import rice

from bh_bids.comparators.histogram import histogram_match
from bh_bids.errors import InputError
from bh_bids.evaluation.similarity import psnr
from bh_bids.evaluation.tissue import tissue_modes
from bh_bids.simulation.gaps import (
    GAPS,
    RANDOM_GAPS,
    apply_gap,
    bias_field,
    blur,
    noise,
    thick,
    tissue,
    tissue_voxel,
)


def brain(shape=(40, 44, 36)):
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))
    mask = (grid**2).sum(axis=0) < 0.85
    field = gaussian_filter(rng.normal(size=shape), 3)
    levels = np.quantile(field[mask], [0.15, 0.6])
    volume = np.array([0.25, 0.55, 0.85])[np.digitize(field, levels)]
    volume = gaussian_filter(volume + 0.03 * rng.standard_normal(shape), 0.5)
    return np.where(mask, volume, 0).astype(np.float32), mask


@pytest.mark.parametrize("name", GAPS)
def test_every_gap_keeps_grid_background_and_seed(name):
    volume, mask = brain()
    kept = volume.copy()
    one, same, other = (apply_gap(name, volume, mask, seed=s) for s in (3, 3, 4))
    assert one.shape == volume.shape and one.dtype == np.float32
    assert np.isfinite(one).all() and (one >= 0).all() and not one[~mask].any()
    assert one.tobytes() == same.tobytes()
    assert np.array_equal(volume, kept)
    assert (name in RANDOM_GAPS) != np.array_equal(one, other)
    assert psnr(volume, one, mask) < 45


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("exp", lambda x: (np.exp(x) - 1) / (np.e - 1)),
        ("log", lambda x: np.log(1 + 3 * x) / np.log(4)),
        ("gamma0.7", lambda x: x**0.7),
        ("gamma1.3", lambda x: x**1.3),
        ("gamma1.5", lambda x: x**1.5),
    ],
)
def test_contrasts_are_their_formulae(name, function):
    volume, mask = brain()
    made = apply_gap(name, volume, mask)
    assert np.allclose(made[mask], function(volume[mask].astype(float)), atol=1e-5)


@pytest.mark.parametrize("strength", [0.1, 0.25, 0.6])
def test_bias_field_spans_what_it_says_and_is_smooth(strength):
    _, mask = brain()
    field = bias_field(mask, seed=5, strength=strength)
    assert field[mask].min() == pytest.approx(1 - strength, abs=1e-5)
    assert field[mask].max() == pytest.approx(1 + strength, abs=1e-5)
    # At most one cosine period across the brain: slopes stay below those of such a wave.
    assert max(np.abs(np.diff(field, axis=a)).max() for a in range(3)) < strength * 0.35


def test_noise_is_rician():
    mask = np.ones((50, 50, 50), bool)
    for level in (0.0, 0.05, 0.8):
        made = noise(np.full(mask.shape, level, np.float32), mask, seed=1, sigma=0.04)
        mean, variance = rice.stats(level / 0.04, scale=0.04)
        assert made.mean() == pytest.approx(float(mean), rel=0.01)
        assert made.var() == pytest.approx(float(variance), rel=0.03)


def test_blur_keeps_a_flat_brain_flat_up_to_its_border():
    _, mask = brain()
    flat = np.where(mask, 0.7, 0).astype(np.float32)
    assert np.allclose(blur(flat, mask, sigma=0.6)[mask], 0.7, atol=1e-5)


def test_blur_is_gaussian_far_from_the_border():
    mask = np.ones((21, 21, 21), bool)
    point = np.zeros(mask.shape, np.float32)
    point[10, 10, 10] = 1
    assert np.allclose(blur(point, mask, sigma=0.6)[10], gaussian_filter(point, 0.6)[10], atol=1e-6)


def test_blur_along_one_axis_leaves_the_others_alone():
    mask, rng = np.ones((12, 14, 16), dtype=bool), np.random.default_rng(0)
    plane, line = rng.random((12, 14, 1)), rng.random(16)
    flat = apply_gap("blur-z", np.broadcast_to(plane, mask.shape), mask)
    assert np.allclose(flat, plane, atol=1e-6)
    along = apply_gap("blur-z", np.broadcast_to(line, mask.shape), mask)
    assert np.allclose(along[0, 0, 5:-5], gaussian_filter(line, 0.8)[5:-5], atol=1e-6)


def test_tissue_gap_moves_each_tissue_by_its_gain():
    volume, mask = brain()
    made = tissue(volume, mask, gains={"CSF": 0.8, "GM": 1.1, "WM": 1.0})
    smooth = gaussian_filter(volume, 2) / np.maximum(gaussian_filter(mask.astype(float), 2), 1e-6)
    for level, gain in ((0.25, 0.8), (0.55, 1.1), (0.85, 1.0)):
        deep = mask & (np.abs(smooth - level) < 0.04) & (np.abs(volume - level) < 0.04)
        if deep.sum() > 50:
            assert np.median(made[deep] / volume[deep]) == pytest.approx(gain, abs=0.05)


def test_tissue_by_voxel_is_a_monotone_function_without_its_blur():
    """Recomputed in closed form: memberships of three Gaussians at the modes."""
    volume, mask = brain()
    made = tissue_voxel(volume, mask, sigma=0)
    modes = np.array(list(tissue_modes(volume, mask).values()))
    width = np.diff(modes).min() / 2.5
    x = volume[mask].astype(float)
    odds = np.exp(-0.5 * ((x[:, None] - modes) / width) ** 2)
    keep = odds.sum(axis=1) > 1e-6
    gains = odds @ [0.85, 1.12, 0.95] / odds.sum(axis=1)
    assert np.allclose(made[mask][keep], (x * gains)[keep], atol=1e-4)
    order = np.argsort(x)
    assert (np.diff(made[mask][order]) >= -1e-6).all()
    kinked = apply_gap("tissue-voxel", volume, mask)[mask][order]
    assert (np.diff(kinked) < -1e-3).any()


@pytest.mark.parametrize("level", [1, 2, 4])
def test_noise_gaps_are_as_strong_as_they_say(level):
    mask = np.ones((30, 30, 30), bool)
    made = apply_gap(f"noise{level}", np.full(mask.shape, 0.8, np.float32), mask)
    assert made.std() == pytest.approx(level / 100, rel=0.03)


def test_thick_slices_are_means_of_three_joined_by_straight_lines():
    mask = np.ones((2, 2, 9), bool)
    volume = np.zeros(mask.shape, np.float32)
    volume[:] = [0, 3, 6, 1, 1, 1, 9, 0, 0]
    # Means 3, 1, 3 at z = 1, 4, 7; constant beyond the outer ones.
    expected = [3, 3, 3 - 2 / 3, 3 - 4 / 3, 1, 1 + 2 / 3, 1 + 4 / 3, 3, 3]
    assert np.allclose(thick(volume, mask), expected, atol=1e-6)


def test_thick_slices_keep_a_flat_brain_flat_and_a_ramp_a_ramp():
    _, mask = brain()
    flat = np.where(mask, 0.7, 0).astype(np.float32)
    assert np.allclose(thick(flat, mask)[mask], 0.7, atol=1e-5)
    full = np.ones((3, 3, 21), bool)
    ramp = np.broadcast_to(np.linspace(0, 1, 21, dtype=np.float32), full.shape)
    assert np.allclose(thick(ramp, full)[:, :, 1:-1], ramp[:, :, 1:-1], atol=1e-6)
    assert thick(ramp[:, :, :2], full[:, :, :2]).shape == (3, 3, 2)


def test_histogram_match_undoes_contrasts_only():
    """What the table of gaps is about: monotone ones are undone by a histogram, others are not."""
    volume, mask = brain()
    quantiles = np.quantile(volume[mask], np.linspace(0, 1, 257))
    reached = {
        name: psnr(volume, histogram_match(apply_gap(name, volume, mask), mask, quantiles), mask)
        for name in GAPS
    }
    assert min(reached[n] for n in ("exp", "log", "gamma0.7", "gamma1.3", "gamma1.5")) > 45
    assert max(reached[n] for n in ("tissue", "bias25", "scanner")) < 38


def test_unknown_gaps_and_unusable_input_are_refused():
    volume, mask = brain()
    with pytest.raises(InputError, match="no simulated gap 'mars'.*scanner"):
        apply_gap("mars", volume, mask)
    with pytest.raises(InputError, match="mask"):
        apply_gap("exp", volume, mask[1:])
    with pytest.raises(InputError, match="empty"):
        apply_gap("exp", volume, np.zeros_like(mask))
    with pytest.raises(InputError, match="strength"):
        bias_field(mask, strength=1.0)
