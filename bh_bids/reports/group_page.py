"""The group report: one self-contained page of a study."""

import base64
import hashlib
import math
from pathlib import Path
from urllib.parse import quote

from markupsafe import Markup

from ..evaluation.scan import SCORES
from ..evaluation.site_effect import embed
from ..evaluation.tissue import TISSUES
from .assemble import format_number
from .group_pictures import method_slices
from .group_plots import plot_scores, plot_site_effect
from .svg import figure_to_svg, inline, write_text

#: Columns of the leaderboard, those that were measured, in this order.
_BOARD = ("psnr", "ssim", "ssim_slices", "ncc", "nmi", "wm_dice", "wm_iou", "wasserstein",
          "contrast_error", "ncc_source")  # fmt: skip
_DRAWN = ("psnr", "ssim", "wm_dice", "wasserstein", "contrast_error")
_METHOD_NAMES = {"source": "Source, untouched", "harmonized": "bh-bids, harmonized"}
_TEMPLATES = Path(__file__).parent / "templates"


def write_group_page(output_dir, study, sites, found, settings, model, store):
    """Write ``group.html``.

    Parameters
    ----------
    output_dir : pathlib.Path
    study : bh_bids.group.study.Study
    sites : bh_bids.group.target.Sites
    found : bh_bids.group.run.Findings
    settings : bh_bids.settings.Settings
    model : bh_bids.flow.model.TargetModel or None
    store : bh_bids.group.store.Store
        Keeps the example slices.

    Returns
    -------
    pathlib.Path
    """
    from jinja2 import Environment, PackageLoader

    from ..group.run import about_run

    environment = Environment(
        loader=PackageLoader("bh_bids", "reports/templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = format_number
    script = (_TEMPLATES / "group.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    names = method_names()
    page = environment.get_template("group.html.j2").render(
        script=Markup(script),
        script_hash=digest,
        names=names,
        sites=sites,
        counts=_counts(study, sites, found),
        verdict=_verdict(found),
        board=_board(found.summary),
        by_site=_by_site(found.summary),
        figures=_figures(found),
        effect_figure=_effect_figure(found),
        effects=[_effect_view(e) for e in found.effects],
        tissues=TISSUES,
        examples=_examples(found, store),
        gaps=_gap_view(found.gap_summary, found.methods),
        scans=_scan_rows(study, sites, found),
        outliers=[_outlier_view(o) for o in found.outliers],
        missing=[_missing_view(output_dir, label, why) for label, why in study.missing.items()],
        problems=study.problems,
        notes=found.evaluation.notes,
        about=about_run(settings, model),
        training=_training_note(study, sites, model),
    )
    return write_text(output_dir / "group.html", page)


def method_names():
    """Methods as a reader knows them.

    Returns
    -------
    dict of str to str
    """
    from ..comparators import COMPARATORS

    return _METHOD_NAMES | {name: kind.title for name, kind in COMPARATORS.items()}


def _counts(study, sites, found):
    paired = {r.case.scan.key for r in found.rows if r.case.target is not None}
    return {
        "participants": len({r.participant for r in study.records}),
        "scans": len(study.records),
        "sources": len({r.case.scan.key for r in found.rows}),
        "targets": sum(site == sites.target for site in sites.of.values()) if sites.target else 0,
        "paired": len(paired),
        "sites": len({r.case.site for r in found.rows}),
        "failed": len(study.missing),
    }


def _verdict(found):
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
    if line["ci_low"] is None:
        return "cannot be compared with", "warn"
    low, high = sorted((better * line["ci_low"], better * line["ci_high"]))
    if low > 0:
        return "is better than", "pass"
    return ("is worse than", "warn") if high < 0 else ("does not clearly differ from", "warn")


def _lines(summary, score):
    """Lines of one score for all sites together, or for the only one."""
    lines = [line for line in summary if line["metric"] == score]
    return [line for line in lines if line["site"] == lines[0]["site"]]


def _board(summary):
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
        "mean": _fixed(line["mean"], d),
        "sd": _fixed(line["sd"], d),
        "n": line["n"],
        "best": best,
    }
    if line["difference"] is not None:
        cell["difference"] = _fixed(line["difference"], d, sign=True)
        cell["interval"] = (_fixed(line["ci_low"], d, True), _fixed(line["ci_high"], d, True))
        cell["p"] = _p(line["p"])
    return cell


def _fixed(value, digits, sign=False):
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:{'+' if sign else ''}.{digits}f}".replace("-", "−")


def _p(value):
    if value is None or not math.isfinite(value):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _by_site(summary):
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


def _figures(found):
    from ..group.summary import by_participant

    sites = list(dict.fromkeys(r.case.site for r in found.rows))
    views = []
    for score in _DRAWN:
        values = {
            site: {
                m: list(by_participant(found.rows, m, score, site).values()) for m in found.methods
            }
            for site in sites
        }
        if any(v for of_site in values.values() for v in of_site.values()):
            figure = plot_scores(values, SCORES[score].title, better=SCORES[score].better)
            views.append({"score": SCORES[score], "svg": _picture(figure, f"{score}")})
    return views


def _picture(figure, number):
    return Markup(inline(figure_to_svg(figure, figure.get_label()), number))


def _effect_figure(found):
    """Scans before and after in one plane, that of all of them together."""
    before = [r for r in found.rows if r.method == "source"] + found.targets
    after = [r for r in found.rows if r.method == "harmonized"] + found.targets
    if len(before) < 3 or not any(r.method == "harmonized" for r in after):
        return None
    places = embed([r.features for r in [*before, *after]])
    panels = {}
    for name, rows, own in (
        ("Before", before, places[: len(before)]),
        ("After", after, places[len(before) :]),
    ):
        target = {r.case.site for r in found.targets}
        panels[name] = [
            (r.case.site, float(x), float(y), r.case.site in target)
            for r, (x, y) in zip(rows, own, strict=True)
        ]
    return _picture(plot_site_effect(panels), "effect")


def _effect_view(effect):
    return {
        "method": effect.method,
        "site": effect.site,
        "sex": effect.sex,
        "age": effect.age,
        "agreement": [effect.agreement.get(t) for t in TISSUES],
    }


def _examples(found, store):
    """Slices of every method for one scan of each site: the one in the middle by its score."""
    views = []
    for site in dict.fromkeys(r.case.site for r in found.rows):
        rows = [r for r in found.rows if r.case.site == site]
        case = _typical(rows)
        if case is None:
            continue
        own = [r.method for r in rows if r.case.scan.key == case.scan.key]
        about = [found.evaluation.about(case, method) for method in own]
        pictures = store.recall(
            "examples", about, lambda c=case, m=own: _example(found.evaluation, c, m)
        )
        views.append({"site": site, "scan": case.scan.key, "link": _link(case.scan), **pictures})
    return views


def _typical(rows):
    own = [r for r in rows if r.method == "harmonized"] or [r for r in rows if r.method == "source"]
    score = next(
        (s for s in ("psnr", "wasserstein", "ncc_source") if own and s in own[0].scores), None
    )
    if score is None:
        return None
    ordered = sorted(own, key=lambda r: (r.scores.get(score, math.inf), r.case.scan.key))
    return ordered[len(ordered) // 2].case


def _example(evaluation, case, methods):
    from ..errors import BHError
    from ..group.cases import open_case

    try:
        opened = open_case(case, evaluation.store, evaluation.seed)
    except BHError:
        return {"methods": [], "truth": None}
    mask = opened.mask if opened.truth is None else opened.mask & opened.truth_mask
    truth = None
    if opened.truth is not None:
        truth = method_slices(opened.truth, mask)
    made = []
    for method in methods:
        image = evaluation.image(case, method, opened)
        made.append({"method": method, **method_slices(image, mask, opened.truth)})
    return {"methods": made, "truth": truth}


def _gap_view(summary, methods):
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


def _scan_rows(study, sites, found):
    """One row per scan, for the table that can be sorted and filtered."""
    rows = {}
    for row in [*found.rows, *found.targets]:
        rows.setdefault(row.case.scan.key, {})[row.method] = row
    views = []
    for record in study.records:
        own = rows.get(record.key, {})
        before, after = own.get("source"), own.get("harmonized")
        guards = [g for g in str(record.metrics.get("guards") or "").split("|") if g.strip()]
        target = sites.target is not None and sites.of[record.key] == sites.target
        state = "fail" if not record.metrics else "warn" if guards else "pass"
        scores = {
            "psnr_before": _score(before, "psnr"),
            "psnr_after": _score(after, "psnr"),
            "wasserstein_before": _score(before, "wasserstein"),
            "wasserstein_after": _score(after, "wasserstein"),
            "ncc_source": _score(after, "ncc_source") or _metric(record, "ncc_source"),
            "bits_before": _metric(record, "bits_per_dim_before"),
            "bits_after": _metric(record, "bits_per_dim_after"),
        }
        views.append(
            {
                "key": record.key,
                "participant": f"sub-{record.participant}",
                "session": f"ses-{record.session}" if record.session else "",
                "site": sites.of[record.key],
                "role": "target" if target else "source",
                "state": state,
                "guards": guards,
                "link": _link(record),
                "before": before.thumbnail if before else "",
                "after": after.thumbnail if after else "",
                **scores,
            }
        )
    return views


def _score(row, name):
    return None if row is None else row.scores.get(name)


def _metric(record, name):
    try:
        return float(record.metrics.get(name))
    except (TypeError, ValueError):
        return None


def _link(record):
    return f"./{quote(f'sub-{record.participant}.html')}#scan-{quote(record.key)}"


def _outlier_view(outlier):
    row, score = outlier["row"], SCORES[outlier["score"]]
    return {
        "key": row.case.scan.key,
        "site": row.case.site,
        "link": _link(row.case.scan),
        "score": score.title,
        "value": _fixed(outlier["value"], score.digits),
        "z": _fixed(outlier["z"], 1, sign=True),
    }


def _missing_view(output_dir, label, reason):
    page = output_dir / f"sub-{label}.html"
    link = f"./{quote(page.name)}#errors" if page.is_file() else ""
    return {"participant": f"sub-{label}", "reason": reason, "link": link}


def _training_note(study, sites, model):
    """Participants scored here whose target scans the model was trained on."""
    if model is None or sites.target is None:
        return []
    trained = {str(p).removeprefix("sub-") for p in model.metadata.get("TrainingParticipants", [])}
    return sorted({r.participant for r in study.records} & trained)
