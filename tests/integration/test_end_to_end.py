"""Real runs of the command, from a tiny dataset to derivatives and reports."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

SPACE = "MNI152NLin2009aSym"
COMMAND = [sys.executable, "-m", "bh_bids.cli.run"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, dataset_maker, write_t1w, small_brain):
    """Participant 01 is a small brain on axes of its own; participant 02's file is cut in half."""
    root = dataset_maker(tmp_path_factory.mktemp("end") / "bids")
    volume, affine = small_brain.volume, small_brain.affine
    first = nib.Nifti1Image(3 * volume, affine).as_reoriented(
        nib.orientations.ornt_transform(
            nib.io_orientation(affine), nib.orientations.axcodes2ornt("PSL")
        )
    )
    name = "sub-01_ses-A_run-01_T1w"
    path = root / "sub-01" / "ses-A" / "anat" / f"{name}.nii.gz"
    write_t1w(path, np.asarray(first.dataobj), first.affine)
    path.with_name(f"{name}.json").write_text('{"Manufacturer": "Siemens"}')
    broken = root / "sub-02" / "anat" / "sub-02_T1w.nii.gz"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return root


def arguments(dataset, model, folder, *options):
    places = [str(dataset), str(folder / "out"), "participant", "-w", str(folder / "work")]
    return [*COMMAND, *places, "--model", str(model), "--device", "cpu", *options]


def run(*args, **options):
    return subprocess.run(arguments(*args, **options), capture_output=True, text=True)


@pytest.fixture(scope="module")
def finished(dataset, small_model, tmp_path_factory):
    """Both participants, in worker processes: folder, finished process."""
    folder = tmp_path_factory.mktemp("finished")
    return folder, run(dataset, small_model, folder, "--nprocs", "2", "--omp-nthreads", "1")


def anat(folder):
    return folder / "out" / "sub-01" / "ses-A" / "anat"


STEM = "sub-01_ses-A_run-01"
GRID = f"{STEM}_space-{SPACE}_res-1"


def test_one_participant_fails_and_the_other_is_finished(finished):
    folder, done = finished
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    line = next(li for li in done.stderr.splitlines() if li.startswith("sub-02 failed"))
    assert "sub-02_T1w.nii.gz is truncated or damaged" in line
    assert "1 of 2 scans have no results: sub-02" in done.stderr
    assert not any(li.startswith("sub-01 failed") for li in done.stderr.splitlines())


def test_the_tree_of_outputs(finished):
    folder, _ = finished
    found = {
        str(path.relative_to(folder / "out"))
        for path in (folder / "out").rglob("*")
        if path.is_file() and "/log/" not in str(path)
    }
    images = {
        f"{GRID}_desc-preproc_T1w", f"{GRID}_desc-brain_mask", f"{GRID}_desc-harmonized_T1w",
        f"{STEM}_desc-brain_mask", f"{STEM}_desc-harmonized_T1w",
    }  # fmt: skip
    tables = {f"{STEM}_desc-harmonization_metrics", f"{STEM}_desc-trace_metrics"}
    names = {f"{name}{end}" for name in images for end in (".nii.gz", ".json")}
    names |= {f"{name}{end}" for name in tables for end in (".tsv", ".json")}
    transforms = {f"{STEM}_from-T1w_to-{SPACE}", f"{STEM}_from-{SPACE}_to-T1w"}
    names |= {f"{name}_mode-image_xfm{end}" for name in transforms for end in (".h5", ".json")}
    figures = ("brain", "registration", "flicker", "difference", "ncc", "histogram", "trace")
    expected = {f"sub-01/ses-A/anat/{name}" for name in names}
    expected |= {f"sub-01/figures/{STEM}_desc-{name}_T1w.svg" for name in figures}
    expected.add(f"sub-01/figures/{STEM}_desc-viewer_T1w.json")
    expected |= {"dataset_description.json", "README.md", ".bidsignore", "sub-01.html",
                 "sub-02.html", "logs/CITATION.md", "logs/CITATION.bib"}  # fmt: skip
    assert found == expected


def test_each_participant_s_report_says_how_it_went(finished):
    folder, _ = finished
    good = (folder / "out" / "sub-01.html").read_text()
    bad = (folder / "out" / "sub-02.html").read_text()
    assert "truncated or damaged" in bad and "truncated or damaged" not in good
    assert good.count("<svg") + good.count("<img") >= 6
    assert "What was done, and why" in good
    for page in (good, bad):
        assert "http://" not in page.replace("http://www.w3.org", "")
        assert "<script src" not in page and '<link rel="stylesheet"' not in page


