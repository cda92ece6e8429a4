"""Console program bh-bids."""

import errno
import os
import shutil
import signal
import sys
import tempfile
import threading
from contextlib import suppress

from ..errors import BHError
from .pipes import quiet_on_closed_pipe

_FULL = "no space left; free some, and give the same command again."
_FORBIDDEN = "permission denied; change its permissions, or choose another folder."
_IN_THE_WAY = "something else stands in its place; move it away, or choose another folder."
_REFUSALS = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EACCES: _FORBIDDEN,
    errno.EPERM: _FORBIDDEN,
    errno.EROFS: "it is on a disk that is read-only; choose another folder.",
    errno.EISDIR: "a folder stands in its place; move it away, or choose another folder.",
    errno.ENOTDIR: _IN_THE_WAY,
    errno.EEXIST: _IN_THE_WAY,
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one.",
    errno.ELOOP: "it is a link that leads back to itself; give what it should lead to.",
}


class Terminated(KeyboardInterrupt):
    """The process was asked to end (SIGTERM), as schedulers do when time is up."""


@quiet_on_closed_pipe
def main(argv=None):
    """Run bh-bids.

    Parameters
    ----------
    argv : list of str, optional
        Arguments; those of the process where not given.

    Returns
    -------
    int
        0 all went well; 1 something failed; 70 no workflow could be built; 130 interrupted; 143
        terminated; 141 nobody read what it printed. Wrong usage exits with 2.
    """
    from .parser import parse

    # Python lets only its first thread take signals.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)
    try:
        settings, action = parse(argv)
        prepare_environment(settings)
        from ..runner import run

        return run(settings, action)
    except BHError as error:
        print(f"bh-bids: error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        what = _REFUSALS.get(error.errno)
        if what is None:
            raise
        name = error.filename2 or error.filename or "a file"  # what was to be replaced, if any
        print(f"bh-bids: error: {name}: {what}", file=sys.stderr)
        return 1
    except Terminated:
        print("bh-bids: terminated; the same command goes on from here", file=sys.stderr)
        return 143
    except KeyboardInterrupt:
        print("bh-bids: interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def _terminate(number, frame):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough
    raise Terminated


def prepare_environment(settings):
    """Set what libraries read from the environment when they are imported.

    No library may ask the network whether there is a newer version of it, write to a home folder
    that is not there, or start more threads than it was given.

    Parameters
    ----------
    settings : bh_bids.settings.Settings
    """
    os.environ.update(NIPYPE_NO_ET="1", NO_ET="1", MPLBACKEND="Agg")
    os.environ.setdefault("TEMPLATEFLOW_AUTOUPDATE", "0")
    os.environ["BH_VERBOSITY"] = str(settings.verbose)
    os.environ["OMP_NUM_THREADS"] = str(settings.omp_nthreads or 1)
    # Registrations repeat bit for bit on one thread only; participants run side by side instead.
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"
    home = os.environ.get("HOME", "")
    if not (home and os.access(home, os.W_OK)):
        place = os.path.join(tempfile.gettempdir(), f"bh-bids-home-{os.getuid()}")
        os.makedirs(place, mode=0o700, exist_ok=True)
        os.environ["HOME"] = place
        os.environ.setdefault("TEMPLATEFLOW_HOME", os.path.join(place, "templateflow"))
        _bring_font_list(os.environ.setdefault("MPLCONFIGDIR", os.path.join(place, "matplotlib")))


def _bring_font_list(folder):
    """Give matplotlib the list of fonts that the image holds, which it only takes from a folder
    that it can write to."""
    made = os.path.join(sys.prefix, "matplotlib")
    if os.path.isdir(made):
        with suppress(OSError):  # it makes one of its own then
            shutil.copytree(made, folder, dirs_exist_ok=True)


if __name__ == "__main__":
    sys.exit(main())
