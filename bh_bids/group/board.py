"""What the group report says in numbers: the verdict, the leaderboard, the table of gaps."""

import math

from ..evaluation.scan import SCORES

#: Columns of the leaderboard, those that were measured, in this order.
_BOARD = ("psnr", "ssim", "ssim_slices", "ncc", "nmi", "wm_dice", "wm_iou", "wasserstein",
          "contrast_error", "ncc_source")  # fmt: skip


def verdict(found):
    """Sentences that answer the question: did it help, and more than the alternatives?"""
    score = next((s for s in ("psnr", "wasserstein") if _lines(found.summary, s)), None)
    if score is None:
        return None
    lines = {line["method"]: line for line in _lines(found.summary, score)}
    own = lines.get("harmonized")
    if own is None:
        return None
    better = SCORES[score].better
    sentences, states = [], []
    others = [m for m in lines if m not in ("harmonized", "source")]
    best = max(others, key=lambda m: better * lines[m]["mean"], default=None)
    for method in filter(None, ("source" if "source" in lines else None, best)):
        line = lines[method]
        word, state = _comparison(line, better)
        states.append(state)
        sentences.append((method, word, line))
    state = "pass" if states and all(s == "pass" for s in states) else "warn"
    return {"score": SCORES[score], "own": own, "lines": sentences, "state": state}


def _comparison(line, better):
    if line["ci_low"] is None or line["n"] < 3:
        return "cannot be compared with", "warn"
    low, high = sorted((better * line["ci_low"], better * line["ci_high"]))
    if low > 0:
        return "is better than", "pass"
    return ("is worse than", "warn") if high < 0 else ("does not clearly differ from", "warn")


def _lines(summary, score):
    """Lines of one score for all sites together, or for the only one."""
    lines = [line for line in summary if line["metric"] == score]
    return [line for line in lines if line["site"] == lines[0]["site"]]


def leaderboard(summary):
    """Methods from the best to the worst, with the cells of every score that was measured."""
    shown = [s for s in _BOARD if _lines(summary, s)]
    if not shown:
        return None
    tables = {s: {line["method"]: line for line in _lines(summary, s)} for s in shown}
    key = "psnr" if "psnr" in shown else shown[0]
    methods = sorted(tables[key], key=lambda m: -(SCORES[key].better or 1) * tables[key][m]["mean"])
    methods += [m for m in dict.fromkeys(m for s in shown for m in tables[s]) if m not in methods]
    best = {}
    for score, lines in tables.items():
        if SCORES[score].better:
            best[score] = max(lines, key=lambda m: SCORES[score].better * lines[m]["mean"])
    rows = [
        {
            "method": method,
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
    }


def _cell(line, score, best):
    if line is None:
        return None
    d = score.digits
    cell = {
        "mean": fixed(line["mean"], d),
        "sd": fixed(line["sd"], d),
        "n": line["n"],
        "best": best,
    }
    if line["difference"] is not None:
        cell["difference"] = fixed(line["difference"], d, sign=True)
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
        found = {m: lines[gap, m]["mean"] for m in shown if (gap, m) in lines}
        best = max(found, key=found.get)
        cells = [_cell(lines.get((gap, m)), SCORES["psnr"], m == best) for m in shown]
        rows.append({"gap": gap, "cells": cells})
    return {"methods": shown, "rows": rows}
