"""Which scans of a dataset are taken, and what is said where there are none."""

import json
import os
import shutil

import pytest

from bh_bids.dataset import check_dataset, find_scans
from bh_bids.errors import InputError
from bh_bids.filters import checked_filters, read_filter_file

SCANS = (
    "sub-01/ses-A/anat/sub-01_ses-A_acq-mprage_run-01_T1w.nii.gz",
    "sub-01/ses-A/anat/sub-01_ses-A_acq-mprage_run-02_T1w.nii.gz",
    "sub-01/ses-A/anat/sub-01_ses-A_acq-spgr_T1w.nii.gz",
    "sub-01/ses-B/anat/sub-01_ses-B_T1w.nii",
    "sub-010/anat/sub-010_T1w.nii.gz",
    "sub-02/anat/sub-02_T1w.nii.gz",
)
NOT_T1W = (
    "sub-02/anat/sub-02_T2w.nii.gz",
    "sub-02/anat/sub-02_T1w.json",
    "sub-02/func/sub-02_task-rest_bold.nii.gz",
    "sub-02/.git/anat/sub-02_T1w.nii.gz",
    "derivatives/other/sub-02/anat/sub-02_desc-preproc_T1w.nii.gz",
    "sourcedata/sub-02/anat/sub-02_T1w.nii.gz",
    "code/sub-99/anat/sub-99_T1w.nii.gz",
)


def put(root, name, content=""):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.fixture
def skeleton(tmp_path, dataset_maker):
    root = dataset_maker(tmp_path / "bids")
    for name in SCANS:
        put(root, name)
    for name in NOT_T1W:
        put(root, name, "{}")
    put(root, "T1w.json", {"Manufacturer": "Philips", "MagneticFieldStrength": 3})
    put(root, "sub-01/ses-A/sub-01_ses-A_T1w.json", {"MagneticFieldStrength": 1.5})
    put(root, SCANS[0].replace(".nii.gz", ".json"), {"ManufacturersModelName": "Ingenia"})
    return root


def names(scans):
    return [scan.path.name for scan in scans]


def test_all_t1w_of_all_sessions_and_runs_are_found_and_nothing_else(skeleton):
    scans = find_scans(skeleton)
    assert [str(scan.path.relative_to(skeleton)) for scan in scans] == sorted(SCANS)
    by_name = {scan.path.name: scan for scan in scans}
    first = by_name["sub-01_ses-A_acq-mprage_run-01_T1w.nii.gz"]
    assert (first.participant, first.session) == ("01", "A")
    assert first.key == "sub-01_ses-A_acq-mprage_run-01"
    assert first.folder == "sub-01/ses-A/anat"
    assert first.uri == f"bids:raw:{SCANS[0]}"
    plain = by_name["sub-02_T1w.nii.gz"]
    assert (plain.participant, plain.session) == ("02", None)
    assert plain.folder == "sub-02/anat"


def test_sidecars_are_inherited(skeleton):
    scans = {scan.path.name: scan for scan in find_scans(skeleton)}
    assert scans["sub-01_ses-A_acq-mprage_run-01_T1w.nii.gz"].scanner == {
        "Manufacturer": "Philips",
        "ManufacturersModelName": "Ingenia",
        "MagneticFieldStrength": 1.5,
    }
    assert scans["sub-01_ses-B_T1w.nii"].scanner == {
        "Manufacturer": "Philips",
        "MagneticFieldStrength": 3,
    }


@pytest.mark.parametrize(
    ("participants", "expected"), [(("01",), 4), (("010",), 1), (("02", "010"), 2)]
)
def test_participants_are_taken_by_their_whole_label(skeleton, participants, expected):
    scans = find_scans(skeleton, participants)
    assert len(scans) == expected
    assert {scan.participant for scan in scans} == set(participants)


