"""What a participant's derivatives folder holds that a report shows; nothing else is read."""

import csv
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from .viewer import read_bundle

#: Figures in the order in which one judges a scan.
FIGURES = ("flicker", "difference", "ncc", "histogram", "trace", "registration", "brain")

_ENTITY = re.compile(r"([a-zA-Z]+)-([a-zA-Z0-9+]+)")
_DERIVED = {"space", "res", "den", "desc", "from", "to", "mode", "label", "cohort"}
_EXCEPTION = re.compile(
    r"^\s*((?:[A-Za-z_]\w*\.)*_?[A-Z]\w*(?:Error|Exception|Pool|Interrupt|Exit))(?::\s*(.*))?$"
)
_CRASH_BYTES = 200_000
_JOB_ENDED = "finished or terminated, but results file does not exist"
"""What nipype says of a job that its scheduler has ended."""


@dataclass
class Scan:
    """One T1w scan and what was found of it."""

    key: str
    sidecar: dict = field(default_factory=dict)
    metrics: dict = field(default_factory=dict)
    trace: list = field(default_factory=list)
    figures: dict = field(default_factory=dict)  # name -> path
    viewer: dict | None = None  # volumes of the slice viewer
    checks: dict = field(default_factory=dict)  # of the anatomy: name -> State, Value, Sentence

    @property
    def label(self):
        """*Session X, run 1*; the participant's only scan is just *T1w*."""
        names = {"ses": "Session", "run": "run", "acq": "acquisition", "rec": "reconstruction"}
        parts = [
            f"{names.get(entity, entity)} {value}"
            for entity, value in entities(self.key)
            if entity != "sub"
        ]
        text = ", ".join(parts) or "T1w scan"
        return text[0].upper() + text[1:]

    @property
    def harmonization(self):
        """The sidecar's Harmonization block, empty if there is none."""
        block = self.sidecar.get("Harmonization")
        return block if isinstance(block, dict) else {}


@dataclass
class Crash:
    """One crash file of the run."""

    path: Path
    node: str
    sentence: str
    advice: str
    text: str


@dataclass
class Findings:
    """All that was found of one participant."""

    participant: str
    scans: list
    crashes: list
    problems: list  # sentences about files that could not be read
    run_uuid: str | None


def guards_of(scan):
    """Sentences on what is doubtful about a scan's result.

    Parameters
    ----------
    scan : Scan

    Returns
    -------
    list of str
    """
    guards = scan.harmonization.get("Guards")
    if isinstance(guards, list):
        return [str(g) for g in guards]
    if not scan.metrics:
        return [str(c["Sentence"]) for c in scan.checks.values() if c["State"] != "pass"]
    text = guards or scan.metrics.get("guards") or ""
    return [part.strip() for part in str(text).split("|") if part.strip()]


def verdict(scan, anat_only=False):
    """A scan's verdict in one word.

    Parameters
    ----------
    scan : Scan or None
    anat_only : bool
        Whether no harmonized image was asked for.

    Returns
    -------
    {"pass", "warn", "fail"}
        ``fail``: there is no result, or a check of the anatomy failed where none was asked for;
        ``warn``: there are cautions.
    """
    if scan is None or not (scan.sidecar or scan.metrics):
        states = {check["State"] for check in scan.checks.values()} if scan else set()
        found = next((state for state in ("fail", "warn") if state in states), "pass")
        return found if anat_only else "fail"
    return "warn" if guards_of(scan) else "pass"


def entities(name):
    """BIDS entities of a file name, in order, as pairs."""
    return _ENTITY.findall(name)


def scan_key(path):
    """The entities that name the scan itself, without those of derivatives.

    Examples
    --------
    >>> scan_key("anat/sub-01_ses-A_space-MNI152NLin2009aSym_res-1_desc-harmonized_T1w.json")
    'sub-01_ses-A'
    """
    stem = Path(path).name.split(".")[0]
    kept = [f"{e}-{v}" for e, v in entities(stem) if e not in _DERIVED]
    return "_".join(kept)


