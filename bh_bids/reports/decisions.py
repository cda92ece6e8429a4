"""What a method did to a scan, and why, in plain sentences from the sidecar's Decisions."""

import math

from ..mapping.field import WHOLE

#: Name of the row that tells whether the participant's own contrast was kept.
OWN_CONTRAST = "Own contrast"
_ANSWERS = {"done": "Changed", "left": "Left alone", "off": "Off"}
_LOOK = (
    "the brain was given the histogram of all target scans together. Look closely where its "
    "anatomy is far from average, such as large ventricles."
)
# Of a template's grid, in the order of a volume's axes.
_AXES = ("left-right", "back-front", "foot-head")
_REASONS = {
    "switched off": "Switched off by its parameter.",
    "no flow": "Left out: no flow judged the noise.",
    "too small": "Left out: there is too little brain to tell.",
    "too noisy": "Left out: noise hides what was to be told from fine detail.",
}


def decision_rows(block):
    """One row per stage.

    Parameters
    ----------
    block : dict
        A sidecar's ``Harmonization``; thresholds are those that it holds.

    Returns
    -------
    list of dict
        ``stage``, ``state`` ("done", "left", which is looked at and left alone, or "off"),
        ``answer`` (a word or two) and ``sentence``. Empty for methods that decide nothing.
    """
    decisions = block.get("Decisions")
    if not isinstance(decisions, dict):
        return []
    parameters = block.get("Parameters")
    parameters = parameters if isinstance(parameters, dict) else {}
    rows = _coverage_rows(decisions.get("Coverage"))
    for key, name, switch, tell in _STAGES:
        found = decisions.get(key)
        if not isinstance(found, dict):
            continue
        reason = "switched off" if parameters.get(switch) is False else found.get("Reason")
        if reason:
            state, sentence = "off", _REASONS.get(reason, f"Left out: {reason}.")
        else:
            state, sentence = "done" if found.get("Applied") else "left", tell(found)
        rows.append(_row(name, state, _ANSWERS[state], sentence))
        ruler = found.get("Ruler")
        if key == "Contrast" and state == "done" and isinstance(ruler, dict):
            rows.append(_division_row(found.get("Division")) or _ruler_row(ruler))
    return rows


def _row(stage, state, answer, sentence):
    return {"stage": stage, "state": state, "answer": answer, "sentence": sentence}


def _coverage_rows(coverage):
    """A row where only a part of the brain was scanned."""
    share = _number(coverage)
    if share is None or share >= WHOLE:
        return []
    sentence = (
        f"Only {100 * share:.0f} % of the target's average brain was scanned (whole brains: "
        f"{100 * WHOLE:.0f} % and more): the scan was compared with what the target shows there."
    )
    return [_row("Field of view", "left", "Partial", sentence)]


def _bias(found):
    spread = _percent(_number(found.get("Spread"))) or "unknown size"
    evidence, usual = _number(found.get("Evidence")), _number(found.get("UsualEvidence"))
    against = "" if evidence is None else f"log-likelihood ratio {evidence:.1f}"
    if against and usual is not None:
        against += f", from {usual:.0f} on one is removed"
    against = f" ({against})" if against else ""
    if not found.get("Applied"):
        return (
            "No bias field was removed: what was found is hardly likelier a field than what "
            f"target scans show of their own anatomy{against}."
        )
    if part := _part(found):
        return f"A bias field of {spread} was found{against}: {part} of it was removed."
    return f"A bias field of {spread} was removed{against}."


def _resolution(found):
    size, usual = _number(found.get("Blur")), _number(found.get("UsualBlur"))
    figures = [
        _along_axes(found.get("BlurAlongAxes")),
        "" if size is None else f"size {size:.2f}",
        "" if usual is None else f"target scans up to {usual:.2f}",
    ]
    against = f" ({'; '.join(filter(None, figures))})" if any(figures) else ""
    if not found.get("Applied"):
        more = "hardly" if (size or 0) > (usual or 0) else "no"
        return (
            f"Nothing was sharpened: detail is blurred {more} more than in target scans{against}."
        )
    part = _part(found)
    return (
        f"The scan was sharpened: its detail is blurred beyond that of target scans{against}"
        f"{f'; {part} of the variance was undone' if part else ''}."
    )


def _along_axes(variances):
    """Blur along each axis, its standard deviation, as text; or nothing."""
    numbers = [_number(v) for v in variances] if isinstance(variances, list) else []
    if len(numbers) != len(_AXES) or None in numbers:
        return ""
    sizes = (f"{name} {max(v, 0) ** 0.5:.2f}" for name, v in zip(_AXES, numbers, strict=True))
    return f"{', '.join(sizes)} voxels"


def _tissue(found):
    uneven, most = found.get("Unevenness"), found.get("UsualUnevenness")
    size, usual = _percent(uneven), _percent(most)
    figures = [f"uneven by {size}" if size else "", f"target scans up to {usual}" if usual else ""]
    against = f" ({', '.join(filter(None, figures))})" if any(figures) else ""
    if not found.get("Applied"):
        more = "hardly" if (_number(uneven) or 0) > (_number(most) or 0) else "no"
        return (
            "No gain by a voxel's surroundings was divided out: contrast depends on the tissue "
            f"{more} more than in target scans{against}."
        )
    gains = [g for g in map(_number, found.get("LogGain") or []) if g is not None]
    if gains:
        span = 100 * math.expm1(max(gains) - min(gains))
        against += f"; between the dimmest and the brightest gain lie {span:.0f} %"
    part = _part(found)
    return (
        "Contrast depends on the tissue: a gain that goes with the brightness of a voxel's "
        f"surroundings was divided out{f', {part} of it' if part else ''}{against}."
    )


