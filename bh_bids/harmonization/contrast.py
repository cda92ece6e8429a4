"""What the contrast of a brain, or of all scans of one, is to become: figures in, quantiles out.

A scan that looks like the target's keeps its contrast. Another's quantiles become those that are
usual for the target, but for the participant's own deviation from them. Three witnesses tell it:
the ruler (:mod:`bh_bids.mapping.ruler`), by texture and steady places; of an undisturbed scan the
flow (:mod:`bh_bids.flow.slopes`), by what it asks of the contrast; and the scanner prior
(:mod:`bh_bids.mapping.scanner`), which divides what these leave between scanner and participant by
what either usually does. All quantiles are arrays (LEVELS,).
"""

from dataclasses import dataclass

import numpy as np

from ..mapping.disturb import NOISE
from ..mapping.ruler import ASKED, together_told, trusted_share
from ..mapping.scanner import own_deviation
from .gates import ramp

# Unlikeness (about 1 for a target scan) up to which the contrast is left as it is, and from which
# it is mapped in full: without the ruler, and with it.
LIKE, UNLIKE = (1.8, 1.6), (2.3, 2.0)
# Distance of a profile from the target's up to which the ruler counts in full, and not.
NEAR, FAR = 1.5, 2.0
# The same for the mean sharpness, in standard deviations.
SHARP, BLURRED = 3.0, 5.0
# A deviation counts from this many times the ruler's own error: one that the ruler alone tells, and
# one that is told by ruler and scanner prior.
ERROR, ERROR_DIVIDED = 1.15, 0.6
# Unlikeness up to which the deviation that both tell is a participant's, and from which it is not.
LIKELY, UNLIKELY = 1.0, 1.5
# The flow's slopes were learned of undisturbed scans. The same for their own distance, and for how
# far the detail along the axes is from the target's, in standard deviations of target scans.
SLOPES_NEAR, SLOPES_FAR = 2.0, 3.0
SLOPES_DETAIL, SLOPES_ODD = 2.0, 3.0


@dataclass(frozen=True)
class Seen:
    """What one brain's intensities look like once its field is gone.

    Attributes
    ----------
    own : numpy.ndarray, shape (LEVELS,)
        Its quantiles.
    scale : float
        Its gain: the brain's 99th percentile.
    usual : numpy.ndarray, shape (LEVELS,)
        The target's usual quantiles, of the part of a brain that is seen.
    shift : numpy.ndarray, shape (LEVELS,)
        What is usual for that part, less the whole brain's.
    change : numpy.ndarray, shape (LEVELS,)
        How the ruler says that this brain deviates from the usual.
    ruler : dict
        Weight, share, and figures of the ruler; of the flow's slopes under ``Slopes``.
    """

    own: np.ndarray
    scale: float
    usual: np.ndarray
    shift: np.ndarray
    change: np.ndarray
    ruler: dict


@dataclass(frozen=True)
class Contrast:
    """What the contrast of one brain, or of all its scans, is to become.

    Attributes
    ----------
    own, target : numpy.ndarray, shape (LEVELS,)
        Quantiles before and after.
    scale : float
        Gain of the first.
    expected : numpy.ndarray, shape (LEVELS,), or None
        Quantiles that the target would have given, where the contrast is mapped in full.
    weight : float
        Share of the way to the expected quantiles that is gone, 0 to 1.
    decision : dict
        For the sidecar.
    """

    own: np.ndarray
    target: np.ndarray
    scale: float
    expected: np.ndarray | None
    weight: float
    decision: dict


def told_deviation(calibration, profile, sharpness, sigma, evened=0.0):
    """What the ruler says of a brain, and how far it is to be believed.

    Parameters
    ----------
    calibration : bh_bids.mapping.calibration.Calibration
    profile, sharpness
        Of :func:`bh_bids.mapping.ruler.contrast_profile`.
    sigma : float or None
        Noise found in the brain, target units; None where it was not looked for.
    evened : float
        How far the brain's local contrast was made the usual one, 0 to 1: as far its texture says
        nothing of the participant.

    Returns
    -------
    change : numpy.ndarray, shape (LEVELS,)
        Deviation of the brain's quantiles from the usual ones, in full.
    account : dict
        ``Weight``: how far the ruler is trusted with such a scan; ``Share``: how much of a
        deviation of this size is to count; and the figures behind both.
    """
    ruler, (mean, deviation) = calibration.ruler, calibration.sharpness
    unsharp, distance = (sharpness - mean) / deviation, ruler.distance(profile)
    weight = (1 - ramp(distance, NEAR, FAR)) * (1 - ramp(abs(unsharp), SHARP, BLURRED))
    weight *= 1 - evened
    # Noisier than any version of a scan that it was fitted to.
    too_noisy = sigma is not None and bool(sigma > NOISE)
    if too_noisy or calibration.ruler_gain <= 0:
        weight = 0.0
    change = ruler.predict(profile)
    size = _size(change, calibration.ruler_error)
    account = {
        "Weight": round(float(weight), 4),
        "Distance": round(distance, 3),
        "Sharpness": round(float(unsharp), 3),
        "Deviation": round(size, 3),
        "Share": round(trusted_share(size, ERROR), 4),
        "TooNoisy": too_noisy,
        "Evened": round(float(evened), 4),
    }
    return change, account


