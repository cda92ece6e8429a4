"""What to read from a BIDS dataset: the T1w scans that were asked for, and their metadata."""

import json
import re
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from .errors import InputError

SCANNER_FIELDS = ("Manufacturer", "ManufacturersModelName", "MagneticFieldStrength")
_NOT_SCANS = ("code", "derivatives", "models", "sourcedata", "stimuli")
_NOT_ANAT = ("beh", "dwi", "eeg", "fmap", "func", "ieeg", "meg", "micr", "motion", "nirs", "perf",
             "pet")  # fmt: skip
_LABEL = "[0-9A-Za-z+]+"
# What BIDS allows, in its order: results are named after these entities, and after no others.
_NAME = re.compile(
    rf"sub-(?P<sub>{_LABEL})(/ses-(?P<ses>{_LABEL}))?/anat/sub-(?P=sub)(?(ses)_ses-(?P=ses))"
    rf"(_task-{_LABEL})?(_acq-{_LABEL})?(_ce-{_LABEL})?(_rec-{_LABEL})?(_run-[0-9]+)?"
    rf"(_echo-[0-9]+)?(_part-{_LABEL})?_T1w\.nii(\.gz)?"
)


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


def read_json(path):
    """Content of a JSON file, with or without a byte order mark.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    object

    Raises
    ------
    OSError, ValueError
        If it cannot be read, or is no JSON that one can hold in memory.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


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
        pybids database, made if it does not exist.

    Returns
    -------
    list of Scan

    Raises
    ------
    InputError
        If a participant is unknown, nothing is left, or two scans have one name.
    """
    bids_dir = Path(bids_dir)
    present = sorted(p.name[4:] for p in bids_dir.glob("sub-*") if p.is_dir())
    unknown = sorted(set(participants) - set(present))
    if unknown:
        some = ", ".join(present[:8]) + (", ..." if len(present) > 8 else "")
        raise InputError(
            f"{bids_dir} has no participant {', '.join(unknown)}: it has "
            f"{some or 'no participants at all'}."
        )
    layout = _layout(bids_dir, participants, database_dir)
    query = dict(suffix="T1w", extension=[".nii", ".nii.gz"], datatype="anat", scope="raw")
    wanted = (filters or {}).get("t1w", {})
    fields = {name: value for name, value in wanted.items() if name[:1].isupper()}
    query.update(_query_values({name: wanted[name] for name in wanted.keys() - fields.keys()}))
    if participants:
        query["subject"] = list(participants)
    if sessions:
        query["session"] = list(sessions)
    try:
        files = layout.get(**query)
    except Exception as error:  # whatever the filter makes of a query, and a database of that
        raise InputError(f"The BIDS filter cannot be used: {error}") from None
    sidecars = cache(_sidecars_of)
    scans = [_scan(item, bids_dir, sidecars) for item in _well_named(files, bids_dir)]
    scans = [scan for scan in scans if _has_fields(scan.metadata, fields)]
    if not scans:
        what = ", ".join(f"sub-{label}" for label in participants) or "any participant"
        raise InputError(
            f"{bids_dir} has no T1w scan of {what}"
            + (f" in session {', '.join(sessions)}" if sessions else "")
            + ": files must be named sub-<label>[/ses-<label>]/anat/..._T1w.nii[.gz]"
            + (" and pass the BIDS filter." if filters else ".")
        )
    scans.sort(key=lambda scan: str(scan.path))
    for first, second in zip(scans, scans[1:], strict=False):
        if first.key == second.key:
            raise InputError(
                f"{first.path} and {second.path.name} are two images of one name, whose results "
                "would overwrite each other: keep one of them."
            )
    return scans


def _well_named(files, bids_dir):
    """Those files whose names are ones that results can be named after; the others are told."""
    names = {item: Path(item.path).relative_to(bids_dir).as_posix() for item in files}
    wrong = sorted((name for name in names.values() if not _NAME.fullmatch(name)), key=len)
    if wrong:
        others = f" and {len(wrong) - 1} more" if wrong[1:] else ""
        print(
            f"bh-bids: left out: {wrong[0]!r}{others}. BIDS names T1w scans "
            "sub-<label>[/ses-<label>]/anat/sub-<label>[_ses-<label>][_acq-<label>][_ce-<label>]"
            "[_rec-<label>][_run-<index>]_T1w.nii[.gz], with letters and digits in the labels.",
            file=sys.stderr,
        )
    return [item for item in files if _NAME.fullmatch(names[item])]


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


def _scan(item, bids_dir, sidecars):
    relative = Path(item.path).relative_to(bids_dir)
    metadata, problems = _metadata(Path(item.path), bids_dir, sidecars)
    return Scan(
        path=Path(item.path),
        participant=item.entities["subject"],
        session=item.entities.get("session"),
        uri=f"bids:raw:{relative.as_posix()}",
        metadata=metadata,
        problems=problems,
    )


def _layout(bids_dir, participants, database_dir):
    """Index the dataset, of it only what is asked for: indexing all of a large one takes hours."""
    from bids.layout import BIDSLayout, BIDSLayoutIndexer

    names = "|".join(re.escape(label) for label in participants)
    ignore = [re.compile(rf"^/({'|'.join(_NOT_SCANS)})(/|$)"), re.compile(r"/\.")]
    ignore.append(re.compile(rf"/({'|'.join(_NOT_ANAT)})/"))
    if names and database_dir is None:
        ignore.append(re.compile(rf"^/sub-(?!({names})(/|$))"))
    # Sidecars are read here: one that is damaged must not stop the other participants.
    indexer = BIDSLayoutIndexer(validate=False, ignore=ignore, index_metadata=False)
    reset = database_dir is not None and not (Path(database_dir) / "layout_index.sqlite").exists()
    try:
        return BIDSLayout(
            str(bids_dir),
            # check_dataset has looked at the description, unless it was told not to.
            validate=False,
            indexer=indexer,
            database_path=None if database_dir is None else str(database_dir),
            reset_database=reset,
        )
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{bids_dir} cannot be indexed: {error}.") from None


def read_filter_file(path):
    """Read a BIDS filter file.

    Parameters
    ----------
    path : path-like
        JSON such as ``{"t1w": {"acquisition": "mprage", "session": null}}``; ``null`` selects
        files without the entity, ``"*"`` any value.

    Returns
    -------
    dict

    Raises
    ------
    InputError
    """
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"The BIDS filter file {path} is not readable JSON: {reason}.") from None
    if not isinstance(content, dict) or not isinstance(content.get("t1w"), dict):
        raise InputError(
            f'The BIDS filter file {path} must look like {{"t1w": {{"acquisition": "mprage"}}}}.'
        )
    return {"t1w": {k: "Query.NONE" if v is None else v for k, v in content["t1w"].items()}}


def _has_fields(metadata, fields):
    """Whether fields of sidecars have a value that is wanted: one, one of several, none, any."""

    def has(name, wanted):
        found = metadata.get(name)
        if wanted in (None, "Query.NONE"):
            return found is None
        if wanted in ("*", "Query.ANY"):
            return found is not None
        return found == wanted or (isinstance(wanted, list) and found in wanted)

    return all(has(name, wanted) for name, wanted in fields.items())


def _query_values(entities):
    """pybids' own values for "absent" and "any", which neither JSON nor TOML can hold."""
    from bids.layout import Query

    special = {"Query.NONE": Query.NONE, "Query.ANY": Query.ANY, "*": Query.ANY}
    return {
        name: special.get(value, value) if isinstance(value, str) else value
        for name, value in entities.items()
    }
