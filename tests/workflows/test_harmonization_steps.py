"""The steps from a brain on the model's grid to tables and figures, with every method."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from bh_bids.anatomy.registration import write_affine
from bh_bids.dataset import Scan
from bh_bids.evaluation.participant import METRICS, TRACE
from bh_bids.harmonization import gates
from bh_bids.interfaces.harmonization import (
    ApplyOnNativeGrid,
    Harmonize,
    HarmonizeTogether,
    Summarize,
)
from bh_bids.interfaces.reportlets import PlotHarmonization
from bh_bids.reports.decisions import decision_rows
from bh_bids.settings import METHODS, Settings
from bh_bids.sidecars import harmonization_block


@pytest.fixture(scope="module", params=METHODS)
def steps(request, tmp_path_factory, small_model):
    """Results of the steps on the model's own mean, brighter at the back, in another contrast."""
    folder = tmp_path_factory.mktemp(request.param)
    mean = nib.load(small_model / "mean.nii.gz")
    volume = mean.get_fdata(dtype=np.float32)
    mask = volume > 0.05
    field = np.exp(np.linspace(0.4, -0.4, volume.shape[1]))[:, None]
    for name, array in (("source", 500 * field * volume**0.7), ("mask", mask)):
        array = np.where(mask, array, 0).astype(np.float32)
        nib.save(nib.Nifti1Image(array, mean.affine), folder / f"{name}.nii.gz")
    (folder / "details.json").write_text(json.dumps({"Warnings": [], "Volume_ml": 1400.0}))
    model = json.loads((small_model / "model.json").read_text())

    def run(interface, **inputs):
        return interface(**inputs).run(cwd=str(folder)).outputs

    brain = dict(mask=str(folder / "mask.nii.gz"))
    done = run(
        Harmonize, in_file=str(folder / "source.nii.gz"), **brain, model=str(small_model),
        model_sha256="0", method=request.param, device="cpu",
    )  # fmt: skip
    brain |= dict(
        source=str(folder / "source.nii.gz"), harmonized=done.out_file, result=done.result
    )
    scan = {"participant_id": "sub-01", "session_id": "n/a", "filename": "sub-01_T1w.nii.gz"}
    tables = run(Summarize, **brain, details=str(folder / "details.json"), model=model, scan=scan)
    intensity = {name: model["Intensity"][name] for name in ("Quantiles", "Modes")}
    return SimpleNamespace(
        method=request.param,
        result=json.loads(open(done.result).read()),
        model=model,
        metrics=table(tables.metrics),
        trace=table(tables.trace),
        figures=run(PlotHarmonization, **brain, intensity=intensity, model=str(small_model)),
    )


def table(path):
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def test_tables_have_the_columns_that_their_dictionaries_describe(steps):
    assert list(steps.trace[0]) == list(TRACE[steps.method])
    assert list(steps.metrics[0]) == list(METRICS)
    assert steps.metrics[0]["method"] == steps.method


def test_the_trace_is_that_of_the_method(steps):
    assert [int(row["iteration"]) for row in steps.trace] == list(range(len(steps.trace)))
    assert len(steps.trace) == int(steps.metrics[0]["iterations"]) + 1
    for row in steps.trace:
        assert np.isfinite([float(row[name]) for name in ("ncc", "latent", "bits_per_dim")]).all()
    if steps.method == "map":
        assert [row["stage"] for row in steps.trace][:3] == ["source", "field", "contrast"]
        assert float(steps.trace[0]["ncc"]) == pytest.approx(1, abs=1e-6)


def test_what_was_measured_is_in_the_table(steps):
    row, found = steps.metrics[0], steps.result["decisions"]
    if steps.method == "paper":
        assert not found
        for name in ("bias_field_sd", "contrast_unlikeness", "noise_sigma"):
            assert row[name] == "n/a"
        return
    # A ramp from 0.4 to -0.4 along y.
    assert float(row["bias_field_sd"]) == pytest.approx(0.2, abs=0.06)
    assert float(row["bias_field_sd"]) == found["Bias"]["Spread"]
    assert float(row["contrast_unlikeness"]) == found["Contrast"]["Unlikeness"] > 2
    assert float(row["noise_sigma"]) == found["Noise"]["Sigma"]


def test_what_became_of_the_structure_is_in_the_table(steps):
    """As it is in the result that the sidecar is made from."""
    row, found = steps.metrics[0], steps.result
    assert float(row["ncc_target"]) == pytest.approx(found["contrast"], rel=1e-5)
    columns = {
        "edges_lost": "EdgesLost", "edges_invented": "EdgesInvented", "local_ncc": "LocalNCC",
        "fine_difference": "Difference", "slice_steps": "Stripes",
    }  # fmt: skip
    told = [column for column, figure in columns.items() if found["structure"][figure] is not None]
    assert len(told) >= 3
    for column in told:
        assert float(row[column]) == pytest.approx(found["structure"][columns[column]], rel=1e-5)
    cut = found["clipping"]["SourceNegative"] + found["clipping"]["ResultZero"]
    assert int(row["clipped_voxels"]) == cut
    assert row["lesion_contrast_before"] == row["lesion_contrast_after"] == "n/a"


