"""Contrast by tissue told from the local contrast, and undone, against closed forms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from bh_bids.mapping.intensity import brain_quantiles, map_between
from bh_bids.mapping.tissue import (
    BRIGHTNESS,
    LARGEST,
    LEVELS,
    SURROUNDINGS,
    Surroundings,
    tissue_gain,
    together,
    unevenness,
)

SHAPE = (96, 48, 44)
MASK = sum(a**2 for a in np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")) < 0.9
INSIDE = Surroundings(MASK)


def brain(seed=0, grain=0.02, width=0.6):
    """Every brightness along the first axis, and grain that is the same at each."""
    rng = np.random.default_rng(seed)
    level = np.linspace(0.0, 1.2, SHAPE[0])[:, None, None]
    fine = gaussian_filter(rng.normal(size=SHAPE), width)
    volume = level + grain * fine / fine.std()
    return np.where(MASK, np.maximum(volume, 0), 0).astype(np.float32)


def surroundings_of(volume, sigma=SURROUNDINGS):
    """Written once more: mean over the brain alone."""
    weight = gaussian_filter(MASK.astype(np.float32), sigma)
    return gaussian_filter(volume, sigma) / np.maximum(weight, 1e-3)


def with_gain(volume, log_gain, sigma=SURROUNDINGS):
    gained = volume * np.exp(log_gain(surroundings_of(volume, sigma)))
    return np.where(MASK, gained, 0).astype(np.float32)


def matcher(usual):
    def match(volume):
        matched = map_between(brain_quantiles(volume[MASK]), brain_quantiles(usual[MASK]))(volume)
        return np.where(MASK, matched, 0).astype(np.float32)

    return match


def contrast_of(volume):
    boxed = volume[INSIDE.box]
    return INSIDE.local_contrast(boxed, INSIDE.mean(boxed))


def rmse(a, b):
    return float(np.sqrt(np.mean((a - b)[MASK] ** 2)))


def hump(brightness):
    return 0.12 * np.exp(-(((brightness - 0.55) / 0.15) ** 2))


def test_the_surroundings_are_the_brains_own():
    volume = brain()
    mean = INSIDE.mean(volume[INSIDE.box])
    deep = MASK[INSIDE.box]
    expected = surroundings_of(volume)[INSIDE.box]
    # The package's Gaussian ends at three standard deviations, scipy's at four.
    np.testing.assert_allclose(mean[deep], expected[deep], atol=2e-3)


def test_the_local_contrast_is_the_grains(grain=0.02):
    """At every brightness the same, in proportion to the grain, and no part of the slope's."""
    contrast, share = contrast_of(brain(grain=grain))
    doubled, _ = contrast_of(brain(grain=2 * grain))
    assert share.sum() == pytest.approx(1) and (share > 0.02).all()
    assert np.ptp(contrast) < 0.1
    np.testing.assert_allclose(doubled - contrast, np.log(2), atol=0.05)


@pytest.mark.parametrize("size", [-0.1, 0.1])
def test_a_gain_by_surroundings_changes_the_local_contrast_as_derived(size):
    """After a match by 1 / (1 + m L'(m)); the grain is fine against the surroundings."""

    def log_gain(brightness):
        return size * np.cos(np.pi * brightness)

    volume = brain(grain=0.01, width=0)
    matched = matcher(volume)(with_gain(volume, log_gain))
    change = contrast_of(matched)[0] - contrast_of(volume)[0]
    slope = -size * np.pi * np.sin(np.pi * BRIGHTNESS)
    inner = slice(1, -2)
    expected = -np.log1p(BRIGHTNESS * slope)
    np.testing.assert_allclose(change[inner], expected[inner], atol=0.015)
    assert np.abs(expected[inner]).max() > 0.1


@given(st.floats(0.5, 2.0), st.floats(0.1, 100.0))
@settings(max_examples=10, deadline=None)
def test_no_monotone_contrast_is_taken_for_the_tissues(exponent, gain):
    """Matching undoes it, voxel and surroundings alike."""
    volume = brain()
    usual, _ = contrast_of(matcher(volume)(volume))
    other = matcher(volume)((gain * volume**exponent).astype(np.float32))
    assert unevenness(*contrast_of(other), usual) < 0.01


