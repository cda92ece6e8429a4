"""The look at real scans of another scanner."""

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bh_bids import load_model

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def real_source():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import real_source

        yield real_source
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def model():
    return load_model("default")


def test_the_targets_mean_is_no_distance_from_itself(real_source, model):
    look, mask = real_source._Look(model), model.mean > 0
    figures = look.figures(model.mean, mask)
    assert figures[-1] == pytest.approx(0, abs=1e-6)
    # Darker than grey matter, and deep inside.
    assert figures[5] <= figures[4] < 0.4 < model.intensity["Modes"]["GM"]
    brighter = look.figures(np.where(mask, 1.1 * model.mean, 0), mask)
    assert brighter[4] == pytest.approx(1.1 * figures[4], rel=1e-5)
    assert brighter[-1] > 0.03


def test_a_row_for_each_image_of_a_scan(real_source, model, tmp_path, capsys):
    folder = tmp_path / "sub-01" / "anat"
    folder.mkdir(parents=True)
    mask, stem = model.mean > 0, f"sub-01_space-{model.space}_res-1_"
    for name, volume in (
        ("desc-preproc_T1w", 300 * model.mean**0.7),
        ("desc-brain_mask", mask.astype(np.uint8)),
        ("desc-harmonized_T1w", model.intensity["TargetScale"] * model.mean),
    ):
        nib.save(nib.Nifti1Image(volume, np.eye(4)), folder / f"{stem}{name}.nii.gz")
    real_source.main([str(tmp_path), "--target", str(tmp_path)])
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()]
    assert [row[1] for row in rows[2:]] == [
        *("source", "histogram match", "match of the result", "harmonized"),
        *("least", "median", "most"),
    ]
    assert rows[5][-1] == "0.0000 |"


def test_a_folder_without_scans_is_said(real_source, tmp_path):
    with pytest.raises(SystemExit, match="No harmonized scan"):
        real_source.main([str(tmp_path)])
