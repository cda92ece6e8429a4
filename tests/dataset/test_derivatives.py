"""When results count as done, and the descriptions that go with them."""

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from bh_bids.dataset import Scan
from bh_bids.derivatives import (
    expected_outputs,
    find_mask,
    is_done,
    masks_left_out,
    unmark,
    write_description,
)
from bh_bids.provenance import file_sha256, provenance_key
from bh_bids.settings import Settings
from bh_bids.sidecars import harmonization_block, image_sidecar, intensity_map

SPACE = "MNI152NLin2009aSym"


@pytest.fixture
def model():
    return {
        "Name": "small",
        "WeightsSHA256": "ab" * 32,
        "Config": {"space": SPACE},
        "Intensity": {"TargetScale": 700.0},
    }


@pytest.fixture
def settings(tmp_path):
    return Settings(tmp_path / "raw", tmp_path / "out", output_spaces=("T1w", SPACE))


@pytest.fixture
def scan(settings):
    path = settings.bids_dir / "sub-01/ses-A/anat/sub-01_ses-A_run-2_T1w.nii.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"intensities")
    return Scan(path, "01", "A", "bids:raw:x", {"MagneticFieldStrength": 3, "EchoTime": 0.003})


@pytest.fixture
def finished(scan, settings, model):
    """All results of the scan, as if a run had just ended; its key."""
    key = provenance_key(scan, settings, model)
    for name in expected_outputs(scan, SPACE, settings):
        path = settings.output_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"ProvenanceKey": key}) if path.suffix == ".json" else "x")
    return key


def done(scan, settings, model):
    return is_done(scan, SPACE, settings, provenance_key(scan, settings, model))


def test_finished_results_are_kept(scan, settings, model, finished):
    assert done(scan, settings, model)
    # What only changes how a run goes, not what comes out, makes nothing to be done again.
    for change in (
        dict(nprocs=99),
        dict(mem_gb=3.0),
        dict(work_dir=Path("/elsewhere")),
        dict(verbose=2),
        dict(run_uuid="another"),
        dict(participant_label=("01",)),
        dict(low_mem=True),
    ):
        assert done(scan, replace(settings, **change), model), change


def test_other_bytes_are_other_results(scan, settings, model, finished):
    scan.path.write_bytes(b"intensitiez")
    assert not done(scan, settings, model)


@pytest.mark.parametrize(
    "change",
    [
        dict(random_seed=1),
        dict(skull_strip_t1w="force"),
        dict(template="MNI152NLin2009cAsym"),
        dict(sloppy=True),
        dict(method="another"),
    ],
)
def test_other_parameters_are_other_results(scan, settings, model, finished, change):
    assert not done(scan, replace(settings, **change), model)


def test_another_model_is_another_result(scan, settings, model, finished):
    assert not done(scan, settings, {**model, "WeightsSHA256": "cd" * 32})
    assert not done(scan, settings, {**model, "Intensity": {"TargetScale": 800.0}})
    assert not done(scan, settings, {**model, "CalibrationSHA256": "ef" * 32})


def test_a_corrected_scanner_field_is_written_again(scan, settings, model, finished):
    mended = replace(scan, metadata={**scan.metadata, "MagneticFieldStrength": 1.5})
    assert not done(mended, settings, model)
    irrelevant = replace(scan, metadata={**scan.metadata, "EchoTime": 0.004})
    assert done(irrelevant, settings, model)


def test_a_mask_that_appears_or_changes_is_used(scan, settings, model, finished, tmp_path):
    masks = replace(settings, derivatives={"masks": tmp_path / "masks"})
    assert done(scan, masks, model)
    path = tmp_path / "masks" / scan.folder / f"{scan.key}_desc-brain_mask.nii.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mask")
    assert find_mask(scan, masks.derivatives) == path
    first = provenance_key(scan, masks, model)
    assert first != finished
    path.write_bytes(b"another mask")
    assert provenance_key(scan, masks, model) != first


