"""Simulated gaps: closed forms, statistics of their random parts, and their seeds."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.stats import rice

from bh_bids.comparators.histogram import histogram_match
from bh_bids.errors import InputError
from bh_bids.evaluation.similarity import psnr
from bh_bids.simulation.gaps import GAPS, apply_gap, bias_field, blur, noise, tissue


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
    random = name in ("bias10", "bias25", "noise", "scanner")
    assert random != np.array_equal(one, other)
    assert psnr(volume, one, mask) < 45


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("exp", lambda x: (np.exp(x) - 1) / (np.e - 1)),
        ("log", lambda x: np.log(1 + 3 * x) / np.log(4)),
        ("gamma0.7", lambda x: x**0.7),
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


def test_tissue_gap_moves_each_tissue_by_its_gain():
    volume, mask = brain()
    made = tissue(volume, mask, gains={"CSF": 0.8, "GM": 1.1, "WM": 1.0})
    smooth = gaussian_filter(volume, 2) / np.maximum(gaussian_filter(mask.astype(float), 2), 1e-6)
    for level, gain in ((0.25, 0.8), (0.55, 1.1), (0.85, 1.0)):
        deep = mask & (np.abs(smooth - level) < 0.04) & (np.abs(volume - level) < 0.04)
        if deep.sum() > 50:
            assert np.median(made[deep] / volume[deep]) == pytest.approx(gain, abs=0.05)


def test_histogram_match_undoes_contrasts_only():
    """What the table of gaps is about: monotone ones are undone by a histogram, others are not."""
    volume, mask = brain()
    quantiles = np.quantile(volume[mask], np.linspace(0, 1, 257))
    reached = {
        name: psnr(volume, histogram_match(apply_gap(name, volume, mask), mask, quantiles), mask)
        for name in GAPS
    }
    assert min(reached[n] for n in ("exp", "log", "gamma0.7", "gamma1.5")) > 45
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
