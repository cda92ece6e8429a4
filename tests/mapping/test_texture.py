"""The texture ruler against planted relations, ramps, and scikit-learn's ridge regression."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict

from bh_bids.mapping.intensity import LEVELS, SHARES, brain_quantiles, map_between
from bh_bids.mapping.texture import (
    COLUMNS,
    FINE,
    FLOOR,
    RANKS,
    REACH,
    RIDGES,
    TEXTURE,
    TextureRuler,
    leave_one_out,
    texture_profile,
)


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
    deviation = domain.calibration.ruler_scale
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


def planted(scans, seed, noise=0.2, columns=TEXTURE, versions=1):
    """Profiles and deviations that share two hidden traits, seen in some columns alone."""
    rng = np.random.default_rng(seed)
    traits = rng.normal(size=(scans, 2))
    loading = np.random.default_rng(99).normal(size=(2, RANKS))
    modes = np.stack([np.sin(np.pi * SHARES), np.sin(2 * np.pi * SHARES)])
    profiles = rng.normal(size=(scans, versions, COLUMNS))
    profiles[..., columns] = (traits @ loading)[:, None] + noise * rng.normal(
        size=(scans, versions, RANKS)
    )
    return profiles, 0.02 * traits @ modes + 0.001 * rng.normal(size=(scans, LEVELS))


@pytest.mark.parametrize("columns", [TEXTURE, FINE])
def test_a_planted_relation_is_told_in_new_scans(columns):
    """Whichever columns show it."""
    ruler = TextureRuler(*planted(30, 0, columns=columns))
    profiles, deviations = planted(40, 1, columns=columns)
    found = ruler.predict(profiles)[:, 0]
    assert 1 - np.square(found - deviations).sum() / np.square(deviations).sum() > 0.6


def test_of_nothing_it_tells_next_to_nothing():
    """In scans it has not seen; that is what the share in the calibration is for."""
    rng = np.random.default_rng(3)
    profiles, deviations = planted(20, 2)
    profiles = rng.normal(size=profiles.shape)
    found = leave_one_out(profiles, deviations)[:, 0]
    assert 1 - np.square(found - deviations).sum() / np.square(deviations).sum() < 0.2


@given(st.integers(0, 2**31), st.integers(1, 3))
@settings(max_examples=8, deadline=None)
def test_it_is_the_ridge_regression_of_least_leave_one_out_error(seed, versions):
    """Of those that scikit-learn fits, and no better than the mean where none is."""
    profiles, deviations = planted(9, seed, noise=2.0, versions=versions)
    ruler = TextureRuler(profiles, deviations, components=1)
    mean = deviations.mean(axis=0)
    mode = np.linalg.svd(deviations - mean, full_matrices=False)[2][0]
    scores = (deviations - mean) @ mode
    flat, groups = profiles.reshape(-1, COLUMNS), np.repeat(np.arange(9), versions)
    x, of_each = (flat - flat.mean(axis=0)) / flat.std(axis=0), scores[groups]
    fits = []
    for ridge in RIDGES:
        # The intercept is that of the centred columns: left as it is when a scan is left out.
        fit = Ridge(alpha=ridge * COLUMNS * versions)
        held = cross_val_predict(fit, x, of_each, groups=groups, cv=LeaveOneGroupOut())
        fits.append((np.square(held - of_each).sum(), fit.fit(x, of_each)))
    error, fit = min(fits, key=lambda item: item[0])
    new = planted(1, seed + 1, noise=2.0)[0][0, 0]
    if error >= versions * np.square(scores * 9 / 8).sum():
        np.testing.assert_array_equal(ruler.weights, 0)
        return
    z = (new - flat.mean(axis=0)) / flat.std(axis=0)
    reach = REACH * np.abs(scores).max()
    expected = mean + np.clip(fit.predict(z[None])[0], -reach, reach) * mode
    np.testing.assert_allclose(ruler.predict(new), expected, atol=1e-8)


def test_what_disturbs_is_not_gone_by():
    """A trait is plain in some columns and faint in others; disturbing drowns the plain ones."""
    profiles, deviations = planted(24, 0, noise=0.05, versions=9)
    faint = planted(24, 0, noise=0.6, columns=FINE, versions=9)[0]
    profiles[..., FINE] = faint[..., FINE]
    alone = TextureRuler(profiles[:, :1], deviations)
    rng = np.random.default_rng(4)
    profiles[:, 1:, TEXTURE] += 3 * rng.normal(size=(24, 8, 1)) * np.linspace(1, 2, RANKS)
    ruler = TextureRuler(profiles, deviations)

    new, truth = planted(40, 1, noise=0.05)
    new[..., FINE] = planted(40, 1, noise=0.6, columns=FINE)[0][..., FINE]
    new[..., TEXTURE] += 3 * rng.normal(size=(40, 1, 1)) * np.linspace(1, 2, RANKS)

    def left(ruler):
        return np.square(ruler.predict(new)[:, 0] - truth).sum() / np.square(truth).sum()

    assert left(ruler) < 0.3 < 1 < left(alone)


def test_only_the_principal_deviations_are_predicted():
    profiles, deviations = planted(20, 5)
    for components in (1, 3):
        ruler = TextureRuler(profiles, deviations, components=components)
        assert ruler.modes.shape == (components, LEVELS)
        np.testing.assert_allclose(ruler.modes @ ruler.modes.T, np.eye(components), atol=1e-9)


def test_no_deviation_is_taken_for_much_larger_than_any_seen():
    profiles, deviations = planted(20, 5)
    ruler = TextureRuler(profiles, deviations)
    scores = (deviations - deviations.mean(axis=0)) @ ruler.modes.T
    for far in (50, -50):
        away = profiles.mean(axis=(0, 1)) + far * profiles.std(axis=(0, 1))
        found = (ruler.predict(away) - deviations.mean(axis=0)) @ ruler.modes.T
        assert (np.abs(found) <= REACH * np.abs(scores).max(axis=0) + 1e-12).all()
        assert np.abs(found).max() > 0


def test_a_scan_left_out_is_not_seen():
    profiles, deviations = planted(8, 6)
    found = leave_one_out(profiles, deviations)
    changed = deviations.copy()
    changed[3] = 1e3
    again = leave_one_out(profiles, changed)
    np.testing.assert_array_equal(again[3], found[3])
    assert not np.allclose(again[4], found[4])
    others = np.arange(8) != 3
    alone = TextureRuler(profiles[others], deviations[others]).predict(profiles[3])
    np.testing.assert_array_equal(found[3], alone)


def test_distance_is_in_standard_deviations():
    profiles, deviations = planted(25, 7)
    ruler = TextureRuler(profiles, deviations)
    assert ruler.distance(profiles.mean(axis=0)) == pytest.approx(0, abs=1e-9)
    away = profiles.mean(axis=0) + 2.5 * profiles.std(axis=0)
    assert ruler.distance(away) == pytest.approx(2.5)
    # The mean square over the scans that it was made of is 1.
    assert np.mean([ruler.distance(p) ** 2 for p in profiles]) == pytest.approx(1)


def test_a_ruler_of_arrays_is_the_same():
    profiles, deviations = planted(12, 8)
    ruler = TextureRuler(profiles, deviations)
    again = TextureRuler.from_arrays(**ruler.arrays)
    np.testing.assert_array_equal(again.predict(profiles[0]), ruler.predict(profiles[0]))
    assert again.distance(profiles[1]) == ruler.distance(profiles[1])
