"""An index of a dataset that is kept: made whole, and used only for the dataset as it is."""

import shutil
import sqlite3

import pytest

from bh_bids.dataset import find_scans
from bh_bids.errors import InputError
from bh_bids.index import index_file

SCANS = (
    "sub-01/anat/sub-01_T1w.nii.gz",
    "sub-02/ses-A/anat/sub-02_ses-A_T1w.nii.gz",
    "sub-02+/anat/sub-02+_T1w.nii",
)


def put(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")


@pytest.fixture
def dataset(tmp_path, dataset_maker):
    root = dataset_maker(tmp_path / "bids")
    put(root, *SCANS)
    return root


@pytest.fixture
def database(dataset, tmp_path):
    """A folder with an index of the dataset."""
    find_scans(dataset, database_dir=tmp_path / "db")
    return tmp_path / "db"


@pytest.mark.parametrize(
    ("new", "owner"),
    [
        ("sub-03/anat/sub-03_T1w.nii.gz", "03"),
        ("sub-02/ses-B/anat/sub-02_ses-B_T1w.nii.gz", "02"),
        ("sub-01/anat/sub-01_run-2_T1w.nii", "01"),
    ],
)
def test_an_index_that_lacks_a_scan_is_refused(dataset, database, new, owner):
    put(dataset, new)
    for participants in ((), (owner,)):
        with pytest.raises(InputError) as refusal:
            find_scans(dataset, participants, database_dir=database)
        sentence = str(refusal.value)
        assert f"is older than the dataset (it lacks {new})" in sentence
        assert str(index_file(database)) in sentence and "remove it" in sentence


def test_an_index_of_scans_that_are_gone_is_refused(dataset, database):
    shutil.rmtree(dataset / "sub-02")
    with pytest.raises(InputError, match="02_ses-A_T1w.nii.gz of it is there no longer"):
        find_scans(dataset, database_dir=database)
    with pytest.raises(InputError, match="has no participant 02"):
        find_scans(dataset, ("02",), database_dir=database)


def test_who_did_not_change_is_found_in_an_older_index(dataset, database):
    """So that the other jobs of an array go on."""
    put(dataset, "sub-03/anat/sub-03_T1w.nii.gz", "sub-01/anat/sub-01_run-2_T1w.nii.gz")
    shutil.rmtree(dataset / "sub-02+")
    assert len(find_scans(dataset, ("02",), database_dir=database)) == 1


def test_what_is_no_scan_makes_no_index_old(dataset, database):
    put(
        dataset,
        "sub-03/func/sub-03_task-rest_bold.nii.gz",
        "sub-01/anat/sub-01_T2w.nii.gz",
        "sub-01/anat/._sub-01_T1w.nii.gz",
        "sub-01/anat/sub-01_dir-AP_T1w.nii.gz",
        "derivatives/x/sub-04/anat/sub-04_T1w.nii.gz",
    )
    (dataset / "sub-05").write_text("")
    (dataset / "sub-01" / "anat" / "sub-01_run-2_T1w.nii").mkdir()
    assert len(find_scans(dataset, database_dir=database)) == len(SCANS)


def test_scans_that_are_links_without_content_stay_in_the_index(dataset, tmp_path):
    (dataset / SCANS[0]).unlink()
    (dataset / SCANS[0]).symlink_to("nowhere.nii.gz")
    for _ in range(2):
        assert len(find_scans(dataset, database_dir=tmp_path / "db")) == len(SCANS)


@pytest.mark.parametrize("problem", [KeyboardInterrupt, sqlite3.OperationalError("disk is full")])
def test_an_index_that_was_not_finished_is_seen_by_nobody(dataset, tmp_path, monkeypatch, problem):
    import bids.layout
    from sqlalchemy.exc import OperationalError

    def stopped(self, layout):
        raise problem if isinstance(problem, type) else OperationalError("", {}, problem)

    with monkeypatch.context() as patch:
        patch.setattr(bids.layout.BIDSLayoutIndexer, "__call__", stopped)
        expected = KeyboardInterrupt if isinstance(problem, type) else InputError
        with pytest.raises(expected) as refusal:
            find_scans(dataset, database_dir=tmp_path / "db")
    if expected is InputError:
        assert "cannot be made (disk is full)" in str(refusal.value)
    assert list((tmp_path / "db").iterdir()) == []
    assert len(find_scans(dataset, database_dir=tmp_path / "db")) == len(SCANS)


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_an_index_that_cannot_be_made_is_told(dataset, tmp_path, place):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="The index .* cannot be made .* --bids-database-dir"):
        find_scans(dataset, database_dir=tmp_path / place)