@pytest.mark.parametrize(
    "name",
    [
        "sub-01_ses-A_run-2_desc-brain_mask.nii.gz",  # fMRIPrep, sMRIPrep, this program
        "sub-01_ses-A_run-2_label-brain_mask.nii.gz",  # BIDS Derivatives 1.8
        "sub-01_ses-A_run-2_desc-brain_mask.nii",
    ],
)
def test_masks_are_found_by_their_bids_names(scan, tmp_path, name):
    folders = {"first": tmp_path / "first", "second": tmp_path / "second"}
    assert find_mask(scan, folders) is None
    # Another run's, and one in a standard space, are not this scan's.
    for folder, other in (
        ("first", name.replace("run-2", "run-1")),
        ("first", name.replace("run-2", f"run-2_space-{SPACE}_res-1")),
        ("second", name),
    ):
        path = folders[folder] / scan.folder / other
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"mask")
    assert find_mask(scan, folders) == path
    first = folders["first"] / scan.folder / name
    first.symlink_to(tmp_path / "not-fetched")
    assert find_mask(scan, folders) == first, "it must not be passed over without a word"
    first.unlink()
    first.write_bytes(b"mask")
    assert find_mask(scan, folders) == first


def test_scans_of_a_common_template_depend_on_each_other(scan, settings, model):
    second = replace(scan, path=scan.path.with_name("sub-01_ses-A_run-3_T1w.nii.gz"))
    second.path.write_bytes(b"other intensities")
    alone = provenance_key(scan, settings, model)
    together = provenance_key(scan, settings, model, [scan, second])
    assert together != alone
    second.path.write_bytes(b"changed")
    assert provenance_key(scan, settings, model, [scan, second]) not in (alone, together)


def test_every_single_file_counts(scan, settings, model, finished):
    names = expected_outputs(scan, SPACE, settings)
    assert len(names) == len(set(names)) > 10
    for name in names:
        path = settings.output_dir / name
        content = path.read_bytes()
        path.unlink()
        assert not done(scan, settings, model), name
        path.write_bytes(content)
    assert done(scan, settings, model)


@pytest.mark.parametrize(
    ("verdict", "force", "anat_only", "kept"),
    [
        ("fail", True, False, True), ("fail", False, False, False), ("fail", False, True, True),
        ("warn", False, False, True), ("pass", False, False, True),
    ],
)  # fmt: skip
def test_what_only_force_lets_pass_is_no_result_without_it(
    verdict, force, anat_only, kept, scan, settings, model, finished
):
    settings = replace(settings, force=force, anat_only=anat_only)
    key = provenance_key(scan, settings, model)
    for name in expected_outputs(scan, SPACE, settings):
        if name.suffix == ".json":
            content = {"ProvenanceKey": key}
            if "preproc" in name.name:  # the checks are of this image
                content["AnatomicalChecks"] = {"Verdict": verdict}
            (settings.output_dir / name).write_text(json.dumps(content))
    assert done(scan, settings, model) is kept


@pytest.mark.parametrize("anat_only", [False, True])
def test_without_its_mark_a_scan_is_done_again(scan, settings, model, anat_only):
    """Even if all other files of an earlier run stand, and the sidecar alone is written anew."""
    settings = replace(settings, anat_only=anat_only)
    key = provenance_key(scan, settings, model)
    outputs = [settings.output_dir / name for name in expected_outputs(scan, SPACE, settings)]
    for path in outputs:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}" if path.suffix == ".json" else "x")
    outputs[0].write_text(json.dumps({"ProvenanceKey": key}))
    assert done(scan, settings, model)
    unmark(scan, SPACE, settings)
    unmark(scan, SPACE, settings)
    assert not done(scan, settings, model)
    outputs[0].write_text(json.dumps({"ProvenanceKey": key}))
    assert not done(scan, settings, model), "what the sidecar describes is still to come"
    left = sorted(p.name for p in outputs if p.exists() and p.suffix in (".gz", ".h5"))
    assert any("brain_mask" in name for name in left) and any("xfm" in name for name in left)


def test_the_harmonization_may_keep_its_mark(scan, settings, model, finished):
    unmark(scan, SPACE, settings, harmonization=False)
    folder = settings.output_dir / scan.folder
    assert (folder / f"{scan.key}_desc-harmonization_metrics.json").is_file()
    assert not list(folder.glob("*_desc-preproc_T1w.*"))


