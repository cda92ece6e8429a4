"""What the derivatives folder holds of a study: scans, their metrics, and who has none."""

import csv
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import InputError
from ..jsonfiles import read_json
from ..reports.collect import entities, natural, scan_key

DEFAULT_SPACE = "MNI152NLin2009aSym"
TABLE = "_desc-harmonization_metrics.tsv"
_PREPROC = "_desc-preproc_T1w.nii.gz"


@dataclass(frozen=True)
class Record:
    """One scan's derivatives.

    Attributes
    ----------
    key : str
        The scan's own entities, ``sub-01_ses-A``.
    participant, session : str
        Labels without prefix; the session's is "" where there is none.
    preproc, mask, harmonized : pathlib.Path or None
        Images in the model's space; None where missing.
    metrics : dict
        The participant level's row; None for ``n/a``.
    sidecar : dict
        Of the harmonized image, else of the preprocessed one.
    metadata : dict
        What the raw data's sidecars say, where they are there, else the sidecar.
    """

    key: str
    participant: str
    session: str = ""
    preproc: Path | None = None
    mask: Path | None = None
    harmonized: Path | None = None
    metrics: dict = field(default_factory=dict, compare=False)
    sidecar: dict = field(default_factory=dict, compare=False)
    metadata: dict = field(default_factory=dict, compare=False)

    @property
    def folder(self):
        """Folder of the scan's derivatives, relative to a derivatives folder."""
        session = f"/ses-{self.session}" if self.session else ""
        return f"sub-{self.participant}{session}/anat"

    @property
    def entities(self):
        """The scan's entities as a dictionary."""
        return dict(entities(self.key))

    @property
    def harmonization(self):
        """The sidecar's account of the harmonization, empty if there is none."""
        block = self.sidecar.get("Harmonization")
        return block if isinstance(block, dict) else {}


@dataclass(frozen=True)
class Study:
    """A study's scans.

    Attributes
    ----------
    output_dir : pathlib.Path
    records : list of Record
        In natural order.
    participants : dict of str to dict
        Rows of participants.tsv by label; empty where there is none.
    missing : dict of str to str
        Participants without results, with the reason as far as it is known.
    problems : list of str
        Sentences on files that could not be read.
    """

    output_dir: Path
    records: list
    participants: dict
    missing: dict
    problems: list


def read_study(output_dir, bids_dir, space, participants=(), sessions=()):
    """Look through a derivatives folder; no image is read.

    Parameters
    ----------
    output_dir : pathlib.Path
    bids_dir : pathlib.Path
        The raw dataset, for participants.tsv and sidecars; need not be there.
    space : str
        The model's.
    participants, sessions : sequence of str
        Labels to keep; all if empty.

    Returns
    -------
    Study

    Raises
    ------
    InputError
        If there are no results at all or none of what was asked for, or a participant or session is
        unknown.
    """
    output_dir, bids_dir = Path(output_dir), Path(bids_dir)
    problems, records, missing = [], [], {}
    table = read_participants(bids_dir, problems)
    folders = sorted((p for p in output_dir.glob("sub-*") if p.is_dir()), key=natural)
    present = {folder.name.removeprefix("sub-") for folder in folders}
    wanted = _labels(bids_dir, "sub-*") | set(table)
    if present:
        known = _labels(output_dir, "sub-*/ses-*") if sessions else set()
        _refuse_unknown(output_dir, "participant", set(participants) - wanted - present, present)
        _refuse_unknown(output_dir, "session", set(sessions) - known, known)
    for folder in folders:
        label = folder.name.removeprefix("sub-")
        if participants and label not in participants:
            continue
        own = _records(folder, bids_dir, space, problems)
        found = [r for r in own if not sessions or r.session in sessions]
        if own and not found:  # has results of other sessions than those asked for
            continue
        records += found
        if not any(r.metrics for r in found) and not (found and sessions):
            missing[label] = _reason(output_dir, label, found)
    if not records:
        who = ", ".join(f"sub-{label}" for label in participants) or "any participant"
        within = f" in session {', '.join(sessions)}" if sessions else ""
        raise InputError(
            f"{output_dir} holds no results of {who}{within}: run the participant level first."
        )
    for label in sorted(wanted - present, key=natural):
        if not participants or label in participants:
            missing[label] = "The participant level was not run."
    return Study(output_dir, records, table, missing, problems)


def _labels(folder, pattern):
    """Labels of participants' or sessions' folders."""
    return {path.name.partition("-")[2] for path in folder.glob(pattern) if path.is_dir()}


