"""Real runs: visits with a common template, and a scan whose anatomy fails a check."""

import json
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from bh_bids.anatomy.resampling import resample

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

SPACE = "MNI152NLin2009aSym"
VISITS = ("sub-01_ses-A", "sub-01_ses-B")


def moved(brain, angles, shift):
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    matrix[:3, 3] = shift
    return resample(brain.volume, brain.affine, brain.volume.shape, brain.affine, matrix)


def run(root, folder, model, *options):
    command = [sys.executable, "-m", "bh_bids.cli.run", str(root), str(folder / "out"),
               "participant", "-w", str(folder / "work"), "--model", str(model), "--device", "cpu",
               "--nprocs", "1", *options]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, dataset_maker, write_t1w, small_brain, small_model):
    """Participant 01 came twice; participant 02's contrast is inverted."""
    folder = tmp_path_factory.mktemp("visits")
    root = dataset_maker(folder / "bids")
    positions = (((0, 0, 0), (0, 0, 0)), ((6, -4, 5), (4, -3, 2)))
    for name, position in zip(VISITS, positions, strict=True):
        path = root / "sub-01" / name[-5:] / "anat" / f"{name}_T1w.nii.gz"
        write_t1w(path, 3 * moved(small_brain, *position), small_brain.affine)
    top = small_brain.volume.max()
    inverted = np.where(small_brain.mask, 1.1 * top - small_brain.volume, 0)
    write_t1w(root / "sub-02" / "anat" / "sub-02_T1w.nii.gz", inverted, small_brain.affine)
    return root, folder, run(root, folder, small_model, "--longitudinal")


def test_a_failed_check_stops_its_scan_alone_and_says_why(finished):
    _, folder, done = finished
    assert done.returncode == 1 and "Traceback" not in done.stdout + done.stderr
    line = next(li for li in done.stderr.splitlines() if li.startswith("sub-02 failed"))
    assert "sub-02_T1w.nii.gz was not harmonized" in line and "inverted" in line
    assert "--force" in line
    anat = folder / "out" / "sub-02" / "anat"
    assert not list(anat.glob("*harmonized*"))
    sidecar = json.loads((anat / f"sub-02_space-{SPACE}_res-1_desc-preproc_T1w.json").read_text())
    checks = sidecar["AnatomicalChecks"]
    assert checks["Verdict"] == "fail" and checks["Contrast"]["State"] == "fail"
    assert checks["MaskVolume"]["State"] == checks["TemplateOverlap"]["State"] == "pass"
    page = (folder / "out" / "sub-02.html").read_text()
    assert "not harmonized" in page and "Checks of mask and registration" in page


def test_visits_share_one_brain_mask_and_one_registration(finished, small_brain):
    _, folder, _ = finished
    masks = []
    for name in VISITS:
        anat = folder / "out" / "sub-01" / name[-5:] / "anat"
        stem = anat / f"{name}_space-{SPACE}_res-1"
        assert (anat / f"{name}_desc-harmonized_T1w.nii.gz").is_file()
        sidecar = json.loads((anat / f"{stem.name}_desc-harmonized_T1w.json").read_text())
        registration = sidecar["Harmonization"]["Registration"]
        assert registration["WithinTemplate"] == [f"{visit}_T1w.nii.gz" for visit in VISITS]
        shared = sidecar["Harmonization"]["SharedMap"]
        assert shared == registration["WithinTemplate"]
        assert sidecar["AnatomicalChecks"]["Verdict"] != "fail"
        masks.append(nib.load(f"{stem}_desc-brain_mask.nii.gz").get_fdata() > 0)
    first, second = masks
    assert 2 * (first & second).sum() / (first.sum() + second.sum()) > 0.96


def test_a_lost_result_makes_all_visits_again_and_nothing_else(finished, small_model):
    root, folder, _ = finished
    again = run(root, folder, small_model, "--longitudinal", "--dry-run")
    assert "Would harmonize 1 of 3" in again.stdout
    anat = folder / "out" / "sub-01" / "ses-A" / "anat"
    lost = anat / f"{VISITS[0]}_desc-harmonized_T1w.nii.gz"
    content = lost.read_bytes()
    lost.unlink()
    again = run(root, folder, small_model, "--longitudinal", "--dry-run")
    assert "Would harmonize 3 of 3" in again.stdout
    done = run(root, folder, small_model, "--longitudinal", "--participant-label", "01")
    assert done.returncode == 0, done.stderr
    assert lost.read_bytes() == content