def test_a_scan_that_is_made_again_keeps_no_figure_and_no_image_of_another_space(
    scan, settings, model, finished
):
    """Beside the new results they would pass for those of one run."""
    folder = settings.output_dir / scan.folder
    images = [
        folder / f"{scan.key}{space}_desc-harmonized_T1w" for space in (f"_space-{SPACE}_res-1", "")
    ]
    for image in images:
        Path(f"{image}.json").write_text("{}")
    unmark(scan, SPACE, replace(settings, output_spaces=("T1w",)))
    assert not list(settings.output_dir.rglob("figures/*"))
    left = {p.name for p in folder.glob("*_desc-harmonized_*")}
    assert left == {f"{images[1].name}.nii.gz", f"{images[1].name}.json"}
    assert not list(folder.glob("*_desc-harmonization_metrics.*"))


@pytest.mark.parametrize(
    ("size", "told"),
    [
        (None, "1 mm isotropic"),
        ((2.0, 2.0, 2.0), "2 mm isotropic"),
        ((1, 1, 1.5), "1 x 1 x 1.5 mm"),
    ],
)
def test_sidecars_tell_the_models_grid(scan, size, told):
    config = {"space": SPACE} | ({} if size is None else {"voxel_size": size})
    sidecar = image_sidecar(scan, description="brain", model={"Config": config})
    assert sidecar["SpatialReference"] == SPACE and sidecar["Resolution"] == told
    assert "Resolution" not in image_sidecar(scan, description="on its own grid")


def test_the_scans_that_lack_masks_are_named(scan, tmp_path):
    second = replace(scan, path=scan.path.with_name("sub-01_ses-A_run-3_T1w.nii.gz"))
    folders = {"first": tmp_path / "first", "second": tmp_path / "second"}
    assert masks_left_out([scan, second], {}) == masks_left_out((), folders) == ""
    said = masks_left_out([scan, second], folders)
    assert said.startswith("No brain mask") and "first, second (--derivatives)" in said
    for given, lacking in ((scan, second.path.name), (second, None)):
        path = folders["second"] / given.folder / f"{given.key}_desc-brain_mask.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"mask")
        said = masks_left_out([scan, second], folders)
        assert said.endswith(f"without one: {lacking}.") if lacking else said == ""


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"ProvenanceKey": 3}'])
def test_a_damaged_sidecar_is_written_again(scan, settings, model, finished, content):
    first = settings.output_dir / expected_outputs(scan, SPACE, settings)[0]
    first.write_text(content)
    assert not done(scan, settings, model)


def test_fewer_grids_need_fewer_files(scan, settings):
    both = set(expected_outputs(scan, SPACE, settings))
    native = set(expected_outputs(scan, SPACE, replace(settings, output_spaces=("T1w",))))
    anatomy = set(expected_outputs(scan, SPACE, replace(settings, anat_only=True)))
    assert {p.name for p in both - native} == {
        f"{scan.key}_space-{SPACE}_res-1_desc-harmonized_T1w.nii.gz"
    }
    assert anatomy < both
    assert not any("harmon" in path.name or "trace" in path.name for path in anatomy)


FOUND = {
    "contrast": 0.7,
    "structure": {"EdgesLost": 0.0},
    "clipping": {"ResultZero": 3},
    "lesion": {},
}
RESULT = {
    **FOUND,
    "method": "map", "parameters": {"bias": True}, "device": "cpu", "seed": 0, "converged": True,
    "iterations": 2, "guards": ["Said."], "source_scale": 3.0, "target_scale": 7.0,
    "decisions": {"Bias": {"Applied": True, "Spread": 0.09}},
    "shared": [],
    "threads": 5,
    "mapping": {"Input": [0.0, 0.5, 1.0], "Output": [0.1, 0.4, 1.2], "Ceiling": 4.0,
                "Field": [0.1, 1e-9], "Shape": [4, 4, 4]},
}  # fmt: skip