def test_only_the_participants_asked_for_are_indexed(skeleton, monkeypatch):
    import bids.layout

    made = []

    class Spied(bids.layout.BIDSLayout):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr(bids.layout, "BIDSLayout", Spied)
    find_scans(skeleton, ("02",))
    indexed = [path[len(str(skeleton)) :] for path in made[0].files]
    assert [path for path in indexed if "sub-01" in path] == []
    assert any("sub-02_T1w" in path for path in indexed)
    assert not any("/func/" in path or "/derivatives/" in path for path in indexed)


def test_unknown_participants_are_named_with_those_there_are(skeleton):
    with pytest.raises(InputError) as refusal:
        find_scans(skeleton, ("02", "77", "78"))
    sentence = str(refusal.value)
    assert "77, 78" in sentence and "01, 010, 02" in sentence


def test_sessions(skeleton):
    assert names(find_scans(skeleton, sessions=("B",))) == ["sub-01_ses-B_T1w.nii"]
    with pytest.raises(InputError, match="session C"):
        find_scans(skeleton, ("01",), ("C",))


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"acquisition": "spgr"}, ["sub-01_ses-A_acq-spgr_T1w.nii.gz"]),
        ({"acquisition": "mprage", "run": 2}, ["sub-01_ses-A_acq-mprage_run-02_T1w.nii.gz"]),
        (
            {"session": None},
            ["sub-010_T1w.nii.gz", "sub-02_T1w.nii.gz"],
        ),
        (
            {"acquisition": None},
            ["sub-01_ses-B_T1w.nii", "sub-010_T1w.nii.gz", "sub-02_T1w.nii.gz"],
        ),
        ({"run": "*", "session": ["A", "B"]}, list(map(os.path.basename, SCANS[:2]))),
    ],
)
def test_filter_file(skeleton, tmp_path, wanted, expected):
    path = put(tmp_path, "filter.json", {"t1w": wanted, "bold": {"task": "rest"}})
    assert names(find_scans(skeleton, filters=read_filter_file(path))) == expected


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"ManufacturersModelName": "Trio"}, ["sub-02_T1w.nii.gz"]),
        (
            {"MagneticFieldStrength": [1.5, 7], "EchoTime": "*"},
            ["sub-01_ses-A_acq-mprage_run-01_T1w.nii.gz"],
        ),
        (
            {"MagneticFieldStrength": 3, "EchoTime": None, "session": None},
            ["sub-010_T1w.nii.gz", "sub-02_T1w.nii.gz"],
        ),
    ],
)
def test_filter_by_fields_of_sidecars(skeleton, wanted, expected):
    put(skeleton, "sub-02/anat/sub-02_T1w.json", {"ManufacturersModelName": "Trio"})
    put(skeleton, "sub-010/anat/sub-010_T1w.json", {"MagneticFieldStrength": 3.0})
    put(skeleton, SCANS[0].replace(".nii.gz", ".json"), {"EchoTime": 0.003})
    assert names(find_scans(skeleton, filters={"t1w": wanted})) == expected


def test_filter_that_leaves_nothing_is_said_to(skeleton):
    with pytest.raises(InputError, match="pass the BIDS filter"):
        find_scans(skeleton, filters={"t1w": {"acquisition": "flash"}})


ABOVE = ("ses-9", "sub-99", "sub-99/ses-9/func/run-3_acq-x_part-phase")


