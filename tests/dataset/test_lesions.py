"""Lesion masks: which are found, what is refused, and that they reach what is estimated."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from bh_bids.workflows.base import init_scan_wf

from bh_bids.anatomy.images import load_mask
from bh_bids.dataset import Scan
from bh_bids.derivatives import find_lesion, lesions_left_out
from bh_bids.errors import InputError
from bh_bids.interfaces.anatomical import CorrectBias, ResampleToModel
from bh_bids.provenance import inputs_sha256, provenance_key
from bh_bids.settings import Settings


@pytest.fixture
def scan(tmp_path):
    path = tmp_path / "bids/sub-01/ses-A/anat/sub-01_ses-A_run-1_T1w.nii.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    return Scan(path, "01", "A", "bids:raw:x")


NAMES = (
    "sub-01_ses-A_run-1_label-lesion_roi.nii.gz",
    "sub-01_ses-A_run-1_label-lesion_roi.nii",
    "sub-01_ses-A_run-1_T1w_label-lesion_roi.nii.gz",
)


@pytest.mark.parametrize("name", NAMES)
def test_masks_are_found_beside_the_scan_or_in_the_folder_given(name, scan, tmp_path):
    assert find_lesion(scan) is None
    beside = scan.path.with_name(name)
    beside.write_bytes(b"x")
    assert find_lesion(scan) == beside
    assert find_lesion(scan, tmp_path / "rois") is None
    other = tmp_path / "rois/sub-01/ses-A/anat" / name
    other.parent.mkdir(parents=True)
    other.symlink_to("not-fetched")
    assert find_lesion(scan, tmp_path / "rois") == other


@pytest.mark.parametrize("name", ["sub-01_ses-A_label-lesion_roi.nii.gz",
                                  "sub-01_ses-A_run-1_label-other_roi.nii.gz",
                                  "sub-01_ses-A_run-10_label-lesion_roi.nii.gz"])  # fmt: skip
def test_masks_of_other_scans_and_things_are_not(name, scan):
    scan.path.with_name(name).write_bytes(b"x")
    assert find_lesion(scan) is None


def test_a_mask_under_another_name_is_told(scan, tmp_path):
    """Of a participant without any there is nothing to say."""
    folder = tmp_path / "rois"
    (folder / "sub-01/ses-A/anat").mkdir(parents=True)
    assert lesions_left_out(scan, folder) == lesions_left_out(scan) == []
    other = folder / "sub-01/ses-A/anat/sub-01_ses-A_label-lesion_mask.nii.gz"
    other.write_bytes(b"x")
    (said,) = lesions_left_out(scan, folder)
    assert other.name in said and NAMES[0] in said
    other.with_name(NAMES[0]).write_bytes(b"x")
    assert lesions_left_out(scan, folder) == []


def test_a_mask_that_comes_or_changes_makes_the_scan_new(scan, tmp_path):
    settings = Settings(tmp_path / "bids", tmp_path / "out", output_spaces=("T1w",))
    model = {"Config": {"space": "S"}}
    keys = [provenance_key(scan, settings, model)]
    path = scan.path.with_name(NAMES[0])
    for content in (b"1", b"2"):
        path.write_bytes(content)
        keys.append(provenance_key(scan, settings, model))
        assert set(inputs_sha256(scan, settings)) == {"InputSHA256", "LesionSHA256"}
    assert len(set(keys)) == 3


def write(path, data, affine):
    image = nib.Nifti1Image(data, affine)
    image.set_sform(affine, 1)
    nib.save(image, path)
    return path


def test_a_mask_of_another_grid_is_refused_and_an_empty_one_taken(tmp_path):
    affine = np.diag([2.0, 2, 2, 1])
    data = np.zeros((20, 20, 20), np.uint8)
    path = write(tmp_path / "a.nii.gz", data, affine)
    assert not load_mask(path, (20, 20, 20), affine, of="lesion").any()
    with pytest.raises(InputError, match="does not lie on the grid"):
        load_mask(path, (20, 20, 21), affine, of="lesion")
    flipped = write(tmp_path / "b.nii.gz", data[::-1].copy(), affine @ np.diag([-1.0, 1, 1, 1]))
    with pytest.raises(InputError, match="does not lie on the grid"):
        load_mask(flipped, (20, 20, 20), affine, of="lesion")


def test_n4_leaves_the_lesion_out(small_brain, tmp_path, monkeypatch):
    from bh_bids.anatomy import bias

    volume, affine, mask = small_brain.volume, small_brain.affine, small_brain.mask
    lesion = np.zeros_like(mask)
    lesion[14:20, 20:26, 18:24] = True
    names, volumes = ("scan", "mask", "lesion"), (volume, mask, lesion)
    files = {
        name: str(write(tmp_path / f"{name}.nii.gz", array.astype(np.float32), affine))
        for name, array in zip(names, volumes, strict=True)
    }
    asked = []
    monkeypatch.setattr(
        bias, "n4_bias_field", lambda volume, affine, mask: asked.append(mask) or volume * 0 + 1
    )
    for given in ({}, {"lesion": files["lesion"]}):
        CorrectBias(in_file=files["scan"], mask=files["mask"], **given).run(cwd=str(tmp_path))
    np.testing.assert_array_equal(asked[0], mask)
    np.testing.assert_array_equal(asked[1], mask & ~lesion)


def test_the_mask_is_carried_to_the_model_s_grid(small_brain, tmp_path):
    import ants

    affine, mask = small_brain.affine, small_brain.mask
    lesion = np.zeros_like(mask)
    lesion[14:20, 20:26, 18:24] = True
    names = ("scan", "mask", "lesion")
    volumes = (small_brain.volume, mask.astype(np.uint8), lesion.astype(np.uint8))
    scan, brain, roi = (
        write(tmp_path / f"{n}.nii.gz", v, affine) for n, v in zip(names, volumes, strict=True)
    )
    ants.write_transform(ants.create_ants_transform(), str(tmp_path / "t.h5"))
    done = ResampleToModel(
        in_file=str(scan), mask=str(brain), lesion=str(roi), transform=str(tmp_path / "t.h5"),
        shape=list(mask.shape), affine=affine.tolist(),
    ).run(cwd=str(tmp_path))  # fmt: skip
    moved = nib.load(done.outputs.out_lesion).get_fdata() > 0
    np.testing.assert_array_equal(moved, lesion)


def test_the_workflow_gives_the_mask_to_each_step_that_estimates(scan, tmp_path, small_model):
    settings = Settings(tmp_path / "bids", tmp_path / "out", output_spaces=("T1w",),
                        model=str(small_model), device="cpu", omp_nthreads=1)  # fmt: skip
    model = json.loads((small_model / "model.json").read_text())
    path = scan.path.with_name(NAMES[0])
    for there in (False, True):
        if there:
            path.write_bytes(b"x")
        workflow = init_scan_wf(scan, settings, model, "key")
        nodes = {name.split(".")[-1]: name for name in workflow.list_node_names()}
        for step in ("bias_field", "resample"):
            given = workflow.get_node(nodes[step]).inputs.lesion
            assert (given == str(path)) if there else not isinstance(given, str)
        linked = [
            target for _, target, data in workflow._graph.edges(data=True)
            for _, field in data["connect"] if field == "inputnode.lesion"
        ]  # fmt: skip
        assert bool(linked) == there


def test_the_option_is_a_folder_that_is_there(tmp_path, monkeypatch):
    from bh_bids.cli.parser import parse

    monkeypatch.chdir(tmp_path)
    Path("rois").mkdir()
    given, _ = parse(["in", "out", "participant", "--lesion-roi", "rois"])
    assert given.lesion_roi == tmp_path / "rois"
    with pytest.raises(InputError, match="lesion masks .* does not exist"):
        parse(["in", "out", "participant", "--lesion-roi", "missing"])
