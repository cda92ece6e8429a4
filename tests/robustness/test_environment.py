"""Whole runs cut short, cramped or disturbed: nothing half-written, and the next one completes."""

import gzip
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import psutil
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

KILLS, SEED = 10, 20261124


def command(dataset, model, folder, *options):
    words = [sys.executable, "-m", "bh_bids.cli.run", str(dataset), str(folder / "out")]
    words += ["participant", "-w", str(folder / "work"), "--model", str(model), "--sloppy", "-v"]
    return [*words, "--device", "cpu", "--nprocs", "1", "--omp-nthreads", "1", *options]


def run(*args, **options):
    done = subprocess.run(command(*args), capture_output=True, text=True, **options)
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    return done


def start(log, *args):
    with open(log, "wb") as stream:
        return subprocess.Popen(
            command(*args), stdout=stream, stderr=stream, start_new_session=True
        )


def results(folder):
    """Bytes of all results that are images or tables, by name."""
    root = folder / "out"
    paths = [p for end in ("nii.gz", "tsv", "h5") for p in root.rglob(f"sub-*/**/*.{end}")]
    shown = [
        p for p in paths if not any(part.startswith(".") for part in p.relative_to(root).parts)
    ]
    return {str(p.relative_to(root)): p.read_bytes() for p in shown}


def assert_whole(folder):
    """Whatever stands under a final name can be read to its end."""
    for name, content in results(folder).items():
        if name.endswith(".nii.gz"):
            nib.Nifti1Image.from_bytes(gzip.decompress(content)).get_fdata()
        assert content, name
    for path in (folder / "out").rglob("*.json"):
        if not any(part.startswith(".") for part in path.relative_to(folder).parts):
            json.loads(path.read_text())


@pytest.fixture(scope="module")
def one(tmp_path_factory, dataset_maker, write_t1w, small_brain):
    """A dataset of one participant."""
    root = dataset_maker(tmp_path_factory.mktemp("one") / "bids")
    path = root / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
    write_t1w(path, 3 * small_brain.volume, small_brain.affine)
    return root


@pytest.fixture(scope="module")
def undisturbed(one, small_model, tmp_path_factory):
    """Results of a run that nothing disturbs, and its seconds."""
    folder = tmp_path_factory.mktemp("undisturbed")
    begun = time.monotonic()
    done = run(one, small_model, folder)
    assert done.returncode == 0, done.stderr
    return results(folder), time.monotonic() - begun, folder


def assert_completes(one, model, folder, undisturbed):
    done = run(one, model, folder)
    assert done.returncode == 0, done.stderr
    found = results(folder)
    assert found.keys() == undisturbed[0].keys()
    assert [name for name in found if found[name] != undisturbed[0][name]] == []


def test_ten_kills_at_random_moments(one, small_model, tmp_path, undisturbed):
    draw, killed, at = random.Random(SEED), 0, []
    while killed < KILLS:
        process = start(tmp_path / "log", one, small_model, tmp_path)
        delay = draw.uniform(1, undisturbed[1])
        try:
            process.wait(timeout=delay)
            # Done before its time came: begin from nothing.
            shutil.rmtree(tmp_path / "out")
            shutil.rmtree(tmp_path / "work")
            continue
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
        killed += 1
        at.append(round(delay, 1))
        assert_whole(tmp_path)
    print("killed after", at, "of", round(undisturbed[1], 1), "seconds")
    assert_completes(one, small_model, tmp_path, undisturbed)


def working(log, process):
    """Wait until a step is done that takes a while after it."""
    while "brain mask" not in log.read_text() and process.poll() is None:
        time.sleep(0.05)
    time.sleep(0.5)
    assert process.poll() is None, log.read_text()


def test_sigterm_ends_the_run_and_its_steps_in_words(one, small_model, tmp_path, undisturbed):
    process = start(tmp_path / "log", one, small_model, tmp_path)
    working(tmp_path / "log", process)
    children = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    assert process.wait(timeout=30) == 143
    told = (tmp_path / "log").read_text()
    assert "terminated; the same command goes on from here" in told and "Traceback" not in told
    _, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []
    assert_whole(tmp_path)
    assert_completes(one, small_model, tmp_path, undisturbed)


def test_workers_end_with_a_run_that_was_killed(one, small_model, tmp_path):
    process = start(tmp_path / "log", one, small_model, tmp_path)
    working(tmp_path / "log", process)
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []


def test_two_runs_at_once_do_not_disturb_each_other(one, small_model, tmp_path, undisturbed):
    both = [start(tmp_path / f"log{k}", one, small_model, tmp_path) for k in range(2)]
    codes = [process.wait(timeout=300) for process in both]
    told = [(tmp_path / f"log{k}").read_text() for k in range(2)]
    assert sorted(codes) == [0, 1], told
    assert "is being processed by another run" in told[codes.index(1)]
    assert "Traceback" not in "".join(told)
    assert_whole(tmp_path)
    assert_completes(one, small_model, tmp_path, undisturbed)


