"""The scanner prior against the conditional mean, planted scanners and planted participants."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bh_bids.mapping.intensity import LEVELS, SHARES
from bh_bids.mapping.scanner import DARKEST, log_quantiles, own_deviation, spread_of

USUAL = np.interp(SHARES, [0, 0.15, 0.4, 0.6, 1], [0.08, 0.35, 0.6, 0.78, 1.02])
SCANNERS = {
    "gain": lambda x: 3.7 * x,
    "gamma 0.7": lambda x: x**0.7,
    "gamma 1.5": lambda x: x**1.5,
    "log": lambda x: np.log1p(3 * x),
    "exp": np.expm1,
}


def participants(count, seed=0, size=1.0):
    """Deviations of log-quantiles: how much CSF there is, and how bright grey matter is."""
    traits = size * np.random.default_rng(seed).normal(size=(count, 2))
    csf = 0.08 * np.exp(-(((SHARES - 0.1) / 0.1) ** 2))
    grey = 0.04 * np.exp(-(((SHARES - 0.4) / 0.08) ** 2))
    return traits @ np.stack([csf, grey])


@pytest.fixture(scope="module")
def spread():
    return spread_of(participants(30), 30)


def left(own, deviation):
    """What is wrong, root mean square, with the quantiles expected of a participant."""
    return np.sqrt(np.mean((own - USUAL - deviation) ** 2))


@pytest.mark.parametrize("name", SCANNERS)
@pytest.mark.parametrize("seed", range(3))
def test_a_planted_participant_is_told_from_a_planted_scanner(spread, name, seed):
    own = USUAL * np.exp(participants(1, seed=100 + seed)[0])
    deviation = own_deviation(SCANNERS[name](own), USUAL, spread)
    assert left(own, deviation) < 0.5 * left(own, 0)


@pytest.mark.parametrize("name", SCANNERS)
def test_of_the_usual_participant_little_is_taken_for_an_own_contrast(spread, name):
    deviation = own_deviation(SCANNERS[name](USUAL), USUAL, spread)
    assert np.abs(deviation).max() < 0.01


@given(st.floats(0.02, 50), st.floats(0.5, 2.0))
def test_neither_a_gain_nor_a_power_matters(gain, power):
    spread = spread_of(participants(30), 30)
    own = USUAL * np.exp(participants(1, seed=7)[0])
    one, other = (own_deviation(q, USUAL, spread) for q in (own, gain * own**power))
    np.testing.assert_allclose(other, one, atol=1e-6)


def test_nothing_is_the_participants_where_participants_do_not_differ():
    deviation = own_deviation(np.expm1(USUAL), USUAL, np.zeros((3, LEVELS)))
    np.testing.assert_array_equal(deviation, 0)


def test_the_more_participants_differ_the_more_is_theirs(spread):
    own = np.log1p(3 * USUAL * np.exp(participants(1, seed=9)[0]))
    sizes = [np.abs(own_deviation(own, USUAL, k * spread)).max() for k in (0.01, 0.1, 1)]
    assert sizes == sorted(sizes) and sizes[2] > 10 * sizes[0]


def test_it_is_the_conditional_mean_of_two_gaussians(spread):
    """By covariances over ranks, where the code goes by weights of rows."""
    own = np.log1p(3 * USUAL * np.exp(participants(1, seed=3)[0]))
    told = slice(8, -2)
    usual = np.log(USUAL)[told]
    slope, offset = np.polyfit(np.log(own)[told], usual, 1)
    # The straight line through the means whose slope is least squares.
    seen = slope * np.log(own)[told] + offset
    x = seen - seen.mean()
    knots = np.interp((0.04, 0.35, 0.85), SHARES[told], seen)
    hats = np.stack([np.interp(seen, knots, row) for row in np.eye(3)])
    of_scanner = 100 + 0.25 * np.outer(x, x) + 0.04 * np.outer(x**2, x**2)
    of_scanner += 0.01 * hats.T @ hats + 0.15**2 * np.exp(-0.5 * (x[:, None] - x) ** 2)
    both = of_scanner + spread[:, told].T @ spread[:, told] + 0.006**2 * np.eye(len(x))
    mean = -spread.T @ spread[:, told] @ np.linalg.solve(both, usual - seen)
    np.testing.assert_allclose(own_deviation(own, USUAL, spread), USUAL * np.expm1(mean), atol=1e-6)


def test_the_darkest_and_the_brightest_voxels_are_not_gone_by(spread):
    own = (USUAL * np.exp(participants(1, seed=4)[0])) ** 0.8
    other = own.copy()
    other[:8], other[-2:] = 0.0, 9.0
    np.testing.assert_array_equal(
        own_deviation(other, USUAL, spread), own_deviation(own, USUAL, spread)
    )


def test_spread_keeps_the_mean_square_of_the_deviations():
    deviations = participants(12, seed=5)
    kept = spread_of(deviations, 12)
    np.testing.assert_allclose(kept.T @ kept, deviations.T @ deviations / 12, atol=1e-12)
    two = spread_of(deviations, 2)
    assert two.shape == (2, LEVELS)
    np.testing.assert_allclose(two.T @ two, kept.T @ kept, atol=1e-12)


def test_the_darkest_are_taken_for_one_brightness():
    np.testing.assert_allclose(np.exp(log_quantiles([0.0, -1.0, 0.5])), [DARKEST, DARKEST, 0.5])


@settings(max_examples=50)
@given(st.lists(st.floats(0, 1e6), min_size=LEVELS, max_size=LEVELS))
def test_any_quantiles_give_a_finite_deviation(values):
    spread = spread_of(participants(6, seed=1), 6)
    deviation = own_deviation(np.sort(values), USUAL, spread)
    assert np.isfinite(deviation).all()
    assert (USUAL + deviation > 0).all()


def test_a_scan_of_one_intensity_has_no_own_contrast_but_a_finite_one(spread):
    assert np.isfinite(own_deviation(np.ones(LEVELS), USUAL, spread)).all()
