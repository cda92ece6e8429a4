"""Folders of a run: none may mix input and output, and all must be writable."""

import errno
import os
import shutil
import tempfile
import time

from .errors import InputError

ASIDE = ".bh-bids-"
"""How the folders begin in which files are written aside."""
_DAY = 24 * 3600


def check_folders(settings):
    """Refuse folders that would mix input and output.

    Parameters
    ----------
    settings : bh_bids.settings.Settings

    Raises
    ------
    InputError
    """
    for name, folder in (
        ("output", settings.output_dir),
        ("work", settings.work_dir),
        ("index", settings.bids_database_dir),
    ):
        if folder is not None:
            refuse_inside(settings, name, folder)
    raw = settings.bids_dir.resolve()
    root = settings.output_dir.resolve()
    if settings.output_layout == "bids" and raw in root.parents:
        raise InputError(
            f"The output folder {settings.output_dir} lies in the dataset {settings.bids_dir}: "
            "give --output-layout bids a folder outside it, for it becomes a dataset of its own."
        )
    if settings.output_layout == "bids" and root in raw.parents:
        # A dataset's own sources are kept there, by BIDS' rules.
        if root / "sourcedata" not in raw.parents:
            raise InputError(
                f"The dataset {settings.bids_dir} lies in the output folder {settings.output_dir}: "
                "give --output-layout bids a folder that does not hold the dataset."
            )


def refuse_inside(settings, name, folder):
    """Refuse a folder in the dataset, but for its derivatives'.

    Parameters
    ----------
    settings : bh_bids.settings.Settings
    name : str
        What the folder is for.
    folder : pathlib.Path

    Raises
    ------
    InputError
    """
    raw, inside = settings.bids_dir.resolve(), folder.resolve()
    derivatives = raw / "derivatives"
    if inside == raw or (raw in inside.parents and derivatives not in inside.parents):
        raise InputError(
            f"The {name} folder {folder} lies in the dataset {settings.bids_dir}: give a "
            f"folder outside it or under {settings.bids_dir}/derivatives/."
        )


def check_writable(folder):
    """Refuse a folder that cannot be made or written to, without making it.

    Parameters
    ----------
    folder : pathlib.Path

    Raises
    ------
    InputError
    """
    nearest = folder.absolute()
    while not os.path.lexists(nearest) and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        raise not_writable(folder, os.strerror(errno.ENOTDIR))
    if not os.access(nearest, os.W_OK | os.X_OK):
        read_only = os.statvfs(nearest).f_flag & os.ST_RDONLY
        reason = os.strerror(errno.EROFS if read_only else errno.EACCES)
        raise not_writable(folder, reason)


def not_writable(folder, reason):
    """The InputError about a folder that cannot be written to.

    Parameters
    ----------
    folder : pathlib.Path
    reason : str

    Returns
    -------
    InputError
    """
    return InputError(
        f"{folder} cannot be written to ({reason}): give another folder or mend its permissions."
    )


def make_writable(folder):
    """Make a folder, or refuse one that cannot be written to.

    Parameters
    ----------
    folder : pathlib.Path

    Raises
    ------
    InputError
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise not_writable(folder, error.strerror or error) from None


def remove_remains(output_dir):
    """Remove what steps that were killed had written aside in an output folder.

    Parameters
    ----------
    output_dir : pathlib.Path
        What is younger than a day may be of another run that goes on.
    """
    for folder in output_dir.glob(f"{ASIDE}*"):
        try:
            old = time.time() - folder.stat().st_mtime > _DAY
        except OSError:  # another run was faster
            continue
        if old:
            shutil.rmtree(folder, ignore_errors=True)
