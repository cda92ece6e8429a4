"""Folders that would mix input and output, or cannot be written to."""

import pytest

from bh_bids.errors import InputError
from bh_bids.runner import check_folders, make_writable
from bh_bids.settings import Settings


@pytest.fixture
def raw(tmp_path):
    (tmp_path / "raw" / "derivatives").mkdir(parents=True)
    return tmp_path / "raw"


@pytest.mark.parametrize("place", [".", "sub-01", "results", "code/out", "derivatives"])
@pytest.mark.parametrize("field", ["output_dir", "work_dir"])
def test_results_among_the_raw_data_are_refused(raw, tmp_path, place, field):
    folders = {"output_dir": tmp_path / "out", "work_dir": tmp_path / "work", field: raw / place}
    with pytest.raises(InputError, match="lies in the dataset"):
        check_folders(Settings(raw, **folders))


def test_a_link_into_the_dataset_is_seen_through(raw, tmp_path):
    (tmp_path / "link").symlink_to(raw)
    settings = Settings(raw, tmp_path / "link" / "out", work_dir=tmp_path / "work")
    with pytest.raises(InputError, match="lies in the dataset"):
        check_folders(settings)


@pytest.mark.parametrize("place", ["out", "raw-2/out", "raw/derivatives/bh-bids"])
def test_derivatives_and_other_folders_are_taken(raw, tmp_path, place):
    check_folders(Settings(raw, tmp_path / place, work_dir=tmp_path / "work"))


def test_a_folder_is_made_with_its_parents_and_left_empty(tmp_path):
    make_writable(tmp_path / "a" / "b")
    make_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_what_cannot_be_a_folder_is_refused(tmp_path, place):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot be written to \("):
        make_writable(tmp_path / place)