def told_with_slopes(calibration, told, slopes, blurs, untouched=1.0):
    """What ruler and flow's slopes say of a brain together.

    Parameters
    ----------
    calibration : bh_bids.mapping.calibration.Calibration
        With slopes.
    told : tuple
        Of :func:`told_deviation`.
    slopes : numpy.ndarray, shape (KNOTS,)
        Of :class:`bh_bids.flow.slopes.ContrastSlopes`; NaN where the flow cannot tell.
    blurs : sequence of array_like, shape (AXES,)
        Of the scan and, if that is another, of what the flow was shown; voxels squared.
    untouched : float
        How far its detail and local contrast were left as they were, 0 to 1.

    Returns
    -------
    change : numpy.ndarray, shape (LEVELS,)
    account : dict
        That of the ruler, and ``Slopes``.
    """
    change, account = told
    ruler, own = calibration.slopes, {"Weight": 0.0}
    if not np.isfinite(slopes).all():
        return change, {**account, "Slopes": own}
    distance = ruler.distance(slopes)
    odd = [odd_detail(calibration, blur) for blur in blurs]
    weight = untouched * (1 - ramp(distance, SLOPES_NEAR, SLOPES_FAR))
    weight *= 1 - ramp(odd[-1], SLOPES_DETAIL, SLOPES_ODD)
    own = {
        "Weight": round(float(weight), 4),
        "Distance": round(distance, 3),
        "Detail": round(odd[0], 3),
    }
    if len(odd) > 1:
        own["DetailShown"] = round(odd[-1], 3)
    change = together_told(change, ruler.predict(slopes), own["Weight"])
    size = _size(change, _error(calibration, own["Weight"]))
    share = round(trusted_share(size, ERROR), 4)
    return change, {**account, "Deviation": round(size, 3), "Share": share, "Slopes": own}


def odd_detail(calibration, blur):
    """How far a blur along the axes is from the target's.

    Parameters
    ----------
    calibration : bh_bids.mapping.calibration.Calibration
    blur : array_like, shape (AXES,)
        Variances, voxels squared; negative where a scan is finer.

    Returns
    -------
    float
        Root mean square over the axes, standard deviations of target scans.
    """
    usual = np.mean(calibration.null_blur**2, axis=0)
    return float(np.sqrt(np.mean(np.square(blur) / usual)))


def finer_than_usual(calibration, blur):
    """The blur that a scan lacks to be shown to the flow: none of one with the target's detail.

    Parameters
    ----------
    calibration : bh_bids.mapping.calibration.Calibration
    blur : array_like, shape (AXES,)
        Of the scan, voxels squared; negative where it is finer than the target's.

    Returns
    -------
    numpy.ndarray, shape (AXES,)
        Variances, voxels squared.
    """
    odd = ramp(odd_detail(calibration, blur), SLOPES_DETAIL, SLOPES_ODD)
    return odd * np.maximum(-np.asarray(blur), 0)


