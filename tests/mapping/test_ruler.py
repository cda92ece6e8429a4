"""The contrast ruler against planted relations and scikit-learn's ridge regression."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.dummy import DummyRegressor
from sklearn.linear_model import Ridge
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict

from bh_bids.mapping.intensity import LEVELS, SHARES
from bh_bids.mapping.ruler import (
    COLUMNS,
    REACH,
    RIDGES,
    ContrastRuler,
    contrast_profile,
    leave_one_out,
)
from bh_bids.mapping.steady import samples, steady_profile
from bh_bids.mapping.texture import FINE, RANKS, TEXTURE, texture_profile


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
    # A version may have an anatomy of its own.
    own = 0.001 * rng.normal(size=(scans, versions, LEVELS))
    return profiles, 0.02 * (traits @ modes)[:, None] + own


@pytest.mark.parametrize("columns", [TEXTURE, FINE])
def test_a_planted_relation_is_told_in_new_scans(columns):
    """Whichever columns show it."""
    ruler = ContrastRuler(*planted(30, 0, columns=columns))
    profiles, deviations = planted(40, 1, columns=columns)
    found = ruler.predict(profiles)
    assert 1 - np.square(found - deviations).sum() / np.square(deviations).sum() > 0.6


def test_of_nothing_it_tells_next_to_nothing():
    """In scans it has not seen; that is what the share in the calibration is for."""
    rng = np.random.default_rng(3)
    profiles, deviations = planted(20, 2)
    profiles = rng.normal(size=profiles.shape)
    found = leave_one_out(profiles, deviations)
    assert 1 - np.square(found - deviations).sum() / np.square(deviations).sum() < 0.2


@given(st.integers(0, 2**31), st.integers(1, 3))
@settings(max_examples=8, deadline=None)
def test_it_is_the_ridge_regression_of_least_leave_one_out_error(seed, versions):
    """Of those that scikit-learn fits, and no better than the mean where none is."""
    profiles, deviations = planted(9, seed, noise=2.0, versions=versions)
    ruler = ContrastRuler(profiles, deviations, components=1)
    flat = deviations.reshape(-1, LEVELS)
    mean = flat.mean(axis=0)
    mode = np.linalg.svd(flat - mean, full_matrices=False)[2][0]
    scores = (flat - mean) @ mode
    groups = np.repeat(np.arange(9), versions)
    flat = profiles.reshape(-1, COLUMNS)
    x = (flat - flat.mean(axis=0)) / flat.std(axis=0)
    splits = {"groups": groups, "cv": LeaveOneGroupOut()}
    fits = []
    for ridge in RIDGES:
        fit = Ridge(alpha=ridge * COLUMNS * versions)
        held = cross_val_predict(fit, x, scores, **splits)
        fits.append((np.square(held - scores).sum(), fit.fit(x, scores)))
    error, fit = min(fits, key=lambda item: item[0])
    new = planted(1, seed + 1, noise=2.0)[0][0, 0]
    of_mean = cross_val_predict(DummyRegressor(), x, scores, **splits)
    if error >= np.square(of_mean - scores).sum():
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
    alone = ContrastRuler(profiles[:, :1], deviations[:, :1])
    rng = np.random.default_rng(4)
    profiles[:, 1:, TEXTURE] += 3 * rng.normal(size=(24, 8, 1)) * np.linspace(1, 2, RANKS)
    ruler = ContrastRuler(profiles, deviations)

    new, truth = planted(40, 1, noise=0.05)
    new[..., FINE] = planted(40, 1, noise=0.6, columns=FINE)[0][..., FINE]
    new[..., TEXTURE] += 3 * rng.normal(size=(40, 1, 1)) * np.linspace(1, 2, RANKS)

    def left(ruler):
        return np.square(ruler.predict(new) - truth).sum() / np.square(truth).sum()

    assert left(ruler) < 0.3 < 1 < left(alone)


def test_only_the_principal_deviations_are_predicted():
    profiles, deviations = planted(20, 5)
    for components in (1, 3):
        ruler = ContrastRuler(profiles, deviations, components=components)
        assert ruler.modes.shape == (components, LEVELS)
        np.testing.assert_allclose(ruler.modes @ ruler.modes.T, np.eye(components), atol=1e-9)


def test_no_deviation_is_taken_for_much_larger_than_any_seen():
    profiles, deviations = planted(20, 5)
    ruler = ContrastRuler(profiles, deviations)
    mean = deviations.mean(axis=(0, 1))
    scores = (deviations - mean) @ ruler.modes.T
    for far in (50, -50):
        away = profiles.mean(axis=(0, 1)) + far * profiles.std(axis=(0, 1))
        found = (ruler.predict(away) - mean) @ ruler.modes.T
        assert (np.abs(found) <= REACH * np.abs(scores).max(axis=(0, 1)) + 1e-12).all()
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
    alone = ContrastRuler(profiles[others], deviations[others]).predict(profiles[3])
    np.testing.assert_array_equal(found[3], alone)


def test_distance_is_in_standard_deviations():
    profiles, deviations = planted(25, 7)
    ruler = ContrastRuler(profiles, deviations)
    assert ruler.distance(profiles.mean(axis=0)) == pytest.approx(0, abs=1e-9)
    away = profiles.mean(axis=0) + 2.5 * profiles.std(axis=0)
    assert ruler.distance(away) == pytest.approx(2.5)
    # The mean square over the scans that it was made of is 1.
    assert np.mean([ruler.distance(p) ** 2 for p in profiles]) == pytest.approx(1)


def test_a_ruler_of_arrays_is_the_same():
    profiles, deviations = planted(12, 8)
    ruler = ContrastRuler(profiles, deviations)
    again = ContrastRuler.from_arrays(**ruler.arrays)
    np.testing.assert_array_equal(again.predict(profiles[0]), ruler.predict(profiles[0]))
    assert again.distance(profiles[1]) == ruler.distance(profiles[1])


def test_what_a_scan_does_not_tell_is_as_in_the_mean():
    profiles, deviations = planted(20, 9, versions=2)
    profiles[3, 1, -4:] = np.nan
    profiles[..., -1] = np.nan
    ruler = ContrastRuler(profiles, deviations)
    assert all(np.isfinite(array).all() for array in ruler.arrays.values())
    blind = profiles[0, 0].copy()
    blind[:] = np.nan
    np.testing.assert_allclose(ruler.predict(blind), ruler.offset, atol=1e-12)
    assert ruler.distance(blind) == 0
    # A column that no training scan told says nothing of a new one that tells it.
    told = profiles[0, 0].copy()
    told[-1] = 3.0
    np.testing.assert_allclose(ruler.predict(told), ruler.predict(profiles[0, 0]), atol=1e-9)


def test_a_profile_is_of_texture_and_of_steady_places(domain):
    scan, mask, calibration = domain.scans[0], domain.mask, domain.calibration
    setting = calibration.quantiles, domain.lattice, calibration.steady
    profile, sharpness = contrast_profile(scan, mask, *setting)
    texture, level = texture_profile(scan, mask, calibration.quantiles)
    steady = steady_profile(samples(scan, mask, domain.lattice), calibration.steady)
    assert profile.shape == (COLUMNS,) and sharpness == level
    np.testing.assert_array_equal(profile, [*texture, *steady])
