"""What to read from a BIDS dataset: the T1w scans that were asked for, and their metadata."""

import glob
import re
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from .errors import InputError, unreadable
from .filters import has_entity, has_fields, query_values
from .index import lies_in, open_layout
from .jsonfiles import read_json

SCANNER_FIELDS = ("Manufacturer", "ManufacturersModelName", "MagneticFieldStrength")
# What a T1w contrast hangs on, beside the scanner.
SEQUENCE_FIELDS = ("RepetitionTime", "EchoTime", "InversionTime", "FlipAngle")
LABEL = "[0-9A-Za-z+]+"
# What BIDS allows, in its order: results are named after these entities, and after no others.
_NAME = re.compile(
    rf"sub-(?P<sub>{LABEL})(/ses-(?P<ses>{LABEL}))?/anat/sub-(?P=sub)(?(ses)_ses-(?P=ses))"
    rf"(_task-{LABEL})?(_acq-{LABEL})?(_ce-{LABEL})?(_rec-{LABEL})?(_run-[0-9]+)?"
    rf"(_echo-[0-9]+)?(_part-(?P<part>{LABEL}))?_T1w\.nii(\.gz)?"
)
# A magnitude is what has T1w contrast.
_NOT_MAGNITUDE = ("phase", "real", "imag")


@dataclass(frozen=True)
class Scan:
    """One T1w image of a dataset.

    Attributes
    ----------
    path : pathlib.Path
        Absolute.
    participant : str
        Without ``sub-``.
    session : str or None
        Without ``ses-``.
    uri : str
        BIDS URI relative to the raw dataset, ``bids:raw:sub-01/anat/sub-01_T1w.nii.gz``.
    metadata : dict
        From the sidecars, by the inheritance principle.
    problems : tuple of str
        Sentences on sidecars that cannot be read.
    """

    path: Path
    participant: str
    session: str | None
    uri: str
    metadata: dict = field(default_factory=dict, compare=False)
    problems: tuple = field(default=(), compare=False)

    @property
    def key(self):
        """The file name's entities, without suffix: ``sub-01_ses-A_run-2``."""
        return self.path.name.split(".")[0].removesuffix("_T1w")

    @property
    def folder(self):
        """Folder of the scan's derivatives, relative to the output folder."""
        session = f"/ses-{self.session}" if self.session else ""
        return f"sub-{self.participant}{session}/anat"

    @property
    def scanner(self):
        """Scanner fields that the sidecar gives."""
        return {name: self.metadata[name] for name in SCANNER_FIELDS if name in self.metadata}

    @property
    def acquisition(self):
        """Fields of scanner and sequence that the sidecar gives."""
        names = (*SCANNER_FIELDS, *SEQUENCE_FIELDS)
        return {name: self.metadata[name] for name in names if name in self.metadata}


def check_dataset(bids_dir):
    """Refuse a folder that is no BIDS dataset.

    Parameters
    ----------
    bids_dir : path-like

    Raises
    ------
    InputError
    """
    bids_dir = Path(bids_dir)
    if not bids_dir.is_dir():
        raise InputError(f"The BIDS dataset {bids_dir} does not exist or is no folder.")
    description = bids_dir / "dataset_description.json"
    if not description.is_file():
        raise InputError(
            f"{bids_dir} is not a BIDS dataset: it has no dataset_description.json. Give the "
            "dataset's root folder, or put the file there, with at least "
            '{"Name": "My study", "BIDSVersion": "1.9.0"}.'
        )
    try:
        content = read_json(description)
    except (OSError, ValueError) as error:
        raise InputError(f"{description} is not readable JSON: {error}.") from None
    missing = [name for name in ("Name", "BIDSVersion") if not _has(content, name)]
    if missing:
        raise InputError(f"{description} lacks {' and '.join(missing)}, which BIDS requires.")


def _has(content, name):
    return isinstance(content, dict) and isinstance(content.get(name), str)


