"""The group level: collect, compare, tell."""

import sys
from collections import Counter
from pathlib import Path

from ..errors import InputError, ModelError
from ..provenance import model_sha256, software_versions
from .cases import gap_cases, scan_cases
from .evaluate import Evaluation
from .fits import Fits, gap_harmonizer
from .page import write_group_page
from .store import Store
from .study import DEFAULT_SPACE, read_study
from .summary import find_outliers, site_effects, summarize
from .tables import write_effects, write_gaps, write_scans, write_summary
from .target import choose_target, find_pairs
from .volumes import Case


def run_group(settings, dry=False):
    """Evaluate a study from its derivatives, and write tables and the report.

    Parameters
    ----------
    settings : bh_bids.settings.Settings
    dry : bool
        Only say what would be compared.

    Returns
    -------
    int
        0; 1 if a participant has no results or a scan could not be measured.

    Raises
    ------
    BHError
        If there are no results at all, or the target or the model that was asked for is not there.
    """
    output = Path(settings.output_dir)
    model = _model(settings)
    space = model.space if model is not None else DEFAULT_SPACE
    # Only some may be measured; what is fitted is fitted on everybody else.
    everyone = read_study(output, settings.bids_dir, space, (), settings.session_label)
    study = everyone
    if settings.participant_label:
        study = read_study(
            output, settings.bids_dir, space, settings.participant_label, settings.session_label
        )
    model, card = _of_results(study, model, settings)
    sites = choose_target(everyone, settings.target, card)
    _excuse_targets(study, sites)
    print(f"bh-bids: {sites.sentence}", file=sys.stderr)
    if dry:
        return _tell(study, sites, settings)
    store = Store(Path(settings.work_dir) / "group")
    try:
        found = _evaluate(settings, study, everyone, sites, model, store)
        paths = _write(output, study, sites, found)
        page = write_group_page(
            output, study, sites, found, about=_about(settings, model), trained=_trained(model),
            store=store,
        )  # fmt: skip
        paths.append(page)
    finally:
        store.close()
    for path in paths:
        print(path)
    for label, reason in study.missing.items():
        print(f"bh-bids: no results of sub-{label}: {reason}", file=sys.stderr)
    return 1 if study.missing or study.problems else 0


def _tell(study, sites, settings):
    """What would be done."""
    pairs = find_pairs(study, sites)
    cases = scan_cases(study, sites, pairs)
    print(f"Would compare {', '.join(['source', 'harmonized', *settings.comparators])}")
    for site in dict.fromkeys(case.site for case in cases):
        own = [case for case in cases if case.site == site]
        paired = sum(case.target is not None for case in own)
        print(f"  {site}: {len(own)} scans, {paired} with a target scan of the participant")
    return 0


def _excuse_targets(study, sites):
    """Scans of the target need not be harmonized."""
    for label in list(study.missing):
        own = [r for r in study.records if r.participant == label and r.preproc]
        if own and all(sites.of[r.key] == sites.target for r in own):
            del study.missing[label]


class Findings:
    """What the evaluation found.

    Attributes
    ----------
    rows : list of bh_bids.group.evaluate.Row
        Of source scans.
    targets : list of Row
        Of the target's untouched scans.
    gaps : list of Row
        Of simulated gaps.
    methods : list of str
    summary, gap_summary : list of dict
    effects : list of bh_bids.group.summary.SiteEffect
    outliers : list of dict
    evaluation : bh_bids.group.evaluate.Evaluation
    """

    def __init__(self, evaluation, rows, targets, gaps, study, seed):
        self.evaluation, self.rows, self.targets, self.gaps = evaluation, rows, targets, gaps
        seen = {r.method for r in [*rows, *gaps]}
        self.methods = [m for m in evaluation.methods if m in seen]
        self.summary = summarize(rows, self.methods, seed)
        self.gap_summary = summarize(gaps, self.methods, seed)
        self.effects = site_effects(rows, targets, self.methods, study.participants, seed)
        self.outliers = find_outliers(rows)


