"""The dataset on disk: valid BIDS, the same bytes again, whole or not at all."""

import csv
import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bh_bids.errors import InputError
from bh_bids.simulation import dataset
from bh_bids.simulation.dataset import Settings, nifti_bytes, write_dataset
from bh_bids.simulation.sites import PRESETS


@pytest.fixture(scope="module")
def heads(tmp_path_factory, phantom_labels):
    """A folder with one coarse label map, stored left-inferior-anterior as the real ones."""
    folder = tmp_path_factory.mktemp("heads")
    image = nib.Nifti1Image(*phantom_labels)
    turn = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt("LIA")
    )
    image.as_reoriented(turn).to_filename(folder / "phantom.nii.gz")
    return folder


@pytest.fixture(scope="module")
def settings(heads):
    sites = (PRESETS["siteA"], PRESETS["siteB"])
    return Settings(participants=2, sites=sites, heads=heads, seed=3, voxel_size=5.0)


@pytest.fixture(scope="module")
def written(tmp_path_factory, settings):
    out = tmp_path_factory.mktemp("simulated") / "bids"
    assert write_dataset(out, settings) == 4
    return out


def digests(root):
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(root.rglob("*"))
        if p.is_file()
    }


def test_layout(written):
    names = set(digests(written))
    assert {"dataset_description.json", "participants.tsv", "participants.json"} <= names
    truth = "derivatives/bh-simulate"
    for sub in ("sub-01", "sub-02"):
        for ses in ("ses-siteA", "ses-siteB"):
            for ending in ("T1w.nii.gz", "T1w.json"):
                assert f"{sub}/{ses}/anat/{sub}_{ses}_{ending}" in names
            for ending in ("desc-brain_mask", "dseg", "label-GM_probseg", "label-CSF_probseg"):
                assert f"{truth}/{sub}/{ses}/anat/{sub}_{ses}_{ending}.nii.gz" in names
    assert list(written.parent.iterdir()) == [written]


def test_same_settings_give_the_same_bytes(written, settings, tmp_path):
    again = tmp_path / "elsewhere"
    write_dataset(again, settings)
    assert digests(again) == digests(written)


def test_a_scan_depends_on_its_participant_and_site_alone(written, settings, tmp_path):
    fewer = Settings(1, (PRESETS["siteB"],), settings.heads, settings.seed, settings.voxel_size)
    write_dataset(tmp_path / "out", fewer)
    scan = Path("sub-01/ses-siteB/anat/sub-01_ses-siteB_T1w.nii.gz")
    assert (tmp_path / "out" / scan).read_bytes() == (written / scan).read_bytes()
    other = Settings(1, fewer.sites, settings.heads, 4, settings.voxel_size)
    write_dataset(tmp_path / "other", other)
    assert (tmp_path / "other" / scan).read_bytes() != (written / scan).read_bytes()


def test_sidecars_name_the_scanner(written):
    def sidecar(site):
        path = written / f"sub-01/ses-{site}/anat/sub-01_ses-{site}_T1w.json"
        return json.loads(path.read_text())

    a, b = sidecar("siteA"), sidecar("siteB")
    assert (a["Manufacturer"], a["MagneticFieldStrength"]) == ("Philips", 3.0)
    assert (b["Manufacturer"], b["MagneticFieldStrength"]) == ("GE", 1.5)
    assert a["ScanningSequence"] == ["GR", "IR"] and a["InversionTime"] == 1.0
    assert b["ScanningSequence"] == ["GR"] and "InversionTime" not in b
    for wanted in ("ManufacturersModelName", "RepetitionTime", "EchoTime", "FlipAngle"):
        assert wanted in a and wanted in b


def test_images_and_truth_share_a_grid(written):
    for t1w in written.glob("sub-*/ses-*/anat/*_T1w.nii.gz"):
        image = nib.load(t1w)
        assert image.get_data_dtype() == np.int16
        assert int(image.header["sform_code"]) == int(image.header["qform_code"]) == 1
        assert np.allclose(image.get_qform(), image.get_sform(), atol=1e-4)
        truth = written / "derivatives/bh-simulate" / t1w.parent.relative_to(written)
        stem = t1w.name.removesuffix("_T1w.nii.gz")
        mask = nib.load(truth / f"{stem}_desc-brain_mask.nii.gz")
        assert mask.shape == image.shape and np.allclose(mask.affine, image.affine)
        inside = np.asanyarray(mask.dataobj) > 0
        maps = [nib.load(truth / f"{stem}_label-{k}_probseg.nii.gz") for k in ("CSF", "GM", "WM")]
        total = sum(m.get_fdata() for m in maps)
        assert 0.9 < total[inside].mean() < 1.01 and total.max() < 1.02
        volume = image.get_fdata()
        assert volume[inside].mean() > 3 * volume[~inside & (volume < np.median(volume))].mean()


