"""The monotone map of intensities against numpy's own quantiles and closed forms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bh_bids.mapping.intensity import (
    LEVELS,
    SHARES,
    STEEPEST_TAIL,
    TAIL,
    TAIL_KNOTS,
    IntensityMap,
    brain_quantiles,
    linear_map,
    map_between,
)
from bh_bids.mapping.mapping import Mapping, straight_mapping

quantiles = hnp.arrays(np.float64, LEVELS, elements=st.floats(0.01, 2.0)).map(np.sort)


@given(quantiles, quantiles, hnp.arrays(np.float32, 50, elements=st.floats(0, 4, width=32)))
@settings(max_examples=60, deadline=None)
def test_a_map_grows_and_is_never_negative(own, target, values):
    mapped = map_between(own, target)(np.sort(values))
    assert mapped.dtype == np.float32 and np.isfinite(mapped).all()
    assert (mapped >= 0).all()
    assert (np.diff(mapped) >= -1e-5 * (1 + mapped[1:])).all()


@given(quantiles, quantiles)
@settings(max_examples=60, deadline=None)
def test_what_lies_below_all_knots_goes_straight_to_zero(own, target):
    found = map_between(own, target)
    low_in, low_out = found.knots_in[0], found.knots_out[0]
    # Not the knot itself, which single precision may round to the steep side.
    shares = np.array([0.0, 0.25, 0.5, 0.99])
    np.testing.assert_allclose(found(shares * low_in), shares * low_out, rtol=1e-4, atol=1e-6)
    assert found(low_in) >= low_out * (1 - 1e-4) - 1e-6


@given(quantiles, quantiles)
@settings(max_examples=60, deadline=None)
def test_what_lies_above_all_knots_goes_on_as_a_power(own, target):
    """Straight in logarithms, through the last knot."""
    found = map_between(own, target)
    top, high = found.knots_in[-1], found.knots_out[-1]
    here, near, far = (float(v) for v in found(top * np.array([1.0, 2.0, 4.0])))
    # The map rounds what it is given to single precision, of which a steep line makes more.
    slope = (high - found.knots_out[-2]) / (top - found.knots_in[-2])
    assert here == pytest.approx(high, rel=1e-5, abs=abs(slope) * top * 2**-23)
    if found.knots_in[max(-TAIL_KNOTS[-1], -len(found.knots_in))] > 0:
        assert far / near == pytest.approx(near / high, rel=1e-3)
        assert near / high <= 2**STEEPEST_TAIL * (1 + 1e-6)


@pytest.mark.parametrize("exponent", [0.4, 1.0, 2.5])
def test_the_tail_of_a_power_is_the_power(exponent):
    own = np.linspace(0.1, 1.0, LEVELS)
    found = map_between(own, own**exponent)
    np.testing.assert_allclose(found(np.array([2.0, 3.0])), [2**exponent, 3**exponent], rtol=1e-4)


@pytest.mark.parametrize("gap", [lambda x: np.expm1(x), lambda x: np.log1p(3 * x)])
def test_vessels_keep_about_their_brightness_under_a_gap(gap):
    """Nearer to the truth than a straight line, three times as bright as the last quantile."""
    own = np.linspace(0.1, 1.0, LEVELS)
    found, back = map_between(gap(own), own), TAIL_KNOTS[0]
    straight = 1 + (own[-1] - own[-back]) / (gap(own[-1]) - gap(own[-back])) * (gap(3.0) - gap(1.0))
    assert abs(float(found(np.array([gap(3.0)]))[0]) - 3) < 0.75 * abs(straight - 3)


@pytest.mark.parametrize("exponent", [0.7, 1.4])
@pytest.mark.parametrize("vessels", [0.0, 0.005])
def test_a_participants_own_vessels_stay_as_bright_as_they_are(vessels, exponent):
    """Whether there are more of them than usual, or fewer: neither squeezed nor stretched."""
    rng = np.random.default_rng(0)
    tissue = rng.uniform(0.1, 1.0, 40000)
    usual = np.concatenate([tissue, rng.uniform(1.0, 1.5, 100)])
    own = np.concatenate([tissue, rng.uniform(1.0, 1.5, int(vessels * tissue.size))])
    found = map_between(brain_quantiles(own**exponent), brain_quantiles(usual))
    bright = np.linspace(1.05, 1.5, 10)
    np.testing.assert_allclose(found(bright**exponent), bright, rtol=0.01)


def test_tissues_that_were_changed_apart_bend_no_vessels():
    """Grey matter brighter, white matter as it was: what is above it is as it was."""
    own = np.linspace(0.1, 1.0, LEVELS)
    source = own * (1 + 0.12 * np.exp(-(((own - 0.6) / 0.1) ** 2)))
    found = map_between(np.maximum.accumulate(source), own)
    np.testing.assert_allclose(found(np.array([1.2, 1.5])), [1.2, 1.5], rtol=0.01)


@given(quantiles, quantiles, st.floats(0.5, 6.0))
@settings(max_examples=40, deadline=None)
def test_beyond_the_knots_a_map_ends_at_its_ceiling(own, target, ceiling):
    """But nothing within them is touched, were the ceiling lower."""
    free, bounded = map_between(own, target), map_between(own, target, ceiling)
    values = np.linspace(0, 5 * own[-1], 400, dtype=np.float32)
    limit = np.where(values > free.knots_in[-1], max(ceiling, free.knots_out[-1]), np.inf)
    np.testing.assert_allclose(bounded(values), np.minimum(free(values), limit), rtol=1e-6)


def test_straight_lines_go_on_straight():
    found = IntensityMap(np.array([0.0, 1.0]), np.array([0.2, 0.7]))
    np.testing.assert_allclose(found(np.array([2.0, 4.0])), [1.2, 2.2], rtol=1e-6)


@given(
    st.integers(0, 2**31),
    st.floats(0.3, 3.0),
    st.floats(0.05, 0.4),
    st.integers(3000, 8000),
)
@settings(max_examples=30, deadline=None)
def test_quantiles_are_brought_to_quantiles(seed, exponent, spread, size):
    """Of the mapped brain itself, as numpy tells them; whatever the two contrasts."""
    rng = np.random.default_rng(seed)
    source = rng.uniform(0.2, 1.0, size) ** exponent
    target = np.sort(np.exp(rng.normal(-0.5, spread, 4000)))
    wanted = brain_quantiles(target)
    mapped = map_between(brain_quantiles(source), wanted)(source)
    found = np.quantile(mapped.astype(np.float64), SHARES)
    # Between knots a quantile of the mapped is no map of a quantile: up to one knot's step.
    step = np.maximum(np.diff(wanted, prepend=wanted[0]), np.diff(wanted, append=wanted[-1]))
    off = np.abs(found - wanted)[:-TAIL]
    assert (off <= (step + 1e-4)[:-TAIL]).all()
    assert off.mean() < 0.002


@given(quantiles, st.floats(0.2, 5.0))
@settings(max_examples=30, deadline=None)
def test_between_a_brain_and_its_multiple_lies_a_gain(own, gain):
    values = np.linspace(0, 1.5 * own[-1], 200)
    mapped = map_between(own, gain * own)(values)
    np.testing.assert_allclose(mapped, gain * values, rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("equal", [1, 100, 250])
def test_knots_that_differ_by_rounding_alone_bend_nothing(equal):
    own = np.full(LEVELS, 0.01)
    own[equal:] = np.nextafter(0.01, 1)
    mapped = map_between(own, own)(np.array([0.005, 0.01, 0.015]))
    np.testing.assert_allclose(mapped, [0.005, 0.01, 0.015], rtol=1e-5)


def test_the_slope_of_a_power_by_finite_differences():
    """A map between x and x**g has the derivative g x**(g - 1) where it has knots."""
    own = np.linspace(0.1, 1.0, LEVELS)
    found = map_between(own, own**1.7)
    x, h = np.linspace(0.15, 0.95, 30), 0.004
    slope = (found(x + h).astype(float) - found(x - h)) / (2 * h)
    np.testing.assert_allclose(slope, 1.7 * x**0.7, rtol=0.01)


def test_equal_knots_are_merged_and_a_constant_brain_has_a_gain():
    own = np.repeat(np.linspace(0.2, 0.9, LEVELS // 4), 4)
    target = np.linspace(0.3, 1.0, LEVELS)
    found = map_between(own, target)
    assert len(found.knots_in) == LEVELS // 4
    means = [part.mean() for part in np.split(target[:-TAIL], np.arange(4, LEVELS, 4))]
    np.testing.assert_allclose(found.knots_out, means)
    flat = map_between(np.full(LEVELS, 0.5), target)
    np.testing.assert_allclose(
        flat([0.0, 0.5, 1.0]), np.array([0, 1, 2]) * target[:-TAIL].mean(), rtol=1e-6
    )


def test_a_prediction_that_falls_or_is_negative_is_mended():
    own = np.linspace(0.1, 1.0, LEVELS)
    predicted = np.linspace(-0.05, 1.0, LEVELS)
    predicted[100:110] = predicted[90]
    mapped = map_between(own, predicted)(np.linspace(0, 1.2, 500))
    assert (mapped >= 0).all() and (np.diff(mapped) >= 0).all()


@given(st.integers(0, 2**31), st.floats(0.1, 3.0), st.floats(-1.0, 1.0))
@settings(max_examples=40, deadline=None)
def test_the_straight_line_is_numpys(seed, gain, offset):
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 1, 300)
    y = gain * x + offset + 0.01 * rng.normal(size=300)
    np.testing.assert_allclose(linear_map(x, y), np.polyfit(x, y, 1), rtol=1e-7, atol=1e-9)


def test_no_line_where_there_is_none():
    x = np.linspace(0, 1, 50)
    assert linear_map(np.full(50, 0.3), x) == (1.0, 0.0)
    assert linear_map(x, 1 - x) == (1.0, 0.0)


def test_a_mapping_survives_json_and_its_field_divides(domain):
    rng = np.random.default_rng(0)
    knots = np.linspace(0.1, 0.8, 20)
    curve = IntensityMap(knots, knots**0.7, 0.9)
    assert curve(domain.mean).max() == pytest.approx(0.9)
    for coefficients in (None, 0.1 * rng.normal(size=19)):
        mapping = Mapping(curve, coefficients, domain.mean.shape)
        back = Mapping.from_dict(mapping.to_dict())
        field = mapping.log_field()
        np.testing.assert_array_equal(
            back(domain.mean, back.log_field()), mapping(domain.mean, field)
        )
        flat = domain.mean if field is None else domain.mean / np.exp(field)
        np.testing.assert_allclose(mapping(domain.mean, field), curve(flat), atol=1e-6)
        gain = 0.1 * rng.normal(size=domain.mean.shape).astype(np.float32)
        gained = Mapping.from_dict(mapping.to_dict(), gain)
        total = gained.log_field() if field is None else gained.log_field() - field
        np.testing.assert_allclose(total, gain, atol=1e-6)


def test_the_straight_mapping_of_a_straight_change(domain):
    mask = domain.mask
    mapping = straight_mapping(domain.mean, np.where(mask, 0.8 * domain.mean + 0.1, 0), mask)
    assert mapping.log_field() is None
    np.testing.assert_allclose(mapping([0.2, 0.5, 1.4]), [0.26, 0.5, 1.22], rtol=1e-5)
