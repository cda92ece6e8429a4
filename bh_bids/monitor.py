"""What a step takes: time, memory, threads."""

import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path

_BUSY = 0.1
"""A thread counts that worked at least this share of what the busiest did."""


@dataclass(frozen=True)
class Usage:
    """What one step took, beside what it had asked for.

    Attributes
    ----------
    step : str
        Full name in the workflow.
    start : float
        Seconds since the epoch.
    seconds : float
        Wall clock.
    cpu_seconds : float
        Of all threads.
    peak_gb : float
        Largest resident memory (GiB) of the step's process, libraries included.
    threads : int
        Threads that worked, those with little to do left out.
    mem_gb : float
        GiB the step had asked for.
    n_procs : int
        Threads it had asked for.
    """

    step: str
    start: float
    seconds: float
    cpu_seconds: float
    peak_gb: float
    threads: int
    mem_gb: float
    n_procs: int


def measure(function, *arguments):
    """Call a function and measure what it takes in this process.

    Parameters
    ----------
    function : callable
    *arguments

    Returns
    -------
    result
        What the function returned.
    taken : dict
        ``start``, ``seconds``, ``cpu_seconds``, ``peak_gb``, ``threads`` of :class:`Usage`.
    """
    reset = _reset_peak()
    threads, cpu, start = _thread_ticks(), time.process_time(), time.time()
    clock = time.monotonic()
    result = function(*arguments)
    taken = {
        "start": start,
        "seconds": time.monotonic() - clock,
        "cpu_seconds": time.process_time() - cpu,
        "peak_gb": _peak_gb(reset),
        "threads": _busy(threads, _thread_ticks()),
    }
    return result, taken


def _reset_peak():
    """Let the kernel forget this process's largest memory so far; not every kernel does."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _peak_gb(reset):
    if reset:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024**2
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2


def _thread_ticks():
    """Clock ticks that each thread of this process has worked; empty where there is no /proc."""
    ticks = {}
    for path in Path("/proc/self/task").glob("*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # the thread has ended
            continue
        ticks[path.parent.name] = int(fields[11]) + int(fields[12])
    return ticks


def _busy(before, after):
    worked = [ticks - before.get(thread, 0) for thread, ticks in after.items()]
    most = max(worked, default=0)
    # Below a tenth of a second the clock's ticks tell nothing.
    if most < os.sysconf("SC_CLK_TCK") / 10:
        return 1
    return sum(ticks >= _BUSY * most for ticks in worked)
