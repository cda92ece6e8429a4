"""From any result one can tell what made it, and make it again byte for byte."""

import hashlib
import json
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from bh_bids.cli.parser import parse
from bh_bids.dataset import Scan
from bh_bids.settings import Settings
from bh_bids.sidecars import command_line

SPACE = "MNI152NLin2009aSym"
# What changes how a run goes, not what comes out; or is told of another way.
NOT_TOLD = {
    *("bids_dir", "output_dir", "work_dir", "participant_label", "session_label", "run_uuid"),
    *("bids_filters", "bids_database_dir", "skip_bids_validation", "derivatives", "lesion_roi"),
    *("nprocs", "mem_gb", "low_mem", "use_plugin", "stop_on_first_crash", "resource_monitor"),
    *("clean_workdir", "write_graph", "verbose", "output_layout", "analysis_level"),
    # of the group level
    *("target", "comparators", "segmentation", "simulate_gaps", "folds"),
}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"method": "paper", "random_seed": 7, "sloppy": True, "skull_strip_t1w": "force"},
        {"anat_only": True, "template": "MNI152NLin6Asym", "output_spaces": ("T1w",)},
        {"model": "/models/with space; $(rm -r x)/m", "device": "cuda:1"},
    ],
)
def test_the_command_has_all_that_decides_a_result(changes):
    settings = Settings(Path("/in"), Path("/out"), output_spaces=("T1w", SPACE), omp_nthreads=3)
    settings = Settings(**{**vars(settings), **changes})
    scan = Scan(Path("/in/sub-01/ses-A/anat/sub-01_ses-A_T1w.nii.gz"), "01", "A", "bids:raw:x")
    words = shlex.split(command_line(settings, scan))
    assert words[0] == "bh-bids"
    again, action = parse(words[1:])
    assert action is None
    assert (again.participant_label, again.session_label) == (("01",), ("A",))
    told = {item.name for item in fields(Settings)} - NOT_TOLD
    assert {"model", "method", "device", "random_seed", "omp_nthreads"} <= told
    for name in told:
        assert getattr(again, name) == getattr(settings, name), name


def test_the_command_of_a_longitudinal_result_takes_the_other_visits_in():
    settings = Settings(
        Path("/in"), Path("/out"), output_spaces=("T1w",), longitudinal=True,
        bids_filters={"t1w": {"acquisition": "mprage"}},
    )  # fmt: skip
    scan = Scan(Path("/in/sub-01/ses-A/anat/sub-01_ses-A_T1w.nii.gz"), "01", "A", "bids:raw:x")
    words = shlex.split(command_line(settings, scan))
    assert "--longitudinal" in words and "--session-label" not in words
    assert words[words.index("--bids-filter-file") + 1] == "PATH"
    chosen = Settings(**{**vars(settings), "session_label": ("A", "B")})
    words = shlex.split(command_line(chosen, scan))
    at = words.index("--session-label")
    assert words[at + 1 : at + 3] == ["A", "B"]


def account(path, key):
    """What the sidecar of a result says of its making."""
    stem = path.name.split(".")[0]
    sidecar = path.with_name(f"{stem}.json")
    if "figures" in path.parts:
        (sidecar,) = path.parents[1].rglob(f"{key}_desc-harmonization_metrics.json")
    content = json.loads(sidecar.read_text())
    return content.get("Harmonization") or content["Provenance"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_result_names_a_command_that_makes_it_again(
    tmp_path, dataset_maker, write_t1w, small_brain, small_model
):
    root = dataset_maker(tmp_path / "bids")
    key = "sub-01_ses-A_run-1"
    scan = root / "sub-01" / "ses-A" / "anat" / f"{key}_T1w.nii.gz"
    write_t1w(scan, 3 * small_brain.volume, small_brain.affine)
    lesion = scan.with_name(f"{key}_label-lesion_roi.nii.gz")
    bright = np.quantile(small_brain.volume[small_brain.mask], 0.97)
    write_t1w(lesion, small_brain.mask & (small_brain.volume > bright), small_brain.affine)
    program = [sys.executable, "-m", "bh_bids.cli.run"]
    first = ["bh-bids", str(root), str(tmp_path / "out"), "participant", "--model",
             str(small_model), "--random-seed", "5", "--nprocs", "2", "-w", str(tmp_path / "w1"),
             "--device", "cpu", "--sloppy"]  # fmt: skip
    done = subprocess.run([*program, *first[1:]], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = [
        path
        for path in (tmp_path / "out" / "sub-01").rglob("*")
        if path.is_file() and "log" not in path.parts and path.suffix != ".json"
    ]
    assert len(results) > 15
    commands = set()
    for path in results:
        told = account(path, key)
        assert told["InputSHA256"] == hashlib.sha256(scan.read_bytes()).hexdigest(), path
        assert told["LesionSHA256"] == hashlib.sha256(lesion.read_bytes()).hexdigest(), path
        weights = (small_model / "weights.safetensors").read_bytes()
        assert told["WeightsSHA256"] == hashlib.sha256(weights).hexdigest()
        assert told["Seed"] == 5 and told["Threads"] >= 1
        assert told["SoftwareVersions"]["bh-bids"]
        commands.add(told["CommandLine"])
    (command,) = commands
    words = {"BIDS_DIR": str(root), "OUTPUT_DIR": str(tmp_path / "again")}
    again = [words.get(word, word) for word in shlex.split(command)[1:]]
    done = subprocess.run([*program, *again, "-w", str(tmp_path / "w2"), "--nprocs", "1"],
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    for path in results:
        other = tmp_path / "again" / path.relative_to(tmp_path / "out")
        assert other.read_bytes() == path.read_bytes(), path.name