def find_scans(bids_dir, participants=(), sessions=(), filters=None, database_dir=None):
    """T1w scans of a dataset, in the order of their names.

    Parameters
    ----------
    bids_dir : path-like
    participants, sessions : sequence of str
        Labels without prefix; all if empty.
    filters : dict, optional
        Further pybids entities and fields of its sidecars (these begin with a capital letter) that
        a scan must have, ``{"t1w": {"acquisition": "mprage", "MagneticFieldStrength": 3}}``.
    database_dir : path-like, optional
        Folder of a pybids index, which is made if it does not exist.

    Returns
    -------
    list of Scan

    Raises
    ------
    InputError
        If a participant is unknown, nothing is left, two scans have one name, the index is not of
        the dataset as it is, or, without a filter, a participant or session that was asked for has
        no scan.
    """
    bids_dir = Path(bids_dir).absolute()
    present = sorted(p.name[4:] for p in bids_dir.glob("sub-*") if p.is_dir())
    unknown = sorted(set(participants) - set(present))
    if unknown:
        some = ", ".join(present[:8]) + (", ..." if len(present) > 8 else "")
        raise InputError(
            f"{bids_dir} has no participant {', '.join(unknown)}: it has "
            f"{some or 'no participants at all'}."
        )
    layout, closed = open_layout(bids_dir, participants, database_dir, _NAME)
    wanted = (filters or {}).get("t1w", {})
    fields = {name: value for name, value in wanted.items() if name[:1].isupper()}
    entities = {name: value for name, value in wanted.items() if name not in fields}
    labels = {"subject": list(participants), "session": list(sessions)}
    labels = {name: given for name, given in labels.items() if given}
    try:
        names = _query(layout, bids_dir, entities, labels)
    except Exception as error:  # whatever the filter makes of a query, and a database of that
        raise InputError(f"The BIDS filter cannot be used: {error}") from None
    names = [name for name in names if not lies_in(name, closed)]
    _tell_closed(closed, bids_dir, participants, names)
    names = _well_named(names)
    if "part" not in wanted:
        names = _magnitudes(names)
    sidecars = cache(_sidecars_of)
    scans = [_scan(name, bids_dir, sidecars) for name in names]
    scans = [scan for scan in scans if has_fields(scan.metadata, fields)]
    if not scans:
        what = ", ".join(f"sub-{label}" for label in participants) or "any participant"
        raise InputError(
            f"{bids_dir} has no T1w scan of {what}"
            + (f" in session {', '.join(sessions)}" if sessions else "")
            + ": files must be named sub-<label>[/ses-<label>]/anat/..._T1w.nii[.gz]"
            + (" and pass the BIDS filter." if filters else ".")
        )
    _require_all(scans, participants, sessions, bids_dir, wanted)
    scans.sort(key=lambda scan: str(scan.path))
    for first, second in zip(scans, scans[1:], strict=False):
        if first.key == second.key:
            raise InputError(
                f"{first.path} and {second.path.name} are two images of one name, whose results "
                "would overwrite each other: keep one of them."
            )
    return scans


def _query(layout, bids_dir, entities, labels):
    """Names of T1w files, relative to the dataset, that have a filter's entities and the labels.

    pybids looks for entities in the whole path. Those that a folder can have are looked for here,
    below the dataset: a folder above it, ``/scratch/ses-9``, says nothing on its scans.
    """
    known = {name: e for name, e in layout.get_entities().items() if e.regex is not None}
    own = {"datatype": "anat"} | entities | labels
    own = {name: own[name] for name in own.keys() & known.keys() - {"suffix", "extension"}}
    query = dict(suffix="T1w", extension=[".nii", ".nii.gz"], scope="raw")
    query |= query_values({name: entities[name] for name in entities.keys() - own.keys()})
    # Labels are whole ones, whatever a filter says of its own values.
    regex = entities.keys() - labels.keys() if query.get("regex_search") else ()
    files = layout.get(**query)
    names = [Path(item.path).relative_to(bids_dir).as_posix() for item in files]
    return [
        name
        for name in names
        if all(has_entity(name, known[key], value, key in regex) for key, value in own.items())
    ]


def _tell_closed(folders, bids_dir, participants, names):
    """One line on participants' folders that cannot be looked into.

    One that was asked for by name, and has no other scans, is refused.
    """
    owners = {name: name.split("/")[0].removeprefix("sub-") for name in folders}
    folders = [name for name in folders if name.startswith("sub-")]
    if participants:
        folders = [name for name in folders if owners[name] in participants]
    found = {name.split("/")[0].removeprefix("sub-") for name in names}
    for folder in folders:
        if participants and owners[folder] not in found:
            raise unreadable(bids_dir / folder)
    if folders:
        some = ", ".join(folders[:8]) + (", ..." if folders[8:] else "")
        print(
            f"bh-bids: left out: {some} in {bids_dir} cannot be read: its permissions forbid it.",
            file=sys.stderr,
        )


