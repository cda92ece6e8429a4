"""Whole runs of the command in this process, which is left as it was."""

import io
import multiprocessing
import os
import shutil
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import pytest

from bh_bids.cli.run import main


@contextmanager
def kept_state():
    """Environment, folder, threads, signals and process starting are as they were afterwards."""
    import signal

    import torch

    environment, folder, threads = dict(os.environ), os.getcwd(), torch.get_num_threads()
    method = multiprocessing.get_start_method(allow_none=True)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        torch.set_num_threads(threads)
        multiprocessing.set_start_method(method, force=True)
        signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def undone():
    """Keep the state of this process."""
    with kept_state():
        yield


@pytest.fixture(scope="session")
def run_here():
    """Run the participant level: dataset, folder of ``out`` and ``work``, model, more options.

    Gives the exit code, what was printed, and what was said of errors.
    """

    def run(dataset, folder, model, *options):
        argv = [str(dataset), str(folder / "out"), "participant", "-w", str(folder / "work")]
        argv += ["--model", str(model), "--device", "cpu", "--nprocs", "1", *options]
        with kept_state(), redirect_stdout(io.StringIO()) as out:
            with redirect_stderr(io.StringIO()) as err:
                try:
                    code = main(argv)
                except SystemExit as wrong:
                    code = wrong.code
        return code, out.getvalue(), err.getvalue()

    return run


@pytest.fixture
def without_privilege():
    """Words before a command that take from root what lets it pass by permissions."""
    if os.geteuid():
        return []
    if not shutil.which("setpriv"):
        pytest.skip("setpriv is missing: install util-linux")
    return ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]
