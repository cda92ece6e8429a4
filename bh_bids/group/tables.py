"""The group level's tables and their data dictionaries."""

import json
import re

from ..evaluation.participant import METRICS, write_tsv
from ..evaluation.scan import SCORES
from ..evaluation.tissue import TISSUES
from ..reports.svg import write_text

_WHO = {
    "participant_id": METRICS["participant_id"],
    "session_id": METRICS["session_id"],
    "scan": "Entities that name the scan",
    "site": "Source site, told as the target's scans are",
}
_ROLE = {"role": "source; target: a scan of the target, which is scored against nothing"}
_SUMMARY = {
    "method": "source: the untouched scan; harmonized; or a comparator",
    "site": "Source site, or all of them: then a participant's scans count once, by their mean",
    "metric": "Name of the score; see the data dictionary of the methods' tables",
    "n": "Participants",
    "mean": "Mean over participants",
    "sd": "Standard deviation over participants (n - 1)",
    "n_pairs": "Participants with scans that both the harmonization and this method have",
    "difference": "Harmonized minus this method, mean over these participants, from the scans "
    "that both have",
    "ci_low": "Lower end of the difference's 95 % percentile bootstrap interval; not told of one "
    "participant",
    "ci_high": "Upper end of that interval",
    "p": "Wilcoxon's signed-rank test of the difference, two-sided, not corrected for the number "
    "of tests",
}
_EFFECT = {
    "method": _SUMMARY["method"] + ". Scans of the target are taken as they are in all",
    "site_accuracy": "Balanced accuracy of a classifier that guesses the site of participants it "
    "never saw; chance is the goal",
    "site_chance": "What guessing would reach",
    "site_n": "Scans",
    "sex_accuracy": "Balanced accuracy of guessing sex (participants.tsv); should be kept",
    "sex_chance": "What guessing would reach",
    "age_told": "Share of age's variance (participants.tsv) that is told beyond the mean of the "
    "other participants; 0: nothing; should be kept",
    "age_error": "Mean absolute error of predicted age, years",
}
for _tissue in TISSUES:
    _EFFECT[f"{_tissue.lower()}_icc21"] = (
        f"ICC(2,1) (absolute agreement) of the volume of {_tissue} over sites"
    )
    _EFFECT[f"{_tissue.lower()}_icc31"] = (
        f"ICC(3,1) (consistency) of the volume of {_tissue} over sites"
    )
    _EFFECT[f"{_tissue.lower()}_cv"] = (
        f"Within-participant coefficient of variation of the volume of {_tissue} over sites"
    )


def table_path(output_dir, name, ending=".tsv"):
    """Path of a table; its name keeps letters and digits only, as BIDS asks of a label.

    Parameters
    ----------
    output_dir : pathlib.Path
    name : str
    ending : str

    Returns
    -------
    pathlib.Path
    """
    label = re.sub(r"[^A-Za-z0-9]", "", name)
    return output_dir / f"group_desc-{label}_metrics{ending}"


def write_table(output_dir, name, rows, columns):
    """Write a table and its data dictionary; each appears whole.

    Parameters
    ----------
    output_dir : pathlib.Path
    name : str
    rows : list of dict
    columns : dict of str to str or dict
        Description, or entry of the data dictionary, by column.

    Returns
    -------
    pathlib.Path
    """
    path = table_path(output_dir, name)
    aside = path.with_name(f".{path.name}.part")
    write_tsv([{c: row.get(c) for c in columns} for row in rows], aside).replace(path)
    dictionary = {
        column: {"Description": text} if isinstance(text, str) else text
        for column, text in columns.items()
    }
    content = json.dumps(dictionary, indent=2, ensure_ascii=False) + "\n"
    write_text(table_path(output_dir, name, ".json"), content)
    return path


def score_columns(names):
    """Entries of the data dictionary for scores.

    Parameters
    ----------
    names : sequence of str

    Returns
    -------
    dict
    """
    return {
        name: {"LongName": s.title, "Description": s.text} | ({"Units": s.units} if s.units else {})
        for name, s in SCORES.items()
        if name in names
    }


