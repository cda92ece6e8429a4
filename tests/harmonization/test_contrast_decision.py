"""What a contrast is to become: what ruler and scanner prior tell, and how far it counts."""

from types import SimpleNamespace

import numpy as np
import pytest

from bh_bids.harmonization.contrast import (
    Seen,
    decide,
    finer_than_usual,
    told_with_slopes,
)
from bh_bids.mapping.intensity import LEVELS, SHARES
from bh_bids.mapping.ruler import SLOPES_SHARE
from bh_bids.mapping.scanner import own_deviation

USUAL = np.interp(SHARES, [0, 0.15, 0.4, 0.6, 1], [0.08, 0.35, 0.6, 0.78, 1.02])
USUAL /= np.quantile(USUAL, 0.99)
# Participants have more or less CSF; the ruler leaves less of it.
OWN = 0.1 * np.exp(-(((SHARES - 0.15) / 0.1) ** 2))[None]
PARTICIPANT = USUAL * np.exp(1.5 * OWN[0])


def calibration(error=1e-4, unlikeness=0.5, spread=OWN, told_spread=0.5 * OWN):
    """Constants with which a mapped scan is mapped in full, and a participant is so unlike."""

    def unlike(quantiles):
        far = np.abs(np.log(np.maximum(quantiles, 1e-3) / USUAL)).max() > 0.5
        return 9.0 if far else unlikeness

    return SimpleNamespace(
        quantiles=USUAL,
        ruler_error=error,
        own_spread=spread,
        told_spread=told_spread,
        unlikeness=unlike,
        unlikeness_told=lambda quantiles, expected: unlike(quantiles),
    )


def seen(own, change=None, weight=0.0, size=9.0, share=0.9, part=0.0, scale=1.0):
    ruler = {"Weight": weight, "Deviation": size, "Share": share}
    change = np.zeros(LEVELS) if change is None else change
    return Seen(own * scale, scale, USUAL + part, np.broadcast_to(part, LEVELS), change, ruler)


def test_a_participants_own_contrast_is_kept_under_a_scanners():
    contrast = decide(calibration(), [seen(PARTICIPANT**3)], mapped=True)
    assert contrast.decision["Division"]["Weight"] == 1
    error, before = contrast.target - PARTICIPANT, USUAL - PARTICIPANT
    assert np.sqrt(np.mean(error**2)) < 0.4 * np.sqrt(np.mean(before**2))
    np.testing.assert_array_equal(contrast.expected, contrast.target)
    without = decide(calibration(), [seen(PARTICIPANT**3)], mapped=True, divided=False)
    np.testing.assert_allclose(without.target, USUAL)
    assert without.decision["Division"]["Reason"] == "switched off"


def test_what_the_ruler_says_of_a_scan_it_is_not_trusted_with_does_not_count():
    change, wrong = 0.02 * np.sin(np.pi * SHARES), 0.3 * np.cos(3 * SHARES)
    trusted = seen(PARTICIPANT**3, change, weight=1.0, size=2.0, share=0.7)
    targets = []
    for sign in (-1, 1):
        other = seen(PARTICIPANT**3, sign * wrong, weight=0.0, size=50.0, share=1.0)
        contrast = decide(calibration(), [trusted, other], mapped=True, divided=False)
        targets.append(contrast.target)
        assert contrast.decision["SharedRuler"] == {"Weight": 0.5, "Deviation": 2.0, "Share": 0.7}
    np.testing.assert_array_equal(*targets)
    # Half as far as where the ruler is trusted with both.
    both = decide(calibration(), [trusted, trusted], mapped=True, divided=False)
    np.testing.assert_allclose(targets[0] - USUAL, 0.5 * (both.target - USUAL), atol=1e-9)


@pytest.mark.parametrize("size", [0.3, 0.59, 0.61, 1.0, 3.0])
def test_a_deviation_counts_from_its_error_on(size):
    """The positive part of James and Stein's estimator."""
    full = own_deviation(PARTICIPANT**3, USUAL, OWN)
    error = np.sqrt(np.mean(full**2)) / size
    contrast = decide(calibration(error), [seen(PARTICIPANT**3)], mapped=True)
    division, share = contrast.decision["Division"], max(0, 1 - (0.6 / size) ** 2)
    assert division["Deviation"] == pytest.approx(size, abs=2e-3)
    assert division["Share"] == pytest.approx(share, abs=1e-4)
    np.testing.assert_allclose(contrast.target, USUAL + share * full, atol=1e-6)


