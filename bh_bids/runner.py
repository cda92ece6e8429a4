"""A run of bh-bids: what is to be done, doing it, and telling how it went."""

import errno
import shutil
import sys
from dataclasses import dataclass, replace
from itertools import groupby

from .dataset import Scan, check_dataset, find_scans
from .derivatives import check_output, is_done, masks_left_out, unmark, write_description
from .engine import check_engine
from .errors import InputError, ModelError
from .folders import (
    check_folders,
    check_writable,
    make_writable,
    not_writable,
    refuse_inside,
    remove_remains,
)
from .jsonfiles import read_json
from .locks import lock_participants
from .outcome import EX_FAILED, EX_OK, require_results, write_reports
from .provenance import provenance_key
from .rawlike import check_raw_like, derivatives_settings, write_raw_like
from .settings import for_participant

EX_SOFTWARE = 70
ALL_FAIL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Errors of one participant's folder that meet all of them."""
SCANS_AT_ONCE = 100
"""Scans in one nipype workflow, if there are many: a workflow of thousands takes minutes to build
and gigabytes to hold."""


@dataclass(frozen=True)
class Plan:
    """What a run has to do.

    Attributes
    ----------
    settings : bh_bids.settings.Settings
        With the output spaces filled in.
    scans : list of bh_bids.dataset.Scan
        All that were asked for.
    todo : list of bh_bids.dataset.Scan
        Those without complete results from the same input and parameters.
    model : dict
        Description of the target-domain model.
    keys : dict
        Scan's key to provenance key.
    """

    settings: object
    scans: list[Scan]
    todo: list[Scan]
    model: dict
    keys: dict


def run(settings, action=None):
    """Run bh-bids.

    Parameters
    ----------
    settings : bh_bids.settings.Settings
    action : {None, "dry_run", "reports_only", "boilerplate_only"}

    Returns
    -------
    int
        Exit code.

    Raises
    ------
    BHError
        If nothing can be started.
    """
    root = settings.output_dir
    if settings.analysis_level != "group":
        check_folders(settings)
        if settings.output_layout == "bids":
            check_raw_like(root)
    settings = derivatives_settings(settings)
    if settings.analysis_level == "group":
        from .group.run import run_group

        check_output(settings.output_dir)
        # The derivatives may be given as the dataset: what is told of participants lies there.
        if settings.bids_dir.resolve() != settings.output_dir.resolve():
            refuse_inside(settings, "work", settings.work_dir)
        if action == "dry_run":
            return run_group(settings, dry=True)
        if settings.output_dir.is_dir():  # without results there is nothing to be made
            make_writable(settings.output_dir)
            make_writable(settings.work_dir)
        return run_group(settings)
    check_folders(settings)
    check_output(settings.output_dir)
    for folder in (settings.output_dir, settings.work_dir):
        check_writable(folder)
    check_engine(settings)
    if not settings.skip_bids_validation:
        check_dataset(settings.bids_dir)
    plan = make_plan(settings)
    if action == "dry_run":
        return _tell_plan(plan)
    if action == "boilerplate_only":
        require_results(plan)
    make_writable(settings.output_dir)
    if plan.todo and not action:
        make_writable(settings.work_dir)
    plan, barred = _write_shared(plan)
    if action:
        code = write_reports(plan, pages=action == "reports_only", ran=False)
    else:
        code = _execute(plan)
    _tell(barred)  # again, where it is not overlooked
    code = code or (EX_FAILED if barred else EX_OK)
    if action:
        return code
    if settings.output_layout == "bids":
        count = write_raw_like(plan, root)
        print(f"{count} harmonized scans as a raw-like dataset: {root}")
    return code