def decide(calibration, seen, *, mapped, divided=True):
    """Decide on the contrast from all scans: on the mean of their quantiles, gains made equal.

    Parameters
    ----------
    calibration : bh_bids.mapping.calibration.Calibration
    seen : sequence of Seen
    mapped : bool
        False: it stays as it is, whatever it looks like.
    divided : bool
        False: the scanner prior is not asked.

    Returns
    -------
    Contrast
    """
    scale = float(np.mean([s.scale for s in seen]))
    own = np.mean([s.own * (scale / s.scale) for s in seen], axis=0) / scale
    usual, shift = (
        np.mean([getattr(s, name) for s in seen], axis=0) for name in ("usual", "shift")
    )
    change, told, by_slopes, size, share = _told_together(seen)
    as_told = np.maximum.accumulate(usual + told * change)

    def unlikeness(quantiles):
        found = (1 - told) * calibration.unlikeness(quantiles - shift)
        if told > 0:
            # In full: how far off it may be is in the spread of what the ruler leaves of target
            # scans. (With the slopes less is left; by its spread odd anatomies were mapped.)
            found += told * calibration.unlikeness_told(quantiles, as_told)
        return found

    like, unlike = (float(np.interp(told, (0, 1), pair)) for pair in (LIKE, UNLIKE))
    unlike_own = unlikeness(own)
    weight = ramp(unlike_own, like, unlike) if mapped else 0.0
    decision = {
        "Applied": weight > 0,
        "Weight": round(weight, 4),
        "Unlikeness": round(unlike_own, 3),
        "UsualUnlikeness": round(like, 3),
    }
    if len(seen) > 1:
        decision["SharedRuler"] = {
            "Weight": round(told, 4),
            "Deviation": round(size, 3),
            "Share": round(share, 4),
        }
    expected = np.maximum.accumulate(usual + told * share * change)
    if not divided:
        decision["Division"] = {"Weight": 0.0, "Reason": "switched off"}
    elif np.any(shift):
        # What is usual for a part is known too roughly.
        decision["Division"] = {"Weight": 0.0, "Reason": "part of a brain"}
    elif weight > 0:
        asked = np.maximum.accumulate(usual + told * trusted_share(size, ASKED) * change)
        spread, error = _spread(calibration, told, by_slopes), _error(calibration, by_slopes)
        by_both, decision["Division"] = _divided(own, usual, asked, spread, error, unlikeness)
        likely = decision["Division"]["Weight"]
        expected = np.maximum.accumulate(likely * by_both + (1 - likely) * expected)
    target = weight * expected + (1 - weight) * own
    return Contrast(own * scale, target, scale, expected if weight == 1 else None, weight, decision)


def _told_together(seen):
    """What the ruler says of all scans: each counts as far as it is trusted with it.

    Returns
    -------
    change : numpy.ndarray, shape (LEVELS,)
    told, by_slopes, size, share : float
        ``Weight`` of the ruler and of the slopes, ``Deviation`` and ``Share`` of
        :func:`told_deviation`.
    """
    trusted = np.array([s.ruler.get("Weight", 0.0) for s in seen])
    weights = trusted if trusted.any() else np.ones(len(seen))
    change = np.average([s.change for s in seen], axis=0, weights=weights)
    size, share = (
        float(np.average([s.ruler.get(name, 0.0) for s in seen], weights=weights))
        for name in ("Deviation", "Share")
    )
    by_slopes = np.average(
        [s.ruler.get("Slopes", {}).get("Weight", 0.0) for s in seen], weights=weights
    )
    return change, float(trusted.mean()), float(by_slopes), size, share


def _spread(calibration, told, by_slopes):
    """Spread of target scans' log-quantiles about the expected, as far as each is trusted."""
    parts = [(1 - told, calibration.own_spread), (told * (1 - by_slopes), calibration.told_spread)]
    if by_slopes > 0:
        parts.append((told * by_slopes, calibration.both_spread))
    return np.concatenate([np.sqrt(weight) * spread for weight, spread in parts])


def _error(calibration, by_slopes):
    """Error of what is told of a brain, target units."""
    both = calibration.both_error if by_slopes > 0 else 0.0
    return float((1 - by_slopes) * calibration.ruler_error + by_slopes * both)


def _divided(own, usual, asked, spread, error, unlikeness):
    """Quantiles that ruler and scanner prior expect of this participant, and how far to go by them.

    Parameters
    ----------
    own, usual, asked : numpy.ndarray, shape (LEVELS,)
        The scan's, the target's, and those that the ruler expects of the participant.
    spread : numpy.ndarray, shape (n, LEVELS)
        Of target scans about these.
    error : float
        Of what they go by, target units.
    unlikeness : callable
        Of quantiles, from the target's scans.
    """
    expected = asked + own_deviation(own, asked, spread)
    unlike = unlikeness(np.maximum.accumulate(expected))
    deviation = expected - usual
    size = _size(deviation, error)
    share = trusted_share(size, ERROR_DIVIDED)
    account = {
        "Weight": round(float(1 - ramp(unlike, LIKELY, UNLIKELY)), 4),
        "Unlikeness": round(float(unlike), 3),
        "Deviation": round(size, 3),
        "Share": round(share, 4),
    }
    return usual + share * deviation, account


def _size(deviation, error):
    """Root mean square of a deviation, in errors of what tells it."""
    return float(np.sqrt(np.mean(deviation**2)) / error)
