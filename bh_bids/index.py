"""pybids' index of a dataset: made for what is asked for, or kept in a folder for many jobs."""

import os
import re
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

from .errors import InputError

_NOT_SCANS = ("code", "derivatives", "models", "sourcedata", "stimuli")
_NOT_ANAT = ("beh", "dwi", "eeg", "fmap", "func", "ieeg", "meg", "micr", "motion", "nirs", "perf",
             "pet")  # fmt: skip
_MEND = "remove it, or give another --bids-database-dir, to make it again"


def index_file(database_dir):
    """The file of an index that is kept.

    Parameters
    ----------
    database_dir : path-like

    Returns
    -------
    pathlib.Path
        Absolute.
    """
    return Path(database_dir).absolute() / "layout_index.sqlite"  # pybids' name


def open_layout(bids_dir, participants, database_dir, scan_name):
    """Index the dataset, of it only what is asked for: indexing all of a large one takes hours.

    Parameters
    ----------
    bids_dir : pathlib.Path
        Absolute.
    participants : sequence of str
        Labels without prefix; all if empty.
    database_dir : path-like or None
        Folder of an index of all participants, which is made if it does not exist.
    scan_name : re.Pattern
        Of the names of scans, relative to the dataset.

    Returns
    -------
    layout : bids.layout.BIDSLayout
    closed : list of str
        Folders, relative to the dataset, that cannot be looked into. Scans in them may be in the
        index.

    Raises
    ------
    InputError
        If the index cannot be made, or is of another dataset or of other scans of it.
    """
    ignored = [re.compile(rf"^/({'|'.join(_NOT_SCANS)})(/|$)"), re.compile(r"/\.")]
    ignored.append(re.compile(rf"/({'|'.join(_NOT_ANAT)})(/|$)"))
    if participants and database_dir is None:
        names = "|".join(re.escape(label) for label in participants)
        ignored.append(re.compile(rf"^/sub-(?!({names})(/|$))"))
    index = None if database_dir is None else index_file(database_dir)
    if index is not None and index.exists():
        closed = _check_index(index, bids_dir, participants, scan_name)
        return _layout(bids_dir, ignored, index.parent), closed
    closed = _closed_folders(bids_dir, ignored)
    ignored += [re.compile(rf"^/{re.escape(name)}(/|$)") for name in closed]
    if index is None:
        return _layout(bids_dir, ignored), closed
    _make_index(bids_dir, ignored, index)
    return _layout(bids_dir, ignored, index.parent), closed


def _make_index(bids_dir, ignored, index):
    """Make an index aside and move it into place: other jobs see none, or all of it."""
    from sqlalchemy.exc import DBAPIError

    try:
        index.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".bh-bids-", dir=index.parent) as aside:
            _layout(bids_dir, ignored, aside)
            os.replace(Path(aside, index.name), index)
    except (OSError, DBAPIError) as error:  # sqlite tells of a full disk
        reason = error.orig if isinstance(error, DBAPIError) else error.strerror or error
        raise InputError(
            f"The index {index} cannot be made ({reason}): give another --bids-database-dir, "
            "or mend its permissions."
        ) from None


def _layout(bids_dir, ignored, database_dir=None):
    from bids.layout import BIDSLayout, BIDSLayoutIndexer

    # Sidecars are not read by pybids: one that is damaged must not stop the other participants.
    indexer = BIDSLayoutIndexer(validate=False, ignore=ignored, index_metadata=False)
    try:
        return BIDSLayout(
            str(bids_dir),
            # check_dataset has looked at the description, unless it was told not to.
            validate=False,
            indexer=indexer,
            database_path=None if database_dir is None else str(database_dir),
        )
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{bids_dir} cannot be indexed: {error}.") from None


def _closed_folders(bids_dir, ignored):
    """Folders whose permissions forbid to list or to enter them; pybids would stop at them."""
    closed = []
    for folder, names, _ in os.walk(bids_dir):
        entered = []
        for name in sorted(names):
            relative = Path(folder, name).relative_to(bids_dir).as_posix()
            if any(pattern.search(f"/{relative}") for pattern in ignored):
                continue
            if _is_open(os.path.join(folder, name)):
                entered.append(name)
            else:
                closed.append(relative)
        names[:] = entered
    return closed


def _is_open(folder):
    return os.access(folder, os.R_OK | os.X_OK)


def _check_index(index, bids_dir, participants, scan_name):
    """Refuse an index of another folder, for it holds absolute paths, and one of other scans.

    Returns the folders of scans that cannot be looked into.
    """
    try:
        with closing(sqlite3.connect(f"{index.as_uri()}?mode=ro", uri=True)) as database:
            root = Path(database.execute("SELECT root FROM layout_info").fetchone()[0])
            rows = database.execute("SELECT path FROM files WHERE path LIKE '%T1w.nii%'")
            paths = [Path(path) for (path,) in rows]
    except (sqlite3.Error, TypeError) as error:
        raise InputError(f"The index {index} cannot be read: {_MEND} ({error}).") from None
    if root != bids_dir:
        raise InputError(
            f"The index {index} was made for the dataset at {root}, not at {bids_dir}: {_MEND}."
        )
    indexed = {path.relative_to(root).as_posix() for path in paths if root in path.parents}
    indexed = {name for name in indexed if scan_name.fullmatch(name)}
    if participants:
        folders = {f"sub-{label}" for label in participants}
        indexed = {name for name in indexed if name.split("/")[0] in folders}
    present = _scan_names(bids_dir, participants, scan_name)
    closed = _closed_among(bids_dir, participants, indexed | present)
    lacking, gone = (
        sorted(name for name in names if not lies_in(name, closed))
        for names in (present - indexed, indexed - present)
    )
    if lacking or gone:
        first, *others = lacking or gone
        more = f" and {len(others)} more" if others else ""
        what = f"it lacks {first}{more}" if lacking else f"{first}{more} of it is there no longer"
        raise InputError(f"The index {index} is older than the dataset ({what}): {_MEND}.")
    return closed


def _scan_names(bids_dir, participants, scan_name):
    """Names of the scans that are there, which are told much faster than all that pybids tells."""
    folders = _participant_folders(bids_dir, participants)
    found = (
        path
        for folder in folders
        for pattern in ("anat/sub-*_T1w.nii*", "ses-*/anat/sub-*_T1w.nii*")
        for path in folder.glob(pattern)
        if not os.path.isdir(path)
    )
    names = (path.relative_to(bids_dir).as_posix() for path in found)
    return {name for name in names if scan_name.fullmatch(name)}


def _participant_folders(bids_dir, participants):
    return [bids_dir / f"sub-{label}" for label in participants] or list(bids_dir.glob("sub-*"))


def _closed_among(bids_dir, participants, names):
    """Those folders of participants and of their scans that cannot be listed or entered."""
    folders = {parent.as_posix() for name in names for parent in Path(name).parents[:-1]}
    folders |= {folder.name for folder in _participant_folders(bids_dir, participants)}
    there = (folder for folder in sorted(folders) if os.path.isdir(bids_dir / folder))
    return [folder for folder in there if not _is_open(bids_dir / folder)]


def lies_in(name, folders):
    """Whether a file lies in one of some folders.

    Parameters
    ----------
    name : str
        Relative to the dataset, as the folders.
    folders : sequence of str

    Returns
    -------
    bool
    """
    return any(parent.as_posix() in folders for parent in Path(name).parents)