def _contrast(found):
    unlikeness, usual = _decimal(found.get("Unlikeness")), _decimal(found.get("UsualUnlikeness"))
    figures = [f"distance {unlikeness}" if unlikeness else "", "about 1 for a target scan"]
    figures.append(f"more than {usual} is mapped" if usual else "")
    against = f" ({', '.join(filter(None, figures))})"
    if not found.get("Applied"):
        return f"The contrast was left as it was: it already looks like the target's{against}."
    part = _part(found)
    if part:
        return (
            f"Intensities were mapped part of the way, {part}, to the target's: their distribution "
            f"is somewhat unlike it{against}."
        )
    return (
        "Intensities were mapped to the target's by one monotone curve: their distribution was "
        f"unlike it{against}."
    )


def _division_row(division):
    """What was kept as the participant's own by what scanners do and participants are, or None."""
    division = division if isinstance(division, dict) else {}
    weight = (_number(division.get("Weight")) or 0.0) * (_number(division.get("Share")) or 0.0)
    if weight <= 0:
        return None
    unlikeness = _decimal(division.get("Unlikeness"))
    about = f" (distance {unlikeness}, about 1 for a target scan)" if unlikeness else ""
    how = f", with a weight of {100 * weight:.0f} %" if weight < 0.995 else ""
    sentence = (
        "What was unlike the target's average was divided between the scanner and the participant, "
        "by what scanners do to a contrast and how target participants differ; the participant's "
        f"own was kept{how}{about}."
    )
    return _row(OWN_CONTRAST, "done", "Kept", sentence)


def _ruler_row(ruler):
    """How the participant's own contrast was told from the scanner's."""
    if ruler.get("Reason"):
        sentence = "The participant's own contrast was not told from the scanner's: " + _LOOK
        return _row(OWN_CONTRAST, "off", "Off", sentence)
    weight = _number(ruler.get("Weight")) or 0.0
    distance, sharpness = _decimal(ruler.get("Distance")), _signed(ruler.get("Sharpness"))
    named = (("distance", distance), ("sharpness", sharpness))
    figures = ", ".join(f"{name} {figure}" for name, figure in named if figure)
    about = f" (against target scans: {figures})" if figures else ""
    share = _number(ruler.get("Share"))
    who, slopes = "The scan's texture, and places where participants agree,", ruler.get("Slopes")
    if isinstance(slopes, dict) and _number(slopes.get("Weight")):
        finer = ", shown the scan without its finer detail," if "DetailShown" in slopes else ","
        who = f"The scan's texture, places where participants agree, and the flow{finer}"
    if weight > 0 and share == 0:
        sentence = (
            f"As far as {who[0].lower() + who[1:]} can tell, the participant's own contrast is the "
            f"target's average{about}."
        )
        return _row(OWN_CONTRAST, "left", "Average", sentence)
    weight *= 1.0 if share is None else share
    if weight > 0:
        how = "" if weight >= 1 else f", with a weight of {weight:.0%}".replace("%", " %")
        sentence = (
            f"{who} told the participant's own contrast from the scanner's"
            f"{how}, and the own was kept{about}."
        )
        return _row(OWN_CONTRAST, "done", "Kept", sentence)
    why = "The scan's texture could not"
    if ruler.get("TooNoisy") is True:
        why = "The scan is too noisy for its texture to"
    elif ruler.get("Evened") == 1:
        why = "The scan's local contrast was made the target's usual one: it cannot"
    sentence = f"{why} tell the participant's own contrast from the scanner's{about}: {_LOOK}"
    return _row(OWN_CONTRAST, "left", "Not known", sentence)


def _noise(found):
    sigma, usual = _percent(found.get("Sigma")), _percent(found.get("UsualSigma"))
    of = f"{sigma or 'unknown size'} of the brain's 99th percentile"
    if not found.get("Applied"):
        against = f" ({usual} and more is removed)" if usual else ""
        return f"Noise was left as it was: about {of}{against}."
    against = f" (from {usual} on)" if usual else ""
    if found.get("Judge") == "gaussian":
        return (
            f"Noise of about {of} was removed{against}, by a filter made from the target scans' "
            "spectrum."
        )
    return f"Noise of about {of} was removed by the flow{against}."


_STAGES = (
    ("Bias", "Bias field", "bias", _bias),
    ("Resolution", "Resolution", "resolution", _resolution),
    ("Tissue", "Contrast by tissue", "tissue", _tissue),
    ("Contrast", "Contrast", "contrast", _contrast),
    ("Noise", "Noise", "noise", _noise),
)


def _part(found):
    """Weight of a stage that was applied in part, as text; '' where it was applied in full."""
    weight = _number(found.get("Weight"))
    return f"{100 * weight:.0f} %" if weight is not None and 0 < weight < 1 else ""


def _number(value):
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def _percent(value):
    number = _number(value)
    return "" if number is None else f"{100 * number:.1f} %"


def _decimal(value):
    number = _number(value)
    return "" if number is None else f"{number:.1f}"


def _signed(value):
    number = _number(value)
    return "" if number is None else f"{number:+.1f} SD".replace("-", "−")
