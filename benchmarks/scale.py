"""How bh-bids grows with the dataset: start, building, group level, one GPU for many.

    python benchmarks/scale.py start --participants 10 100 1000 5000
    python benchmarks/scale.py build --participants 1000
    python benchmarks/scale.py group --participants 5000
    python benchmarks/scale.py gpu --participants 32 --nprocs 8

Datasets are skeletons: the names of a study, one T1w scan for each participant, with nothing in the
files. Times are wall clock and, where other work runs beside, CPU time tells more. Nothing is
asserted.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROBE = """
import os, resource, sys
import psutil
import bh_bids.engine
from bh_bids.cli.run import main

choose = bh_bids.engine.choose_plugin

def stop_at_first_step(*arguments):
    plugin, rest = choose(*arguments)
    def submit(node, updatehash=False):
        import time
        start = psutil.Process().create_time()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
        print("REACHED", time.time() - start, time.process_time(), peak, flush=True)
        os._exit(0)
    plugin._submit_job = submit
    return plugin, rest

bh_bids.engine.choose_plugin = stop_at_first_step
sys.exit(main(sys.argv[1:]))
"""
FIELDS = ("seconds", "CPU seconds", "GB")


def make_skeleton(root, participants):
    """A BIDS dataset of so many participants, with other modalities beside the T1w scans."""
    root.mkdir(parents=True)
    description = {"Name": "Skeleton", "BIDSVersion": "1.10.0"}
    (root / "dataset_description.json").write_text(json.dumps(description))
    for k in range(1, participants + 1):
        for kind, name in (("anat", "T1w"), ("func", "task-rest_bold"), ("dwi", "dwi")):
            folder = root / f"sub-{k:05d}" / kind
            folder.mkdir(parents=True)
            stem = folder / f"sub-{k:05d}_{name}"
            stem.with_suffix(".nii.gz").write_bytes(b"%d" % k)
            stem.with_suffix(".json").write_text('{"Manufacturer": "Siemens"}')
    return root


def reach_first_step(dataset, folder, *options):
    """Seconds, CPU seconds and GB of the command from its start to its first step."""
    command = [sys.executable, "-c", PROBE, str(dataset), str(folder / "out"), "participant"]
    command += ["-w", str(folder / "work"), "--device", "cpu", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("REACHED")]
    if not lines:
        raise SystemExit(f"no step was reached:\n{done.stdout}\n{done.stderr}")
    return [float(value) for value in lines[0].split()[1:]]


def start(participants, folder):
    """From the start of the command to its first step, for one participant and for all."""
    for count in participants:
        dataset = make_skeleton(folder / f"bids-{count}", count)
        one = ("--participant-label", f"{count // 2 + 1:05d}")
        tell(count, "one", reach_first_step(dataset, folder, *one))
        database = ("--bids-database-dir", str(folder / f"database-{count}"))
        tell(count, "one, makes the index", reach_first_step(dataset, folder, *one, *database))
        tell(count, "one, from the index", reach_first_step(dataset, folder, *one, *database))
        tell(count, "all", reach_first_step(dataset, folder))
        tell(count, "all, from the index", reach_first_step(dataset, folder, *database))


def build(participants, folder):
    """The workflows of all participants, built part by part as a run does, up to nipype's graph."""
    from bh_bids.workflows.base import init_bh_bids_wf

    from bh_bids.cli.parser import parse
    from bh_bids.cli.run import prepare_environment
    from bh_bids.runner import SCANS_AT_ONCE, _batches, make_plan

    for count in participants:
        dataset = make_skeleton(folder / f"bids-{count}", count)
        words = [str(dataset), str(folder / "out"), "participant", "-w", str(folder / "work")]
        settings, _ = parse([*words, "--device", "cpu"])
        prepare_environment(settings)
        begin, cpu = time.monotonic(), time.process_time()
        plan = make_plan(settings)
        tell(count, "scans found", [time.monotonic() - begin, time.process_time() - cpu, 0])
        begin, cpu = time.monotonic(), time.process_time()
        for scans in _batches(plan.todo, SCANS_AT_ONCE):
            workflow = init_bh_bids_wf(
                settings=plan.settings, scans=scans, model=plan.model, keys=plan.keys
            )
            workflow._create_flat_graph()
        peak = _peak_gb()
        tell(count, "workflows built", [time.monotonic() - begin, time.process_time() - cpu, peak])


def group(participants, folder):
    """The group level on one row of metrics for each participant."""
    from bh_bids.evaluation.participant import METRICS, write_tsv

    for count in participants:
        out = folder / f"out-{count}"
        for k in range(1, count + 1):
            label = f"sub-{k:05d}"
            row = {name: round(0.5 + (k * 7919 + 13 * i) % 997 / 1000, 3)
                   for i, name in enumerate(METRICS)}  # fmt: skip
            row |= {"participant_id": label, "session_id": "n/a", "model": "default",
                    "filename": f"{label}/anat/{label}_T1w.nii.gz", "method": "map",
                    "converged": True, "iterations": 3, "guards": ""}  # fmt: skip
            anat = out / label / "anat"
            anat.mkdir(parents=True)
            write_tsv([row], anat / f"{label}_desc-harmonization_metrics.tsv")
        program = "import sys; from bh_bids.cli.run import main; sys.exit(main(sys.argv[1:]))"
        command = [sys.executable, "-c", program, str(folder), str(out), "group"]
        before, begin = os.times(), time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True)
        after = os.times()
        if done.returncode:
            raise SystemExit(done.stderr)
        cpu = after.children_user + after.children_system
        cpu -= before.children_user + before.children_system
        tell(count, "group level", [time.monotonic() - begin, cpu, _peak_gb(children=True)])