def _well_named(names):
    """Those names that results can be named after; the others are told."""
    wrong = [name for name in names if not _NAME.fullmatch(name)]
    if wrong:
        _tell_left_out(
            wrong,
            "BIDS names T1w scans "
            "sub-<label>[/ses-<label>]/anat/sub-<label>[_ses-<label>][_acq-<label>][_ce-<label>]"
            "[_rec-<label>][_run-<index>]_T1w.nii[.gz], with letters and digits in the labels.",
        )
    return [name for name in names if _NAME.fullmatch(name)]


def _magnitudes(names):
    """Names of magnitude images; those of other parts of complex images are told."""
    others = {name for name in names if _NAME.fullmatch(name)["part"] in _NOT_MAGNITUDE}
    if others:
        _tell_left_out(
            others,
            "Only magnitude images are harmonized, not phase, real or imaginary parts: to take "
            "them anyway, name part in a BIDS filter.",
        )
    return [name for name in names if name not in others]


def _tell_left_out(names, why):
    """One line on files that are no scans, with the shortest name as an example."""
    first = min(names, key=lambda name: (len(name), name))
    others = f" and {len(names) - 1} more" if len(names) > 1 else ""
    print(f"bh-bids: left out: {first!r}{others}. {why}", file=sys.stderr)


def _require_all(scans, participants, sessions, bids_dir, wanted):
    """Refuse participants and sessions that have no scan at all; tell those that lack some.

    A participant may lack one of the sessions that are asked for, and a filter may be why.
    """
    found = {scan.participant for scan in scans}
    missing = [f"sub-{label}" for label in participants if label not in found]
    found = {scan.session for scan in scans}
    lost = [f"ses-{label}" for label in sessions if label not in found]
    unknown = [name for name in lost if not any(bids_dir.glob(f"sub-*/{glob.escape(name)}"))]
    within = f" in session {', '.join(sessions)}" if sessions and missing else ""
    what = " or ".join(filter(None, (", ".join(missing) + within, ", ".join(lost))))
    if not what:
        return
    if unknown or (missing and not sessions and not wanted):
        options = ["--participant-label"] * bool(missing) + ["--session-label"] * bool(lost)
        raise InputError(
            f"{bids_dir} has no T1w scan of {what}: correct {' and '.join(options)}, or leave out "
            "there what has none."
        )
    passing = " that passes the BIDS filter" if wanted else ""
    print(f"bh-bids: {bids_dir} has no T1w scan of {what}{passing}.", file=sys.stderr)


def _sidecars_of(folder):
    """T1w sidecars of a folder, those with fewest entities first."""
    return sorted(folder.glob("*T1w.json"), key=lambda path: (path.name.count("_"), path.name))


def _metadata(path, bids_dir, sidecars):
    """Fields of a scan's sidecars, the nearest winning, and sentences on those unreadable."""
    entities = set(path.name.split(".")[0].split("_"))
    found, problems = {}, []
    folders = [bids_dir, *reversed(path.relative_to(bids_dir).parents[:-1])]
    for folder in folders:
        for sidecar in sidecars(bids_dir / folder):
            if not set(sidecar.name.removesuffix(".json").split("_")) <= entities:
                continue
            try:
                content = read_json(sidecar)
                if not isinstance(content, dict):
                    raise ValueError("it is no object")
                found |= content
            except (OSError, ValueError) as error:
                problems.append(f"{sidecar.name} is not readable JSON and was left out: {error}.")
    return found, tuple(problems)


def _scan(name, bids_dir, sidecars):
    path, labels = bids_dir / name, _NAME.fullmatch(name)
    metadata, problems = _metadata(path, bids_dir, sidecars)
    return Scan(
        path=path,
        participant=labels["sub"],
        session=labels["ses"],
        uri=f"bids:raw:{name}",
        metadata=metadata,
        problems=problems,
    )