def test_a_clock_that_goes_back_does_no_harm(one, small_model, undisturbed):
    """All files of an earlier run are from tomorrow."""
    folder = undisturbed[2]
    next((folder / "out").rglob("*_desc-trace_metrics.tsv")).unlink()
    tomorrow = time.time() + 86_400
    for path in [*(folder / "out").rglob("*"), *(folder / "work").rglob("*")]:
        os.utime(path, (tomorrow, tomorrow), follow_symlinks=False)
    assert_completes(one, small_model, folder, undisturbed)


@pytest.fixture
def small_disk(tmp_path):
    """Mount a file system of some kilobytes."""
    mounted = []

    def mount(place, kilobytes, *options):
        place.mkdir(parents=True, exist_ok=True)
        words = ["mount", "-t", "tmpfs", "-o", ",".join([f"size={kilobytes}k", *options]), "tmpfs"]
        done = subprocess.run([*words, str(place)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")
        mounted.append(place)

    yield mount
    for place in mounted:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.parametrize(("place", "kilobytes"), [("work", 600), ("out", 200)])
def test_a_full_disk(place, kilobytes, one, small_model, tmp_path, small_disk, undisturbed):
    small_disk(tmp_path / place, kilobytes)
    done = run(one, small_model, tmp_path)
    assert done.returncode == 1
    assert "he disk is full" in done.stderr or "o space left" in done.stderr, done.stderr
    assert_whole(tmp_path)
    words = ["mount", "-o", "remount,size=500m", str(tmp_path / place)]
    subprocess.run(words, check=True)
    assert_completes(one, small_model, tmp_path, undisturbed)


@pytest.mark.parametrize("place", ["work", "out"])
def test_a_read_only_folder_is_refused(place, one, small_model, tmp_path, small_disk):
    small_disk(tmp_path / place, 100, "ro")
    done = run(one, small_model, tmp_path)
    assert done.returncode == 1
    assert f"{tmp_path / place} cannot be written to (Read-only file system)" in done.stderr


@pytest.mark.parametrize("place", ["scan", "out", "dataset"])
def test_what_may_not_be_read_or_written(
    place, one, small_model, small_brain, write_t1w, tmp_path, without_privilege
):
    root = Path(shutil.copytree(one, tmp_path / "bids"))
    scan = root / "sub-02" / "anat" / "sub-02_T1w.nii.gz"
    write_t1w(scan, 3 * small_brain.volume, small_brain.affine)
    (tmp_path / "out").mkdir()
    locked = {"scan": scan, "out": tmp_path / "out", "dataset": root}[place]
    locked.chmod(0)
    words = [*without_privilege, *command(root, small_model, tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True)
    locked.chmod(0o755)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    if place == "scan":
        assert "sub-02_T1w.nii.gz cannot be read: its permissions forbid it" in done.stderr
        assert "1 of 2 scans have no results: sub-02" in done.stderr
    else:
        assert "bh-bids: error: " in done.stderr and str(locked) in done.stderr


def test_memory_that_runs_out_stops_one_scan_alone(
    one, small_model, write_t1w, tmp_path, small_brain
):
    """A scan of 560 voxels a side needs several gigabytes; the process may have two more."""
    root = Path(shutil.copytree(one, tmp_path / "bids"))
    large = root / "sub-00" / "anat" / "sub-00_T1w.nii.gz"
    large.parent.mkdir(parents=True)
    volume = np.zeros((560,) * 3, np.uint8)
    volume[200:300, 200:300, 200:300] = np.arange(100, dtype=np.uint8)
    image = nib.Nifti1Image(volume, np.diag([0.4, 0.4, 0.4, 1.0]))
    image.set_sform(image.affine, 1)
    with gzip.open(large, "wb", compresslevel=1) as stream:
        stream.write(image.to_bytes())
    del volume, image

    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))

    done = subprocess.run(
        command(root, small_model, tmp_path), capture_output=True, text=True, preexec_fn=limit
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    line = next(li for li in done.stderr.splitlines() if li.startswith("sub-00 failed"))
    assert "MemoryError" in line and "--low-mem" in line
    assert list((tmp_path / "out" / "sub-01" / "anat").glob("*_desc-harmonized_T1w.nii.gz"))
    assert not list((tmp_path / "out" / "sub-00").rglob("*.nii.gz"))


LIMIT = 2_500_000_000
"""Bytes of address space; a small scan's largest step takes about two gigabytes of it."""