def gpu(participants, nprocs, slots, folder):
    """One GPU for many: how long it computes of the time from its first step to its last.

    Steps sleep, for a twentieth of what they take; the scheduler is the one that runs
    participants. Beside it nipype's own order. The GPU is what limits: the least that any order
    could take is its time, and one participant's steps before and after.
    """
    from bh_bids import engine

    engine.quieten_nipype()
    engine.start_forkserver()
    least = sum(ANATOMY) + participants * GPU / slots + sum(AFTER)
    print(f"least    {least:6.1f} s, GPU busy {participants * GPU / slots / least:.0%}")
    _sleep_through("warm-up", 1, nprocs, slots, folder)
    for name in ("bh-bids", "nipype"):
        usage = _sleep_through(name, participants, nprocs, slots, folder)
        harmonize = [item for item in usage if item.step.endswith("harmonize")]
        begin = min(item.start for item in usage)
        end = max(item.start + item.seconds for item in usage)
        busy = sum(item.seconds for item in harmonize)
        edges = sorted([(i.start, 1) for i in harmonize]
                       + [(i.start + i.seconds, -1) for i in harmonize])  # fmt: skip
        most = running = 0
        for _, change in edges:
            running += change
            most = max(most, running)
        others = [i for i in usage if not i.step.endswith("harmonize")]
        beside = sum(_overlap(i, j) for i in others for j in harmonize)
        print(f"{name:8} {end - begin:6.1f} s, GPU busy {busy / slots / (end - begin):.0%}, at "
              f"most {most} at once, {beside / busy:.1f} other steps beside it")  # fmt: skip


ANATOMY, GPU, AFTER = (0.1, 4.0, 1.0), 2.0, (0.5, 0.5)
"""Seconds of sleep: conform, mask and field, registration; harmonization; native grid, figures."""


def _sleep_through(name, participants, nprocs, slots, folder):
    """What each step took; by nipype's order if that is the name."""
    from bh_bids.workers import SturdyMultiProcPlugin

    plugin = SturdyMultiProcPlugin({
        "n_procs": nprocs, "n_gpu_procs": slots, "memory_gb": 1e3, "mp_context": "forkserver",
    })  # fmt: skip
    if name == "nipype":
        plugin._sort_jobs = lambda jobids, scheduler="tsort": jobids
    _sleeping_workflow(participants, folder / name).run(plugin=plugin)
    return plugin.usage


def _sleeping_workflow(participants, folder):
    import nipype.pipeline.engine as pe
    from nipype.interfaces.utility import Function

    flow = pe.Workflow("bh_bids_wf", base_dir=str(folder))
    flow.config["execution"] = {"poll_sleep_duration": 0.05, "create_report": False}
    for k in range(participants):
        scan = pe.Workflow(f"sub_{k:03d}_wf")
        previous = None
        names = [("conform", ANATOMY[0]), ("mask_and_field", ANATOMY[1]), ("register", ANATOMY[2]),
                 ("harmonize", GPU), ("native_grid", AFTER[0]), ("figures", AFTER[1])]  # fmt: skip
        for name, seconds in names:
            node = pe.Node(Function(function=_sleep, output_names=["out"]), name=name, mem_gb=0.1)
            node.inputs.trait_set(seconds=seconds, use_gpu=name == "harmonize", before=k)
            if previous:
                scan.connect(previous, "out", node, "before")
            else:
                scan.add_nodes([node])
            previous = node
        flow.add_nodes([scan])
    return flow


def _sleep(seconds, use_gpu, before):
    import time

    time.sleep(seconds)
    return before


def _overlap(first, second):
    end = min(first.start + first.seconds, second.start + second.seconds)
    return max(0.0, end - max(first.start, second.start))


def _peak_gb(children=False):
    import resource

    who = resource.RUSAGE_CHILDREN if children else resource.RUSAGE_SELF
    return resource.getrusage(who).ru_maxrss / 1024**2


def tell(count, what, values):
    """Print one line of the table."""
    told = ", ".join(f"{value:.2f} {name}" for value, name in zip(values, FIELDS, strict=True))
    print(f"{count:6} participants, {what:22} {told}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("start", "build", "group", "gpu"))
    parser.add_argument("--participants", type=int, nargs="+", default=[100])
    parser.add_argument("--nprocs", type=int, default=8, help="of gpu")
    parser.add_argument("--slots", type=int, default=1, help="of gpu")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bh-scale-") as folder:
        if arguments.what == "gpu":
            gpu(arguments.participants[0], arguments.nprocs, arguments.slots, Path(folder))
        else:
            globals()[arguments.what](arguments.participants, Path(folder))


if __name__ == "__main__":
    main()