def natural(text):
    """Sort key that puts run-2 before run-10.

    Examples
    --------
    >>> sorted(["run-10", "run-2"], key=natural)
    ['run-2', 'run-10']
    """
    return [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", str(text))]


def collect(output_dir, participant, *, run_uuid=None, scans=()):
    """Look for a participant's figures, sidecars, tables and crash files.

    Parameters
    ----------
    output_dir : pathlib.Path
        The derivatives' root.
    participant : str
        Without ``sub-``.
    run_uuid : str, optional
        The run whose crash files count; the latest run's without.
    scans : sequence of str
        Names of the scans that were asked for (``sub-01_ses-A_T1w.nii.gz`` or a path), so that
        one that left nothing behind is listed too.

    Returns
    -------
    Findings
    """
    folder = output_dir / f"sub-{participant}"
    found, problems = {}, []
    for name in scans:
        _scan(found, name)
    for path in sorted(folder.glob(f"figures/sub-{participant}[_.]*.svg"), key=natural):
        figure = dict(entities(path.stem)).get("desc")
        if figure in FIGURES:
            _scan(found, path).figures[figure] = path
    for path in sorted(folder.glob(f"figures/sub-{participant}_*desc-viewer_T1w.json")):
        _scan(found, path).viewer = _read(path, read_bundle, problems)
    # Native-grid sidecars first: the model space's, read later, win.
    sidecars = sorted(folder.rglob("*_desc-harmonized_T1w.json"), key=lambda p: "_space-" in p.name)
    for path in sidecars:
        content = _read(path, json.loads, problems)
        if isinstance(content, dict):
            _scan(found, path).sidecar = content
    for path in sorted(folder.rglob("*_desc-preproc_T1w.json")):
        content = _read(path, json.loads, problems)
        if isinstance(content, dict):
            _scan(found, path).checks = _checks(content.get("AnatomicalChecks"))
    for path in sorted(folder.rglob("*_desc-harmonization_metrics.tsv")):
        rows = _read(path, _table, problems)
        if rows:
            _scan(found, path).metrics = rows[0]
    for scan in found.values():
        if not scan.metrics:  # written last: what stands is of a run that did not come to its end
            scan.sidecar = {}
    for path in sorted(folder.rglob("*_desc-trace_metrics.tsv")):
        _scan(found, path).trace = _read(path, _table, problems) or []
    run = _run_folder(folder / "log", run_uuid)
    crashes = [_crash(p) for p in sorted(run.glob("crash*")) if p.is_file()] if run else []
    ordered = sorted(found.values(), key=lambda scan: natural(scan.key))
    uuid = run_uuid or (run.name if run else None)
    return Findings(participant, ordered, crashes, problems, uuid)


def study_sidecars(output_dir):
    """Sidecars of the harmonized scans of all participants, whatever run made them.

    Parameters
    ----------
    output_dir : pathlib.Path
        The derivatives' root.

    Returns
    -------
    list of dict
        One a scan; what cannot be read is left out.
    """
    found = {}
    for place in ("sub-*/anat", "sub-*/ses-*/anat"):
        for path in sorted(output_dir.glob(f"{place}/*_desc-harmonized_T1w.json")):
            key = scan_key(path)
            content = _read(path, json.loads, [])
            ended = path.with_name(f"{key}_desc-harmonization_metrics.tsv").is_file()
            if ended and isinstance(content, dict):
                found[key] = content
    return [found[key] for key in sorted(found)]


def _scan(found, path):
    key = scan_key(path)
    return found.setdefault(key, Scan(key))


def _checks(block):
    """Checks of a sidecar that are whole."""
    items = block.items() if isinstance(block, dict) else ()
    return {
        name: check
        for name, check in items
        if isinstance(check, dict) and {"State", "Value", "Sentence"} <= check.keys()
    }


def _read(path, parse, problems):
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, csv.Error) as error:
        problems.append(f"{path.name} could not be read: {error}")
        return None


def _table(text):
    """Rows of a BIDS table; ``n/a`` becomes None."""
    rows = csv.DictReader(text.splitlines(), delimiter="\t")
    return [
        {k: (None if v in ("n/a", "", None) else v) for k, v in row.items() if k is not None}
        for row in rows
    ]


def _run_folder(logs, run_uuid):
    if run_uuid is not None:
        matches = sorted(logs.glob(f"*{run_uuid}"))
        return matches[-1] if matches else None
    runs = [p for p in logs.glob("*") if p.is_dir()]
    return max(runs, key=lambda p: (p.stat().st_mtime, p.name), default=None)


def _crash(path):
    if path.name.endswith((".pklz", ".pkl")):
        return Crash(path, "", "A step failed.", "Look at the crash file with nipypecli.", "")
    text = path.read_bytes()[-_CRASH_BYTES:].decode("utf-8", "replace")
    node = re.search(r"^Node: (.+)$", text, re.M)
    name, sentence = _last_exception(text)
    return Crash(path, node.group(1).strip() if node else "", sentence, _advice(name, text), text)


def _last_exception(text):
    """Name and message of the exception that ended a traceback; our own sentences come first."""
    matches = [m for m in map(_EXCEPTION.match, text.splitlines()) if m]
    ours = [m for m in matches if m.group(1).startswith("bh_bids.")]
    for match in reversed(ours or matches):
        if not match.group(1).endswith("NodeExecutionError"):
            name = match.group(1).rsplit(".", 1)[-1]
            message = (match.group(2) or "").strip()
            return name, message if ours and message else f"{name}: {message}".rstrip(": ")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "", lines[-1] if lines else "The crash file is empty."


def _advice(name, text):
    if name in ("InputError", "ModelError", "DeviceError"):
        return ""  # these sentences already say what to do
    # numpy's own is called _ArrayMemoryError.
    no_memory = name.endswith(("MemoryError", "StepKilledError"))
    if no_memory or "out of memory" in text.lower():
        return (
            "If the computer ran out of memory: run again with --low-mem or a smaller --nprocs, "
            "give --mem-gb somewhat below what there is, or give the job more memory."
        )
    if _JOB_ENDED in text:
        return (
            "The scheduler ended the step's job: look at its accounting, and give more memory or "
            "time in the plugin file if it ran out of either."
        )
    if name in ("KeyboardInterrupt", "SystemExit"):
        return "The run was stopped. Run the same command again: finished steps are kept."
    if "No space left" in text:
        return "The disk is full. Free space in the work or the output folder and run again."
    return (
        "This looks like a defect of the program. Run again with -vv; if it stays, report it and "
        "attach the crash file."
    )