def write_scans(output_dir, study, sites, rows):
    """One table per method; that of the harmonization holds the participant level's columns too.

    Parameters
    ----------
    output_dir : pathlib.Path
    study : bh_bids.group.study.Study
    sites : bh_bids.group.target.Sites
    rows : list of bh_bids.group.evaluate.Row
        Of source scans.

    Returns
    -------
    list of pathlib.Path
    """
    scored = {(r.method, r.case.scan.key): r.scores for r in rows}
    methods = list(dict.fromkeys(r.method for r in rows))
    paths = []
    columns = score_columns({name for r in rows for name in r.scores})
    lines = []
    for record in study.records:
        role = "target" if sites.of[record.key] == sites.target else "source"
        line = {**_who(record, sites), **record.metrics, "role": role}
        lines.append(line | scored.get(("harmonized", record.key), {}))
    dictionary = {**_harmonization_columns(study), "scan": _WHO["scan"], "site": _WHO["site"]}
    dictionary |= {**_ROLE, **columns}
    paths.append(write_table(output_dir, "harmonization", lines, dictionary))
    for method in methods:
        if method != "harmonized":
            lines = [{**_who(r.case.scan, sites), **r.scores} for r in rows if r.method == method]
            paths.append(write_table(output_dir, method, lines, {**_WHO, **columns}))
    return paths


def _who(record, sites):
    return {
        "participant_id": f"sub-{record.participant}",
        "session_id": f"ses-{record.session}" if record.session else None,
        "scan": record.key,
        "site": sites.of[record.key],
    }


def _harmonization_columns(study):
    """The participant level's columns, known ones first."""
    found = dict.fromkeys(c for r in study.records for c in r.metrics)
    extra = {c: "Written by the participant level" for c in found if c not in METRICS}
    return {**METRICS, **extra}


def write_summary(output_dir, name, summary):
    """Write a summary of :func:`bh_bids.group.summary.summarize`.

    Parameters
    ----------
    output_dir : pathlib.Path
    name : str
    summary : list of dict

    Returns
    -------
    pathlib.Path
    """
    return write_table(output_dir, name, summary, _SUMMARY)


def write_gaps(output_dir, rows):
    """Scores of simulated gaps, one row per scan, gap and method.

    Parameters
    ----------
    output_dir : pathlib.Path
    rows : list of bh_bids.group.evaluate.Row

    Returns
    -------
    pathlib.Path
    """
    columns = {
        "participant_id": _WHO["participant_id"],
        "scan": "Target scan that the gap was simulated on, which is the truth",
        "gap": "Simulated gap",
        "method": _SUMMARY["method"],
        **score_columns({name for r in rows for name in r.scores}),
    }
    lines = [
        {
            "participant_id": f"sub-{r.case.participant}",
            "scan": r.case.scan.key,
            "gap": r.case.gap,
            "method": r.method,
            **r.scores,
        }
        for r in rows
    ]
    return write_table(output_dir, "gaps", lines, columns)


def effect_row(effect):
    """One method's line in the table of the site effect.

    Parameters
    ----------
    effect : bh_bids.group.summary.SiteEffect

    Returns
    -------
    dict
    """
    line = {"method": effect.method}
    for name, found in (("site", effect.site), ("sex", effect.sex)):
        if found is not None:
            line |= {f"{name}_accuracy": found.score, f"{name}_chance": found.chance}
    if effect.site is not None:
        line["site_n"] = effect.site.n
    if effect.age is not None:
        line |= {"age_told": effect.age.score, "age_error": effect.age.error}
    for tissue, found in effect.agreement.items():
        line |= {f"{tissue.lower()}_{name}": found[name] for name in ("icc21", "icc31", "cv")}
    return line


def write_effects(output_dir, effects):
    """Write the site effects.

    Parameters
    ----------
    output_dir : pathlib.Path
    effects : list of bh_bids.group.summary.SiteEffect

    Returns
    -------
    pathlib.Path
    """
    return write_table(output_dir, "siteeffect", [effect_row(e) for e in effects], _EFFECT)
