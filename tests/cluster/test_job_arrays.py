"""The scripts of docs/slurm on a real Slurm: an array whose tasks end in every way there is."""

import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "docs" / "slurm"
LABELS = ("01", "02", "03", "04", "05")
STARVED = 700
"""MB of the task that is to run out of memory: enough to start, too little for a step."""
PATIENCE = 3600


def submit(slurm, places, model, *options):
    """Submit the array as docs/hpc.md says; the number of the job."""
    command = ["sbatch", "--parsable", "--array=1-5%3", "--cpus-per-task=1", "--mem=3G", *options]
    command += [str(SCRIPTS / "participant.sbatch"), str(slurm.root / "participants.txt")]
    return slurm.call(*command, "--model", str(model), "--device", "cpu", **places)


def collect(slurm, places, job):
    """Submit the group level to follow a job."""
    return slurm.call("sbatch", "--parsable", f"--dependency=afterany:{job}", "--cpus-per-task=1",
                      "--mem=3G", str(SCRIPTS / "group.sbatch"), **places)  # fmt: skip


def logs(slurm, job):
    """What each task said, and what the group level said."""
    return {label: (slurm.root / f"bh-bids_{job}_{k}.log").read_text()
            for k, label in enumerate(LABELS, 1)}  # fmt: skip


def states(slurm, job):
    """How each task ended."""
    found = {}
    for line in slurm.call("scontrol", "-o", "show", "job", job).splitlines():
        fields = dict(part.split("=", 1) for part in line.split() if "=" in part)
        found[f"0{fields['ArrayTaskId']}"] = fields["JobState"]
    return found


def tell(slurm, what):
    print(f"--- {what}")
    print(slurm.call("squeue", "-o", "%.12i %.14j %.10T %.6M %.5D %.5C %.8m %R"), flush=True)


@pytest.fixture(scope="module")
def first(slurm, places, small_model):
    """The array, of whose tasks 4 is cancelled while it runs and 5 has too little memory."""
    names = "".join(f"sub-{label}\n" for label in LABELS)
    (slurm.root / "participants.txt").write_text(names)
    job = submit(slurm, places, small_model, "--hold")
    slurm.call("scontrol", "update", f"JobId={job}_5", f"MinMemoryNode={STARVED}")
    group = collect(slurm, places, job)
    tell(slurm, "submitted")
    slurm.call("scontrol", "release", job)
    end = time.monotonic() + PATIENCE
    while not list(Path(places["BH_WORK"], "sub-04").rglob("result_conform*")):
        assert time.monotonic() < end
        assert slurm.call("squeue", "-h", "-j", f"{job}_4", check=False), logs(slurm, job)["04"]
        time.sleep(0.5)
    tell(slurm, "task 4 is running")
    slurm.call("scancel", f"{job}_4")
    slurm.wait_for(job, group, seconds=PATIENCE)
    print((slurm.root / "completed").read_text())
    return SimpleNamespace(job=job, states=states(slurm, job), logs=logs(slurm, job),
                           group=(slurm.root / f"bh-bids-group_{group}.log").read_text(),
                           ended=slurm.show(group))  # fmt: skip


@pytest.fixture(scope="module")
def second(first, slurm, places, small_model):
    """The same array once more."""
    out = Path(places["BH_OUT"])
    times = {path: path.stat().st_mtime_ns for path in out.glob("sub-0[12]/anat/*")}
    job = submit(slurm, places, small_model)
    group = collect(slurm, places, job)
    tell(slurm, "submitted again")
    slurm.wait_for(job, group, seconds=PATIENCE)
    print((slurm.root / "completed").read_text())
    told = (slurm.root / f"bh-bids-group_{group}.log").read_text()
    return SimpleNamespace(
        job=job, states=states(slurm, job), logs=logs(slurm, job), times=times, group=told
    )


def table(places):
    path = Path(places["BH_OUT"]) / "group_desc-harmonization_metrics.tsv"
    return {line.split("\t")[0] for line in path.read_text().splitlines()[1:]}


def missing(told):
    """Whom the group level names as without results."""
    return set(re.findall(r"no results of (sub-\w+)", told))


def test_a_task_that_fails_is_cancelled_or_starved_stops_no_other(first):
    expected = {"01": "COMPLETED", "02": "COMPLETED", "03": "FAILED", "04": "CANCELLED"}
    assert {label: first.states[label] for label in expected} == expected, first.logs
    assert first.states["05"] in ("OUT_OF_MEMORY", "FAILED")


def test_each_failure_is_told_in_the_task_s_log(first):
    assert "sub-03_T1w.nii.gz is truncated or damaged" in first.logs["03"]
    assert "memory ran out" in first.logs["05"] and "--low-mem" in first.logs["05"]
    for label in ("01", "02", "03", "05"):
        assert "Traceback" not in first.logs[label], first.logs[label]


def test_the_group_level_follows_and_names_who_is_missing(first):
    # What task 5 was killed at decides whether its tables were there already.
    assert missing(first.group) - {"sub-05"} == {"sub-03", "sub-04"}
    assert first.ended["ExitCode"] == "1:0"


def test_the_same_array_again_does_only_what_is_missing(second, places):
    for label in ("01", "02"):
        assert "1 of 1 scans are done already" in second.logs[label]
        assert "begins" not in second.logs[label]
    assert {path: path.stat().st_mtime_ns for path in second.times} == second.times
    expected = {label: "COMPLETED" for label in LABELS} | {"03": "FAILED"}
    assert second.states == expected, second.logs
    assert table(places) == {"sub-01", "sub-02", "sub-04", "sub-05"}
    assert missing(second.group) == {"sub-03"}


def test_what_all_tasks_share_is_whole(second, places):
    import json

    out = Path(places["BH_OUT"])
    assert json.loads((out / "dataset_description.json").read_text())["DatasetType"] == "derivative"
    assert not list(out.glob(".bh-bids-*"))
    # --clean-workdir left only what belongs to the participant that has no results.
    left = {path.relative_to(places["BH_WORK"]).parts[0] for path in
            Path(places["BH_WORK"]).rglob("*.nii.gz")}  # fmt: skip
    assert left <= {"sub-03"}
