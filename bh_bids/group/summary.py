"""From rows to the tables that answer: did it help, and more than the alternatives?"""

import math
from dataclasses import dataclass

import numpy as np

from ..evaluation.agreement import coefficient_of_variation, icc
from ..evaluation.scan import SCORES
from ..evaluation.site_effect import predict_class, predict_number
from ..evaluation.statistics import describe, paired_difference, robust_z, wilcoxon_p
from ..evaluation.tissue import TISSUES

#: Robust standard deviations from which a scan is called an outlier.
OUTLYING = 3.5
#: Scores that an outlier may have on the bad side: name -> sign of better.
_WATCHED = {"psnr": 1, "wasserstein": -1, "contrast_error": -1, "ncc_source": 1}
ALL_SITES = "all"


@dataclass(frozen=True)
class SiteEffect:
    """What can still be told of scans after a method.

    Attributes
    ----------
    method : str
    site, sex, age : bh_bids.evaluation.site_effect.Prediction or None
        None where it cannot be asked.
    agreement : dict of str to dict
        Of each tissue: "icc21", "icc31", "cv", "n" participants and "sites".
    """

    method: str
    site: object
    sex: object
    age: object
    agreement: dict


def by_participant(rows, method, score, site=ALL_SITES):
    """One value per participant: the mean over their scans.

    Parameters
    ----------
    rows : list of bh_bids.group.evaluate.Row
    method, score : str
    site : str
        One site, or all.

    Returns
    -------
    dict of str to float
    """
    return _means(_by_scan(rows, method, score, site))


def _by_scan(rows, method, score, site=ALL_SITES):
    """One value per scan, by participant, the scan's key and site (or gap)."""
    values = {}
    for row in rows:
        value = row.scores.get(score)
        fits = row.method == method and site in (ALL_SITES, row.case.site)
        if fits and value is not None and math.isfinite(value):
            values[row.case.participant, row.case.scan.key, row.case.site] = value
    return values


def _means(values):
    """Mean over scans of each participant."""
    found = {}
    for (label, *_), value in values.items():
        found.setdefault(label, []).append(value)
    return {label: float(np.mean(own)) for label, own in found.items()}


def summarize(rows, methods, seed=0):
    """Mean and deviation of every score by method and site, and its distance to the harmonization.

    Parameters
    ----------
    rows : list of bh_bids.group.evaluate.Row
        Of source scans, or of simulated gaps.
    methods : sequence of str
    seed : int
        Of the bootstrap.

    Returns
    -------
    list of dict
        ``method``, ``site`` ("all" first), ``metric``, ``n`` participants, ``mean``, ``sd``;
        ``lacks``: scans of the harmonization (of any method where it has none) that the method
        has not. Over the scans that both have: ``n_pairs`` participants, ``difference``
        (harmonized minus method) with ``ci_low``, ``ci_high`` (95 %, bootstrap, of two
        participants or more) and ``p`` (Wilcoxon), and the means of both, ``own_mean`` and
        ``other_mean``. These are None for the harmonization itself, and without pairs all but
        ``n_pairs``.
    """
    sites = list(dict.fromkeys(row.case.site for row in rows))
    table = []
    for site in [ALL_SITES, *sites] if len(sites) > 1 else sites:
        chosen = [r for r in rows if site in (ALL_SITES, r.case.site)]
        for score in SCORES:
            own = _by_scan(chosen, "harmonized", score)
            scans = {method: _by_scan(chosen, method, score) for method in methods}
            wanted = set(own) or set().union(*scans.values())
            for method, values in scans.items():
                if values:
                    n, mean, sd = describe(_means(values).values())
                    line = {"method": method, "site": site, "metric": score, "n": n}
                    line |= {"mean": mean, "sd": sd, "lacks": len(wanted - set(values))}
                    table.append(line | _against(own, values, method, seed))
    return table


