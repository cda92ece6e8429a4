"""What the sinks write, against the names that a finished scan is known by."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from bh_bids.workflows.base import init_scan_wf

from bh_bids.dataset import Scan
from bh_bids.derivatives import expected_outputs
from bh_bids.settings import Settings

SPACE = "MNI152NLin2009aSym"
NAMES = (
    "sub-01/anat/sub-01_T1w.nii.gz",
    "sub-01/anat/sub-01_T1w.nii",
    "sub-0a/ses-pre2/anat/sub-0a_ses-pre2_run-01_T1w.nii.gz",
    "sub-010/anat/sub-010_run-2_T1w.nii.gz",
    "sub-01/ses-A/anat/sub-01_ses-A_acq-mprage_ce-gad_rec-norm_run-3_echo-1_part-mag_T1w.nii.gz",
    "sub-01/anat/sub-01_task-rest_acq-fast_T1w.nii.gz",
)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """One file of each kind that is sunk."""
    folder = tmp_path_factory.mktemp("inputs")
    image = nib.Nifti1Image(np.ones((5, 6, 7), np.uint8), np.eye(4))
    nib.save(image, folder / "a.nii.gz")
    (folder / "a.tsv").write_text("a\tb\n1\t2\n")
    (folder / "a.svg").write_text("<svg/>")
    (folder / "a.json").write_text("{}")
    (folder / "a.h5").write_bytes(b"a transform")
    return folder


def kind(node):
    if "figures_wf" in node.fullname:
        return "a.json" if node.name == "ds_viewer" else "a.svg"
    if node.name.endswith("_space"):
        return "a.h5"
    return "a.tsv" if node.name in ("ds_trace", "ds_metrics") else "a.nii.gz"


def sinks(scan, settings, model):
    workflow = init_scan_wf(scan, settings, model, "the key")
    names = [name for name in workflow.list_node_names() if ".ds_" in name]
    return [workflow.get_node(name) for name in names]


@pytest.fixture
def sink_all(tmp_path, inputs, small_model):
    model = json.loads((small_model / "model.json").read_text())

    def run(name):
        root = tmp_path / "raw"
        path = root / name
        path.parent.mkdir(parents=True)
        nib.save(nib.load(inputs / "a.nii.gz"), path)
        labels = dict(part.split("-") for part in path.name.split("_")[:-1])
        scan = Scan(path, labels["sub"], labels.get("ses"), f"bids:raw:{name}", {"EchoTime": 1})
        settings = Settings(
            root, tmp_path / "out", model=str(small_model), output_spaces=("T1w", SPACE)
        )
        for node in sinks(scan, settings, model):
            node.interface.inputs.in_file = str(inputs / kind(node))
            node.interface.run(cwd=str(tmp_path))
        return scan, settings

    return run


@pytest.mark.parametrize("name", NAMES)
def test_a_scan_whose_sinks_have_run_has_all_its_files(sink_all, name):
    scan, settings = sink_all(name)
    written = {p.relative_to(settings.output_dir) for p in settings.output_dir.rglob("*.*")}
    expected = set(expected_outputs(scan, SPACE, settings))
    assert expected <= written, f"missing: {sorted(map(str, expected - written))}"
    extra = {path for path in written - expected if path.suffix != ".json"}
    assert not extra


def test_sidecars_describe_their_images(sink_all):
    scan, settings = sink_all(NAMES[0])
    folder = settings.output_dir / scan.folder

    def sidecar(name):
        return json.loads((folder / f"{scan.key}_{name}.json").read_text())

    preproc = sidecar(f"space-{SPACE}_res-1_desc-preproc_T1w")
    assert preproc["ProvenanceKey"] == "the key"
    assert preproc["Sources"] == [scan.uri]
    assert preproc["SpatialReference"] == SPACE
    assert preproc["SkullStripped"] is True and preproc["Resolution"]
    mask = sidecar("desc-brain_mask")
    assert mask["Type"] == "Brain" and "Resolution" not in mask
    metrics = sidecar("desc-harmonization_metrics")
    assert metrics["ProvenanceKey"] == "the key"
    assert metrics["ncc_source"]["Description"]


def test_nothing_half_written_and_nothing_aside_is_left(sink_all):
    _, settings = sink_all(NAMES[0])
    hidden = [p for p in settings.output_dir.rglob("*") if p.name.startswith(".")]
    assert hidden == []
    assert not [p for p in settings.output_dir.rglob("niworkflows*")]


def test_a_sink_that_fails_leaves_no_file_under_a_final_name(tmp_path, inputs, monkeypatch):
    from bh_bids.interfaces import bids

    path = tmp_path / "raw" / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
    path.parent.mkdir(parents=True)
    nib.save(nib.load(inputs / "a.nii.gz"), path)
    sink = bids.DerivativesDataSink(
        base_directory=str(tmp_path / "out"),
        source_file=str(path),
        in_file=str(inputs / "a.nii.gz"),
        desc="preproc",
        check_hdr=False,
        compress=True,
    )

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bids.os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        sink.run(cwd=str(tmp_path))
    assert [p for p in Path(tmp_path / "out").rglob("*") if p.is_file()] == []
