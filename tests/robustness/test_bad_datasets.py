"""Datasets that are not what they should be: taken where it does no harm, else refused in words."""

import json
import os

import pytest

from bh_bids.group.study import read_participants


@pytest.fixture
def plan(tmp_path, dataset_maker, write_t1w, small_brain, small_model, run_here):
    """Make a dataset of one scan, change it, and ask for the plan of a run."""

    def plan(change, *options, name="bids"):
        root = dataset_maker(tmp_path / name)
        scan = root / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
        write_t1w(scan, 3 * small_brain.volume, small_brain.affine)
        scan.with_name("sub-01_T1w.json").write_text(json.dumps({"Manufacturer": "Siemens"}))
        change(root)
        code, out, err = run_here(root, tmp_path, small_model, "--dry-run", *options)
        assert "Traceback" not in out + err
        assert not (tmp_path / "out").exists()
        return code, out + err

    return plan


def description(content):
    def change(root):
        (root / "dataset_description.json").write_bytes(content)

    return change


def sidecar(content, name="sub-01/anat/sub-01_T1w.json"):
    def change(root):
        (root / name).write_bytes(content)

    return change


def no_description(root):
    (root / "dataset_description.json").unlink()


def description_is_a_folder(root):
    no_description(root)
    (root / "dataset_description.json").mkdir()


def no_scan(root):
    (root / "sub-01/anat/sub-01_T1w.nii.gz").unlink()


def scan_of_two_formats(root):
    (root / "sub-01/anat/sub-01_T1w.nii").write_bytes(b"")


def renamed(name):
    def change(root):
        scan = root / "sub-01/anat/sub-01_T1w.nii.gz"
        scan.rename(scan.with_name(name))

    return change


def endless_folders(root):
    (root / "sub-01" / "anat" / "again").symlink_to(root, target_is_directory=True)


def nested(depth):
    return b'{"a":' * depth + b"1" + b"}" * depth


