"""Whole runs on scans that cannot be used: they end, say why, and leave a report each."""

import gzip
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from bh_bids.workflows.base import work_folder

from bh_bids.cli.parser import parse
from bh_bids.cli.run import main

pytestmark = pytest.mark.usefixtures("undone")


@pytest.fixture
def hostile(tmp_path, dataset_maker, write_t1w, small_brain):
    """Seven participants, each with another kind of useless scan."""
    root = dataset_maker(tmp_path / "bids")

    def place(label):
        path = root / f"sub-{label}" / "anat" / f"sub-{label}_T1w.nii.gz"
        path.parent.mkdir(parents=True)
        return path

    whole = write_t1w(tmp_path / "good.nii.gz", small_brain.volume, small_brain.affine)
    content = whole.read_bytes()
    place("empty").touch()
    place("truncated").write_bytes(content[: len(content) // 2])
    place("text").write_text("version https://git-lfs.github.com/spec/v1\n")
    place("dangling").symlink_to(tmp_path / "not-fetched.nii.gz")
    series = np.stack([small_brain.volume] * 2, axis=-1)
    write_t1w(place("series"), series, small_brain.affine)
    write_t1w(place("blank"), np.zeros_like(small_brain.volume), small_brain.affine)
    image = nib.Nifti1Image(small_brain.volume, small_brain.affine)
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    nib.save(image, place("nowhere"))
    return root


SAID = {
    "empty": "is empty",
    "truncated": "truncated or damaged",
    "text": "not a readable NIfTI",
    "dangling": "dangling link",
    "series": "3-D",
    "blank": "all its voxels are 0",
    "nowhere": "codes are 0",
}


def arguments(root, tmp_path, model, *more):
    argv = [str(root), str(tmp_path / "out"), "participant", "-w", str(tmp_path / "work")]
    return [*argv, "--model", str(model), "--device", "cpu", "--nprocs", "1", *more]


def test_every_useless_scan_is_told_apart_and_has_a_report(hostile, tmp_path, small_model, capfd):
    assert main(arguments(hostile, tmp_path, small_model)) == 1
    told = capfd.readouterr()
    assert "Traceback" not in told.out + told.err
    assert "7 of 7 scans have no results" in told.err
    for label, sentence in SAID.items():
        line = next(li for li in told.err.splitlines() if li.startswith(f"sub-{label} failed"))
        assert sentence in line
        assert f"sub-{label}_T1w.nii.gz" in line
        page = (tmp_path / "out" / f"sub-{label}.html").read_text()
        assert sentence in page.replace("&#39;", "'")
        crashes = list((tmp_path / "out" / f"sub-{label}" / "log").glob("*/crash*.txt"))
        assert len(crashes) == 1, label
    # Nothing may stand where a result would, and no step may be said to be done that was not.
    assert not list((tmp_path / "out").rglob("*.nii.gz"))
    assert "done" not in told.out


def test_stop_on_first_crash_stops(hostile, tmp_path, small_model, capfd):
    assert main(arguments(hostile, tmp_path, small_model, "--stop-on-first-crash")) == 1
    told = capfd.readouterr()
    assert "Traceback" not in told.out + told.err
    failed = [line for line in told.err.splitlines() if " failed: " in line]
    assert len(failed) == 1


def test_a_work_folder_that_is_in_the_way_is_a_failure_with_a_report(
    small_dataset, tmp_path, small_model, capfd
):
    """A file lies where a step's folder would be: no defect of a scan, and no traceback either."""
    asked = arguments(small_dataset, tmp_path, small_model, "--participant-label", "01")
    base = work_folder(parse(asked)[0], SimpleNamespace(participant="01", key="sub-01")).parent
    base.parent.mkdir(parents=True)
    base.write_text("in the way")
    code = main(asked)
    told = capfd.readouterr()
    assert code == 1
    assert "Traceback" not in told.out + told.err
    assert (tmp_path / "out" / "sub-01.html").is_file()


def test_a_scan_that_is_no_brain_is_refused_before_anything_is_registered(
    tmp_path, dataset_maker, write_t1w, small_model, capfd
):
    """A phantom: a bright ball of a litre of fluid would do, a coin does not."""
    root = dataset_maker(tmp_path / "bids")
    volume = np.zeros((40, 40, 40))
    volume[18:22, 18:22, 18:22] = 100
    write_t1w(root / "sub-01" / "anat" / "sub-01_T1w.nii.gz", volume, np.diag([4, 4, 4, 1.0]))
    code = main(arguments(root, tmp_path, small_model, "--skull-strip-t1w", "skip"))
    told = capfd.readouterr()
    assert code == 1
    assert "4 ml, which is no brain" in told.err
    assert "register" not in told.out


def test_a_mask_of_another_grid_is_refused(small_dataset, tmp_path, small_model, capfd):
    folder = tmp_path / "masks" / "sub-02" / "anat"
    folder.mkdir(parents=True)
    mask = nib.Nifti1Image(np.tri(20, dtype=np.uint8) * np.ones((20, 1, 1), np.uint8), np.eye(4))
    nib.save(mask, folder / "sub-02_desc-brain_mask.nii.gz")
    options = ("--participant-label", "02", "-d", f"masks={tmp_path / 'masks'}")
    code = main(arguments(small_dataset, tmp_path, small_model, *options))
    assert code == 1
    assert "does not lie on the grid" in capfd.readouterr().err


def test_a_gzip_that_unpacks_to_far_more_than_its_header_says_is_harmless(
    tmp_path, write_t1w, small_brain
):
    """Sixty megabytes of zeros behind the image: read in pieces, not at once."""
    import tracemalloc

    from bh_bids.anatomy.images import load_t1w

    path = write_t1w(tmp_path / "a.nii", small_brain.volume, small_brain.affine)
    packed = tmp_path / "b.nii.gz"
    packed.write_bytes(gzip.compress(path.read_bytes() + bytes(60_000_000), compresslevel=1))
    tracemalloc.start()
    image = load_t1w(packed)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert image.volume.shape == small_brain.volume.shape
    assert peak < 40_000_000
