"""Folders that would mix input and output, or cannot be written to."""

import json
import os
import time
from dataclasses import replace

import pytest

from bh_bids.derivatives import check_output
from bh_bids.errors import InputError
from bh_bids.folders import (
    ASIDE,
    check_folders,
    check_writable,
    make_writable,
    remove_remains,
)
from bh_bids.runner import run
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
    for refuse in (make_writable, check_writable):
        with pytest.raises(InputError, match=r"cannot be written to \("):
            refuse(tmp_path / place)


def test_a_folder_is_looked_at_without_being_made(tmp_path):
    check_writable(tmp_path / "a" / "b")
    (tmp_path / "gone").symlink_to("nowhere")
    with pytest.raises(InputError, match="cannot be written to"):
        check_writable(tmp_path / "gone" / "b")
    assert [p.name for p in tmp_path.iterdir()] == ["gone"]


def test_what_a_killed_step_left_is_removed_once_it_is_nobodys(tmp_path):
    for name, age in (("old", 2 * 24 * 3600), ("young", 60)):
        folder = tmp_path / f"{ASIDE}{name}"
        (folder / "sub-01").mkdir(parents=True)
        os.utime(folder, (time.time() - age,) * 2)
    remove_remains(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [f"{ASIDE}young"]


@pytest.mark.parametrize("action", [None, "dry_run"])
def test_a_work_folder_that_cannot_be_used_is_told_before_anything_is_written(
    dataset_maker, tmp_path, action
):
    raw = dataset_maker(tmp_path / "raw")
    (tmp_path / "file").write_text("")
    settings = Settings(raw, tmp_path / "out", work_dir=tmp_path / "file")
    with pytest.raises(InputError, match=r"file cannot be written to \(Not a directory"):
        run(settings, action)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["raw", "raw/results", "link", "link/results", "."])
def test_a_raw_like_dataset_never_comes_where_the_scans_are(dataset_maker, tmp_path, place):
    dataset_maker(tmp_path / "raw")
    (tmp_path / "link").symlink_to("raw")
    settings = Settings(
        tmp_path / "raw", tmp_path / place, work_dir=tmp_path / "work", output_layout="bids"
    )
    with pytest.raises(InputError, match="lies in the (dataset|output folder)") as error:
        run(settings)
    assert "\n" not in str(error.value)
    assert {p.name for p in tmp_path.rglob("*")} == {
        *("raw", "link", "README", "dataset_description.json")
    }


@pytest.mark.parametrize("place", ["raw/derivatives/h", "link/derivatives/h"])
def test_a_raw_like_dataset_is_no_derivative_of_another(dataset_maker, tmp_path, place):
    raw = dataset_maker(tmp_path / "raw")
    (tmp_path / "link").symlink_to("raw")
    settings = Settings(raw, tmp_path / place, work_dir=tmp_path / "w", output_layout="bids")
    with pytest.raises(InputError, match="lies in the dataset .* a folder outside it"):
        run(settings)
    assert not (raw / "derivatives").exists()


@pytest.mark.parametrize("place", [".", "index", "sub-01/index"])
def test_an_index_among_the_raw_data_is_refused(dataset_maker, tmp_path, place):
    raw = dataset_maker(tmp_path / "raw")
    before = sorted(raw.rglob("*"))
    settings = Settings(raw, tmp_path / "out", work_dir=tmp_path / "work")
    with pytest.raises(InputError, match="The index folder .* lies in the dataset"):
        run(replace(settings, bids_database_dir=raw / place), "dry_run")
    assert sorted(raw.rglob("*")) == before
    for outside in (tmp_path / "index", raw / "derivatives" / "index"):
        check_folders(replace(settings, bids_database_dir=outside))


@pytest.mark.parametrize("raw", ["raw", "out/sourcedata/raw", "out-2/raw"])
def test_a_raw_like_dataset_may_hold_its_source_as_bids_has_it(tmp_path, raw):
    settings = Settings(tmp_path / raw, tmp_path / "out", work_dir=tmp_path / "work")
    check_folders(replace(settings, output_layout="bids"))


def test_the_usual_layout_may_lie_around_the_dataset(tmp_path):
    check_folders(Settings(tmp_path / "out" / "raw", tmp_path / "out", work_dir=tmp_path / "work"))


def test_another_dataset_is_refused_before_the_run(dataset_maker, tmp_path):
    raw, other = dataset_maker(tmp_path / "raw"), dataset_maker(tmp_path / "other")
    settings = Settings(raw, other, work_dir=tmp_path / "work", output_layout="bids")
    with pytest.raises(InputError, match="did not write and would replace"):
        run(settings)


@pytest.mark.parametrize(
    ("description", "whose"),
    [
        ({"DatasetType": "derivative", "GeneratedBy": [{"Name": "fMRIPrep"}]}, "of fMRIPrep"),
        ({"Name": "study", "DatasetType": "raw"}, "a raw dataset"),
        ({"Name": "study", "BIDSVersion": "1.2.0"}, "a raw dataset"),
        ({"DatasetType": "derivative"}, "of another program"),
        ({"PipelineDescription": {"Name": "fMRIPrep"}}, "of another program"),
    ],
)
def test_a_dataset_of_another_program_is_no_output_folder(tmp_path, description, whose):
    path = tmp_path / "out" / "dataset_description.json"
    path.parent.mkdir()
    path.write_text(json.dumps(description))
    (tmp_path / "raw").mkdir()
    settings = Settings(tmp_path / "raw", path.parent, work_dir=tmp_path / "work")
    for level in ("participant", "group"):
        with pytest.raises(InputError, match=f"is a.*{whose.removeprefix('a ')}.*another output"):
            run(replace(settings, analysis_level=level))
    assert json.loads(path.read_text()) == description
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"GeneratedBy": [{"Name": "bh-bids"}, 3]}'])
def test_an_own_folder_and_one_that_tells_nothing_are_taken(tmp_path, content):
    (tmp_path / "dataset_description.json").write_text(content)
    check_output(tmp_path)


def test_the_group_level_writes_nothing_into_the_dataset(dataset_maker, tmp_path):
    raw = dataset_maker(tmp_path / "raw")
    before = sorted(tmp_path.rglob("*"))
    settings = Settings(raw, tmp_path / "out", "group", work_dir=raw / "work")
    with pytest.raises(InputError, match="The work folder .* lies in the dataset"):
        run(settings)
    with pytest.raises(InputError, match="is a raw dataset"):
        run(replace(settings, output_dir=raw, work_dir=tmp_path / "work"))
    with pytest.raises(InputError, match="run the participant level first"):
        run(replace(settings, work_dir=tmp_path / "work"))
    assert sorted(tmp_path.rglob("*")) == before