def test_the_sidecar_and_the_report_tell_what_was_decided(steps):
    settings = Settings(Path("in"), Path("out"), method=steps.method)
    extraction = {"Method": "atlas", "Warnings": []}
    scan = Scan(Path("in/sub-01/anat/sub-01_T1w.nii.gz"), "01", None, "bids:raw:x")
    block = harmonization_block(settings, steps.model, steps.result, extraction, scan)
    rows = decision_rows(json.loads(json.dumps(block)))
    if steps.method == "paper":
        assert rows == [] and "IntensityMap" not in block
        return
    assert {row["stage"]: row["state"] for row in rows}.items() >= {
        "Bias field": "done", "Contrast": "done",
    }.items()  # fmt: skip
    assert f"{100 * block['Decisions']['Bias']['Spread']:.1f} %" in rows[0]["sentence"]
    assert "SharedMap" not in block, "one scan shares it with none"
    told = block["IntensityMap"]
    assert (np.diff(told["Input"]) > 0).all() and (np.diff(told["Output"]) >= 0).all()
    assert len(told["FieldCoefficients"]) > 3


def test_scans_that_share_a_map_are_harmonized_in_one_step(small_model, tmp_path):
    """Two gains of one head: one curve; each scan gets its own files, told apart by their order."""
    mean = nib.load(small_model / "mean.nii.gz")
    volume = mean.get_fdata(dtype=np.float32)
    mask = np.where(volume > 0.05, 1, 0).astype(np.uint8)
    nib.save(nib.Nifti1Image(mask, mean.affine), tmp_path / "mask.nii.gz")
    names = []
    for gain in (200, 500):
        names.append(str(tmp_path / f"gain{gain}.nii.gz"))
        nib.save(nib.Nifti1Image(np.float32(gain) * mask * volume**0.7, mean.affine), names[-1])
    step = HarmonizeTogether(
        in_files=names, masks=[str(tmp_path / "mask.nii.gz")] * 2, lesions=["", ""],
        scans=["a", "b"], model=str(small_model), model_sha256="0", device="cpu",
    )  # fmt: skip
    done = step.run(cwd=str(tmp_path)).outputs
    found = [json.loads(Path(path).read_text()) for path in done.results]
    assert [f["shared"] for f in found] == [["a", "b"]] * 2
    assert found[1]["source_scale"] == pytest.approx(2.5 * found[0]["source_scale"], rel=1e-4)
    first, second = (nib.load(path).get_fdata() for path in done.out_files)
    assert first.max() > 0
    np.testing.assert_allclose(first, second, atol=1e-3 * first.max())


def test_a_gain_by_surroundings_reaches_the_scans_own_grid(small_model, tmp_path, monkeypatch):
    """The gate is opened: that of such a small brain seldom is."""
    monkeypatch.setattr(gates, "UNEVEN", (1e-6, 2e-6))
    mean = nib.load(small_model / "mean.nii.gz")
    volume = mean.get_fdata(dtype=np.float32)
    mask = np.where(volume > 0.05, 1, 0).astype(np.uint8)
    paths = {name: str(tmp_path / f"{name}.nii.gz") for name in ("mask", "source", "to_itself")}
    nib.save(nib.Nifti1Image(mask, mean.affine), paths["mask"])
    nib.save(nib.Nifti1Image(np.float32(300) * mask * volume**0.7, mean.affine), paths["source"])
    write_affine(np.eye(4), tmp_path / "itself.mat")
    done = Harmonize(
        in_file=paths["source"], mask=paths["mask"], model=str(small_model), model_sha256="0",
        device="cpu", parameters={"flow": "identity", "resolution": False},
    ).run(cwd=str(tmp_path)).outputs  # fmt: skip
    found = json.loads(Path(done.result).read_text())
    assert found["decisions"]["Tissue"]["Applied"] and found["tissue_gain"] == "gain.nii.gz"
    own = ApplyOnNativeGrid(
        native=paths["source"], mask=paths["mask"], source=paths["source"],
        harmonized=done.out_file, result=done.result, transform=str(tmp_path / "itself.mat"),
        reference=paths["source"],
    ).run(cwd=str(tmp_path)).outputs  # fmt: skip
    native, harmonized = (nib.load(p).get_fdata() for p in (own.out_file, done.out_file))
    np.testing.assert_allclose(native, harmonized, atol=1e-3 * harmonized.max())


def test_the_trace_is_drawn_as_what_it_is(steps):
    picture = open(steps.figures.trace, encoding="utf-8").read()
    assert ("after each stage" in picture) == (steps.method == "map")
