"""Worker processes, their loss, what they take; and memory that is known beforehand."""

import gzip
import struct
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bh_bids import memory
from bh_bids.dataset import Scan
from bh_bids.monitor import measure


def hold(megabytes):
    block = np.ones(megabytes * 2**17)
    return block.nbytes / 2**30


def test_the_peak_is_that_of_the_step_alone():
    """The kernel's own counter: 400 MB before must not count, 200 MB in the step must."""
    hold(400)
    held, small = measure(hold, 1)
    gb, large = measure(hold, 200)
    assert gb == pytest.approx(200 / 1024)
    assert large["peak_gb"] - small["peak_gb"] == pytest.approx(gb, rel=0.2)


def burn(threads):
    """Threads that work at once: the hash lets go of the interpreter's lock."""
    import hashlib

    def work():
        end = time.thread_time() + 0.3
        while time.thread_time() < end:
            hashlib.sha256(bytes(1 << 22)).digest()

    others = [threading.Thread(target=work) for _ in range(threads - 1)]
    for thread in others:
        thread.start()
    work()
    barrier = [thread for thread in others if thread.is_alive()]
    return barrier, [thread.join() for thread in others]


def test_cpu_time_counts_all_threads():
    _, taken = measure(burn, 3)
    assert 0.8 < taken["cpu_seconds"] < 2


def test_a_thread_that_stays_counts():
    """As OpenMP's do: a pool that outlives the step."""
    begin, stop = threading.Event(), threading.Event()

    def work():
        import hashlib

        begin.wait()
        end = time.thread_time() + 0.3
        while time.thread_time() < end:
            hashlib.sha256(bytes(1 << 22)).digest()
        done.release()
        stop.wait()

    done = threading.Semaphore(0)
    pool = [threading.Thread(target=work) for _ in range(2)]
    for thread in pool:
        thread.start()

    def step():
        begin.set()
        for _ in pool:
            done.acquire()

    try:
        assert measure(step)[1]["threads"] == 2
    finally:
        stop.set()
        for thread in pool:
            thread.join()


@pytest.mark.parametrize("step", memory.STEP_GB)
def test_a_larger_scan_is_asked_more_for(step, tmp_path):
    import nibabel as nib

    scans = []
    for side in (16, 128, 256):
        path = tmp_path / f"{side}_T1w.nii"
        nib.save(nib.Nifti1Image(np.zeros((side,) * 3, np.uint8), np.eye(4)), path)
        scans.append(Scan(path, "01", None, ""))
    small, middle, large = (memory.step_gb(step, scan) for scan in scans)
    assert 0.05 < small <= middle <= large < 4
    unreadable = replace(scans[0], path=tmp_path / "no_T1w.nii")
    assert middle <= memory.step_gb(step, unreadable) <= large


def corrupt_stream(path):
    """A gzip stream that cannot be unpacked from its very start."""
    content = gzip.compress(bytes(range(256)) * 40)
    path.write_bytes(content[:10] + b"\xff" * 40 + content[50:])


def cut_header(path):
    path.write_bytes(gzip.compress(bytes(range(256)) * 40)[:60])


def negative_sizes(path):
    import nibabel as nib

    image = nib.Nifti1Image(np.zeros((20, 24, 18), np.uint8), np.eye(4)).to_bytes()
    path.write_bytes(gzip.compress(image[:42] + struct.pack("<3h", -20000, 300, 200) + image[48:]))


@pytest.mark.parametrize("make", [corrupt_stream, cut_header, negative_sizes])
def test_a_damaged_scan_does_not_stop_the_building_of_the_workflow(make, tmp_path):
    path = tmp_path / "sub-01_T1w.nii.gz"
    make(path)
    for step, (least, _) in memory.STEP_GB.items():
        assert memory.step_gb(step, Scan(path, "01", None, "")) >= least


LOSS = """
import sys
import nipype.pipeline.engine as pe
from nipype.interfaces.utility import Function
from bh_bids.workers import SturdyMultiProcPlugin


def die():
    import os, time

    time.sleep(3)
    os.kill(os.getpid(), 9)


def live(path):
    import time

    time.sleep(6)
    open(path, "w").close()


if __name__ == "__main__":
    flow = pe.Workflow("flow", base_dir=sys.argv[1])
    flow.add_nodes([pe.Node(Function(function=die), name="dies", mem_gb=0.5)])
    for name in ("beside", "after"):
        node = pe.Node(Function(function=live), name=name, mem_gb=0.5)
        node.inputs.path = f"{sys.argv[1]}/{name}"
        flow.add_nodes([node])
    plugin = SturdyMultiProcPlugin({"n_procs": 2, "mp_context": "forkserver"})
    try:
        flow.run(plugin=plugin)
    except RuntimeError as error:
        print("failed:", error)
    print("USED", sorted(item.step for item in plugin.usage))
"""


@pytest.mark.slow
def test_a_step_that_is_killed_takes_no_other_with_it(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(LOSS)
    done = subprocess.run([sys.executable, str(script), str(tmp_path)], capture_output=True,
                          text=True, timeout=300, cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "The step 'dies' was killed by the system, most likely because memory ran out" in (
        done.stdout
    )
    assert Path(tmp_path / "beside").exists() and Path(tmp_path / "after").exists()
    assert "USED ['flow.after', 'flow.beside']" in done.stdout


HOLD = """
import sys
import nipype.pipeline.engine as pe
from nipype.interfaces.utility import Function
from bh_bids.workers import SturdyMultiProcPlugin


def hold(megabytes, before):
    import builtins, os

    builtins.held = b"x" * (megabytes << 20)
    return os.getpid()


if __name__ == "__main__":
    flow = pe.Workflow("flow", base_dir=sys.argv[1])
    previous = None
    for name, megabytes in (("a", 1), ("b", 700), ("c", 1), ("d", 1)):
        node = pe.Node(Function(function=hold, output_names=["pid"]), name=name, mem_gb=0.1)
        node.inputs.trait_set(megabytes=megabytes, before=0)
        if previous:
            flow.connect(previous, "pid", node, "before")
        else:
            flow.add_nodes([node])
        previous = node
    plugin = SturdyMultiProcPlugin({"n_procs": 2, "mp_context": "forkserver"})
    graph = flow.run(plugin=plugin)
    print("PIDS", *(node.result.outputs.pid for node in sorted(graph, key=lambda n: n.name)))
"""


def test_a_worker_that_holds_much_gives_way_to_a_new_one(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(HOLD)
    done = subprocess.run([sys.executable, str(script), str(tmp_path)], capture_output=True,
                          text=True, timeout=300, cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("PIDS"))
    a, b, c, d = line.split()[1:]
    assert a == b != c == d