def test_a_contrast_that_is_everywhere_the_same_is_not_uneven():
    contrast, share = contrast_of(brain())
    assert unevenness(contrast - 0.3, share, contrast) == pytest.approx(0, abs=1e-9)
    uneven = np.where(np.arange(LEVELS) % 2, 0.1, -0.1)
    even_share = np.full(LEVELS, 1 / LEVELS)
    assert unevenness(contrast + uneven, even_share, contrast) == pytest.approx(0.1)


@pytest.mark.parametrize("sigma", [0.7, SURROUNDINGS, 1.5])
@pytest.mark.parametrize("sign", [-1, 1])
def test_the_gain_is_found_and_divided_out(sigma, sign):
    """In another brain than the usual contrast is of, and where the surroundings reach farther."""

    def log_gain(brightness):
        return sign * hump(brightness)

    truth, match = brain(1), matcher(brain(0))
    usual, _ = contrast_of(brain(0))
    source = with_gain(truth, log_gain, sigma)
    (found,), curve = tissue_gain([(source, INSIDE, match)], usual)
    mended = match((source * np.exp(-found)).astype(np.float32))
    assert rmse(mended, match(truth)) < 0.4 * rmse(match(source), match(truth))
    # But for a constant, which is a match's to tell, and a power, which changes local contrast
    # everywhere alike, as a blur does.
    inner = slice(1, -2)
    off = (curve - log_gain(BRIGHTNESS))[inner]
    known = np.stack([np.ones(LEVELS), np.log(BRIGHTNESS)], axis=1)[inner]
    off -= known @ np.linalg.lstsq(known, off, rcond=None)[0]
    assert np.abs(off).max() < (0.02 if sigma == SURROUNDINGS else 0.04)
    before = unevenness(*contrast_of(match(source)), usual)
    assert unevenness(*contrast_of(mended), usual) < 0.3 * before


def test_neither_gain_nor_contrast_of_the_source_matters():
    truth, match = brain(1), matcher(brain(0))
    usual, _ = contrast_of(brain(0))
    source = with_gain(truth, hump)
    (found,), curve = tissue_gain([(source, INSIDE, match)], usual)
    (again,), same = tissue_gain([(1000 * source, INSIDE, match)], usual)
    np.testing.assert_allclose(again, found, atol=1e-4)
    np.testing.assert_allclose(same, curve, atol=1e-4)
    (bent,), _ = tissue_gain([(source**0.8, INSIDE, match)], usual)
    pairs = ((source**0.8, bent), (source, found))
    mended, usually = (match((s * np.exp(-g)).astype(np.float32)) for s, g in pairs)
    assert rmse(mended, usually) < 0.25 * rmse(match(source), match(truth))


def test_a_brain_as_even_as_can_be_gets_no_gain():
    volume, match = brain(), matcher(brain())
    usual, _ = contrast_of(match(volume))
    (found,), curve = tissue_gain([(volume, INSIDE, match)], usual)
    assert not found.any() and not curve.any()