@pytest.mark.parametrize("above", ABOVE)
def test_folders_above_the_dataset_say_nothing_on_its_scans(tmp_path, dataset_maker, above):
    root = dataset_maker(tmp_path / above / "ds")
    for name in SCANS:
        put(root, name)
    scans = find_scans(root)
    assert [scan.path.relative_to(root).as_posix() for scan in scans] == sorted(SCANS)
    assert [(scan.participant, scan.session) for scan in scans] == [
        *[("01", "A")] * 3, ("01", "B"), ("010", None), ("02", None),
    ]  # fmt: skip
    assert scans[-1].folder == "sub-02/anat"
    assert names(find_scans(root, ("02",))) == ["sub-02_T1w.nii.gz"]
    assert names(find_scans(root, ("01",), ("B",))) == ["sub-01_ses-B_T1w.nii"]
    with pytest.raises(InputError, match="has no T1w scan"):
        find_scans(root, sessions=("9",))
    for wanted, expected in (
        ({"session": None}, ["sub-010_T1w.nii.gz", "sub-02_T1w.nii.gz"]),
        ({"session": ["B", None], "subject": ["01", "02"]},
         ["sub-01_ses-B_T1w.nii", "sub-02_T1w.nii.gz"]),
        ({"subject": "010", "run": None, "acquisition": None, "part": None},
         ["sub-010_T1w.nii.gz"]),
        ({"run": "02", "acquisition": "*"}, ["sub-01_ses-A_acq-mprage_run-02_T1w.nii.gz"]),
    ):  # fmt: skip
        assert names(find_scans(root, filters={"t1w": wanted})) == expected, wanted


def test_a_database_below_such_folders_is_as_good(tmp_path, dataset_maker):
    root = dataset_maker(tmp_path / "sub-99" / "ses-9" / "ds")
    for name in SCANS:
        put(root, name)
    for _ in range(2):
        (scan,) = find_scans(root, ("02",), database_dir=tmp_path / "db")
        assert (scan.participant, scan.session) == ("02", None)


@pytest.mark.parametrize("way", [".", "x/.."])
def test_the_path_to_the_dataset_may_have_turns(skeleton, monkeypatch, way):
    (skeleton.parent / "x").mkdir()
    for root in (skeleton.parent / way / "bids", os.path.join(way, "bids")):
        monkeypatch.chdir(skeleton.parent)
        database = skeleton.parent / f"db{len(str(root))}"
        assert len(find_scans(root)) == len(SCANS)
        for _ in range(2):
            assert len(find_scans(root, database_dir=database)) == len(SCANS)


def test_regular_expressions_in_filters(skeleton):
    wanted = {"acquisition": "^MP", "session": "a", "run": "0[12]", "regex_search": True}
    assert names(find_scans(skeleton, filters={"t1w": wanted})) == [
        os.path.basename(name) for name in SCANS[:2]
    ]
    with pytest.raises(InputError, match="filter cannot be used"):
        find_scans(skeleton, filters={"t1w": {"acquisition": "(", "regex_search": True}})
    filters = {"t1w": {"regex_search": True}}
    found = find_scans(skeleton, ("01",), filters=filters, database_dir=skeleton.parent / "db")
    assert {scan.participant for scan in found} == {"01"}


PARTS = tuple(
    f"sub-02/anat/sub-02_part-{part}_T1w.nii.gz" for part in ("imag", "mag", "phase", "real")
)


def test_only_magnitudes_are_taken(skeleton, capsys):
    for name in PARTS:
        put(skeleton, name)
    found = names(find_scans(skeleton, ("02",)))
    assert found == ["sub-02_T1w.nii.gz", "sub-02_part-mag_T1w.nii.gz"]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("bh-bids: left out: 'sub-02/anat/sub-02_part-imag_T1w.nii.gz' and 2 ")
    assert "name part in a BIDS filter" in line


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ("phase", ["sub-02_part-phase_T1w.nii.gz"]),
        ("*", list(map(os.path.basename, PARTS))),
        (None, ["sub-02_T1w.nii.gz"]),
        (["mag", None], ["sub-02_T1w.nii.gz", "sub-02_part-mag_T1w.nii.gz"]),
    ],
)
def test_a_filter_may_name_the_part(skeleton, tmp_path, capsys, part, expected):
    for name in PARTS:
        put(skeleton, name)
    path = put(tmp_path, "filter.json", {"t1w": {"part": part}})
    assert names(find_scans(skeleton, ("02",), filters=read_filter_file(path))) == expected
    assert capsys.readouterr().err == ""


