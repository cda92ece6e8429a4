"""Sixteen processes that write to one output folder at the same time, as an array's tasks do."""

import json
import os
import subprocess
import sys
import time

import pytest

MANY = 16
SHARED = ("dataset_description.json", "README.md", ".bidsignore", "logs/CITATION.md",
          "logs/CITATION.bib")  # fmt: skip


@pytest.fixture(scope="module")
def crowd(tmp_path_factory, dataset_maker, write_t1w, small_brain, small_model):
    """Output folder, what each process said and its exit code, and every state of shared files."""
    folder = tmp_path_factory.mktemp("crowd")
    root = dataset_maker(folder / "bids")
    labels = [f"{k:02d}" for k in range(1, MANY + 1)]
    for k, label in enumerate(labels):
        path = root / f"sub-{label}" / "anat" / f"sub-{label}_T1w.nii.gz"
        write_t1w(path, (2 + 0.1 * k) * small_brain.volume, small_brain.affine)
    out = folder / "out"
    running, logs = [], []
    for label in labels:
        command = [sys.executable, "-m", "bh_bids.cli.run", str(root), str(out), "participant"]
        command += ["--participant-label", label, "-w", str(folder / "work" / label)]
        command += ["--model", str(small_model), "--device", "cpu", "--nprocs", "1", "--anat-only"]
        logs.append(folder / f"{label}.log")
        with open(logs[-1], "w") as log:
            running.append(subprocess.Popen(command, stdout=log, stderr=log))
    seen = {name: set() for name in SHARED}
    while any(process.poll() is None for process in running):
        for name in SHARED:
            if (out / name).exists():
                seen[name].add((out / name).read_bytes())
        time.sleep(0.05)
    codes = [process.returncode for process in running]
    return out, labels, codes, [log.read_text() for log in logs], seen


def test_all_are_done(crowd):
    out, labels, codes, told, _ = crowd
    assert codes == [0] * MANY, told
    for label in labels:
        assert (out / f"sub-{label}.html").stat().st_size > 10_000
        assert list(out.glob(f"sub-{label}/anat/*_desc-preproc_T1w.nii.gz"))


def test_what_they_share_was_whole_at_every_moment(crowd):
    out, _, _, _, seen = crowd
    for name in SHARED:
        assert seen[name], f"{name} was never there"
        assert b"" not in seen[name]
        assert (out / name).read_bytes() in seen[name]
    for text in seen["dataset_description.json"]:
        assert json.loads(text)["GeneratedBy"][0]["Name"] == "bh-bids"
    # All were given the same to say of the dataset.
    assert len(seen["dataset_description.json"]) == len(seen["README.md"]) == 1
    left = [p for p in out.rglob("*") if p.name.startswith(".") and p.name != ".bidsignore"]
    assert not left


def test_no_process_used_another_s_settings(crowd):
    out, labels, *_ = crowd
    for label in labels:
        (settings,) = out.glob(f"sub-{label}/log/*/bh-bids.toml")
        assert f'participant_label = [\n    "{label}",\n]' in settings.read_text()
    assert len({os.path.basename(p.parent) for p in out.glob("sub-*/log/*/bh-bids.toml")}) == MANY
