"""Folders of a dataset that may not be read, and of an index that may not be written."""

import subprocess
import sys

import pytest

FIND = """\
import sys
from bh_bids.dataset import find_scans
from bh_bids.errors import InputError
root, database, *labels = sys.argv[1:]
try:
    for scan in find_scans(root, labels, database_dir=database or None):
        print(scan.key)
except InputError as error:
    sys.exit(str(error))
"""
LOCKED = ["sub-01", "sub-01/ses-A", "sub-01/ses-A/anat"]


@pytest.fixture
def dataset(tmp_path, dataset_maker):
    root = dataset_maker(tmp_path / "bids")
    for name in ("sub-01/ses-A/anat/sub-01_ses-A_T1w.nii", "sub-02/anat/sub-02_T1w.nii"):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text("")
    return root


@pytest.fixture
def find(dataset, without_privilege):
    """Keys of the scans that somebody without privileges finds, and what is said."""

    def find(*labels, database=""):
        words = [*without_privilege, sys.executable, "-c", FIND, dataset, database, *labels]
        done = subprocess.run(list(map(str, words)), capture_output=True, text=True)
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout.split(), done.stderr

    return find


@pytest.mark.parametrize("mode", [0o000, 0o444, 0o111])
@pytest.mark.parametrize("place", LOCKED)
def test_who_cannot_be_read_is_told_and_the_others_go_on(dataset, find, place, mode):
    (dataset / place).chmod(mode)
    try:
        everybody, other, asked = find(), find("02"), find("01")
    finally:
        (dataset / place).chmod(0o755)
    told = f"bh-bids: left out: {place} in {dataset} cannot be read: its permissions forbid it.\n"
    assert everybody == (["sub-02"], told)
    assert other == (["sub-02"], "")
    assert asked == ([], f"{dataset / place} cannot be read: its permissions forbid it.\n")


@pytest.mark.parametrize("place", LOCKED)
def test_an_index_holds_for_who_can_be_read(dataset, find, tmp_path, place):
    database = tmp_path / "db"
    assert find(database=database)[0] == ["sub-01_ses-A", "sub-02"]
    (dataset / place).chmod(0)
    try:
        keys, told = find(database=database)
        refused = find("01", database=database)
    finally:
        (dataset / place).chmod(0o755)
    assert keys == ["sub-02"] and f"left out: {place} in" in told
    assert refused == ([], f"{dataset / place} cannot be read: its permissions forbid it.\n")


def test_an_index_made_before_a_folder_was_opened_is_old(dataset, find, tmp_path):
    (dataset / "sub-01").chmod(0)
    try:
        for _ in range(2):
            keys, told = find(database=tmp_path / "db")
            assert keys == ["sub-02"] and "left out: sub-01 in" in told
    finally:
        (dataset / "sub-01").chmod(0o755)
    keys, told = find(database=tmp_path / "db")
    assert keys == [] and "is older than the dataset (it lacks sub-01/" in told


def test_other_folders_that_cannot_be_read_are_passed_over(dataset, find):
    for name in ("lost+found", "sub-02/func"):
        (dataset / name).mkdir()
        (dataset / name).chmod(0)
    try:
        keys, told = find()
    finally:
        for name in ("lost+found", "sub-02/func"):
            (dataset / name).chmod(0o755)
    assert keys == ["sub-01_ses-A", "sub-02"] and told == ""


@pytest.mark.parametrize("below", [".", "x"])
def test_an_index_is_not_made_where_nothing_may_be_written(find, tmp_path, below):
    (tmp_path / "db").mkdir()
    (tmp_path / "db").chmod(0o555)
    keys, told = find(database=tmp_path / "db" / below)
    assert keys == [] and "cannot be made (Permission denied)" in told
    assert "--bids-database-dir" in told