def test_native_results_lie_on_the_scan_s_own_grid(finished, dataset):
    folder, _ = finished
    raw = nib.load(dataset / "sub-01" / "ses-A" / "anat" / f"{STEM}_T1w.nii.gz")
    for name in ("desc-harmonized_T1w", "desc-brain_mask"):
        result = nib.load(anat(folder) / f"{STEM}_{name}.nii.gz")
        assert result.shape == raw.shape
        assert result.affine.tobytes() == raw.affine.tobytes()
        for code in ("qform_code", "sform_code", "xyzt_units", "pixdim"):
            assert result.header[code].tobytes() == raw.header[code].tobytes()
    harmonized = nib.load(anat(folder) / f"{STEM}_desc-harmonized_T1w.nii.gz").get_fdata()
    mask = nib.load(anat(folder) / f"{STEM}_desc-brain_mask.nii.gz").get_fdata() > 0
    inside = np.asarray(raw.dataobj)[mask]
    assert np.isfinite(harmonized).all() and (harmonized[~mask] == 0).all()
    assert np.corrcoef(harmonized[mask], inside)[0, 1] > 0.8


def test_results_in_the_models_space_lie_on_its_grid(finished, small_brain):
    folder, _ = finished
    image = nib.load(anat(folder) / f"{GRID}_desc-harmonized_T1w.nii.gz")
    assert image.shape == (40, 48, 40)
    np.testing.assert_allclose(np.diag(image.affine), [4, 4, 4, 1])
    assert image.header["sform_code"] == 4
    mask = nib.load(anat(folder) / f"{GRID}_desc-brain_mask.nii.gz").get_fdata() > 0
    volume = image.get_fdata()
    assert (volume[~mask] == 0).all()
    # The brain was in the space from the start: it must have stayed.
    place = np.argwhere(mask).mean(axis=0) @ image.affine[:3, :3].T + image.affine[:3, 3]
    true = np.argwhere(small_brain.mask).mean(axis=0) @ small_brain.affine[:3, :3].T
    np.testing.assert_allclose(place, true + small_brain.affine[:3, 3], atol=2)


def test_the_transforms_move_masks_onto_one_another_by_ants(finished):
    import ants

    folder, _ = finished
    native = ants.image_read(str(anat(folder) / f"{STEM}_desc-brain_mask.nii.gz"))
    standard = ants.image_read(str(anat(folder) / f"{GRID}_desc-brain_mask.nii.gz"))
    ways = (
        (native, standard, f"{STEM}_from-T1w_to-{SPACE}_mode-image_xfm.h5"),
        (standard, native, f"{STEM}_from-{SPACE}_to-T1w_mode-image_xfm.h5"),
    )
    for moving, fixed, name in ways:
        moved = ants.apply_transforms(fixed, moving, [str(anat(folder) / name)]).numpy() > 0.5
        goal = fixed.numpy() > 0.5
        assert 2 * (moved & goal).sum() / (moved.sum() + goal.sum()) > 0.95, name