def make_plan(settings):
    """Find the scans and the model, and what is still to be done.

    Parameters
    ----------
    settings : bh_bids.settings.Settings

    Returns
    -------
    Plan

    Raises
    ------
    BHError
        If dataset, model or device cannot be used.
    """
    from .anatomy.templates import DEFAULT_SPACE, space_brain
    from .flow.model import load_model
    from .flow.registry import PACKAGED_MODELS, find_model
    from .harmonization.device import resolve_device

    scans = find_scans(
        settings.bids_dir,
        settings.participant_label,
        settings.session_label,
        settings.bids_filters,
        settings.bids_database_dir,
    )
    device = str(resolve_device(settings.device))
    if settings.device == "auto" and device == "cpu":
        print("bh-bids: no GPU found, the flow runs on the CPU", file=sys.stderr)
    folder = find_model(settings.model)
    if folder.parent != PACKAGED_MODELS:
        # Its place, so that workers in other folders find the same one.
        settings = replace(settings, model=str(folder.absolute()))
    model = load_model(settings.model)
    if not settings.anat_only:
        model.require_calibrated()
        _require_constants(model, settings.method)
    if model.space != DEFAULT_SPACE:
        space_brain(model.space)  # a space whose template is not to be had stops here
        settings = replace(settings, template=settings.template or model.space)
    spaces = settings.output_spaces or ("T1w", model.space)
    unknown = [space for space in spaces if space not in ("T1w", model.space)]
    if unknown:
        raise InputError(
            f"Output space {unknown[0]} is not known: give T1w, {model.space} (the model's), or "
            "both."
        )
    threads = settings.omp_nthreads or _threads(settings.nprocs, len(scans))
    settings = replace(settings, output_spaces=tuple(spaces), device=device, omp_nthreads=threads)
    groups = _templates(scans, settings)
    keys = {
        scan.key: _key(scan, settings, model.metadata, groups.get(scan.participant, ()))
        for scan in scans
    }
    todo = [scan for scan in scans if not is_done(scan, model.space, settings, keys[scan.key])]
    # A common template needs all of its scans.
    again = {scan.participant for scan in todo} & set(groups)
    todo = [scan for scan in scans if scan in todo or scan.participant in again]
    for participant, own in groups.items():
        said = masks_left_out(own, settings.derivatives)
        if said and participant in again:
            print(f"sub-{participant}: {said}", file=sys.stderr)
    return Plan(settings, scans, todo, model.metadata, keys)


def _require_constants(model, method):
    """Refuse a method that needs constants which the model does not have."""
    if method == "map" and model.calibration is None:
        raise ModelError(
            f"The model '{model.name}' lacks the constants of the method 'map': describe its "
            "target domain once with 'bh-model calibrate', or choose '--method paper'."
        )


