"""What a process may use: the computer's, or what its control groups leave of it."""

import os

import psutil
import pytest

from bh_bids import limits


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A process in the group /job/step of some kind; gives the folder of a controller's groups."""
    root, groups, found = tmp_path / "cgroup", tmp_path / "self", limits._groups

    def place(controllers, controller):
        groups.write_text(f"3:cpuset:/elsewhere\n7:{controllers}:/job/step\n")
        folder = root / controller if controllers else root
        (folder / "job" / "step").mkdir(parents=True)
        return folder / "job"

    monkeypatch.setattr(limits, "_groups", lambda name: found(name, groups, root))
    return place


@pytest.mark.parametrize(
    ("controllers", "name"), [("", "memory.max"), ("cpu,memory", "memory.limit_in_bytes")]
)
def test_the_memory_of_a_job_is_known(job, controllers, name):
    """Control groups of both kinds; the limit may be that of a group around the process's own."""
    folder = job(controllers, "memory")
    (folder / name).write_text(f"{3 * 2**30}\n")
    (folder / "step" / name).write_text("max\n")
    assert limits.available_gb() == pytest.approx(min(3, psutil.virtual_memory().total / 2**30))


def test_without_a_limit_it_is_the_computer_s():
    assert limits.available_gb() <= psutil.virtual_memory().total / 2**30
    assert limits.available_gb() > 0.5 or os.path.exists("/sys/fs/cgroup")
    assert 1 <= limits.available_cpus() <= os.cpu_count()


@pytest.fixture
def many(monkeypatch):
    """A computer with 64 processors, of which the process may run on 12."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(12)), raising=False)


@pytest.mark.parametrize(
    ("quota", "expected"), [("400000 100000", 4), ("150000 100000", 2), ("10000 100000", 1),
                            ("max 100000", 12), ("-1 100000", 12), ("6400000 100000", 12)],
)  # fmt: skip
@pytest.mark.parametrize("controllers", ["", "cpu,cpuacct"])
def test_a_container_s_share_of_the_processors_is_known(job, many, controllers, quota, expected):
    """As ``docker run --cpus`` sets it; of the older kind in two files, and -1 for no limit."""
    folder = job(controllers, "cpu")
    if controllers:
        for name, value in zip(("quota", "period"), quota.split(), strict=True):
            (folder / f"cpu.cfs_{name}_us").write_text(f"{value}\n")
    else:
        (folder / "cpu.max").write_text(f"{quota}\n")
    assert limits.available_cpus() == expected


def test_where_nothing_is_told_all_processors_count(job, many, monkeypatch):
    assert limits.available_cpus() == 12
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert limits.available_cpus() == 1
