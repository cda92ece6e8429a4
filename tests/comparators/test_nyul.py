"""Nyul's landmarks against numpy's piecewise linear interpolation and closed forms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bh_bids.comparators.nyul import PERCENTILES, nyul_match, standard_landmarks
from bh_bids.errors import InputError


def brain(seed=0, shape=(20, 22, 24)):
    rng = np.random.default_rng(seed)
    mask = rng.random(shape) < 0.8
    return np.where(mask, rng.beta(2, 3, shape), 0).astype(np.float32), mask


def test_landmarks_land_on_the_targets():
    source, mask = brain()
    quantiles = np.linspace(0.1, 0.9, 257) ** 2
    matched = nyul_match(900 * source, mask, quantiles)
    found = np.percentile(matched[mask], PERCENTILES)
    assert np.allclose(found, np.quantile(quantiles, np.array(PERCENTILES) / 100), atol=1e-3)


def test_between_landmarks_it_is_numpys_interpolation():
    source, mask = brain(1)
    quantiles = np.sqrt(np.linspace(0.01, 1, 257))
    own = np.percentile(source[mask], PERCENTILES)
    standard = standard_landmarks(quantiles)
    matched = nyul_match(source, mask, quantiles)
    inner = mask & (source >= own[0]) & (source <= own[-1])
    assert np.allclose(matched[inner], np.interp(source[inner], own, standard), atol=1e-5)
    tail = mask & (source > own[-1])
    slope = (standard[-1] - standard[-2]) / (own[-1] - own[-2])
    assert np.allclose(matched[tail], standard[-1] + slope * (source[tail] - own[-1]), atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), gain=st.floats(0.01, 1000), shift=st.floats(0, 100))
def test_any_linear_change_of_a_target_is_undone(seed, gain, shift):
    """Landmarks are equivariant, and every one of them lies on this grid of quantiles."""
    source, mask = brain(seed)
    quantiles = np.quantile(source[mask].astype(float), np.linspace(0, 1, 101))
    matched = nyul_match(source.astype(float) * gain + shift, mask, quantiles)
    assert np.allclose(matched[mask], source[mask], atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), levels=st.integers(1, 8))
def test_it_never_turns_intensities_around(seed, levels):
    rng = np.random.default_rng(seed)
    source = rng.integers(0, levels, (6, 6, 6)).astype(float)
    matched = nyul_match(source, np.ones(source.shape, bool), np.sort(rng.random(257)))
    order = np.argsort(source, axis=None)
    assert (np.diff(matched.ravel()[order]) >= -1e-6).all()
    assert np.isfinite(matched).all() and (matched >= 0).all()


def test_background_takes_no_part_and_unusable_input_is_refused():
    source, mask = brain()
    fine = np.linspace(0, 1, 257)
    other = nyul_match(np.where(mask, source, 70), mask, fine)
    assert np.array_equal(nyul_match(source, mask, fine), other)
    with pytest.raises(InputError, match="empty"):
        nyul_match(source, np.zeros_like(mask), fine)
    with pytest.raises(InputError, match="decrease"):
        nyul_match(source, mask, fine[::-1])
