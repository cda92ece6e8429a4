"""What the group report says in numbers: the verdict, the leaderboard, the table of gaps."""

import math

from ..evaluation.scan import SCORES
from .summary import ranking

#: Participants with both below which nothing is called better or worse: with fewer the bootstrap's
#: intervals are too short, and Wilcoxon's p cannot be below 0.05.
FEWEST_PAIRS = 6
#: P value from which a difference is not called clear.
SIGNIFICANT = 0.05
#: Columns of the leaderboard, those that were measured, in this order.
_BOARD = ("psnr", "ssim", "ssim_slices", "ncc", "nmi", "wm_dice", "wm_iou", "wasserstein",
          "contrast_error", "ncc_source")  # fmt: skip


def verdict(found):
    """Sentences that answer the question: did it help, and more than the alternatives?

    Parameters
    ----------
    found : bh_bids.group.run.Findings

    Returns
    -------
    dict or None
        "score"; "lines", of each comparison the method, the words before its name and its line of
        the summary; "left_out", the lines of alternatives that lack scans of the harmonization
        and are not the best therefore; "state". None where nothing was compared.
    """
    score = next((s for s in ("psnr", "wasserstein") if _lines(found.summary, s)), None)
    if score is None:
        return None
    lines = {line["method"]: line for line in _lines(found.summary, score)}
    if "harmonized" not in lines:
        return None
    sentences, states = [], []
    others = [m for m in ranking(found.summary, score) if m not in ("harmonized", "source")]
    whole = [m for m in others if not lines[m]["lacks"]]
    for method in (["source"] if "source" in lines else []) + whole[:1]:
        words, state = _comparison(lines[method], SCORES[score].better)
        states.append(state)
        sentences.append((method, words, lines[method]))
    left_out = [lines[m] for m in others if lines[m]["lacks"]]
    sure = states and all(s == "pass" for s in states) and (whole or not others)
    return {
        "score": SCORES[score],
        "lines": sentences,
        "left_out": left_out,
        "state": "pass" if sure else "warn",
    }


def _comparison(line, better):
    """Words before the name of what is compared with, and a state."""
    if not line["n_pairs"]:
        return "The harmonization cannot be compared with", "warn"
    if line["n_pairs"] < FEWEST_PAIRS:
        words = f"Too few participants (at least {FEWEST_PAIRS} are needed) to tell"
        return f"{words} whether the harmonization is better than", "warn"
    low, high = sorted((better * line["ci_low"], better * line["ci_high"]))
    clear = line["p"] < SIGNIFICANT
    if clear and low > 0:
        return "The harmonization is better than", "pass"
    if clear and high < 0:
        return "The harmonization is worse than", "warn"
    return "The harmonization does not clearly differ from", "warn"


def _lines(summary, score):
    """Lines of one score for all sites together, or for the only one."""
    lines = [line for line in summary if line["metric"] == score]
    return [line for line in lines if line["site"] == lines[0]["site"]]


def leaderboard(summary):
    """Methods from the best to the worst, with the cells of every score that was measured.

    Parameters
    ----------
    summary : list of dict
        Of :func:`bh_bids.group.summary.summarize`.

    Returns
    -------
    dict or None
        "scores", "rows" (of each method its "cells", and the most scans that it "lacks" of a
        score), "site", and whether any method "lacks" scans.
    """
    shown = [s for s in _BOARD if _lines(summary, s)]
    if not shown:
        return None
    tables = {s: {line["method"]: line for line in _lines(summary, s)} for s in shown}
    key = "psnr" if "psnr" in shown else shown[0]
    methods = ranking(summary, key)
    methods += [m for m in dict.fromkeys(m for s in shown for m in tables[s]) if m not in methods]
    best = {}
    for score, lines in tables.items():
        if SCORES[score].better:
            best[score] = _best(summary, lines, score)
    rows = [
        {
            "method": method,
            "lacks": max(t[method]["lacks"] for t in tables.values() if method in t),
            "cells": [
                _cell(tables[s].get(method), SCORES[s], best.get(s) == method) for s in shown
            ],
        }
        for method in methods
    ]
    return {
        "scores": [SCORES[s] for s in shown],
        "rows": rows,
        "site": tables[key][methods[0]]["site"],
        "lacks": any(row["lacks"] for row in rows),
    }


def _best(summary, lines, score, site=None):
    """The first of the methods that lack no scan, if any."""
    return next(
        (m for m in ranking(summary, score, site) if m in lines and not lines[m]["lacks"]), None
    )


def _cell(line, score, best):
    if line is None:
        return None
    d = score.digits
    cell = {
        "mean": fixed(line["mean"], d),
        "sd": fixed(line["sd"], d),
        "n": line["n"],
        "lacks": line["lacks"],
        "best": best,
    }
    if line["difference"] is not None:
        cell["n_pairs"] = line["n_pairs"]
        cell["difference"] = fixed(line["difference"], d, sign=True)
        if line["ci_low"] is not None:
            cell["interval"] = (fixed(line["ci_low"], d, True), fixed(line["ci_high"], d, True))
        cell["p"] = _p(line["p"])
    return cell


def fixed(value, digits, sign=False):
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:{'+' if sign else ''}.{digits}f}".replace("-", "−")


def _p(value):
    if value is None or not math.isfinite(value):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def site_table(summary):
    """The first of PSNR and Wasserstein by source site, if there are several."""
    sites = [s for s in dict.fromkeys(line["site"] for line in summary) if s != "all"]
    score = next((s for s in ("psnr", "wasserstein") if _lines(summary, s)), None)
    if score is None or len(sites) < 2:
        return None
    lines = {(m["site"], m["method"]): m for m in summary if m["metric"] == score}
    methods = list(dict.fromkeys(method for _, method in lines))
    rows = [
        {
            "site": site,
            "cells": [_cell(lines.get((site, m)), SCORES[score], False) for m in methods],
        }
        for site in sites
    ]
    return {"score": SCORES[score], "methods": methods, "rows": rows}


def gap_table(summary, methods):
    """PSNR by gap and method."""
    lines = {
        (m["site"], m["method"]): m for m in summary if m["metric"] == "psnr" and m["site"] != "all"
    }
    if not lines:
        return None
    gaps = list(dict.fromkeys(gap for gap, _ in lines))
    shown = [m for m in methods if any((g, m) in lines for g in gaps)]
    rows = []
    for gap in gaps:
        found = {m: lines[gap, m] for m in methods if (gap, m) in lines}
        best = _best(summary, found, "psnr", gap)
        cells = [_cell(lines.get((gap, m)), SCORES["psnr"], m == best) for m in shown]
        rows.append({"gap": gap, "cells": cells})
    return {"methods": shown, "rows": rows}