def test_sidecar_and_table_account_for_the_result(finished, dataset, small_model):
    from hashlib import sha256

    folder, _ = finished
    sidecar = json.loads((anat(folder) / f"{GRID}_desc-harmonized_T1w.json").read_text())
    assert sidecar["Sources"] == [f"bids:raw:sub-01/ses-A/anat/{STEM}_T1w.nii.gz"]
    assert sidecar["SpatialReference"] == SPACE and sidecar["SkullStripped"] is True
    assert sidecar["Manufacturer"] == "Siemens"
    block = sidecar["Harmonization"]
    raw = (dataset / "sub-01" / "ses-A" / "anat" / f"{STEM}_T1w.nii.gz").read_bytes()
    assert block["InputSHA256"] == sha256(raw).hexdigest()
    weights = (small_model / "weights.safetensors").read_bytes()
    assert block["WeightsSHA256"] == sha256(weights).hexdigest()
    assert block["IntensityScale"]["TargetScale"] == 700
    assert block["BrainExtraction"]["Method"].startswith("none")
    assert block["Method"] == "map" and set(block["Decisions"]) == {
        *("Bias", "Contrast", "Coverage", "Noise", "Resolution", "Tissue")
    }
    constants = (small_model / "calibration.safetensors").read_bytes()
    assert block["CalibrationSHA256"] == sha256(constants).hexdigest()
    for name in ("Parameters", "Device", "Seed", "Threads", "Converged", "Iterations",
                 "Guards", "SoftwareVersions", "CommandLine", "TargetDomain"):  # fmt: skip
        assert name in block, name
    with open(anat(folder) / f"{STEM}_desc-harmonization_metrics.tsv", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    assert len(rows) == 1
    assert (rows[0]["participant_id"], rows[0]["session_id"]) == ("sub-01", "ses-A")
    mask = nib.load(anat(folder) / f"{STEM}_desc-brain_mask.nii.gz").get_fdata()
    assert float(rows[0]["bias_field_sd"]) == block["Decisions"]["Bias"]["Spread"]
    assert float(rows[0]["brain_volume_ml"]) == pytest.approx(mask.sum() * 0.064, rel=0.01)
    with open(anat(folder) / f"{STEM}_desc-trace_metrics.tsv", newline="") as stream:
        trace = list(csv.DictReader(stream, delimiter="\t"))
    steps = [int(row["iteration"]) for row in trace]
    assert trace[0]["stage"] == "source"
    assert steps == list(range(len(steps))) and len(steps) == int(rows[0]["iterations"]) + 1


def bids_errors(folder):
    """Messages of severity error of the BIDS validator."""
    program = shutil.which("bids-validator-deno", path=str(Path(sys.executable).parent))
    program = program or shutil.which("bids-validator-deno")
    if program is None:
        pytest.skip("bids-validator-deno is not installed")
    done = subprocess.run([program, str(folder), "--json"], capture_output=True, text=True)
    report = json.loads(done.stdout)
    return [issue for issue in report["issues"]["issues"] if issue["severity"] == "error"]


def test_derivatives_and_what_we_made_them_from_are_valid_bids(finished, small_dataset):
    assert bids_errors(small_dataset) == []
    assert bids_errors(finished[0] / "out") == []


def test_the_group_level_collects_what_there_is(finished, dataset):
    folder, _ = finished
    done = subprocess.run(
        [*COMMAND, str(dataset), str(folder / "out"), "group", "-w", str(folder / "group")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1  # sub-02 has no results
    assert "sub-02" in done.stderr and "Traceback" not in done.stderr
    table = (folder / "out" / "group_desc-harmonization_metrics.tsv").read_text().splitlines()
    assert len(table) == 2
    assert bids_errors(folder / "out") == []


def images(folder):
    """Bytes of all results that are images or tables."""
    root = folder / "out"
    paths = [p for end in ("nii.gz", "tsv") for p in root.rglob(f"sub-*/**/*.{end}")]
    return {str(p.relative_to(root)): p.read_bytes() for p in paths}


def test_a_second_run_keeps_what_is_done(finished, dataset, small_model):
    folder, _ = finished
    before = images(folder)
    times = {p: p.stat().st_mtime_ns for p in anat(folder).iterdir()}
    options = ("--nprocs", "1", "--participant-label", "01")
    done = run(dataset, small_model, folder, *options)
    assert done.returncode == 0, done.stderr
    assert "1 of 1 scans are done already" in done.stdout
    assert "register" not in done.stdout
    assert images(folder) == before
    assert {p: p.stat().st_mtime_ns for p in anat(folder).iterdir()} == times


@pytest.mark.parametrize("lost", [f"{STEM}_desc-harmonized_T1w.nii.gz"])
def test_a_lost_result_is_made_again_alike(finished, dataset, small_model, lost):
    folder, _ = finished
    before = images(folder)
    (anat(folder) / lost).unlink()
    options = ("--nprocs", "1", "--omp-nthreads", "1", "--participant-label", "01")
    done = run(dataset, small_model, folder, *options)
    assert done.returncode == 0, done.stderr
    assert images(folder) == before


def test_a_killed_run_goes_on_and_gives_the_same_bytes(finished, dataset, small_model, tmp_path):
    """Another work and output folder, one process instead of two, killed half-way."""
    options = ("--nprocs", "1", "--omp-nthreads", "1", "--participant-label", "01", "-v")
    command = arguments(dataset, small_model, tmp_path, *options, "-v")
    log = tmp_path / "log"
    with open(log, "wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, start_new_session=True)
        while "bias field" not in log.read_text() and process.poll() is None:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    # Nothing unfinished stands under a final name.
    for path in (tmp_path / "out").rglob("*.nii.gz"):
        if not any(part.startswith(".") for part in path.parts):
            nib.load(path).get_fdata()
    corrected = list((tmp_path / "work").rglob("corrected.nii.gz"))
    assert len(corrected) == 1
    written = corrected[0].stat().st_mtime_ns
    done = run(dataset, small_model, tmp_path, *options)
    assert done.returncode == 0, done.stderr
    assert corrected[0].stat().st_mtime_ns == written, "what was finished is computed again"
    first, second = images(finished[0]), images(tmp_path)
    first.pop("group_desc-harmonization_metrics.tsv", None)
    assert first.keys() == second.keys()
    for name in first:
        assert first[name] == second[name], f"{name} differs"
    assert bids_errors(tmp_path / "out") == []
