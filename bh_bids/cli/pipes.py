"""Ending like other Unix programs when nobody reads the output any more."""

import functools
import os
import select
import sys

EX_PIPE = 141
"""128 and the number of SIGPIPE, as shells tell it of a program that a closed pipe ended."""


def quiet_on_closed_pipe(main):
    """Let a console program end without a word when its reader has ended, as ``head`` does.

    Parameters
    ----------
    main : callable
        Takes arguments, returns an exit code.

    Returns
    -------
    callable
        The same, but for :data:`EX_PIPE` where standard output or error is a closed pipe.
    """

    @functools.wraps(main)
    def ended(argv=None):
        try:
            try:
                return main(argv)
            finally:
                sys.stdout.flush()  # else the interpreter finds out, after all that can be caught
        except BrokenPipeError:
            closed = [stream for stream in (sys.stdout, sys.stderr) if _is_closed(stream)]
            if not closed:  # a pipe to one of our own processes
                raise
            for stream in closed:
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            return EX_PIPE

    return ended


def _is_closed(stream):
    """Whether a stream is a pipe without a reader."""
    try:
        pipe = select.poll()
        pipe.register(stream.fileno(), 0)
    except (OSError, ValueError):  # no file of the system's
        return False
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in pipe.poll(0))