REFUSED = {
    "no description": (no_description, "no dataset_description.json"),
    "description is a folder": (description_is_a_folder, "no dataset_description.json"),
    "description is empty": (description(b""), "not readable JSON"),
    "description is cut off": (description(b'{"Name": "x", '), "not readable JSON"),
    "description is Latin-1": (description(b'{"Name": "M\xfcller"}'), "not readable JSON"),
    "description is a list": (description(b"[]"), "lacks Name and BIDSVersion"),
    "description without version": (description(b'{"Name": "x"}'), "lacks BIDSVersion"),
    "description of numbers": (
        description(b'{"Name": 1, "BIDSVersion": 1.8}'),
        "lacks Name and BIDSVersion",
    ),
    "description nested without end": (description(nested(100_000)), "not readable JSON"),
    "no scan": (no_scan, "has no T1w scan"),
    "one scan in two formats": (scan_of_two_formats, "two images of one name"),
    "entities out of order": (renamed("sub-01_run-1_acq-x_T1w.nii.gz"), "has no T1w scan"),
    "an entity of other images": (renamed("sub-01_dir-AP_T1w.nii.gz"), "has no T1w scan"),
    "another participant's name": (renamed("sub-02_T1w.nii.gz"), "has no T1w scan"),
    "a session in the name alone": (renamed("sub-01_ses-A_T1w.nii.gz"), "has no T1w scan"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_refused_in_one_sentence(case, plan):
    change, said = REFUSED[case]
    code, told = plan(change)
    assert code == 1, told
    (sentence,) = [line for line in told.splitlines() if line.startswith("bh-bids: error: ")]
    assert said in sentence


def with_mark_and_crlf(root):
    path = root / "dataset_description.json"
    text = json.dumps(json.loads(path.read_text()), indent=1).replace("\n", "\r\n")
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())


def two_levels(root):
    (root / "T1w.json").write_text('{"Manufacturer": "GE"}')
    (root / "sub-01" / "sub-01_T1w.json").write_text('{"Manufacturer": "Philips"}')


def linked_scan(root):
    scan = root / "sub-01/anat/sub-01_T1w.nii.gz"
    store = root / ".git" / "annex" / "objects" / "ab"
    store.mkdir(parents=True)
    scan.rename(store / "SHA256E-s1--00.nii.gz")
    scan.symlink_to(os.path.relpath(store / "SHA256E-s1--00.nii.gz", scan.parent))


def unfetched_scan(root):
    linked_scan(root)
    next(root.glob(".git/annex/objects/ab/*")).unlink()


def participant_that_is_a_file(root):
    (root / "sub-02").write_text("")


def participant_without_scans(root):
    (root / "sub-02" / "anat").mkdir(parents=True)


def other_files(root):
    for name in ("sub-01_T2w.nii.gz", "sub-01_T1w.nii.gz.md5", "._sub-01_T1w.nii.gz"):
        (root / "sub-01" / "anat" / name).write_bytes(b"")


def binary_participants(root):
    (root / "participants.tsv").write_bytes(bytes(range(256)))


def nothing(root):
    pass


TAKEN = {
    "description with mark and CRLF": with_mark_and_crlf,
    "sidecar with a mark": sidecar(b"\xef\xbb\xbf{}"),
    "sidecar of odd values": sidecar(b'{"Manufacturer": [null, 1e999], "a": {"b": NaN}}'),
    "sidecar is cut off": sidecar(b'{"Manufacturer": '),
    "sidecar is binary": sidecar(bytes(range(256))),
    "sidecar nested without end": sidecar(nested(100_000)),
    "sidecar is a list": sidecar(b'["Siemens"]'),
    "no sidecar": lambda root: (root / "sub-01/anat/sub-01_T1w.json").unlink(),
    "sidecars of three levels": two_levels,
    "scan in an annex": linked_scan,
    "scan not fetched": unfetched_scan,
    "folders without end": endless_folders,
    "participant is a file": participant_that_is_a_file,
    "participant without scans": participant_without_scans,
    "other files beside the scan": other_files,
    "participants.tsv is binary": binary_participants,
}


@pytest.mark.parametrize("case", TAKEN)
def test_what_does_no_harm_is_taken(case, plan):
    code, told = plan(TAKEN[case])
    assert code == 0, told
    assert "Would harmonize 1 of 1 T1w scans" in told


@pytest.mark.parametrize("name", ["with space", "Größe λ 脳", "it's; $(touch x) & `y`", "a\nb"])
def test_folders_of_any_name_are_taken(name, plan):
    code, told = plan(nothing, name=name)
    assert code == 0, told


@pytest.mark.parametrize("label", ["..", "0 1", "01;x", "$(x)", "ä", "a_b", "<b>", "01\n"])
def test_labels_that_are_none_never_become_a_name(label, plan, tmp_path):
    """Of a participant's label only letters, digits and + are ever taken."""

    def change(root):
        (root / "sub-01").rename(root / f"sub-{label}")
        anat = root / f"sub-{label}" / "anat"
        (anat / "sub-01_T1w.nii.gz").rename(anat / f"sub-{label}_T1w.nii.gz")

    code, told = plan(change)
    assert code == 1, told
    outside = {path.name for path in tmp_path.iterdir()}
    assert outside <= {"bids", "work"}


@pytest.mark.parametrize(
    ("content", "labels"),
    [
        (b"participant_id\tage\nsub-01\t30\n", ["01"]),
        (b"\xef\xbb\xbfparticipant_id\tage\r\nsub-01\t30\r\n", ["01"]),
        (b"participant_id\tage\nsub-01\n", ["01"]),
        (b"participant_id\tage\nsub-01\t30\t40\n", ["01"]),
        (b"age\n30\n", []),
        (b"", []),
        (b"participant_id,age\nsub-01,30\n", []),
        (bytes(range(256)), []),
        (b"participant_id\n" + b"x" * 200_000 + b"\n", []),
    ],
    ids=["plain", "mark and CRLF", "short row", "long row", "no identifier", "empty", "commas",
         "binary", "a cell of 200 kB"],
)  # fmt: skip
def test_participants_tables_of_all_kinds(tmp_path, content, labels):
    (tmp_path / "participants.tsv").write_bytes(content)
    problems = []
    assert list(read_participants(tmp_path, problems)) == labels or problems
    if labels:
        assert list(read_participants(tmp_path, problems)) == labels


BAD_FILTERS = (
    "",
    "{",
    "[1]",
    '{"t1w": 3}',
    '{"t1w": {"acquisition": {"a": 1}}}',
    '{"t1w": {"nonsense": "x"}}',
    '{"t1w": {"run": "' + "9" * 400 + '"}}',
    '{"t1w": {"suffix": "bold"}}',
    "\x00",
    '{"t1w": {"regex_search": true}}',
    '{"t1w": {"extension": ["((("]}}',
)


@pytest.mark.parametrize("content", BAD_FILTERS, ids=range(len(BAD_FILTERS)))
def test_filters_that_select_nothing_or_cannot_be_used(content, plan, tmp_path):
    (tmp_path / "filter.json").write_text(content)
    code, told = plan(nothing, "--bids-filter-file", str(tmp_path / "filter.json"))
    assert code in (0, 1), told
    assert ("bh-bids: error: " in told) == (code == 1)


def test_a_nested_filter_is_refused(plan, tmp_path):
    (tmp_path / "filter.json").write_bytes(nested(100_000))
    code, told = plan(nothing, "--bids-filter-file", str(tmp_path / "filter.json"))
    assert code == 1 and "filter.json" in told


@pytest.mark.parametrize("content", [b"a = [" * 5000, b"\xff", b"model = 3", b"x" * 100_000])
def test_configurations_that_cannot_be_used(content, plan, tmp_path):
    (tmp_path / "c.toml").write_bytes(content)
    code, told = plan(nothing, "--config-file", str(tmp_path / "c.toml"))
    assert code == 1 and "c.toml" in told
