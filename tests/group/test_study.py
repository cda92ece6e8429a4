"""What is found in a derivatives folder, and what is told to be missing."""

import json

import pytest

from bh_bids.errors import InputError
from bh_bids.group.study import raw_metadata, read_study
from bh_bids.group.volumes import read_harmonized

SPACE = "MNI152NLin2009aSym"


def read(root, **options):
    return read_study(root / "out", root / "bids", SPACE, **options)


def test_scans_have_their_images_metrics_and_metadata(small_study):
    study = read(small_study)
    assert [r.key for r in study.records[:3]] == ["sub-01_ses-A", "sub-01_ses-B", "sub-01_ses-C"]
    assert len(study.records) == 12 and not study.missing and not study.problems
    record = study.records[1]
    assert record.preproc.is_file() and record.mask.is_file() and record.harmonized.is_file()
    assert record.metrics["ncc_source"] == "0.98" and record.metrics["model"] is None
    assert record.metadata["StationName"] == "stationB"  # the raw sidecar's
    assert record.metadata["Manufacturer"] == "GE"
    assert "Harmonization" not in record.metadata and record.harmonization["Model"] == "small"
    assert study.participants["01"]["age"] == "20" and study.participants["01"]["group"] is None


def test_the_raw_data_need_not_be_there(small_study, tmp_path):
    study = read_study(small_study / "out", tmp_path / "absent", SPACE)
    assert len(study.records) == 12 and study.participants == {}
    assert study.records[1].metadata["Manufacturer"] == "GE"  # the derivative's own sidecar


def test_participants_and_sessions_can_be_chosen(small_study):
    assert {r.participant for r in read(small_study, participants=("02",)).records} == {"02"}
    assert {r.session for r in read(small_study, sessions=("A", "B")).records} == {"A", "B"}


def test_who_is_unknown_is_refused(small_study):
    with pytest.raises(InputError, match="out has no participant 98, 99: it has 01, 02, 03, 04"):
        read(small_study, participants=("02", "99", "98"))
    with pytest.raises(InputError, match="out has no session X: it has A, B, C"):
        read(small_study, sessions=("A", "X"))


def test_who_has_no_results_in_a_session_is_named(scan_maker, tmp_path):
    scan_maker(tmp_path, "01", "A", seed=0)
    scan_maker(tmp_path, "02", "B", seed=1)
    with pytest.raises(InputError, match="no results of sub-02 in session A: run the participant"):
        read(tmp_path, participants=("02",), sessions=("A",))


def test_who_was_never_in_the_session_asked_for_is_not_missing(scan_maker, tmp_path):
    scan_maker(tmp_path, "01", "A", seed=0)
    scan_maker(tmp_path, "02", "B", seed=1)
    study = read(tmp_path, sessions=("A",))
    assert {r.participant for r in study.records} == {"01"} and study.missing == {}


def test_who_was_not_run_yet_is_not_unknown(scan_maker, tmp_path):
    scan_maker(tmp_path, "01", "A", seed=0)
    (tmp_path / "bids" / "sub-02").mkdir()
    study = read(tmp_path, participants=("01", "02"))
    assert study.missing == {"02": "The participant level was not run."}
    with pytest.raises(InputError, match="no results of sub-02: run the participant level first"):
        read(tmp_path, participants=("02",))


def test_sessions_of_results_without_any_are_unknown(scan_maker, tmp_path):
    (tmp_path / "out" / "sub-01" / "anat").mkdir(parents=True)
    with pytest.raises(InputError, match="no session A: it has no sessions at all"):
        read(tmp_path, sessions=("A",))


def test_who_is_missing_is_named_with_the_reason(scan_maker, tmp_path):
    scan_maker(tmp_path, "01", "B", seed=0)
    scan_maker(tmp_path, "02", "B", seed=1, harmonized=False)
    (tmp_path / "out" / "sub-03" / "log").mkdir(parents=True)
    log = tmp_path / "out" / "sub-04" / "log" / "20260101-000000_x"
    log.mkdir(parents=True)
    (log / "crash-1.txt").write_text(
        "Node: n4\nTraceback\nbh_bids.errors.InputError: The scan is empty: give another.\n"
    )
    (tmp_path / "bids" / "sub-05").mkdir()
    (tmp_path / "bids" / "participants.tsv").write_text("participant_id\tage\nsub-06\t20\n")
    assert read(tmp_path).missing == {
        "02": "Preprocessed only, not harmonized.",
        "03": "No results; the last run did not finish.",
        "04": "The scan is empty: give another.",
        "05": "The participant level was not run.",
        "06": "The participant level was not run.",
    }


def test_an_image_without_its_metrics_is_of_a_run_that_did_not_end(scan_maker, tmp_path):
    scan_maker(tmp_path, "01", "B", seed=0)
    next(tmp_path.rglob("*_desc-harmonization_metrics.tsv")).unlink()
    study = read(tmp_path)
    assert study.missing == {"01": "Preprocessed only, not harmonized."}
    assert [record.harmonized for record in study.records] == [None]


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="run the participant level first"):
        read(tmp_path)


def test_unreadable_files_are_told_and_do_not_stop(scan_maker, tmp_path):
    scan_maker(tmp_path, "01", "B", seed=0)
    scan_maker(tmp_path, "02", "B", seed=1)
    anat = tmp_path / "out" / "sub-01" / "ses-B" / "anat"
    next(anat.glob("*harmonized_T1w.json")).write_text("{")
    next(tmp_path.glob("out/sub-02/ses-B/anat/*brain_mask.nii.gz")).unlink()
    study = read(tmp_path)
    assert len(study.records) == 2 and len(study.problems) == 2
    assert any("no brain mask" in p for p in study.problems)
    with pytest.raises(InputError, match="target's intensity scale"):
        read_harmonized(study.records[0])


def test_sidecars_are_inherited_and_nearer_ones_win(tmp_path):
    folder = tmp_path / "sub-01" / "ses-A" / "anat"
    folder.mkdir(parents=True)
    for path, content in (
        (tmp_path / "T1w.json", {"a": 1, "b": 1, "c": 1}),
        (tmp_path / "acq-x_T1w.json", {"b": 2}),
        (tmp_path / "acq-y_T1w.json", {"b": 9}),
        (folder / "sub-01_ses-A_acq-x_T1w.json", {"c": 3}),
        (folder / "sub-01_ses-A_acq-x_bold.json", {"a": 9}),
        (tmp_path / "sub-01" / "sub-01_T1w.json", {"d": "broken"}),
    ):
        path.write_text(json.dumps(content) if content.get("d") is None else "{")
    found = raw_metadata(tmp_path, folder, {"sub": "01", "ses": "A", "acq": "x"})
    assert found == {"a": 1, "b": 2, "c": 3}


@pytest.mark.parametrize("content", ["{", "[1]", "[" * 100_000])
def test_a_sidecar_that_cannot_be_used_is_left_out(tmp_path, content):
    (tmp_path / "T1w.json").write_text(content)
    assert raw_metadata(tmp_path, tmp_path, {"sub": "01"}) == {}
