"""What this process may use of the computer: its processors and its memory.

Containers and schedulers limit both by control groups. What counts is the least that any group
around the process allows.
"""

import math
import os
from pathlib import Path


def available_cpus():
    """Processors that this process may use: those that it may run on, or their time if less.

    Returns
    -------
    int
        At least 1. A limit of their time that is no whole number is rounded up.
    """
    runs_on = hasattr(os, "sched_getaffinity")
    limits = [len(os.sched_getaffinity(0)) if runs_on else os.cpu_count() or 1]
    for folder, unified in _groups("cpu"):
        names = ("cpu.max",) if unified else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        try:
            quota, period = map(int, " ".join((folder / n).read_text() for n in names).split())
        except (OSError, ValueError):  # not there, or "max"
            continue
        # Of the older kind no limit is -1.
        if quota > 0 and period > 0:
            limits.append(math.ceil(quota / period))
    return min(limits)


def available_gb():
    """Memory that this process may use: of the computer, or of its control group if that is less.

    Returns
    -------
    float
        GiB.
    """
    import psutil

    limits = [psutil.virtual_memory().total]
    for folder, unified in _groups("memory"):
        name = "memory.max" if unified else "memory.limit_in_bytes"
        try:
            limits.append(int((folder / name).read_text()))
        except (OSError, ValueError):  # not there, or "max"
            continue
    return min(limits) / 1024**3


def _groups(controller, groups="/proc/self/cgroup", root="/sys/fs/cgroup"):
    """Folders of this process's control group and of those around it, and whether of version 2."""
    try:
        lines = Path(groups).read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, place = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = Path(root) / controller if controllers else Path(root)
        folder = top / place.lstrip("/")
        for part in (folder, *folder.parents):
            yield part, not controllers
            if part == top:
                break