def test_none_in_a_list_selects_scans_without_a_field(skeleton, tmp_path):
    put(skeleton, "sub-02/anat/sub-02_T1w.json", {"EchoTime": 0.003})
    put(skeleton, "sub-010/anat/sub-010_T1w.json", {"EchoTime": 0.004})
    path = put(tmp_path, "filter.json", {"t1w": {"EchoTime": [0.003, None], "session": None}})
    put(skeleton, "sub-03/anat/sub-03_T1w.nii.gz")
    filters = read_filter_file(path)
    assert filters == {"t1w": {"EchoTime": [0.003, "Query.NONE"], "session": "Query.NONE"}}
    assert names(find_scans(skeleton, filters=filters)) == [
        "sub-02_T1w.nii.gz",
        "sub-03_T1w.nii.gz",
    ]


@pytest.mark.parametrize("content", [None, {}, [], {"bold": {}}, {"t1w": []}, {"t1w": "mprage"}])
def test_what_is_no_filter_is_refused(content):
    with pytest.raises(InputError, match="so it is"):
        checked_filters(content, "so it is")


@pytest.mark.parametrize(
    ("participants", "sessions", "said"),
    [
        (("01", "03"), (), "no T1w scan of sub-03: correct --participant-label, or"),
        ((), ("A", "Bb"), "no T1w scan of ses-Bb: correct --session-label, or"),
        (
            ("01", "03"),
            ("A", "Bb"),
            "no T1w scan of sub-03 in session A, Bb or ses-Bb: "
            "correct --participant-label and --session-label, or",
        ),
    ],
)
def test_who_was_asked_for_and_has_no_scan_is_named(skeleton, capsys, participants, sessions, said):
    put(skeleton, "sub-03/anat/sub-03_T2w.nii.gz")
    with pytest.raises(InputError) as refusal:
        find_scans(skeleton, participants, sessions)
    assert said in str(refusal.value)
    with pytest.raises(InputError):
        find_scans(skeleton, participants, sessions, {"t1w": {}})
    assert capsys.readouterr().err == ""


def test_a_participant_may_lack_a_session_that_was_asked_for(skeleton, capsys):
    """Studies have dropouts: the others are found, and who is not is told."""
    scans = find_scans(skeleton, ("01", "02"), ("A",))
    assert {scan.participant for scan in scans} == {"01"}
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("no T1w scan of sub-02 in session A.")


def test_a_filter_that_leaves_out_who_was_asked_for_says_so(skeleton, capsys):
    filters = {"t1w": {"acquisition": "mprage"}}
    assert len(find_scans(skeleton, ("01", "02"), ("A", "B"), filters)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("bh-bids: ") and line.endswith("that passes the BIDS filter.")
    assert "sub-02 in session A, B or ses-B " in line
    assert len(find_scans(skeleton, ("01",), ("A",), filters)) == 2
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"t1w": "mprage"}', None])
def test_unusable_filter_files_are_refused(tmp_path, content):
    path = tmp_path / "filter.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=r"filter\.json"):
        read_filter_file(path)


def test_a_database_is_made_once_for_all_participants(skeleton, tmp_path):
    database = tmp_path / "db"
    first = find_scans(skeleton, ("02",), database_dir=database)
    assert names(first) == ["sub-02_T1w.nii.gz"]
    made = [(p.name, p.stat().st_mtime_ns) for p in sorted(database.iterdir())]
    assert made
    second = find_scans(skeleton, ("01",), ("B",), database_dir=database)
    assert names(second) == ["sub-01_ses-B_T1w.nii"]
    assert second[0].scanner["Manufacturer"] == "Philips"
    assert [(p.name, p.stat().st_mtime_ns) for p in sorted(database.iterdir())] == made


