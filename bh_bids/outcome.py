"""How a run went: the participants' pages, the methods text, and the table at its end."""

import sys

from .derivatives import is_complete, is_done
from .errors import InputError

EX_OK, EX_FAILED = 0, 1


def write_reports(plan, pages=True, ran=True):
    """Write every participant's page and the methods text, and say how it went.

    Parameters
    ----------
    plan : bh_bids.runner.Plan
    pages : bool
        Without, only the methods text is written.
    ran : bool
        The scans were just worked on: results made from other input, options or versions are a
        failure. Without, they count, and it is said how many there are.

    Returns
    -------
    int
        0, or 1 if a scan has no results or a report could not be written.
    """
    from .reports.assemble import write_participant_report
    from .reports.boilerplate import write_citations
    from .reports.collect import collect, study_sidecars

    settings = plan.settings
    output = settings.output_dir
    failed, pages_written = False, []
    for participant in sorted({scan.participant for scan in plan.scans}):
        scans = [scan for scan in plan.scans if scan.participant == participant]
        names = [scan.path.name for scan in scans]
        findings = collect(output, participant, run_uuid=settings.run_uuid, scans=names)
        for crash in findings.crashes:
            said = f"sub-{participant} failed: {crash.sentence} {crash.advice}"
            print(said.rstrip(), file=sys.stderr)
        failed |= bool(findings.crashes)
        if not pages:
            continue
        try:
            page = write_participant_report(
                output,
                participant,
                run_uuid=settings.run_uuid,
                scans=names,
                anat_only=settings.anat_only,
            )
            pages_written.append((scans, findings, page))
        except OSError as error:
            failed = True
            print(f"sub-{participant}: the report cannot be written: {error}", file=sys.stderr)
    # Of all participants: others may have been done by other runs.
    write_citations(output, study_sidecars(output))
    space = plan.model["Config"]["space"]
    done = {s.key for s in plan.scans if is_done(s, space, settings, plan.keys[s.key])}
    old = [s for s in plan.scans if s.key not in done and is_complete(s, space, settings)]
    standing = done if ran else done | {scan.key for scan in old}
    missing = [scan for scan in plan.scans if scan.key not in standing]
    _tell_summary(plan, pages_written, standing)
    if missing and pages:
        _tell_scans(plan, missing, "have no results")
    if old and pages and not ran:
        again = "run without --reports-only to make them again"
        _tell_scans(plan, old, f"have results of other input, options or versions ({again})")
    return EX_FAILED if failed or (missing and pages) else EX_OK


def require_results(plan):
    """Refuse to write the methods text of nothing.

    Parameters
    ----------
    plan : bh_bids.runner.Plan

    Raises
    ------
    InputError
        If the output folder holds neither a harmonized scan of any participant nor complete results
        of a scan that was asked for.
    """
    from .reports.collect import study_sidecars

    settings, space = plan.settings, plan.model["Config"]["space"]
    if any(is_complete(scan, space, settings) for scan in plan.scans):
        return
    if not study_sidecars(settings.output_dir):
        labels = sorted({scan.participant for scan in plan.scans})
        named = ", ".join(f"sub-{label}" for label in labels[:8]) + (", ..." if labels[8:] else "")
        raise InputError(
            f"{settings.output_dir} has no results of {named}, nor of anyone else, to write the "
            "methods text of: run without --boilerplate-only first."
        )


def _tell_scans(plan, scans, what):
    names = ", ".join(scan.key for scan in scans[:8]) + (", ..." if scans[8:] else "")
    print(f"{len(scans)} of {len(plan.scans)} scans {what}: {names}", file=sys.stderr)


def _tell_summary(plan, pages, standing):
    """One line per scan: its verdict, and where its report is."""
    from .reports.collect import verdict

    if not pages:
        return
    rows = [("SCAN", "VERDICT", "REPORT")]
    for scans, findings, page in pages:
        found = {scan.key: scan for scan in findings.scans}
        for scan in scans:
            word = "fail"
            if scan.key in standing:
                word = verdict(found.get(scan.key), plan.settings.anat_only)
            rows.append((scan.key, word, str(page)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip())