def test_the_sidecar_tells_what_was_decided(settings, model, scan):
    model = {**model, "CalibrationSHA256": "ef" * 32}
    extraction = {"Method": "atlas", "Volume_ml": 1400, "Warnings": ["Small."]}
    block = json.loads(json.dumps(harmonization_block(settings, model, RESULT, extraction, scan)))
    assert block["Decisions"] == RESULT["decisions"]
    assert block["IntensityMap"] == {
        "Input": [0, 0.5, 1], "Output": [0.1, 0.4, 1.2], "Ceiling": 4.0,
        "FieldCoefficients": [0.1, 0.0],
    }  # fmt: skip
    assert block["CalibrationSHA256"] == "ef" * 32
    assert block["Guards"] == ["Small.", "Said."]
    assert "--method map" in block["CommandLine"]
    # Of a run that went on with other threads, those that the harmonization had.
    assert block["Threads"] == 5 != settings.omp_nthreads
    assert "--omp-nthreads 5" in block["CommandLine"]


def test_a_method_without_decisions_has_none_in_its_sidecar(settings, model, scan):
    result = {**RESULT, "method": "paper", "decisions": {}}
    extraction = {"Method": "atlas", "Warnings": []}
    block = harmonization_block(settings, model, result, extraction, scan)
    assert not {"Decisions", "IntensityMap", "CalibrationSHA256"} & set(block)
    assert block["Guards"] == ["Said."] and block["Iterations"] == 2


@pytest.mark.parametrize("knots", [2, 20, 33, 34, 256])
def test_a_map_is_told_by_few_points_of_its_own(knots):
    values = [k / knots for k in range(knots)]
    told = intensity_map(
        {"Input": values, "Output": values, "Ceiling": None, "Field": None, "Shape": []}
    )
    assert len(told["Input"]) == min(knots, 33)
    assert (told["Input"][0], told["Input"][-1]) == (values[0], round(values[-1], 5))
    assert told["Input"] == told["Output"] == sorted(set(told["Input"]))
    assert told["FieldCoefficients"] is None and told["Ceiling"] is None


def test_names_are_those_of_the_derivatives_specification(scan, settings):
    names = {str(path) for path in expected_outputs(scan, SPACE, settings)}
    folder, stem = "sub-01/ses-A/anat", "sub-01_ses-A_run-2"
    assert f"{folder}/{stem}_space-{SPACE}_res-1_desc-preproc_T1w.nii.gz" in names
    assert f"{folder}/{stem}_desc-brain_mask.nii.gz" in names
    assert f"{folder}/{stem}_from-T1w_to-{SPACE}_mode-image_xfm.h5" in names
    assert f"{folder}/{stem}_desc-harmonized_T1w.nii.gz" in names
    assert f"sub-01/figures/{stem}_desc-flicker_T1w.svg" in names


def test_hash_is_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    # The test vector of FIPS 180-4.
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_sha256(tmp_path / "a") == expected


def test_description_names_its_sources(tmp_path):
    write_description(tmp_path, tmp_path / "raw", {"masks": tmp_path / "masks"}, {"License": "CC0"})
    content = json.loads((tmp_path / "dataset_description.json").read_text())
    assert content["DatasetType"] == "derivative"
    assert content["License"] == "CC0"
    assert content["GeneratedBy"][0]["Name"] == "bh-bids"
    assert content["DatasetLinks"]["raw"] == (tmp_path / "raw").as_uri()
    assert content["DatasetLinks"]["masks"] == (tmp_path / "masks").as_uri()
    assert content["SourceDatasets"] == [{"URL": (tmp_path / "raw").as_uri()}]
    write_description(tmp_path, tmp_path / "raw", {}, {"DatasetDOI": "doi:10.1/x", "License": ""})
    content = json.loads((tmp_path / "dataset_description.json").read_text())
    assert content["SourceDatasets"] == [{"DOI": "doi:10.1/x"}]
    assert content["License"]


def test_parallel_jobs_never_see_half_a_description(tmp_path):
    path = tmp_path / "dataset_description.json"
    links = {f"masks{n}": tmp_path / "masks" for n in range(200)}

    def write():
        for _ in range(20):
            write_description(tmp_path, tmp_path / "raw", links, {})

    write_description(tmp_path, tmp_path / "raw", links, {})
    jobs = [threading.Thread(target=write) for _ in range(3)]
    for job in jobs:
        job.start()
    while any(job.is_alive() for job in jobs):
        assert len(json.loads(path.read_text())["DatasetLinks"]) == 201
    for job in jobs:
        job.join()
    assert sorted(p.name for p in tmp_path.iterdir()) == [".bidsignore", path.name]
