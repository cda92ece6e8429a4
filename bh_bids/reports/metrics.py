"""A scan's metrics as rows and sentences of its page, and numbers as a reader wants them."""

import math
import re

from .decisions import OWN_CONTRAST

_OTHER_METRICS = {
    "ncc_source": ("Correlation with the source", "anatomy kept when near 1"),
    "ncc_target": (
        "Correlation with the target's mean",
        "of the source; low: no brain in place",
    ),
    "iterations": ("Iterations", ""),
    "converged": ("Converged", ""),
    "brain_volume_ml": ("Brain volume (ml)", "adults: about 1000 to 1700"),
    "clipped_voxels": ("Clipped voxels", "of the brain: negative before, or 0 after"),
}
_STRUCTURE = {
    "edges_lost": ("Edges lost", "share, in the worst place; 0 is best"),
    "edges_invented": ("Edges invented", "share, in the worst place; 0 is best"),
    "local_ncc": ("Local correlation", "99 % of the places with structure have more"),
    "fine_difference": ("Fine structure changed", "in the worst place, over the brain's SD"),
    "slice_steps": ("Steps between slices", "relative gain; 0 is best"),
    "lesion_contrast_before": ("Lesion's contrast before", ""),
    "lesion_contrast_after": ("Lesion's contrast after", ""),
}
_PAIRED_METRICS = {
    "latent": ("Latent |z|²/d", "compare within one model"),
    "bits_per_dim": ("Bits per dimension", "lower: more like the target domain"),
}
_TABLED = {"participant_id", "session_id", "filename", "model", "method", "guards"}
#: What the table of decisions says in words.
DECIDED = {
    "converged", "iterations", "bias_field_sd", "blur", "tissue_unevenness",
    "contrast_unlikeness", "noise_sigma"
}  # fmt: skip


def tissue_rows(metrics):
    """Tissues' peaks before, after and in the target, with their distances to it.

    Parameters
    ----------
    metrics : dict
        A row of ``desc-harmonization_metrics.tsv``.

    Returns
    -------
    list of dict
        ``tissue`` (CSF, GM or WM), ``before``, ``after`` and ``target`` (target units), ``off``
        (both distances to the target in per cent of it) and ``nearer``; None for what is not known.
    """
    rows = []
    for tissue in ("CSF", "GM", "WM"):
        before, after, target = (
            _number(metrics.get(f"{tissue.lower()}_mode_{when}"))
            for when in ("before", "after", "target")
        )
        if before is None and after is None:
            continue
        row = {"tissue": tissue, "before": before, "after": after, "target": target}
        row["off"] = [
            None if value is None or not target else 100 * (value - target) / target
            for value in (before, after)
        ]
        known = None not in row["off"]
        row["nearer"] = abs(row["off"][1]) <= abs(row["off"][0]) if known else None
        rows.append(row)
    return rows


def facts(metrics, tissues, decisions):
    """What speaks for a result, or against it.

    Parameters
    ----------
    metrics : dict
        A row of ``desc-harmonization_metrics.tsv``.
    tissues : list of dict
        As :func:`tissue_rows` gives them.
    decisions : list of dict
        As :func:`bh_bids.reports.decisions.decision_rows` gives them.

    Returns
    -------
    list of str
        Sentences.
    """
    found = [
        row["sentence"]
        for row in decisions
        if row["stage"] == OWN_CONTRAST and row["state"] != "done"
    ]
    kept = _number(metrics.get("ncc_source"))
    if kept is not None:
        found.append(f"Correlation with the source inside the brain: {format_number(kept)}.")
    for row in tissues:
        if row["tissue"] != "CSF" and row["nearer"] is not None:
            # Rounded first: there is no −0.0.
            off = (round(value, 1) + 0.0 for value in row["off"])
            before, after = (f"{value:+.1f} %".replace("-", "−") for value in off)
            name = {"GM": "Grey", "WM": "White"}[row["tissue"]]
            found.append(
                f"{name} matter's peak against the target's: {before} before, {after} now."
            )
    return found


def paired_rows(metrics):
    """What the model says of the source and of the result.

    Parameters
    ----------
    metrics : dict
        A row of ``desc-harmonization_metrics.tsv``.

    Returns
    -------
    list of dict
        ``name``, ``hint``, ``before`` and ``after``.
    """
    rows = []
    for key, (name, hint) in _PAIRED_METRICS.items():
        before, after = (_number(metrics.get(f"{key}_{when}")) for when in ("before", "after"))
        if before is not None or after is not None:
            rows.append({"name": name, "hint": hint, "before": before, "after": after})
    return rows


def other_rows(metrics, told):
    """The remaining columns: those we know by name first, then whatever else the table holds.

    Parameters
    ----------
    metrics : dict
        A row of ``desc-harmonization_metrics.tsv``.
    told : collection of str
        Columns that the page tells elsewhere.

    Returns
    -------
    list of dict
        ``name``, ``hint`` and ``value``.
    """
    metrics = {key: value for key, value in metrics.items() if key not in told}
    shown = re.compile(r"(csf|gm|wm)_mode_(before|after|target)|(latent|bits_per_dim)_\w+")
    rows = _named_rows(metrics, _OTHER_METRICS)
    named = _TABLED | set(_OTHER_METRICS) | set(_STRUCTURE)
    for key, value in metrics.items():
        if value is not None and key not in named and not shown.fullmatch(key):
            rows.append({"name": key, "hint": "", "value": value})
    return rows


def structure_rows(metrics):
    """Whether structure was kept, in figures.

    Parameters
    ----------
    metrics : dict
        A row of ``desc-harmonization_metrics.tsv``.

    Returns
    -------
    list of dict
        ``name``, ``hint`` and ``value``.
    """
    return _named_rows(metrics, _STRUCTURE)


def _named_rows(metrics, names):
    return [
        {"name": name, "hint": hint, "value": metrics[key]}
        for key, (name, hint) in names.items()
        if metrics.get(key) is not None
    ]


def _number(value):
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def format_number(value, digits=3, sign=False):
    """A number as a reader wants it, a dash for none, any other value as it is.

    Parameters
    ----------
    value : object
    digits : int
        Significant digits of numbers that are not whole.
    sign : bool
        Write + before positive numbers.

    Returns
    -------
    str

    Examples
    --------
    >>> format_number(0.98765), format_number(1312.0), format_number(-0.5), format_number(None)
    ('0.988', '1312', '−0.5', '–')
    """
    if value is None or value == "":
        return "–"
    number = _number(value)
    if number is None or isinstance(value, bool):
        return {"true": "yes", "false": "no"}.get(str(value).lower(), str(value))
    if number == int(number) and abs(number) < 1e6:
        text = f"{int(number):+d}" if sign else str(int(number))
    else:
        text = f"{number:+.{digits}g}" if sign else f"{number:.{digits}g}"
        if "e" in text and 1 <= abs(number) < 1e6:
            text = f"{number:+.0f}" if sign else f"{number:.0f}"
    return text.replace("-", "−")
