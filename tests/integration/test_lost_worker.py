"""A worker process that the system kills, as it does when memory runs out."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def workers(process):
    """Worker processes: children of the server that was started beside the run."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if child.parent().pid != process.pid:
                found.append(child)
        except psutil.NoSuchProcess:
            pass
    return found


def test_a_killed_worker_ends_the_run_with_advice(small_dataset, small_model, tmp_path):
    command = [sys.executable, "-m", "bh_bids.cli.run", str(small_dataset), str(tmp_path / "out")]
    command += ["participant", "-w", str(tmp_path / "work"), "--model", str(small_model)]
    command += ["--device", "cpu", "--nprocs", "2", "--participant-label", "01", "-v"]
    log = tmp_path / "log"
    with open(log, "w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, start_new_session=True)
        try:
            while "brain mask         done" not in log.read_text() and process.poll() is None:
                time.sleep(0.05)
            victims = workers(process)
            assert victims
            for victim in victims:
                os.kill(victim.pid, signal.SIGKILL)
            code = process.wait(timeout=300)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    told = log.read_text()
    assert code == 1, told
    assert "Traceback" not in told, told
    assert "memory" in told, told
    assert (tmp_path / "out" / "sub-01.html").is_file()


def test_steps_beside_a_lost_one_are_done(tmp_path):
    """One process: the first step kills it, the second needs a new one."""
    script = tmp_path / "run.py"
    script.write_text(
        f"""
import nipype.pipeline.engine as pe
from nipype.interfaces.utility import Function

from bh_bids.workers import SturdyMultiProcPlugin


def die():
    import os

    os.kill(os.getpid(), 9)


def live(path):
    open(path, "w").close()


if __name__ == "__main__":
    flow = pe.Workflow("flow", base_dir={str(tmp_path)!r})
    for name, function in (("first", die), ("second", live), ("third", live)):
        flow.add_nodes([pe.Node(Function(function=function), name=name)])
    flow.get_node("second").inputs.path = {str(tmp_path / "second")!r}
    flow.get_node("third").inputs.path = {str(tmp_path / "third")!r}
    arguments = {{"n_procs": 1, "mp_context": "forkserver"}}
    try:
        flow.run(plugin=SturdyMultiProcPlugin(plugin_args=arguments))
    except RuntimeError as error:
        print("failed:", error)
"""
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True,
                          timeout=300, cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "StepKilledError" in done.stdout
    assert (tmp_path / "second").exists() and (tmp_path / "third").exists()