def test_the_gain_is_bounded_and_goes_on_beyond_the_border():
    truth, match = brain(1), matcher(brain(0))
    usual, _ = contrast_of(brain(0))
    (found,), curve = tissue_gain([(with_gain(truth, lambda b: 8 * hump(b)), INSIDE, match)], usual)
    assert np.abs(found).max() <= LARGEST and np.abs(curve).max() <= LARGEST
    assert found.dtype == np.float32 and found.shape == SHAPE
    column = found[:, SHAPE[1] // 2, SHAPE[2] // 2]
    inside = np.flatnonzero(MASK[:, SHAPE[1] // 2, SHAPE[2] // 2])
    # No step where the brain ends, and nothing far from it.
    assert abs(column[inside[-1] + 1] - column[inside[-1]]) < 0.05
    far = gaussian_filter(MASK.astype(np.float32), SURROUNDINGS, truncate=3.0) == 0
    assert far.any() and not found[far].any()


def test_brains_together_count_by_their_voxels_and_fill_what_none_shows():
    contrasts, shares = np.zeros((2, LEVELS)), np.zeros((2, LEVELS))
    contrasts[0], contrasts[1] = 1.0, 4.0
    shares[0, 5:10], shares[1, 5:8] = 0.1, 0.2
    contrast, share = together(list(zip(contrasts, shares, strict=True)))
    np.testing.assert_allclose(contrast[5:8], 3.0)
    np.testing.assert_allclose(contrast[8:], 1.0)
    np.testing.assert_allclose(contrast[:5], 3.0)
    np.testing.assert_allclose(share, shares.mean(axis=0))
    contrast, share = together([(contrasts[0], np.zeros(LEVELS))])
    assert not contrast.any() and not share.any()


def test_scans_of_one_scanner_share_the_curve_and_a_change_between_them_stays():
    """Each alone would take the change for the scanner's."""
    before, match = brain(1), matcher(brain(0))
    usual, _ = contrast_of(brain(0))
    after = with_gain(before, lambda b: 0.3 * hump(b))
    scans = [with_gain(v, hump) for v in (before, after)]
    gains, curve = tissue_gain([(s, INSIDE, match) for s in scans], usual)
    (alone,), _ = tissue_gain([(scans[1], INSIDE, match)], usual)
    (first,), _ = tissue_gain([(scans[0], INSIDE, match)], usual)
    twice, same = tissue_gain([(scans[0], INSIDE, match)] * 2, usual)
    np.testing.assert_allclose(twice, [first, first], atol=1e-6)

    def change(gain_after, gain_before):
        a, b = (match((s * np.exp(-g)).astype(np.float32))
                for s, g in zip(scans[::-1], (gain_after, gain_before), strict=True))  # fmt: skip
        return a - b

    true = (match(after) - match(before))[MASK]
    kept, lost = (change(*g)[MASK] for g in ((gains[1], gains[0]), (alone, first)))
    assert 0.7 < (kept @ true) / (true @ true) < 1.3
    assert (lost @ true) / (true @ true) < 0.5


def test_voxels_that_tell_nothing_tell_nothing():
    """A brain too thin to have surroundings, and voxels that are not to be asked."""
    thin = np.zeros((8, 8, 8), bool)
    thin[4] = True
    surroundings = Surroundings(thin)
    boxed = thin[surroundings.box].astype(np.float32)
    contrast, share = surroundings.local_contrast(boxed, surroundings.mean(boxed))
    assert not share.any() and np.isfinite(contrast).all()
    assert unevenness(contrast, share, np.zeros(LEVELS)) == 0
    volume, asked = brain(), MASK.copy()
    spoiled = volume.copy()
    spoiled[40:50, 20:30, 20:30] += 0.3
    asked[36:54, 16:34, 16:34] = False
    some = Surroundings(MASK, asked)
    first, second = (
        some.local_contrast(v[some.box], some.mean(v[some.box])) for v in (volume, spoiled)
    )
    np.testing.assert_allclose(second[0], first[0], atol=1e-6)


def test_what_a_lesion_looks_like_changes_no_gain_outside_of_it():
    lesion = np.zeros(SHAPE, bool)
    lesion[40:50, 20:30, 20:30] = True
    some, match = Surroundings(MASK, MASK & ~lesion), matcher(brain(0))
    usual, _ = contrast_of(brain(0))
    source = with_gain(brain(1), hump)

    def match_rest(volume):
        own = brain_quantiles(volume[MASK & ~lesion])
        matched = map_between(own, brain_quantiles(brain(0)[MASK]))(volume)
        return np.where(MASK, matched, 0).astype(np.float32)

    ill = np.where(lesion, 3.0, source).astype(np.float32)
    (healthy,), _ = tissue_gain([(source, some, match_rest)], usual)
    (found,), _ = tissue_gain([(ill, some, match_rest)], usual)
    (misled,), _ = tissue_gain([(ill, INSIDE, match)], usual)
    rest = MASK & ~lesion
    np.testing.assert_allclose(found[rest], healthy[rest], atol=1e-5)
    assert np.abs(misled - healthy)[rest].max() > 0.05
    assert np.isfinite(found).all()
