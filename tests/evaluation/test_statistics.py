"""Intervals, tests, intraclass correlation: against scipy, a textbook's table and theory."""

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bh_bids.errors import InputError
from bh_bids.evaluation import (
    bootstrap_interval,
    coefficient_of_variation,
    describe,
    icc,
    robust_z,
    wilcoxon_p,
)

# Shrout and Fleiss (1979), table 2: six targets, four judges. They give ICC(2,1) = .29 and
# ICC(3,1) = .71 (table 4).
RATINGS = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]


def test_intraclass_correlations_are_those_of_the_textbook():
    assert icc(RATINGS, "2,1") == pytest.approx(0.29, abs=0.005)
    assert icc(RATINGS, "3,1") == pytest.approx(0.71, abs=0.005)


def test_a_constant_difference_between_sites_hurts_agreement_but_not_consistency():
    truth = np.array([700.0, 750, 800, 850])
    table = np.stack([truth, truth + 50], axis=1)
    assert icc(table, "3,1") == pytest.approx(1)
    assert 0 < icc(table, "2,1") < 0.9
    assert icc(np.stack([truth, truth], axis=1), "2,1") == pytest.approx(1)


def test_variation_within_participants():
    # Two sites 10 % apart: standard deviation of (95, 105) is 10 / sqrt(2), the mean 100.
    assert coefficient_of_variation([[95, 105], [190, 210]]) == pytest.approx(0.1 / math.sqrt(2))
    assert coefficient_of_variation([[1, 1], [7, 7]]) == 0
    assert math.isnan(coefficient_of_variation([[0, 0], [7, 7]]))


@pytest.mark.parametrize("table", [[[1, 2]], [[1], [2]], [[1, 2], [3, np.nan]], [1, 2]])
def test_agreement_refuses_incomplete_tables(table):
    with pytest.raises(InputError, match="without gaps"):
        icc(table)


def test_unknown_icc_is_refused():
    with pytest.raises(InputError, match="1,1"):
        icc(RATINGS, "1,1")


def test_interval_holds_the_mean_about_as_often_as_it_says():
    """Coverage of the 95 % interval over 300 samples of 30 skewed values."""
    rng = np.random.default_rng(0)
    samples = rng.exponential(1.0, (300, 30))
    hits = [low <= 1 <= high for _, low, high in (
        bootstrap_interval(s, resamples=1000, seed=k) for k, s in enumerate(samples))]  # fmt: skip
    assert 0.88 <= np.mean(hits) <= 0.98


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=12), st.floats(-100, 100))
def test_interval_moves_with_the_values(values, shift):
    found = bootstrap_interval(values, resamples=200)
    moved = bootstrap_interval(np.array(values) + shift, resamples=200)
    assert found.low <= found.mean + 1e-9 and found.mean <= found.high + 1e-9
    assert np.allclose(np.array(moved), np.array(found) + shift, atol=1e-6)


def test_no_values_have_no_interval():
    with pytest.raises(InputError, match="at least one"):
        bootstrap_interval([])


def test_wilcoxon_of_six_participants_that_all_gain_is_two_in_two_to_the_sixth():
    own = {str(k): 10.0 + k for k in range(6)}
    other = {str(k): 10.0 - 0.1 * k * k - 0.3 for k in range(6)}
    assert wilcoxon_p(own, other) == pytest.approx(2 / 2**6)
    assert math.isnan(wilcoxon_p(own, own))
    assert math.isnan(wilcoxon_p(own, {}))


def test_wilcoxon_pairs_by_participant():
    from scipy.stats import wilcoxon

    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 12))
    own = {str(k): v for k, v in enumerate(a)}
    other = {str(k): b[k] for k in reversed(range(12))}
    assert wilcoxon_p(own, other) == pytest.approx(wilcoxon(a, b).pvalue)


def test_description_leaves_out_what_is_missing():
    assert describe([1.0, None, 3.0, float("nan")]) == (2, 2.0, pytest.approx(math.sqrt(2)))
    assert describe([]).n == 0 and math.isnan(describe([]).mean)
    assert math.isnan(describe([4.0]).sd)


def test_robust_scores_find_the_outlier_among_the_spread():
    values = [*np.linspace(-1, 1, 21), 50.0, np.nan]
    scores = robust_z(values)
    assert scores[21] > 20 and np.abs(scores[:21]).max() < 3.5 and np.isnan(scores[22])
    assert (robust_z([2, 2, 2, 9]) == 0).all()
