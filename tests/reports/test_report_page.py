"""The participant's page: whole, safe, self-contained, whatever lies in the folder."""

import base64
import hashlib
import json
import os
import re
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from bh_bids.errors import InputError
from bh_bids.reports import plots
from bh_bids.reports.assemble import write_participant_report
from bh_bids.reports.collect import scan_key
from bh_bids.reports.metrics import format_number

VOID = {"meta", "link", "img", "input", "br", "hr"}
CRASH = """Node: bh_bids_wf.sub_01_wf.harmonize
Working directory: /work

Node inputs:

in_file = <undefined>

Traceback (most recent call last):
  File "node.py", line 1, in run
nipype.pipeline.engine.nodes.NodeExecutionError: Exception raised while executing Node harmonize.

Traceback:
\tTraceback (most recent call last):
\t  File "{file}", line 3
\t{error}

"""


class Page(HTMLParser):
    """Collects elements and checks that every one is closed."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.text = [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text.append(data)

    def all(self, name):
        return [attrs for tag, attrs in self.elements if tag == name]

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


def read(path):
    return Page(path.read_text(encoding="utf-8"))


def volumes(shape=(24, 28, 22)):
    grid = np.indices(shape, dtype=float)
    mask = sum(((g - (n - 1) / 2) / (0.42 * n)) ** 2 for g, n in zip(grid, shape, strict=True)) < 1
    rng = np.random.default_rng(0)
    return np.where(mask, rng.uniform(0.3, 1, shape), 0).astype(np.float32), mask


@pytest.fixture(scope="module")
def figures():
    volume, mask = volumes()
    return {
        "brain": plots.plot_brain_mask(volume, mask),
        "registration": plots.plot_registration(volume, volume, mask),
        "flicker": plots.flicker_svg(volume, volume**0.8, mask),
        "difference": plots.plot_difference(volume, volume**0.8, mask),
        "ncc": plots.plot_local_ncc(np.where(mask, volume, np.nan), mask),
        "histogram": plots.plot_histograms(volume, volume**0.8, mask),
        "trace": plots.plot_trace([{"iteration": 0, "objective": 1.0}]),
    }


def sidecar(**changes):
    block = {
        "Model": "default",
        "ModelVersion": "0.1.0",
        "WeightsSHA256": "0123456789abcdef" * 4,
        "TargetDomain": {"Description": "Adults, one scanner", "Manufacturer": "Philips"},
        "Method": "paper",
        "Parameters": {"iterations": 10, "start": "gain"},
        "Seed": 0,
        "Converged": True,
        "Guards": [],
        "SoftwareVersions": {"bh-bids": "0.1.0", "nipype": "1.11.0"},
        "CommandLine": "bh-bids in out participant",
    }
    return {
        "Sources": ["bids:raw:sub-01/anat/sub-01_T1w.nii.gz"],
        "Manufacturer": "Siemens",
        "ManufacturersModelName": "Allegra",
        "MagneticFieldStrength": 3,
        "Harmonization": block | changes,
    }


def add_scan(root, figures, key="sub-01", metrics=None, **changes):
    session = re.search(r"_(ses-[A-Za-z0-9]+)", key)
    anat = root / "sub-01" / (session.group(1) if session else "") / "anat"
    anat.mkdir(parents=True, exist_ok=True)
    stem = f"{key}_space-MNI152NLin2009aSym_res-1"
    (anat / f"{stem}_desc-harmonized_T1w.json").write_text(json.dumps(sidecar(**changes)))
    row = {
        "participant_id": "sub-01",
        "filename": f"{key}_T1w.nii.gz",
        "converged": "true",
        "ncc_source": "0.987",
        "latent_before": "1.7",
        "latent_after": "1.05",
        "wm_mode_before": "0.9",
        "wm_mode_after": "0.8",
        "wm_mode_target": "0.775",
        "gm_mode_before": "n/a",
        "guards": "n/a",
    } | (metrics or {})
    table = "\t".join(row) + "\n" + "\t".join(row.values()) + "\n"
    (anat / f"{key}_desc-harmonization_metrics.tsv").write_text(table)
    for name, figure in figures.items():
        plots.save_svg(figure, root / "sub-01" / "figures" / f"{key}_desc-{name}_T1w.svg")


def add_crash(root, run, error, file="node.py", name="crash-1.txt"):
    folder = root / "sub-01" / "log" / run
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(CRASH.format(error=error, file=file))
    return folder


def check_page(path):
    """What must hold of every page."""
    page = read(path)
    ids = [attrs["id"] for _, attrs in page.elements if attrs.get("id")]
    assert len(ids) == len(set(ids))
    policy = [a["content"] for a in page.all("meta") if "http-equiv" in a]
    assert policy and policy[0].startswith("default-src 'none'")
    assert not page.all("link") and not page.all("iframe")
    check_scripts(path.read_text(encoding="utf-8"), policy[0])
    for tag, attrs in page.elements:
        assert not any(name.startswith("on") for name in attrs)
        for name in ("src", "href", "xlink:href", "srcset", "action", "data"):
            value = attrs.get(name)
            if value is None:
                continue
            if tag == "a":
                if value.startswith("#"):
                    assert value[1:] in ids, value
                elif value.startswith("./logs/"):
                    pass  # written once for all participants
                elif value.startswith("./"):
                    assert (path.parent / value).exists(), value
                else:
                    assert value.startswith("https://doi.org/10."), value
            else:
                assert value.startswith(("data:image/", "#")), value
    for image in page.all("img"):
        assert image["alt"].strip()
    for attrs in (a for _, a in page.elements):
        for name in ("aria-labelledby", "for"):
            for target in (attrs.get(name) or "").split():
                assert target in ids
    style = path.read_text(encoding="utf-8").split("<style>")[1].split("</style>")[0]
    assert "url(" not in style and "@import" not in style
    return page


def check_scripts(text, policy):
    """Our one script may run, known by its hash; all others are data that ends where it should."""
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", text, re.S)
    running = [body for attributes, body in scripts if "application/json" not in attributes]
    assert running == [files("bh_bids.reports").joinpath("templates/report.js").read_text()]
    digest = base64.b64encode(hashlib.sha256(running[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy
    for attributes, body in scripts:
        if "application/json" in attributes:
            assert set(json.loads(body)) == {"shape", "spacing", "origin", "columns", "layers"}
    assert text.count("<script") == len(scripts)


def test_what_became_of_the_structure_has_names(tmp_path, figures):
    add_scan(tmp_path, figures, metrics={"edges_lost": "0.125", "unheard_of": "7"})
    words = check_page(write_participant_report(tmp_path, "01")).words
    assert "Was structure kept?" in words and "Edges lost" in words and "0.125" in words
    assert "edges_lost" not in words.partition("All settings")[0] and "unheard_of" in words


def test_the_command_is_the_one_that_made_the_scan(tmp_path, figures):
    """All visits of a longitudinal study are needed to make one of them again."""
    command = "bh-bids in out participant --participant-label 01 --session-label A B --longitudinal"
    add_scan(tmp_path, figures, key="sub-01_ses-A", CommandLine=command)
    words = check_page(write_participant_report(tmp_path, "01")).words
    assert command in words and words.count("--session-label") == words.count("A B --longitudinal")


def test_what_a_run_left_that_did_not_end_is_no_result(tmp_path, figures):
    add_scan(tmp_path, figures)
    assert "Pass Harmonized" in read(write_participant_report(tmp_path, "01")).words
    next(tmp_path.rglob("*_desc-harmonization_metrics.tsv")).unlink()
    words = check_page(write_participant_report(tmp_path, "01")).words
    assert "1 of 1 scan not harmonized" in words and "Pass" not in words


def test_page_shows_what_was_done(tmp_path, figures):
    add_scan(tmp_path, figures)
    path = write_participant_report(tmp_path, "sub-01")
    assert path == tmp_path / "sub-01.html"
    page = check_page(path)
    for words in (
        "Siemens Allegra, 3 T",
        "Adults, one scanner (Philips)",
        "default 0.1.0",
        "0123456789ab",
        "Pass Harmonized;",
        "+16.1 % → +3.2 %",  # (0.9 and 0.8 − 0.775) / 0.775
        "No errors to report.",
        "Jeong et al., 2023",
        "bh-bids in out participant",
    ):
        assert words in page.words, words
    flickers = [a for a in page.all("figure") if "flicker" in a["class"].split()]
    assert len(flickers) == 2 and len(page.all("input")) == 6
    assert len(page.all("svg")) == 5  # part of the page, so that the pointer can stop them
    assert len(page.all("img")) == 2


def test_page_is_the_same_every_time(tmp_path, figures):
    add_scan(tmp_path, figures)
    add_crash(tmp_path, "run", "bh_bids.errors.InputError: Bad scan.")
    pages = [write_participant_report(tmp_path, "01").read_bytes() for _ in range(2)]
    assert pages[0] == pages[1]
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["sub-01.html"]


def test_every_scan_has_its_section_in_natural_order(tmp_path, figures):
    keys = [f"sub-01_ses-A_run-{n}" for n in (1, 2, 10)]
    for key in reversed(keys):
        add_scan(tmp_path, figures, key)
    page = check_page(write_participant_report(tmp_path, "01"))
    sections = [a["id"] for a in page.all("section") if a["id"].startswith("scan-")]
    assert sections == [f"scan-{key}" for key in keys]
    targets = [a["href"] for a in page.all("a")]
    for section in sections:
        assert f"#{section}" in targets
    assert "Session A, run 10" in page.words


def test_nothing_from_the_dataset_can_run(tmp_path, figures):
    evil = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'"
    add_scan(
        tmp_path,
        figures,
        metrics={"model": evil, evil.replace("\t", ""): evil},
        Model=evil,
        ModelVersion=evil,
        Method=evil,
        TargetDomain=evil,
        WeightsSHA256=evil,
        Guards=[evil],
        CommandLine=evil,
        Parameters={evil: evil, "start": [evil]},
        SoftwareVersions={evil: evil},
    )
    (tmp_path / "sub-01" / "figures" / "sub-01_desc-flicker_T1w.svg").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
    )
    add_crash(tmp_path, "run", f"ValueError: {evil}", file=evil)
    path = write_participant_report(tmp_path, "01", command_line=evil, version=evil, run_uuid="run")
    page = check_page(path)
    assert evil.replace("\t", "") in page.words
    assert "<script>alert" not in path.read_text()


@pytest.mark.parametrize("label", ["../01", "01/..", "<b>", "", "sub-", "0 1"])
def test_a_label_that_is_none_is_refused(tmp_path, label):
    with pytest.raises(InputError, match="label"):
        write_participant_report(tmp_path, label)
    assert not list(tmp_path.rglob("*.html"))


def test_a_participant_of_whom_nothing_is_left(tmp_path):
    page = check_page(write_participant_report(tmp_path / "new", "01"))
    assert "Nothing to show" in page.words


def test_a_scan_that_left_nothing_is_named(tmp_path, figures):
    add_scan(tmp_path, figures, "sub-01_ses-A")
    add_crash(tmp_path, "run", "bh_bids.errors.InputError: x.nii.gz has 4 dimensions: give one.")
    page = check_page(
        write_participant_report(
            tmp_path,
            "01",
            scans=["/in/sub-01/ses-A/anat/sub-01_ses-A_T1w.nii.gz", "sub-01_ses-B_T1w.nii.gz"],
        )
    )
    assert "1 of 2 scans not harmonized" in page.words
    assert "Session B Fail" in page.words
    # our own sentence alone, without the exception's name, and once more under Errors
    assert page.words.count("x.nii.gz has 4 dimensions: give one.") >= 2
    assert "Step bh_bids_wf.sub_01_wf.harmonize" in page.words


def test_missing_and_damaged_files_do_not_break_the_page(tmp_path, figures):
    add_scan(tmp_path, {"brain": figures["brain"]})
    anat = tmp_path / "sub-01" / "anat"
    (anat / "sub-01_run-2_desc-harmonized_T1w.json").write_text("{broken")
    (anat / "sub-01_run-3_desc-harmonized_T1w.json").write_text('["not a block"]')
    (anat / "sub-01_run-4_desc-harmonized_T1w.json").write_text('{"Harmonization": 3}')
    (anat / "sub-01_run-5_desc-harmonization_metrics.tsv").write_bytes(b"\xff\xfe\t\x00")
    (anat / "sub-01_run-6_desc-harmonization_metrics.tsv").write_text("")
    (anat / "sub-01_run-7_desc-harmonization_metrics.tsv").write_text("wm_mode_after\nmany\tmore\n")
    page = check_page(write_participant_report(tmp_path, "01"))
    assert page.words.count("This figure is missing.") >= 5
    assert "sub-01_run-2_desc-harmonized_T1w.json could not be read" in page.words
    assert "sub-01_run-5_desc-harmonization_metrics.tsv could not be read" in page.words


def test_only_the_crashes_of_the_run_count(tmp_path, figures):
    add_scan(tmp_path, figures)
    old = add_crash(tmp_path, "20240101_old", "MemoryError")
    new = add_crash(tmp_path, "20250101_new", "ValueError: that is new")
    os.utime(old, (1, 1))
    os.utime(new, (2, 2))
    assert "that is new" in read(write_participant_report(tmp_path, "01")).words
    page = check_page(write_participant_report(tmp_path, "01", run_uuid="old"))
    assert "that is new" not in page.words
    assert "ran out of memory" in page.words and "--low-mem" in page.words
    assert "No errors" in read(write_participant_report(tmp_path, "01", run_uuid="x")).words


@pytest.mark.parametrize(
    "name", ["MemoryError", "numpy._core._exceptions._ArrayMemoryError", "torch.OutOfMemoryError"]
)
def test_memory_that_ran_out_is_known_by_any_name(name, tmp_path, figures):
    add_scan(tmp_path, figures)
    add_crash(tmp_path, "20250101_new", f"{name}: Unable to allocate 1.31 GiB for an array")
    words = check_page(write_participant_report(tmp_path, "01")).words
    assert f"{name.rsplit('.')[-1]}: Unable to allocate" in words and "--low-mem" in words


def test_cautions_are_shown_before_the_pictures(tmp_path, figures):
    add_scan(tmp_path, figures, Guards=["The brain is small; see the mask."], Converged=False)
    page = check_page(write_participant_report(tmp_path, "01"))
    assert "Warn Harmonized, with cautions" in page.words
    assert page.words.index("The brain is small; see the mask.") < page.words.index("What changed")
    assert "stopped at the last iteration" in page.words


def add_checks(root, states, key="sub-01"):
    """The sidecar of a preprocessed scan with these checks."""
    checks = {
        name: {"State": state, "Value": 1.0, "Sentence": f"{name} is as found."}
        for name, state in states.items()
    }
    folder = root / "sub-01" / "anat"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{key}_space-MNI152NLin2009aSym_res-1_desc-preproc_T1w.json"
    path.write_text(json.dumps({"AnatomicalChecks": {"Verdict": "fail", **checks}}))


def test_a_scan_whose_anatomy_failed_says_so_at_the_top(tmp_path):
    add_checks(tmp_path, {"MaskVolume": "pass", "Contrast": "fail"})
    text = write_participant_report(tmp_path, "01").read_text()
    page = check_page(tmp_path / "sub-01.html")
    assert "1 of 1 scan not harmonized" in page.words
    summary = text[text.index('id="summary"') : text.index('id="scan-sub-01"')]
    assert "Contrast is as found." in summary and "MaskVolume" not in summary
    assert "Checks of mask and registration" in page.words
    assert "Mask's volume" in page.words and "MaskVolume is as found." in page.words


@pytest.mark.parametrize(
    ("state", "word"), [("pass", "Preprocessed; no check"), ("warn", "Preprocessed, with cautions")]
)
def test_without_harmonization_the_checks_are_the_verdict(tmp_path, state, word):
    add_checks(tmp_path, {"MaskVolume": state})
    write_participant_report(tmp_path, "01", anat_only=True)
    words = check_page(tmp_path / "sub-01.html").words
    assert word in words and "armonized" not in words.split("What the program")[0][:400]


def test_without_harmonization_a_failed_check_fails(tmp_path):
    add_checks(tmp_path, {"MaskVolume": "fail"})
    write_participant_report(tmp_path, "01", anat_only=True)
    assert "1 of 1 scan failed" in check_page(tmp_path / "sub-01.html").words


def test_damaged_checks_do_not_break_the_page(tmp_path):
    add_checks(tmp_path, {"MaskVolume": "pass"})
    path = next(tmp_path.rglob("*preproc_T1w.json"))
    for content in ("[]", '{"AnatomicalChecks": 3}', '{"AnatomicalChecks": {"A": {"State": 1}}}'):
        path.write_text(content)
        check_page(write_participant_report(tmp_path, "01"))


def test_scans_are_known_by_their_own_entities():
    name = "sub-01_ses-A_acq-mprage_run-2_space-MNI152NLin2009aSym_res-1_desc-harmonized_T1w.json"
    assert scan_key(name) == "sub-01_ses-A_acq-mprage_run-2"
    assert scan_key("in/sub-01_T1w.nii.gz") == "sub-01"


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), ("0.98712", "0.987"), (12, "12"), ("1312.43", "1312"), ("True", "yes")]
    + [("abc", "abc"), (-0.5, "−0.5"), (float("nan"), "nan"), (123456.7, "123457")],
)
def test_numbers_are_written_as_one_reads_them(value, text):
    assert format_number(value) == text


def real_scan():
    root = Path(os.environ.get("BH_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
    return next(iter(sorted(root.glob("target-ds002748/sub-*/anat/*_T1w.nii.gz"))), None)


@pytest.mark.data
def test_report_of_a_real_scan_is_small(tmp_path):
    source = real_scan()
    if source is None:
        pytest.skip("real scans are missing: set BH_DATA to the folder with target-ds002748")
    import nibabel as nib

    image = nib.as_closest_canonical(nib.load(source))
    volume = image.get_fdata(dtype=np.float32)
    mask = volume > 0.05 * volume.max()
    volume /= np.percentile(volume[mask], 99)
    after = np.where(mask, volume**0.7, 0)
    spacing = image.header.get_zooms()[:3]
    big = {
        "brain": plots.plot_brain_mask(volume, mask, spacing, affine=image.affine),
        "registration": plots.plot_registration(volume, after, mask),
        "flicker": plots.flicker_svg(volume, after, mask),
        "difference": plots.plot_difference(volume, after, mask),
        "histogram": plots.plot_histograms(volume, after, mask),
        "trace": plots.plot_trace([{"iteration": i, "objective": 1 / (i + 1)} for i in range(99)]),
    }
    add_scan(tmp_path, big)
    path = write_participant_report(tmp_path, "01")
    check_page(path)
    assert path.stat().st_size < 4e6


def add_preprocessed(root, key, state="pass"):
    path = root / "sub-01" / "anat" / f"{key}_space-X_res-1_desc-preproc_T1w.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    check = {"State": state, "Value": 1, "Sentence": f"It is a {state}."}
    path.write_text(json.dumps({"AnatomicalChecks": {"MaskVolume": check}}))


def test_what_nobody_asked_to_harmonize_is_no_failure(tmp_path, figures):
    add_scan(tmp_path, figures, key="sub-01_run-1")
    add_preprocessed(tmp_path, "sub-01_run-2")
    asked = ["sub-01_run-1_T1w.nii.gz"]
    words = check_page(write_participant_report(tmp_path, "01", scans=asked)).words
    assert "Pass Harmonized" in words and "not harmonized" not in words
    asked.append("sub-01_run-2_T1w.nii.gz")
    words = check_page(write_participant_report(tmp_path, "01", scans=asked)).words
    assert "1 of 2 scans not harmonized" in words


def test_without_harmonization_errors_speak_of_the_anatomy(tmp_path):
    add_preprocessed(tmp_path, "sub-01", state="fail")
    words = check_page(write_participant_report(tmp_path, "01", anat_only=True)).words
    assert "no harmonized image" not in words and "a check of the anatomy failed" in words