def _evaluate(settings, study, everyone, sites, model, store):
    pairs = find_pairs(everyone, sites)
    targets = [
        r
        for r in everyone.records
        if r.preproc and sites.target and sites.of[r.key] == sites.target
    ]
    first = list({r.participant: r for r in reversed(targets)}.values())[::-1]
    known = [*scan_cases(everyone, sites, pairs), *gap_cases(first, settings.simulate_gaps)]
    measured = {r.key for r in study.records}
    cases = [c for c in known if c.gap is None and c.scan.key in measured]
    gaps = [c for c in known if c.gap is not None and c.scan.key in measured]
    if settings.simulate_gaps and not gaps:
        raise InputError(
            "--simulate-gaps needs scans of the target, and none were told: give --target ('all' "
            "where all scans are)."
        )
    fits = Fits(
        first,
        known,
        model,
        store,
        folds=settings.folds,
        seed=settings.random_seed,
        device=settings.device,
        report=lambda sentence: print(f"bh-bids: {sentence}", file=sys.stderr, flush=True),
        segmenter=_segmenter(settings),
        maps=settings.derivatives,
    )
    harmonize, key = None, ""
    if gaps and model is not None:
        harmonize = gap_harmonizer(model, settings.method, settings.random_seed, settings.device)
        key = [model_sha256(model.metadata), settings.method]
    methods = ["source", "harmonized", *settings.comparators]
    evaluation = Evaluation(
        fits, store, methods, seed=settings.random_seed, harmonize=harmonize, model_key=key,
        problems=study.problems, jobs=settings.nprocs,
    )  # fmt: skip
    absent = sum(bool(r.metrics and r.preproc and not r.harmonized) for r in study.records)
    if absent:
        evaluation.note(
            f"the harmonized image of {absent} scans, which is not in the model's space: run the "
            "participant level with it among --output-spaces"
        )
    rows = _ordered(evaluation.rows(cases), cases)
    own = [Case(r, sites.target) for r in targets if r.key in measured]
    untouched = Evaluation(
        fits,
        store,
        ["source"],
        seed=settings.random_seed,
        problems=study.problems,
        jobs=settings.nprocs,
    )
    told = _ordered(untouched.rows(own), own)
    return Findings(
        evaluation, rows, told, _ordered(evaluation.rows(gaps), gaps), study, settings.random_seed
    )


def _ordered(rows, cases):
    """Rows in the cases' order, whatever the order of measuring."""
    place = {(case.scan.key, case.site): k for k, case in enumerate(cases)}
    return sorted(rows, key=lambda row: place[row.case.scan.key, row.case.site])


def _segmenter(settings):
    if not settings.segmentation:
        return None
    from ..evaluation.segmentation import TissueNetwork

    return TissueNetwork


def _model(settings):
    """The model that was asked for; None where it is the packaged one and that is not to be had."""
    from ..flow.model import load_model

    try:
        model = load_model(settings.model)
    except ModelError:
        if settings.model != "default":
            raise
        return None
    return model if model.calibrated else None


def _of_results(study, model, settings):
    """The model if the results are of it, and what is known of its target domain."""
    blocks = [r.harmonization for r in study.records if r.harmonization]
    made = Counter(
        f"model {b.get('Model')} ({str(b.get('WeightsSHA256'))[:8]}-"
        f"{str(b.get('CalibrationSHA256'))[:6]}), method {b.get('Method')}"
        for b in blocks
    )
    if len(made) > 1:
        told = "; ".join(f"{how}: {count}" for how, count in made.most_common())
        study.problems.append(
            f"The scans were not all harmonized alike, and are told of together: {told}. Harmonize "
            "them all with one model and method."
        )
        print(f"bh-bids: {study.problems[-1]}", file=sys.stderr)
    if not blocks or (model is not None and blocks[0].get("WeightsSHA256") == model.weights_sha256):
        return model, model.target_domain if model is not None else {}
    name, card = blocks[0].get("Model"), blocks[0].get("TargetDomain")
    if settings.model != "default":
        raise InputError(
            f"The results were made with the model '{name}', not with {settings.model}: give the "
            "one they were made with, or harmonize again."
        )
    print(
        f"bh-bids: the results were made with the model '{name}': give it with --model for what "
        "needs it (comparators without target scans, simulated gaps)",
        file=sys.stderr,
    )
    return None, card if isinstance(card, dict) else {}


def _write(output, study, sites, found):
    paths = write_scans(output, study, sites, found.rows)
    if found.summary:
        paths.append(write_summary(output, "summary", found.summary))
    if found.effects:
        paths.append(write_effects(output, found.effects))
    if found.gaps:
        paths.append(write_gaps(output, found.gaps))
        paths.append(write_summary(output, "gapsummary", found.gap_summary))
    return paths


def _about(settings, model):
    """What a reader must know to repeat the evaluation."""
    return {
        "Model": f"{model.name} {model.version}".strip() if model is not None else "none",
        "Weights": model.weights_sha256[:12] if model is not None else "",
        "Seed": str(settings.random_seed),
        "Folds": str(settings.folds),
        **software_versions(),
    }


def _trained(model):
    return [] if model is None else model.metadata.get("TrainingParticipants", [])