def _against(own, values, method, seed):
    """The harmonization and a method on the scans that both have."""
    line = dict.fromkeys(
        ("n_pairs", "difference", "ci_low", "ci_high", "p", "own_mean", "other_mean")
    )
    if method == "harmonized" or not own:
        return line
    both = [scan for scan in own if scan in values]
    mine, other = (_means({scan: found[scan] for scan in both}) for found in (own, values))
    line["n_pairs"] = len(mine)
    found = paired_difference(mine, other, seed)
    if found is None:
        return line
    line |= {"difference": found.mean, "p": wilcoxon_p(mine, other)}
    if len(mine) > 1:  # a bootstrap of one value knows no spread
        line |= {"ci_low": found.low, "ci_high": found.high}
    return line | {
        "own_mean": describe(mine.values()).mean,
        "other_mean": describe(other.values()).mean,
    }


def site_effects(rows, targets, methods, participants, seed=0):
    """Whether site, sex and age can be told of the scans of each method, and volumes agree.

    The target's scans are taken as they are, whatever the method.

    Parameters
    ----------
    rows : list of Row
        Of source scans.
    targets : list of Row
        Of the target's untouched scans; may be empty.
    methods : sequence of str
    participants : dict of str to dict
        Rows of participants.tsv.
    seed : int

    Returns
    -------
    list of SiteEffect
    """
    found = []
    for method in methods:
        used = [r for r in rows if r.method == method] + list(targets)
        if not any(r.method == method for r in rows):
            continue
        features = np.array([r.features for r in used])
        labels = [r.case.participant for r in used]
        told = [participants.get(label, {}) for label in labels]
        site = predict_class(features, [r.case.site for r in used], labels, seed)
        sexes = [str(row.get("sex") or row.get("gender") or "") for row in told]
        known = [k for k, sex in enumerate(sexes) if sex]
        sex = predict_class(
            features[known], [sexes[k] for k in known], [labels[k] for k in known], seed
        )
        age = predict_number(features, [_number(row.get("age")) for row in told], labels)
        found.append(SiteEffect(method, site, sex, age, _agreement(used)))
    return found


def _agreement(rows):
    """Agreement of tissue volumes over sites, of participants that were scanned at all of them."""
    sites = sorted({r.case.site for r in rows})
    result = {}
    for tissue in TISSUES:
        volumes = {}
        for row in rows:
            value = row.scores.get(f"{tissue.lower()}_ml")
            if value is not None and np.isfinite(value):
                volumes.setdefault(row.case.participant, {}).setdefault(row.case.site, value)
        table = [[own[s] for s in sites] for own in volumes.values() if len(own) == len(sites)]
        if len(table) >= 2 and len(sites) >= 2:
            result[tissue] = {
                "icc21": icc(table, "2,1"),
                "icc31": icc(table, "3,1"),
                "cv": coefficient_of_variation(table),
                "n": len(table),
                "sites": len(sites),
            }
    return result


def _number(value):
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def find_outliers(rows):
    """Harmonized scans that lie far from the others, on the bad side.

    Parameters
    ----------
    rows : list of Row
        Of source scans.

    Returns
    -------
    list of dict
        ``row``, ``score``, ``value``, ``z``; farthest first. None among fewer than six scans.
    """
    own = [r for r in rows if r.method == "harmonized"]
    if len(own) < 6:
        return []
    found = []
    for score, better in _WATCHED.items():
        values = [r.scores.get(score, math.nan) for r in own]
        for row, value, z in zip(own, values, robust_z(values), strict=True):
            if math.isfinite(z) and -better * z > OUTLYING:
                found.append({"row": row, "score": score, "value": value, "z": float(z)})
    return sorted(found, key=lambda o: (-abs(o["z"]), o["row"].case.scan.key))


def ranking(summary, score, site=None):
    """Methods from the best to the worst by one score.

    They are compared on the scans that the harmonization has. Methods that lack some of these
    come last, whatever their mean: what they lack may be what is hard.

    Parameters
    ----------
    summary : list of dict
        Of :func:`summarize`.
    score : str
    site : str, optional
        The first of the summary by default, which is all sites together.

    Returns
    -------
    list of str
    """
    lines = [line for line in summary if line["metric"] == score]
    site = site or (lines[0]["site"] if lines else None)
    lines = [line for line in lines if line["site"] == site]
    better = SCORES[score].better or 1

    def place(line):
        # Of a method that lacks nothing this mean is over the very scans of the harmonization.
        mean = line["mean"] if line["other_mean"] is None else line["other_mean"]
        return line["lacks"] > 0, -better * mean

    return [line["method"] for line in sorted(lines, key=place)]
