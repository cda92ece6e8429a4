"""A small study's derivatives: brains of three tissues, sites that differ in contrast and noise."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from bh_bids.evaluation.participant import METRICS, write_tsv

SHAPE = (32, 40, 24)
SPACE = "MNI152NLin2009aSym"
TARGET_SCALE = 1500.0
#: Exponent, gain and noise of each site; A is the target.
SITES = {"A": (1.0, 900.0, 0.01), "B": (0.6, 300.0, 0.02), "C": (1.6, 4000.0, 0.04)}
SCANNERS = {"A": ("Philips", "Ingenia"), "B": ("GE", "Signa"), "C": ("Siemens", "Trio")}


def brain(seed):
    """Three tissues in an ellipsoid, target units; volume and mask."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij"))
    mask = (grid**2).sum(axis=0) < 0.9
    field = gaussian_filter(rng.normal(size=SHAPE), 2.5)
    volume = np.array([0.2, 0.55, 0.9])[np.digitize(field, np.quantile(field[mask], [0.15, 0.6]))]
    volume = np.where(mask, gaussian_filter(volume, 0.6), 0)
    return volume / np.percentile(volume[mask], 99), mask


def _save(path, array, sidecar=None):
    affine = np.eye(4)
    affine[:3, 3] = -np.array(SHAPE) / 2
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.asarray(array, np.float32), affine), path)
    if sidecar is not None:
        path.with_name(path.name.replace(".nii.gz", ".json")).write_text(json.dumps(sidecar))


def write_scan(root, label, site, *, seed, harmonized=True):
    """One scan's derivatives, and its raw sidecar."""
    exponent, gain, sigma = SITES[site]
    rng = np.random.default_rng([seed, *site.encode()])
    truth, mask = brain(seed)
    noisy = truth**exponent + sigma * rng.standard_normal(SHAPE)
    stem = f"sub-{label}_ses-{site}"
    anat = root / "out" / f"sub-{label}" / f"ses-{site}" / "anat"
    space = f"{stem}_space-{SPACE}_res-1_desc-"
    maker, model = SCANNERS[site]
    about = {"Manufacturer": maker, "ManufacturersModelName": model}
    _save(
        anat / f"{space}preproc_T1w.nii.gz", np.where(mask, np.maximum(noisy, 0) * gain, 0), about
    )
    _save(anat / f"{space}brain_mask.nii.gz", mask)
    raw = root / "bids" / f"sub-{label}" / f"ses-{site}" / "anat" / f"{stem}_T1w.json"
    raw.parent.mkdir(parents=True, exist_ok=True)
    raw.write_text(json.dumps(about | {"StationName": f"station{site}"}))
    if not harmonized:
        return
    better = truth + 0.5 * sigma * rng.standard_normal(SHAPE)
    block = {
        "Model": "small",
        "WeightsSHA256": "0",
        "IntensityScale": {"TargetScale": TARGET_SCALE},
    }
    block["TargetDomain"] = {"Manufacturer": "Philips", "Description": "site A"}
    _save(
        anat / f"{space}harmonized_T1w.nii.gz",
        np.where(mask, np.maximum(better, 0) * TARGET_SCALE, 0),
        about | {"Harmonization": block},
    )
    row = dict.fromkeys(METRICS) | {"participant_id": f"sub-{label}", "session_id": f"ses-{site}"}
    row |= {"filename": f"{stem}_T1w.nii.gz", "brain_volume_ml": mask.sum() / 800}
    row |= {"ncc_source": 0.98, "bits_per_dim_before": 5.0, "bits_per_dim_after": 4.0}
    write_tsv([row], anat / f"{stem}_desc-harmonization_metrics.tsv")


def write_study(root, participants=4, sites=("A", "B", "C")):
    """Derivatives in ``out``, what is left of the raw data in ``bids``."""
    rows = ["participant_id\tage\tsex\tgroup"]
    for k in range(participants):
        label = f"{k + 1:02d}"
        for site in sites:
            write_scan(root, label, site, seed=k)
        rows.append(f"sub-{label}\t{20 + 7 * k}\t{'FM'[k % 2]}\t{'control' if k else 'n/a'}")
    (root / "bids").mkdir(exist_ok=True)
    (root / "bids" / "participants.tsv").write_text("\n".join(rows) + "\n")
    return Path(root)


@pytest.fixture(scope="session")
def study_maker():
    """Write a study's derivatives."""
    return write_study


@pytest.fixture(scope="session")
def scan_maker():
    """Write one scan's derivatives."""
    return write_scan


@pytest.fixture(scope="session")
def small_study(tmp_path_factory):
    """Four participants at the target's site A and two others; not to be changed."""
    return write_study(tmp_path_factory.mktemp("study"))
