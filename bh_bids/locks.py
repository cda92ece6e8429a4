"""One run at a time works on a participant in one work folder."""

import fcntl
from pathlib import Path


def lock_participants(work_dir, participants):
    """Lock participants against other runs with the same work folder.

    The locks are the kernel's: they end with the process, however it ends. Where a file system
    knows none, nothing is locked.

    Parameters
    ----------
    work_dir : path-like
    participants : iterable of str
        Without ``sub-``.

    Returns
    -------
    held : list of file objects
        The locks last as long as these are open.
    busy : list of str
        Participants that another run is working on.
    """
    folder = Path(work_dir) / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    held, busy = [], []
    for participant in participants:
        stream = open(folder / f"sub-{participant}", "a")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.close()
            busy.append(participant)
            continue
        except OSError:
            pass
        held.append(stream)
    return held, busy