def _threads(nprocs, scans):
    """Threads of one step: scans side by side use cores better than threads of one scan.

    All scans that were asked for count, done or not, so that a run that goes on after an
    interruption uses as many threads as it did before.
    """
    return max(1, min(8, nprocs // scans))


def _templates(scans, settings):
    """Participants whose scans get a common template, with their scans."""
    if not settings.longitudinal:
        return {}
    own = {scan.participant: [] for scan in scans}
    for scan in scans:
        own[scan.participant].append(scan)
    return {participant: scans for participant, scans in own.items() if len(scans) > 1}


def _key(scan, settings, model, within):
    try:
        return provenance_key(scan, settings, model, within)
    except OSError:  # the scan's own step says what is wrong with it
        return "unreadable"


def _tell_plan(plan):
    done = len(plan.scans) - len(plan.todo)
    verb = "preprocess" if plan.settings.anat_only else "harmonize"
    print(f"Would {verb} {len(plan.todo)} of {len(plan.scans)} T1w scans ({done} are done)")
    if not plan.settings.anat_only:
        where = f"by {plan.settings.method}, on {plan.settings.device}"
        print(f"  towards {plan.model['Name']} {where}")
    for scan in plan.todo:
        print(f"  {scan.path.relative_to(plan.settings.bids_dir)}")
    print(f"Results would go to {plan.settings.output_dir}")
    if plan.todo:
        _tell_cost(plan)
    return EX_OK


def _tell_cost(plan):
    """Time, memory and disk, as far as they can be told."""
    from bh_bids.workflows.base import init_bh_bids_wf

    from .expectation import expect
    from .progress import duration

    workflow = init_bh_bids_wf(
        settings=plan.settings, scans=plan.todo, model=plan.model, keys=plan.keys
    )
    cost = expect(plan.settings, workflow, plan.model)
    together, threads = (
        f"{number} {name}{'s' if number > 1 else ''}"
        for number, name in ((cost["at_once"], "scan"), (plan.settings.omp_nthreads, "thread"))
    )
    print(
        f"It may take about {duration(cost['seconds'])} ({together} at once, "
        f"{threads} a step), {cost['memory_gb']:.1f} GB of memory, "
        f"{cost['work_gb']:.1f} GB in the work folder and {cost['output_gb']:.1f} GB of results; "
        "on a computer of another kind half as much, or twice."
    )


def _write_shared(plan):
    """Write what describes the derivatives, and each participant's settings.

    Returns
    -------
    plan : Plan
        Without participants whose folder cannot be written to.
    barred : list of str
        A sentence on each of them.
    """
    from .reports.readme import write_readme

    settings = plan.settings
    description = settings.bids_dir / "dataset_description.json"
    try:
        source = read_json(description)
    except (OSError, ValueError):
        source = {}
    source = source if isinstance(source, dict) else {}
    write_description(settings.output_dir, settings.bids_dir, settings.derivatives, source)
    write_readme(settings.output_dir)
    remove_remains(settings.output_dir)
    from bh_bids.workflows.base import participant_log

    barred = {}
    for participant in sorted({scan.participant for scan in plan.scans}):
        log = participant_log(settings, participant)
        own = for_participant(settings, participant)
        folders = {scan.folder for scan in plan.scans if scan.participant == participant}
        try:
            for folder in sorted(folders):
                check_writable(settings.output_dir / folder)
            log.mkdir(parents=True, exist_ok=True)
            (log / "bh-bids.toml").write_text(own.to_toml(), encoding="utf-8")
        except InputError as error:
            barred[participant] = f"sub-{participant} is left out: {error}"
        except OSError as error:
            if error.errno in ALL_FAIL:
                raise
            said = not_writable(log, error.strerror or error)
            barred[participant] = f"sub-{participant} is left out: {said}"
    said = list(barred.values())
    _tell(said)
    if not barred:
        return plan, said
    scans, todo = (
        [scan for scan in some if scan.participant not in barred]
        for some in (plan.scans, plan.todo)
    )
    return replace(plan, scans=scans, todo=todo), said


def _tell(sentences):
    for sentence in sentences:
        print(sentence, file=sys.stderr)


def _execute(plan):
    from .engine import run_workflow

    settings = plan.settings
    done = len(plan.scans) - len(plan.todo)
    if done:
        print(f"{done} of {len(plan.scans)} scans are done already and are kept")
    failed, held, todo = False, [], plan.todo
    if todo:
        held, busy = lock_participants(
            settings.work_dir, dict.fromkeys(scan.participant for scan in todo)
        )
        for participant in busy:
            print(
                f"sub-{participant} is being processed by another run with the work folder "
                f"{settings.work_dir}: it is left to that run.",
                file=sys.stderr,
            )
        todo = [scan for scan in todo if scan.participant not in busy]
    for scans in _batches(todo, max(SCANS_AT_ONCE, 8 * settings.nprocs)):
        from bh_bids.workflows.base import init_bh_bids_wf, scan_wf_name

        workflow = init_bh_bids_wf(settings=settings, scans=scans, model=plan.model, keys=plan.keys)
        if not list(workflow._get_all_nodes()):
            return EX_SOFTWARE
        names = {scan_wf_name(scan): scan.key for scan in scans}
        _unmark(plan, scans)
        failed |= not run_workflow(workflow, settings, names)
        if settings.clean_workdir:
            _clean_workdir(plan, scans)
        if failed and settings.stop_on_first_crash:
            break
    for lock in held:
        lock.close()
    code = write_reports(plan)
    return EX_FAILED if failed else code


def _unmark(plan, scans):
    """Take back that scans are done, before the first of their files is replaced.

    The harmonization of a full run from the same input and options stands: what ``--anat-only``
    writes beside it is the same.
    """
    space, settings = plan.model["Config"]["space"], plan.settings
    full = replace(settings, anat_only=False)
    groups = _templates(plan.scans, settings)
    for scan in scans:
        stands = False
        if settings.anat_only:
            key = _key(scan, full, plan.model, groups.get(scan.participant, ()))
            stands = is_done(scan, space, full, key)
        unmark(scan, space, settings, harmonization=not stands)


def _batches(scans, size):
    """Scans in parts of about a size; a participant's stay together."""
    batch = []
    for _, own in groupby(scans, key=lambda scan: scan.participant):
        own = list(own)
        if batch and len(batch) + len(own) > size:
            yield batch
            batch = []
        batch += own
    if batch:
        yield batch


def _clean_workdir(plan, scans):
    """Remove the intermediate results of scans that are done."""
    from bh_bids.workflows.base import common_work_folders, work_folder

    space = plan.model["Config"]["space"]
    done = {s.key for s in scans if is_done(s, space, plan.settings, plan.keys[s.key])}
    for scan in scans:
        if scan.key in done:
            shutil.rmtree(work_folder(plan.settings, scan), ignore_errors=True)
    unfinished = {scan.participant for scan in scans if scan.key not in done}
    for participant in {scan.participant for scan in scans} - unfinished:
        for folder in common_work_folders(plan.settings, participant):
            shutil.rmtree(folder, ignore_errors=True)
