"""Texture profiles against ramps and planted noise."""

import numpy as np
import pytest

from bh_bids.mapping.intensity import LEVELS, SHARES, brain_quantiles, map_between
from bh_bids.mapping.texture import COLUMNS, FINE, FLOOR, RANKS, TEXTURE, texture_profile


def profile_of(volume, domain):
    quantiles = domain.calibration.quantiles
    matched = map_between(brain_quantiles(volume[domain.mask]), quantiles)(volume)
    return texture_profile(np.where(domain.mask, matched, 0), domain.mask, quantiles)


def cube(side=48):
    grid = np.meshgrid(*[np.arange(side)] * 3, indexing="ij")
    mask = np.zeros(grid[0].shape, bool)
    mask[2:-2, 2:-2, 2:-2] = True
    return grid, mask


def test_a_ramp_is_alike_and_straight_at_all_ranks():
    """Its gradient's length is the slope's, across the axes."""
    (x, y, z), mask = cube(40)
    volume = (0.2 + 0.006 * x + 0.004 * y + 0.002 * z).astype(np.float32)
    profile, sharpness = texture_profile(volume, mask, np.quantile(volume[mask], SHARES))
    assert profile.shape == (COLUMNS,)
    np.testing.assert_allclose(profile[TEXTURE], 0, atol=5e-3)
    np.testing.assert_allclose(profile[FINE], 0, atol=5e-3)
    assert np.exp(sharpness) == pytest.approx(np.sqrt(56e-6) + FLOOR, rel=1e-3)


def test_noise_of_a_rank_is_told_from_noise_of_a_place(noise_maker):
    (x, _, _), mask = cube(72)
    clean = 0.5 + 0.12 * np.clip(noise_maker(1, 3.0, shape=x.shape), -2.5, 2.5)
    noise = 0.02 * np.random.default_rng(0).normal(size=x.shape)

    def texture(sigma):
        volume = np.where(mask, clean + sigma * noise, 0).astype(np.float32)
        return texture_profile(volume, mask, np.quantile(volume[mask], SHARES))[0][TEXTURE]

    even = texture(1.0)
    by_rank = texture(np.exp(clean - 0.5)) - even
    by_place = texture(np.exp((x - 36) / 72)) - even
    inner = slice(2, -2)
    ranks = np.linspace(0, 1, RANKS)[inner]
    assert np.corrcoef(by_rank[inner], ranks)[0, 1] > 0.9
    assert np.abs(by_place[inner]).max() < 0.3 * np.ptp(by_rank[inner])


def test_a_lesion_without_texture_hardly_shows(noise_maker):
    """Flat balls of one brightness, as large as a hundredth of the brain, against a plain mean."""
    (x, y, z), mask = cube(72)
    rng = np.random.default_rng(1)
    clean = 0.5 + 0.12 * np.clip(noise_maker(1, 3.0, shape=x.shape), -2.5, 2.5)
    brain = np.where(mask, clean + 0.02 * rng.normal(size=x.shape), 0).astype(np.float32)
    quantiles = np.quantile(brain[mask], SHARES)
    ball = (x - 40) ** 2 + (y - 30) ** 2 + (z - 36) ** 2 < 9**2
    level = quantiles[int((6 + 0.5) * LEVELS / RANKS)]
    without, with_lesion = (
        texture_profile(volume, mask, quantiles)[0][TEXTURE]
        for volume in (brain, np.where(ball, level, brain).astype(np.float32))
    )
    # A fifth of the rank's voxels have the least texture there is: its plain mean falls by 0.4.
    assert np.abs(with_lesion - without).max() < 0.1


def test_the_masks_edge_is_no_texture(domain):
    """Whatever lies outside the brain."""
    scan, mask = domain.scans[0], domain.mask
    first = texture_profile(scan, mask, domain.calibration.quantiles)
    second = texture_profile(np.where(mask, scan, 7), mask, domain.calibration.quantiles)
    np.testing.assert_array_equal(first[0], second[0])


def test_gain_and_contrast_of_the_source_do_not_matter(domain):
    scan = domain.scans[3]
    profile, sharpness = profile_of(scan, domain)
    again, _ = profile_of(8 * scan, domain)
    np.testing.assert_array_equal(again, profile)
    deviation = domain.calibration.ruler_scale[:COLUMNS]
    for curve in (lambda v: v**0.6, lambda v: v**1.6, np.expm1, lambda v: np.log1p(3 * v)):
        other, level = profile_of(curve(scan), domain)
        # To a fraction of what tells one participant from another.
        assert np.sqrt(np.mean(((other - profile) / deviation) ** 2)) < 0.3
        assert level == pytest.approx(sharpness, abs=0.02)


def test_a_stretch_of_the_histogram_shows_at_its_ranks(domain):
    """A brain with less contrast among its bright voxels is stretched there by the match."""
    scan, mask = domain.scans[2], domain.mask
    level = float(np.quantile(scan[mask], 0.7))
    # Half the contrast above a level, but the same texture: what differs is the anatomy.
    rng = np.random.default_rng(0)
    texture = 0.02 * rng.normal(size=scan.shape)
    plain, squeezed = scan, np.where(scan > level, level + 0.5 * (scan - level), scan)
    before, _ = profile_of(np.where(mask, plain + texture, 0), domain)
    after, _ = profile_of(np.where(mask, squeezed + texture, 0), domain)
    change = (after - before)[TEXTURE]
    # The strata of the gradient take a part of the stretch for structure.
    assert change[int(0.85 * RANKS) :].mean() > change[: RANKS // 2].mean() + 0.1


def test_a_mask_without_a_core_is_nothing_like_a_brain():
    mask = np.zeros((12, 12, 12), bool)
    mask[5:7, 5:7, 5:7] = True
    profile, sharpness = texture_profile(mask * 0.5, mask, np.linspace(0.1, 1, LEVELS))
    assert not profile.any() and sharpness == pytest.approx(np.log(FLOOR))


@pytest.mark.parametrize("constant", [0.0, 0.5])
def test_a_constant_brain_has_a_finite_profile(constant):
    _, mask = cube(24)
    profile, sharpness = texture_profile(mask * constant, mask, np.linspace(0.1, 1, LEVELS))
    assert np.isfinite(profile).all() and np.isfinite(sharpness)
