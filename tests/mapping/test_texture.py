"""The texture ruler against planted relations, ramps, and scikit-learn's ridge regression."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bh_bids.mapping.intensity import LEVELS, SHARES, brain_quantiles, map_between
from bh_bids.mapping.texture import FLOOR, RANKS, TextureRuler, leave_one_out, texture_profile


def profile_of(volume, domain):
    quantiles = domain.calibration.quantiles
    matched = map_between(brain_quantiles(volume[domain.mask]), quantiles)(volume)
    return texture_profile(np.where(domain.mask, matched, 0), domain.mask, quantiles)


def test_a_ramp_has_one_gradient_at_all_ranks():
    """Whose length is the slope's, across the axes."""
    x, y, z = np.meshgrid(*[np.arange(40)] * 3, indexing="ij")
    volume = 0.2 + 0.006 * x + 0.004 * y + 0.002 * z
    mask = np.zeros(volume.shape, bool)
    mask[2:-2, 2:-2, 2:-2] = True
    quantiles = np.quantile(volume[mask], SHARES)
    profile, sharpness = texture_profile(np.where(mask, volume, 0).astype(np.float32), mask,
                                         quantiles)  # fmt: skip
    assert profile.shape == (RANKS,)
    np.testing.assert_allclose(profile, 0, atol=1e-3)
    assert np.exp(sharpness) == pytest.approx(np.sqrt(56e-6) + FLOOR, rel=1e-3)


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
        assert np.sqrt(np.mean(((other - profile) / deviation) ** 2)) < 0.25
        assert level == pytest.approx(sharpness, abs=0.02)


def test_a_stretch_of_the_histogram_shows_at_its_ranks(domain):
    """A brain with less contrast among its bright voxels is stretched there by the match."""
    scan, mask = domain.scans[2], domain.mask
    level = float(np.quantile(scan[mask], 0.7))
    # Half the contrast above a level, but the same texture: what differs is the anatomy.
    rng = np.random.default_rng(0)
    texture = 0.01 * rng.normal(size=scan.shape)
    plain, squeezed = scan, np.where(scan > level, level + 0.5 * (scan - level), scan)
    before, _ = profile_of(np.where(mask, plain + texture, 0), domain)
    after, _ = profile_of(np.where(mask, squeezed + texture, 0), domain)
    top = slice(int(0.8 * RANKS), None)
    assert (after - before)[top].mean() > (after - before)[: RANKS // 2].mean() + 0.1


def test_a_mask_without_a_core_is_nothing_like_a_brain():
    mask = np.zeros((12, 12, 12), bool)
    mask[5:7, 5:7, 5:7] = True
    profile, sharpness = texture_profile(mask * 0.5, mask, np.linspace(0.1, 1, LEVELS))
    assert np.isfinite(profile).all() and sharpness == pytest.approx(np.log(FLOOR))


def planted(scans, seed, noise=0.2):
    """Profiles and deviations that share two hidden traits."""
    rng = np.random.default_rng(seed)
    traits = rng.normal(size=(scans, 2))
    rows = np.random.default_rng(99)
    loading = rows.normal(size=(2, RANKS))
    modes = np.stack([np.sin(np.pi * SHARES), np.sin(2 * np.pi * SHARES)])
    profiles = traits @ loading + noise * rng.normal(size=(scans, RANKS))
    return profiles, 0.02 * traits @ modes + 0.001 * rng.normal(size=(scans, LEVELS))


def test_a_planted_relation_is_told_in_new_scans():
    ruler = TextureRuler(*planted(30, 0))
    profiles, deviations = planted(40, 1)
    found = np.stack([ruler.predict(p) for p in profiles])
    assert 1 - np.square(found - deviations).sum() / np.square(deviations).sum() > 0.8


def test_of_nothing_it_tells_next_to_nothing():
    """In scans it has not seen; that is what the share in the calibration is for."""
    rng = np.random.default_rng(3)
    profiles, deviations = planted(20, 2)
    profiles = rng.normal(size=profiles.shape)
    found = leave_one_out(profiles, deviations)
    assert 1 - np.square(found - deviations).sum() / np.square(deviations).sum() < 0.1


@given(st.integers(0, 2**31), st.floats(0.01, 2.0))
@settings(max_examples=15, deadline=None)
def test_it_is_a_ridge_regression(seed, ridge):
    from sklearn.linear_model import Ridge

    profiles, deviations = planted(9, seed)
    ruler = TextureRuler(profiles, deviations, components=8, ridge=ridge)
    standard = (profiles - profiles.mean(axis=0)) / profiles.std(axis=0)
    other = Ridge(alpha=ridge * RANKS).fit(standard, deviations)
    new = planted(1, seed + 1)[0][0]
    expected = other.predict((new - profiles.mean(axis=0))[None] / profiles.std(axis=0))[0]
    np.testing.assert_allclose(ruler.predict(new), expected, atol=1e-8)


def test_only_the_principal_deviations_are_predicted():
    profiles, deviations = planted(20, 5)
    for components in (1, 3):
        ruler = TextureRuler(profiles, deviations, components=components)
        assert np.linalg.matrix_rank(ruler.weights) == components


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