def _refuse_unknown(output_dir, what, unknown, present):
    """Refuse labels that were asked for and are not there, and name those that are."""
    if unknown:
        named = sorted(present, key=natural)
        some = ", ".join(named[:8]) + (", ..." if named[8:] else "")
        raise InputError(
            f"{output_dir} has no {what} {', '.join(sorted(unknown))}: it has "
            f"{some or f'no {what}s at all'}."
        )


def _records(folder, bids_dir, space, problems):
    """One participant's scans, from their tables and preprocessed images."""
    found = {}
    ending = f"_space-{space}_res-1{_PREPROC}"
    for path in sorted(folder.glob(f"**/anat/*{TABLE}")):
        rows = read_table(path, problems)
        if rows:
            found.setdefault(scan_key(path), {})["metrics"] = rows[0]
    for path in sorted(folder.glob(f"**/anat/*{ending}")):
        mask = path.with_name(path.name.replace("preproc_T1w", "brain_mask"))
        entry = found.setdefault(scan_key(path), {})
        if not mask.is_file():
            problems.append(f"{path.name} has no brain mask beside it, and is left out.")
            continue
        harmonized = path.with_name(path.name.replace("desc-preproc", "desc-harmonized"))
        entry.update(preproc=path, mask=mask)
        if harmonized.is_file() and "metrics" in entry:
            entry["harmonized"] = harmonized
        described = path if "harmonized" not in entry else harmonized
        entry["sidecar"] = _sidecar(described, problems)
    records = []
    for key in sorted(found, key=natural):
        entry = found[key]
        names = dict(entities(key))
        session = names.get("ses", "")
        raw = bids_dir / folder.name / (f"ses-{session}" if session else "") / "anat"
        metadata = {**entry.get("sidecar", {}), **raw_metadata(bids_dir, raw, names)}
        metadata.pop("Harmonization", None)
        records.append(Record(key, names["sub"], session, metadata=metadata, **entry))
    return records


def _sidecar(image, problems):
    path = image.with_name(image.name.replace(".nii.gz", ".json"))
    if not path.is_file():
        return {}
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        problems.append(f"{path.name} could not be read: {error}")
        return {}
    return content if isinstance(content, dict) else {}


def raw_metadata(bids_dir, folder, names):
    """A T1w scan's metadata by BIDS' inheritance principle.

    Parameters
    ----------
    bids_dir : pathlib.Path
    folder : pathlib.Path
        Of the scan.
    names : dict
        The scan's entities.

    Returns
    -------
    dict
        Nearer sidecars win; empty where there are none or they cannot be read.
    """
    levels = [p for p in (folder, *folder.parents) if p == bids_dir or bids_dir in p.parents]
    found = {}
    for level in reversed(levels):
        fitting = [p for p in level.glob("*T1w.json") if _applies(p, names)]
        for path in sorted(fitting, key=lambda p: (len(entities(p.name)), p.name)):
            try:
                content = read_json(path)
            except (OSError, ValueError):
                continue
            found.update(content if isinstance(content, dict) else {})
    return found


def _applies(path, names):
    return all(names.get(entity) == label for entity, label in entities(path.stem))


def read_table(path, problems):
    """Rows of a BIDS table; ``n/a`` becomes None, and a sentence says what cannot be read.

    Parameters
    ----------
    path : pathlib.Path
    problems : list of str
        Added to.

    Returns
    -------
    list of dict
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.DictReader(stream, delimiter="\t"))
    except (OSError, ValueError, csv.Error) as error:
        problems.append(f"{path.name} could not be read: {error}")
        return []
    return [
        {k: None if v in ("n/a", "", None) else v for k, v in row.items() if k is not None}
        for row in rows
    ]


def read_participants(bids_dir, problems):
    """Rows of participants.tsv by label, without ``sub-``.

    Parameters
    ----------
    bids_dir : pathlib.Path
    problems : list of str
        Added to.

    Returns
    -------
    dict of str to dict
    """
    path = Path(bids_dir) / "participants.tsv"
    if not path.is_file():
        return {}
    rows = read_table(path, problems)
    return {
        str(row["participant_id"]).removeprefix("sub-"): row
        for row in rows
        if row.get("participant_id")
    }


def _reason(output_dir, label, records):
    """Why a participant has no metrics, from the last run's crash files."""
    from ..reports.collect import collect

    crashes = collect(output_dir, label).crashes
    if crashes:
        return " ".join(dict.fromkeys(crash.sentence for crash in crashes[:3]))
    if any(record.preproc for record in records):
        return "Preprocessed only, not harmonized."
    return "No results; the last run did not finish."