def test_participants_table(written):
    with open(written / "participants.tsv", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [row["participant_id"] for row in rows] == ["sub-01", "sub-02"]
    assert all(18 <= int(r["age"]) <= 90 and r["sex"] in "FM" for r in rows)
    assert {row["head"] for row in rows} == {"phantom"}
    described = json.loads((written / "participants.json").read_text())
    assert set(described) == set(rows[0]) - {"participant_id"}


def test_descriptions_say_what_made_them(written):
    raw = json.loads((written / "dataset_description.json").read_text())
    truth = written / "derivatives/bh-simulate/dataset_description.json"
    derived = json.loads(truth.read_text())
    assert raw["DatasetType"] == "raw" and derived["DatasetType"] == "derivative"
    assert raw["GeneratedBy"][0]["Name"] == derived["GeneratedBy"][0]["Name"] == "bh-simulate"
    assert (truth.parent / derived["DatasetLinks"]["raw"]).resolve() == written.resolve()


@pytest.mark.parametrize("part", [".", "derivatives/bh-simulate"])
def test_bids_validator_finds_no_error(written, part):
    program = shutil.which("bids-validator-deno", path=str(Path(sys.executable).parent))
    program = program or shutil.which("bids-validator-deno")
    if program is None:
        pytest.skip("bids-validator-deno is not installed")
    run = subprocess.run(
        [program, str(written / part), "--format", "json"], capture_output=True, text=True
    )
    issues = json.loads(run.stdout)["issues"]["issues"]
    assert [i for i in issues if i.get("severity") == "error"] == []
    assert run.returncode == 0


def test_full_folder_is_kept_without_force(written, settings, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty.*--force"):
        write_dataset(out, settings)
    assert [p.name for p in out.iterdir()] == ["notes.txt"]


@pytest.fixture
def small(settings):
    return Settings(1, settings.sites[:1], settings.heads, 0, 8.0)


def test_force_replaces_its_own_dataset(small, tmp_path):
    out = tmp_path / "out"
    write_dataset(out, small)
    (out / "notes.txt").write_text("of the old one")
    write_dataset(out, small, force=True)
    assert not (out / "notes.txt").exists() and (out / "participants.tsv").exists()
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize(
    "description",
    [
        None,
        b'{"Name": "bh-simulate", "GeneratedBy": [{"Name": "heudiconv"}]}',
        b'{"GeneratedBy": "bh-simulate"}',
        b"{",
        b"\xff",
        b"[]",
    ],
)
def test_force_spares_what_it_did_not_write(small, tmp_path, description):
    out = tmp_path / "out"
    (out / "sub-01").mkdir(parents=True)
    (out / "sub-01" / "IM0001.dcm").write_text("precious")
    if description is not None:
        (out / "dataset_description.json").write_bytes(description)
    with pytest.raises(InputError, match="did not write"):
        write_dataset(out, small, force=True)
    assert (out / "sub-01" / "IM0001.dcm").read_text() == "precious"


@pytest.mark.parametrize("stop", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_dataset_that_cannot_be_replaced_is_put_back(small, tmp_path, monkeypatch, stop):
    out = tmp_path / "out"
    write_dataset(out, small)
    before = digests(out)
    put = os.replace

    def fail(source, target):
        if Path(source).name == "new":
            raise stop
        put(source, target)

    monkeypatch.setattr(dataset.os, "replace", fail)
    with pytest.raises((InputError, KeyboardInterrupt)):
        write_dataset(out, small, force=True)
    assert digests(out) == before
    assert list(tmp_path.iterdir()) == [out]


def test_a_dataset_that_cannot_even_be_put_back_is_kept(small, tmp_path, monkeypatch):
    out = tmp_path / "out"
    write_dataset(out, small)
    before = digests(out)
    put = os.replace

    def fail(source, target):
        if Path(target) == out:
            raise OSError(5, "Input/output error")
        put(source, target)

    monkeypatch.setattr(dataset.os, "replace", fail)
    with pytest.raises(InputError, match="what it held is in (.*)[.]$") as caught:
        write_dataset(out, small, force=True)
    (kept,) = tmp_path.glob(".out.*/old")
    assert str(kept) in str(caught.value) and digests(kept) == before


def test_force_spares_other_datasets_and_the_current_folder(settings, tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    (other / "dataset_description.json").write_text('{"Name": "Patients"}')
    with pytest.raises(InputError, match="did not write"):
        write_dataset(other, settings, force=True)
    monkeypatch.chdir(other)
    with pytest.raises(InputError, match="current"):
        write_dataset(tmp_path, settings, force=True)
    assert (other / "dataset_description.json").exists()


def test_failure_leaves_nothing(settings, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise RuntimeError("no more")

    monkeypatch.setattr(dataset, "simulate_scan", fail)
    with pytest.raises(RuntimeError):
        write_dataset(tmp_path / "out", settings)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_is_named(settings, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(InputError, match="is a file"):
        write_dataset(tmp_path / "out", settings)
    with pytest.raises(InputError, match="cannot be written"):
        write_dataset(tmp_path / "out" / "below", settings)


def test_nifti_bytes_are_read_back_and_carry_no_time():
    rng = np.random.default_rng(0)
    array = rng.integers(0, 200, (3, 4, 5)).astype(np.uint8)
    affine = np.array([[0, 0, 2.0, -3], [-1.5, 0, 0, 7], [0, 1, 0, 2], [0, 0, 0, 1]])
    blob = nifti_bytes(array, affine, slope=1 / 200)
    image = nib.Nifti1Image.from_bytes(gzip.decompress(blob))
    assert np.allclose(image.affine, affine)
    assert np.allclose(image.get_fdata(), array / 200, atol=1e-6)
    assert blob[4:8] == bytes(4)  # gzip's time