@pytest.mark.parametrize(
    ("unlikeness", "weight"), [(0.99, 1), (1.25, 0.5), (1.49, 0.02), (1.51, 0)]
)
def test_an_unlikely_participant_is_not_taken_for_one(unlikeness, weight):
    """Then it is the ruler alone that tells, as far as it is trusted."""
    change = 0.02 * np.sin(np.pi * SHARES)
    given = seen(PARTICIPANT**3, change, weight=1.0, size=2.0, share=0.7)
    contrast = decide(calibration(unlikeness=unlikeness), [given], mapped=True)
    assert contrast.decision["Division"]["Weight"] == pytest.approx(weight, abs=1e-3)
    asked = USUAL + (1 - (1.3 / 2) ** 2) * change
    both = asked + own_deviation(PARTICIPANT**3, asked, 0.5 * OWN)
    share = contrast.decision["Division"]["Share"]
    expected = weight * (USUAL + share * (both - USUAL)) + (1 - weight) * (USUAL + 0.7 * change)
    np.testing.assert_allclose(contrast.target, expected, atol=2e-4)


def test_of_a_ruler_that_is_trusted_in_part_the_spread_lies_between():
    small, large = (
        decide(calibration(told_spread=0 * OWN), [seen(PARTICIPANT**3, weight=w)], mapped=True)
        for w in (1.0, 0.5)
    )
    np.testing.assert_allclose(small.target, USUAL, atol=1e-6)
    np.testing.assert_allclose(
        large.target - USUAL,
        large.decision["Division"]["Share"]
        * own_deviation(PARTICIPANT**3, USUAL, np.sqrt(0.5) * OWN),
        atol=1e-5,
    )


def with_slopes(error=1e-4, both_error=1e-4, both_spread=0.25 * OWN, distance=1.0):
    """Constants with a second ruler, which predicts a tenth of what it is told."""
    given = calibration(error)
    given.both_error, given.both_spread = both_error, both_spread
    given.null_blur = np.tile([0.05, 0.1, 0.2], (6, 1)) * [[1], [-1], [1], [-1], [1], [-1]]
    given.slopes = SimpleNamespace(
        predict=lambda slopes: 0.1 * np.interp(SHARES, [0, 1], slopes[:2]),
        distance=lambda slopes: distance,
    )
    return given


def told(change, size=2.0, weight=1.0):
    return change, {"Weight": weight, "Deviation": size, "Share": 0.7}


SLOPES = np.array([0.1, 0.3])


@pytest.mark.parametrize(
    ("distance", "odd", "weight"),
    [
        (1.99, 0.0, 1),
        (2.5, 0.0, 0.5),
        (3.01, 0.0, 0),
        (1.0, 1.99, 1),
        (1.0, 2.5, 0.5),
        (2.5, 2.5, 0.25),
    ],
)
def test_slopes_are_asked_of_what_they_know(distance, odd, weight):
    """Their own distance from the target's, and the detail's; each of two ramps."""
    change = 0.02 * np.sin(np.pi * SHARES)
    given = with_slopes(error=0.01, both_error=0.002, distance=distance)
    blur = odd * np.array([0.05, 0.1, 0.2])
    found, account = told_with_slopes(given, told(change), SLOPES, [blur])
    assert account["Slopes"]["Weight"] == pytest.approx(weight, abs=1e-3)
    assert account["Slopes"]["Detail"] == pytest.approx(odd, abs=1e-3)
    by_slopes = 0.1 * np.interp(SHARES, [0, 1], SLOPES)
    expected = change + account["Slopes"]["Weight"] * SLOPES_SHARE * (by_slopes - change)
    np.testing.assert_allclose(found, expected)
    error = (1 - weight) * 0.01 + weight * 0.002
    size = np.sqrt(np.mean(found**2)) / error
    assert account["Deviation"] == pytest.approx(size, rel=2e-3)
    assert account["Share"] == pytest.approx(max(0, 1 - (1.15 / size) ** 2), abs=2e-3)


@pytest.mark.parametrize(
    ("slopes", "blur", "untouched"),
    [
        (SLOPES * np.nan, np.zeros(3), 1.0),
        (SLOPES, np.full(3, 9.0), 1.0),
        (SLOPES, np.zeros(3), 0.0),
    ],
)
def test_slopes_that_cannot_be_told_change_nothing(slopes, blur, untouched):
    change = 0.02 * np.sin(np.pi * SHARES)
    given = with_slopes(error=np.sqrt(np.mean(change**2)) / 2)
    found, account = told_with_slopes(given, told(change), slopes, [blur], untouched)
    assert account["Slopes"]["Weight"] == 0
    np.testing.assert_array_equal(found, change)
    assert account["Deviation"] == 2.0


