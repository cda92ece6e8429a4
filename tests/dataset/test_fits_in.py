"""What other programs of the field make of the outputs."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from bh_bids.derivatives import expected_outputs, write_description
from bh_bids.errors import InputError
from bh_bids.rawlike import derivatives_settings, write_raw_like
from bh_bids.settings import Settings

SPACE = "MNI152NLin2009aSym"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def finished(tmp_path, dataset_maker):
    """A dataset of two scans and the files that a finished run leaves, in the layout bids."""
    from bh_bids.dataset import find_scans

    raw = dataset_maker(tmp_path / "raw")
    affine = np.diag([-2.0, 2, 2, 1])
    affine[:3, 3] = [40, -40, -40]
    grid = np.indices((40, 40, 40)) - 20
    brain = 500 * (np.sum(grid**2, axis=0) < 250).astype(np.float32)
    for name in ("sub-01/anat/sub-01_T1w", "sub-02/ses-A/anat/sub-02_ses-A_T1w"):
        (raw / name).parent.mkdir(parents=True)
        nib.save(nib.Nifti1Image(brain, affine), raw / f"{name}.nii.gz")
        (raw / f"{name}.json").write_text('{"MagneticFieldStrength": 3, "FlipAngle": 9}')
    table = "participant_id\tage\nsub-01\t30\nsub-02\t40\nsub-03\t50\n"
    (raw / "participants.tsv").write_text(table)
    root = tmp_path / "out"
    given = Settings(raw, root, output_spaces=("T1w", SPACE), output_layout="bids")
    settings = derivatives_settings(given)
    scans = find_scans(raw)
    for scan in scans:
        for name in expected_outputs(scan, SPACE, settings):
            path = settings.output_dir / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.name.endswith(".nii.gz"):
                nib.save(nib.Nifti1Image(0.5 * brain, affine), path)
                meta = {"SkullStripped": True, "Sources": [scan.uri]}
                Path(str(path)[:-7] + ".json").write_text(json.dumps(meta))
            elif path.suffix == ".json":
                path.write_text('{"ProvenanceKey": "k"}')
            else:
                path.write_text("a\n1\n")
    write_description(settings.output_dir, raw, {}, {"License": "CC0"})
    for path in settings.output_dir.rglob("*_desc-harmonization_metrics.json"):
        path.write_text('{"ProvenanceKey": "k"}')
    keys = {scan.key: "k" for scan in scans}
    plan = SimpleNamespace(settings=settings, scans=scans, keys=keys)
    plan.model = {"Config": {"space": SPACE}}
    assert write_raw_like(plan, root) == 2
    return raw, root, settings.output_dir, plan


def test_pybids_finds_the_harmonized_images(finished):
    from bids import BIDSLayout

    raw, _, derivatives, _ = finished
    layout = BIDSLayout(raw, derivatives=derivatives)
    query = dict(desc="harmonized", suffix="T1w", extension=".nii.gz", scope="derivatives")
    found = {Path(p).name for p in layout.get(return_type="filename", **query)}
    assert "sub-01_desc-harmonized_T1w.nii.gz" in found
    assert f"sub-02_ses-A_space-{SPACE}_res-1_desc-harmonized_T1w.nii.gz" in found
    assert len(found) == 4
    one = layout.get(subject="01", space=SPACE, **query)
    assert len(one) == 1 and one[0].get_metadata()["SkullStripped"] is True


def test_nilearn_loads_them(finished):
    from nilearn.image import load_img, mean_img
    from nilearn.masking import apply_mask

    _, _, derivatives, _ = finished
    image = load_img(str(derivatives / "sub-01/anat/sub-01_desc-harmonized_T1w.nii.gz"))
    mask = image.get_fdata() > 0
    values = apply_mask(image, nib.Nifti1Image(mask.astype(np.uint8), image.affine))
    assert values.size == mask.sum() and (values == 250).all()
    assert mean_img([image, image], copy_header=True).shape == image.shape


def test_the_raw_like_dataset_is_what_fmriprep_reads(finished, tmp_path, monkeypatch):
    """niworkflows' query for a participant's data is the one that fMRIPrep begins with."""
    from bids import BIDSLayout
    from niworkflows.interfaces.images import TemplateDimensions
    from niworkflows.utils.bids import collect_data

    _, root, _, _ = finished
    layout = BIDSLayout(root)
    found, _ = collect_data(layout, "02")
    assert [Path(p).name for p in found["t1w"]] == ["sub-02_ses-A_T1w.nii.gz"]
    metadata = layout.get_metadata(found["t1w"][0])
    assert metadata["MagneticFieldStrength"] == 3 and metadata["SkullStripped"] is True
    monkeypatch.chdir(tmp_path)  # where the interface leaves its report
    checked = TemplateDimensions(anat_type="T1w", anat_list=found["t1w"]).run().outputs
    assert checked.anat_valid_list in (found["t1w"], found["t1w"][0])
    image = nib.load(found["t1w"][0])
    assert nib.aff2axcodes(image.affine) == ("L", "A", "S") and image.get_fdata().max() == 250


def test_the_raw_like_dataset_is_valid(finished):
    validator = shutil.which("bids-validator-deno", path=str(Path(sys.executable).parent))
    if validator is None:
        pytest.skip("bids-validator-deno is missing: pip install bids-validator-deno")
    _, root, _, _ = finished
    done = subprocess.run([validator, str(root), "--json"], capture_output=True, text=True)
    issues = json.loads(done.stdout)["issues"]["issues"]
    errors = [issue for issue in issues if issue["severity"] == "error"]
    assert errors == []


def test_participants_without_scans_are_not_listed(finished):
    _, root, _, plan = finished
    rows = (root / "participants.tsv").read_text().splitlines()
    assert rows == ["participant_id\tage", "sub-01\t30", "sub-02\t40"]
    plan.keys["sub-01"] = "another"
    assert write_raw_like(plan, root) == 1, "only what is done with these settings"
    assert (root / "sub-01/anat/sub-01_T1w.nii.gz").exists()
    assert not list(root.rglob(".bh-bids-*"))


def content_of(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    "description",
    [
        None,
        "",
        "[]",
        '{"Name": "Mine", "DatasetType": "raw", "GeneratedBy": [{"Name": "dcm2bids"}, 3]}',
        '{"Name": "Mine", "DatasetType": "raw", "GeneratedBy": 3}',
        '{"Name": "Ours", "DatasetType": "derivative", "GeneratedBy": [{"Name": "bh-bids"}]}',
    ],
)
@pytest.mark.parametrize("name", ["sub-01/anat/sub-01_T1w.nii.gz", "sub-9/ses-1/anat/a_T1w.nii"])
def test_a_dataset_of_others_is_never_written_over(finished, tmp_path, description, name):
    plan, other = finished[3], tmp_path / "other"
    (other / name).parent.mkdir(parents=True)
    (other / name).write_bytes(b"measured")
    if description is not None:
        (other / "dataset_description.json").write_text(description)
    before = content_of(other)
    with pytest.raises(InputError, match="did not write and would replace"):
        write_raw_like(plan, other)
    assert content_of(other) == before


def test_the_source_is_never_written_over(finished, tmp_path):
    raw, _, _, plan = finished
    before = content_of(raw)
    with pytest.raises(InputError, match="would replace"):
        write_raw_like(plan, raw)
    assert content_of(raw) == before
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "sub-01").symlink_to(raw / "sub-01")
    (raw / "sub-01/anat/sub-01_T1w.json").unlink()
    (raw / "dataset_description.json").unlink()
    before = content_of(raw)
    with pytest.raises(InputError):
        write_raw_like(plan, tmp_path / "links")
    (tmp_path / "links" / "dataset_description.json").write_text(
        '{"DatasetType": "raw", "GeneratedBy": [{"Name": "bh-bids"}]}'
    )
    with pytest.raises(InputError, match="source's own scans"):
        write_raw_like(plan, tmp_path / "links")
    assert content_of(raw) == before


def test_what_a_stopped_run_left_is_written_on(finished, monkeypatch, tmp_path):
    from bh_bids import rawlike

    plan, root = finished[3], tmp_path / "new"
    with monkeypatch.context() as stopped:
        stopped.setattr(rawlike, "_write_participants", lambda *_: 1 / 0)
        stopped.setattr(rawlike, "_README", None)
        with pytest.raises((ZeroDivisionError, TypeError)):
            write_raw_like(plan, root)
    assert list(root.glob("sub-*/anat/*_T1w.nii.gz"))
    assert write_raw_like(plan, root) == 2


@pytest.mark.parametrize("more", [{"anat_only": True}, {"output_spaces": (SPACE,)}])
def test_the_layout_needs_images_on_the_scans_grids(tmp_path, more):
    settings = Settings(tmp_path, tmp_path / "out", output_layout="bids", **more)
    with pytest.raises(InputError, match="--output-layout bids"):
        derivatives_settings(settings)


def test_the_boutiques_descriptor_is_the_parsers():
    from bh_bids.cli.boutiques import descriptor
    from bh_bids.cli.parser import build_parser

    kept = json.loads((ROOT / "boutiques" / "bh-bids.json").read_text())
    again = "make it again: python -m bh_bids.cli.boutiques > boutiques/bh-bids.json"
    assert kept == descriptor(), again
    flags = {item.get("command-line-flag") for item in kept["inputs"]}
    options = {o for action in build_parser()._actions for o in action.option_strings}
    assert flags - {None} <= options


def test_the_boutiques_descriptor_is_valid(tmp_path):
    # The descriptor's folder here has the package's name, so its parts are asked for.
    missing = "boutiques is missing: pip install it"
    validator = pytest.importorskip("boutiques.validator", reason=missing)
    validator.validate_descriptor(json.loads((ROOT / "boutiques" / "bh-bids.json").read_text()))


def test_versions_agree():
    import bh_bids

    cff = (ROOT / "CITATION.cff").read_text()
    assert f"version: {bh_bids.__version__}\n" in cff
    assert json.loads((ROOT / "boutiques/bh-bids.json").read_text())["tool-version"] in cff
    zenodo = json.loads((ROOT / ".zenodo.json").read_text())
    assert zenodo["title"] in cff and zenodo["license"] == "Apache-2.0"