@pytest.mark.parametrize("gone", [False, True])
def test_a_database_of_another_path_is_refused(skeleton, tmp_path, gone):
    """As of a dataset that a container sees elsewhere."""
    find_scans(skeleton, database_dir=tmp_path / "db")
    other = tmp_path / "mnt" / "bids"
    shutil.copytree(skeleton, other)
    if gone:
        shutil.rmtree(skeleton)
    with pytest.raises(InputError) as refusal:
        find_scans(other, database_dir=tmp_path / "db")
    sentence = str(refusal.value)
    assert f"made for the dataset at {skeleton}, not at {other}" in sentence
    assert str(tmp_path / "db") in sentence and "to make it again" in sentence


@pytest.mark.parametrize("content", [b"", b"no database at all" * 99])
def test_a_database_that_is_none_is_refused(skeleton, tmp_path, content):
    (tmp_path / "db").mkdir()
    (tmp_path / "db" / "layout_index.sqlite").write_bytes(content)
    with pytest.raises(InputError, match="to make it again"):
        find_scans(skeleton, database_dir=tmp_path / "db")


def test_a_dataset_behind_a_link_is_read(skeleton, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(skeleton)
    assert len(find_scans(link)) == len(SCANS)


def test_scans_that_are_links_are_read(skeleton, tmp_path):
    """As git-annex keeps them; the content need not be there to list them."""
    target = skeleton / SCANS[5]
    target.unlink()
    target.symlink_to(tmp_path / "annex" / "MD5E-s12--ab.nii.gz")
    found = find_scans(skeleton, ("02",))
    assert found[0].path == target


def test_a_damaged_sidecar_is_named_and_stops_nobody(skeleton):
    put(skeleton, "sub-02/anat/sub-02_T1w.json", "{not json")
    damaged, other = find_scans(skeleton, ("02", "010"))[::-1]
    assert "sub-02_T1w.json" in damaged.problems[0]
    assert damaged.metadata["Manufacturer"] == "Philips" and other.problems == ()


def test_two_files_of_one_name_are_refused(skeleton):
    """Both would write the same derivatives."""
    put(skeleton, "sub-02/anat/sub-02_T1w.nii")
    with pytest.raises(InputError, match="sub-02_T1w"):
        find_scans(skeleton, ("02",))


def test_a_dataset_without_t1w_says_how_they_are_named(tmp_path, dataset_maker):
    root = dataset_maker(tmp_path / "bids")
    put(root, "sub-01/anat/sub-01_T2w.nii.gz")
    with pytest.raises(InputError, match="_T1w.nii"):
        find_scans(root)


def test_an_empty_dataset_has_no_participants(tmp_path, dataset_maker):
    with pytest.raises(InputError, match="no participants at all"):
        find_scans(dataset_maker(tmp_path / "bids"), ("01",))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "has no dataset_description.json"),
        ("{", "not readable JSON"),
        ("[]", "lacks Name and BIDSVersion"),
        ('{"Name": "x"}', "lacks BIDSVersion"),
        ('{"Name": 3, "BIDSVersion": "1.8.0"}', "lacks Name"),
    ],
)
def test_what_is_no_dataset_is_refused(tmp_path, content, said):
    if content is not None:
        put(tmp_path, "dataset_description.json", content)
    with pytest.raises(InputError) as refusal:
        check_dataset(tmp_path)
    assert said in str(refusal.value) and str(tmp_path) in str(refusal.value)


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_a_dataset_must_be_a_folder(tmp_path, kind):
    path = tmp_path / "bids"
    if kind == "file":
        path.touch()
    with pytest.raises(InputError, match="does not exist or is no folder"):
        check_dataset(path)


def test_a_description_with_a_byte_order_mark_is_read(tmp_path):
    (tmp_path / "dataset_description.json").write_bytes(
        b"\xef\xbb\xbf" + json.dumps({"Name": "x", "BIDSVersion": "1.8.0"}).encode()
    )
    check_dataset(tmp_path)