@pytest.mark.parametrize(
    ("odd", "share"), [(1.9, 0), (2.0, 0), (2.5, 0.5), (3.0, 1), (8.0, 1), (-8.0, 0)]
)
def test_what_is_finer_than_the_target_lacks_a_blur(odd, share):
    """Only along the axes where it is; a scan with the target's detail is shown as it is."""
    spread = np.array([0.05, 0.1, 0.2])
    lacking = finer_than_usual(with_slopes(), -odd * spread)
    np.testing.assert_allclose(lacking, share * abs(odd) * spread, atol=1e-9)
    mixed = finer_than_usual(with_slopes(), odd * np.sqrt(1.5) * spread * [1, -1, 0])
    finer = np.array([odd < 0, odd > 0, False])
    expected = (abs(odd) >= 3) * abs(odd) * np.sqrt(1.5) * spread * finer
    if abs(odd) != 2.5:
        np.testing.assert_allclose(mixed, expected, atol=1e-9)


def test_slopes_count_by_the_detail_that_the_flow_was_shown():
    change, blur = 0.02 * np.sin(np.pi * SHARES), np.array([0.05, 0.1, 0.2])
    _, account = told_with_slopes(with_slopes(), told(change), SLOPES, [-5 * blur, -2.5 * blur])
    found = account["Slopes"]
    assert found["Detail"] == pytest.approx(5, abs=1e-3)
    assert found["DetailShown"] == pytest.approx(2.5, abs=1e-3)
    assert found["Weight"] == pytest.approx(0.5, abs=1e-3)


def test_slopes_count_less_the_more_of_a_scan_was_changed():
    change = np.zeros(LEVELS)
    for untouched in (1.0, 0.6, 0.01):
        found, account = told_with_slopes(
            with_slopes(), told(change), SLOPES, [np.zeros(3)], untouched
        )
        assert account["Slopes"]["Weight"] == pytest.approx(untouched)
        expected = untouched * SLOPES_SHARE * 0.1 * np.interp(SHARES, [0, 1], SLOPES)
        np.testing.assert_allclose(found, expected)


def test_of_several_scans_slopes_count_as_far_as_each_is_trusted():
    one, other = seen(PARTICIPANT**3, weight=1.0), seen(PARTICIPANT**3, weight=1.0)
    one.ruler["Slopes"] = {"Weight": 1.0}
    contrast = decide(with_slopes(), [one, other], mapped=True)
    spread = np.sqrt(0.5) * np.concatenate([0.5 * OWN, 0.25 * OWN])
    np.testing.assert_allclose(
        contrast.target - USUAL,
        contrast.decision["Division"]["Share"] * own_deviation(PARTICIPANT**3, USUAL, spread),
        atol=1e-5,
    )


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_what_slopes_leave_of_participants_is_less(weight):
    """The scanner prior goes by the spread that is left, as far as they are trusted."""
    given = seen(PARTICIPANT**3, weight=1.0)
    given.ruler["Slopes"] = {"Weight": weight}
    contrast = decide(with_slopes(), [given], mapped=True)
    spread = np.concatenate([np.sqrt(1 - weight) * 0.5 * OWN, np.sqrt(weight) * 0.25 * OWN])
    np.testing.assert_allclose(
        contrast.target - USUAL,
        contrast.decision["Division"]["Share"] * own_deviation(PARTICIPANT**3, USUAL, spread),
        atol=1e-5,
    )


def test_of_a_part_of_a_brain_nothing_is_divided():
    """What is usual for it is known too roughly: the ruler alone tells."""
    part = np.interp(np.clip(SHARES + 0.1, 0, SHARES[-1]), SHARES, USUAL) - USUAL
    change = 0.02 * np.sin(np.pi * SHARES)
    given = seen(PARTICIPANT**3, change, weight=1.0, share=0.7, part=part)
    contrast = decide(calibration(), [given], mapped=True)
    assert contrast.decision["Division"] == {"Weight": 0.0, "Reason": "part of a brain"}
    expected = np.maximum.accumulate(USUAL + part + 0.7 * change)
    np.testing.assert_allclose(contrast.target, expected)


def test_a_gain_does_not_matter_and_several_scans_are_one():
    one = decide(calibration(), [seen(PARTICIPANT**3)], mapped=True)
    others = [seen(PARTICIPANT**3, scale=scale) for scale in (0.5, 2.0)]
    both = decide(calibration(), others, mapped=True)
    np.testing.assert_allclose(both.target, one.target, atol=1e-9)
    assert both.decision.pop("SharedRuler")["Weight"] == 0
    assert both.decision == one.decision


def test_a_scan_that_keeps_its_contrast_is_not_divided():
    own = seen(PARTICIPANT)
    contrast = decide(calibration(unlikeness=1.0), [own], mapped=True)
    assert not contrast.decision["Applied"] and "Division" not in contrast.decision
    np.testing.assert_array_equal(contrast.target, PARTICIPANT)
