"""The group report: one self-contained page of a study."""

import base64
import hashlib
import math
from pathlib import Path
from urllib.parse import quote

from ..errors import BHError
from ..evaluation.scan import SCORES
from ..evaluation.site_effect import embed
from ..evaluation.tissue import TISSUES
from ..reports.group_pictures import method_slices
from ..reports.group_plots import plot_scores, plot_site_effect
from ..reports.svg import figure_to_svg, inline, write_text
from .board import fixed, gap_table, leaderboard, site_table, verdict
from .cases import open_case
from .summary import by_participant

_DRAWN = ("psnr", "ssim", "wm_dice", "wasserstein", "contrast_error")
_METHOD_NAMES = {"source": "Source, untouched", "harmonized": "bh-bids, harmonized"}
#: Rows of the table of scans that are shown at once: thousands are slow in a browser.
PAGE_ROWS = 100
_TEMPLATES = Path(__file__).parents[1] / "reports" / "templates"


def write_group_page(output_dir, study, sites, found, *, about, trained, store):
    """Write ``group.html``.

    Parameters
    ----------
    output_dir : pathlib.Path
    study : bh_bids.group.study.Study
    sites : bh_bids.group.target.Sites
    found : bh_bids.group.run.Findings
    about : dict of str to str
        How the evaluation can be repeated.
    trained : sequence of str
        Labels of the participants that the model was trained on.
    store : bh_bids.group.store.Store
        Keeps the example slices.

    Returns
    -------
    pathlib.Path
    """
    from jinja2 import Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("bh_bids", "reports/templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (_TEMPLATES / "group.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    names = method_names()
    page = environment.get_template("group.html.j2").render(
        script=script,
        script_hash=digest,
        names=names,
        sites=sites,
        counts=_counts(study, sites, found),
        verdict=verdict(found),
        board=leaderboard(found.summary),
        by_site=site_table(found.summary),
        figures=_figures(found),
        effect_figure=_effect_figure(found),
        effects=[_effect_view(e) for e in found.effects],
        tissues=TISSUES,
        examples=_examples(found, store),
        gaps=gap_table(found.gap_summary, found.methods),
        scans=_scan_rows(study, sites, found),
        page_rows=PAGE_ROWS,
        outliers=[_outlier_view(o) for o in found.outliers],
        missing=[_missing_view(output_dir, label, why) for label, why in study.missing.items()],
        problems=study.problems,
        notes=found.evaluation.notes,
        about=about,
        training=_known(study, sites, trained),
        uneven=_uneven(found.evaluation.fits.fewest_targets(), trained),
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
        "targets": sum(sites.of[r.key] == sites.target for r in study.records),
        "paired": len(paired),
        "sites": len({r.case.site for r in found.rows}),
        "failed": len(study.missing),
    }


def _figures(found):
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
    return inline(figure_to_svg(figure, figure.get_label()), number)


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
        done = record.metrics or (target and record.preproc)
        state = "fail" if not done else "warn" if guards else "pass"
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
        "value": fixed(outlier["value"], score.digits),
        "z": fixed(outlier["z"], 1, sign=True),
    }


def _missing_view(output_dir, label, reason):
    page = output_dir / f"sub-{label}.html"
    link = f"./{quote(page.name)}#errors" if page.is_file() else ""
    return {"participant": f"sub-{label}", "reason": reason, "link": link}


def _uneven(scans, trained):
    """Target scans of the comparators and participants of the model, where those are fewer."""
    return (scans, len(trained)) if 0 < scans < len(trained) else None


def _known(study, sites, trained):
    """Participants of the study that the model was trained on, by their labels."""
    if sites.target is None:
        return []
    labels = {str(label).removeprefix("sub-") for label in trained}
    return sorted({r.participant for r in study.records} & labels)
