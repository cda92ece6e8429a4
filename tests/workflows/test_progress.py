"""What is told while a run goes on: little in a log, all at a terminal."""

import io
from types import SimpleNamespace

import pytest

from bh_bids.expectation import STEP_SECONDS
from bh_bids.progress import Expectation, Progress, duration

A, B = "sub_01_ses_A_scan_wf", "sub_02_scan_wf"
NAMES = {A: "sub-01_ses-A", B: "sub-02"}
STEPS = {A: {"conform", "bias_field", "ds_mask", "inputnode"}, B: {"conform", "register"}}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def step(name, scan=A):
    return SimpleNamespace(fullname=f"bh_bids_wf.sub_01_wf.{scan}.anatomical_wf.{name}")


def both(told, name, scan=A, end="end"):
    told(step(name, scan), "start")
    told(step(name, scan), end)


def test_a_log_gets_a_line_when_a_scan_begins_and_one_when_it_ends():
    stream = io.StringIO()
    with Progress(NAMES, STEPS, stream) as told:
        both(told, "conform")
        both(told, "conform", B)
        both(told, "bias_field")
        both(told, "ds_mask")
        both(told, "register", B, "exception")
    lines = [line.split(None, 1) for line in stream.getvalue().splitlines()]
    assert lines == [
        ["sub-01_ses-A", "begins"],
        ["sub-02", "begins"],
        ["sub-01_ses-A", "done in 0 s"],
        ["sub-02", "FAILED at register"],
    ]


def test_steps_of_an_earlier_run_count_and_those_after_a_failure_do_not():
    stream = io.StringIO()
    with Progress(NAMES, STEPS, stream) as told:
        told(step("conform"), "end")
        both(told, "bias_field")
        both(told, "conform", B, "exception")
        told(step("register", B), "end")
    lines = [line.split(None, 1) for line in stream.getvalue().splitlines()]
    assert lines == [
        ["sub-01_ses-A", "begins"],
        ["sub-01_ses-A", "done in 0 s"],
        ["sub-02", "begins"],
        ["sub-02", "FAILED at conform"],
    ]


def test_what_is_done_for_all_scans_of_a_participant_is_theirs():
    stream = io.StringIO()
    node = SimpleNamespace(fullname="bh_bids_wf.sub_01_wf.longitudinal_wf.within_template")
    with Progress(NAMES, STEPS, stream) as told:
        told(node, "start")
        told(node, "exception")
    lines = [line.split(None, 1) for line in stream.getvalue().splitlines()]
    assert lines == [
        ["sub-01", "begins"],
        ["sub-01", "FAILED at within template"],
    ]


def test_verbose_names_scan_and_step_and_says_what_failed():
    stream = io.StringIO()
    told = Progress(NAMES, STEPS, stream, verbose=1)
    both(told, "bias_field")
    both(told, "register", end="exception")
    first, second = stream.getvalue().splitlines()
    assert first.split()[:4] == ["sub-01_ses-A", "bias", "field", "done"]
    assert second.split()[:3] == ["sub-01_ses-A", "register", "FAILED"]


@pytest.mark.parametrize("verbose", [0, 1])
def test_silent_on_plumbing_and_on_what_was_left_out(verbose):
    stream = io.StringIO()
    told = Progress({}, {}, stream, verbose=verbose)
    for name in ("inputnode", "outputnode", "ds_mask", "sidecar_native"):
        both(told, name)
    told(step("harmonize"), "end")
    assert stream.getvalue() == ""


def test_a_terminal_shows_running_steps_with_their_time():
    stream = Terminal()
    with Progress(NAMES, STEPS, stream) as told:
        told(step("conform"), "start")
        told.screen.bar.refresh()
        shown = stream.getvalue()
        told(step("conform"), "end")
        both(told, "bias_field")
        told.screen.bar.refresh()
    assert "sub-01_ses-A  conform" in shown and f"of about {STEP_SECONDS['conform']} s" in shown
    assert "0/2" in shown and "1/2" in stream.getvalue()
    assert "sub-01_ses-A  done in 0 s" in stream.getvalue()


def test_what_is_left_runs_down_between_steps(monkeypatch):
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr("bh_bids.progress.time", SimpleNamespace(monotonic=lambda: clock.now))
    told = Progress(NAMES, {A: {"harmonize"}, B: {"harmonize"}}, Terminal())
    with told:
        (times,) = [c for c in told.screen.bar.columns if type(c).__name__ == "Times"]
        task = next(t for t in told.screen.bar.tasks if t.id == told.screen.whole)
        whole = 2 * STEP_SECONDS["harmonize"]
        assert f"about {duration(whole)} left" in times.render(task)
        clock.now += whole - 61
        assert "about 1 min 01 s left" in times.render(task)
        clock.now += 62
        assert "longer than expected" in times.render(task)


def test_expected_times_follow_this_computer():
    expected = Expectation()
    assert expected.step("harmonize") == STEP_SECONDS["harmonize"]
    expected.learn("brain_mask", 3 * STEP_SECONDS["brain_mask"])
    assert expected.step("harmonize") == pytest.approx(3 * STEP_SECONDS["harmonize"])
    expected.learn("harmonize", 50)
    expected.learn("harmonize", 70)
    assert expected.step("harmonize") == 60
    assert Expectation(2).seconds(["conform", "conform", "unknown"]) == STEP_SECONDS["conform"]


def test_every_long_step_of_the_workflow_has_an_expected_time(small_model, tmp_path):
    import json
    from dataclasses import replace
    from pathlib import Path

    from bh_bids.workflows.base import init_bh_bids_wf

    from bh_bids.dataset import Scan
    from bh_bids.expectation import expect
    from bh_bids.progress import _told
    from bh_bids.settings import Settings

    model = json.loads((small_model / "model.json").read_text())
    path = Path("sub-01/anat/sub-01_T1w.nii.gz")
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_bytes(b"")
    scans = [Scan(tmp_path / path, "01", None, f"bids:raw:{path}")]
    second = tmp_path / "sub-01/anat/sub-01_run-2_T1w.nii.gz"
    second.write_bytes(b"")
    base = dict(model=str(small_model), device="cpu", omp_nthreads=1, nprocs=4, mem_gb=8)
    base["output_spaces"] = ("T1w", "MNI152NLin2009aSym")
    settings = Settings(tmp_path, tmp_path / "out", work_dir=tmp_path / "work", **base)
    workflow = init_bh_bids_wf(settings=settings, scans=scans, model=model, keys={"sub-01": "k"})
    together = init_bh_bids_wf(
        settings=replace(settings, longitudinal=True),
        scans=[*scans, Scan(second, "01", None, "bids:raw:second")],
        model=model,
        keys={"sub-01": "k", "sub-01_run-2": "k"},
    )
    nodes = [*workflow._get_all_nodes(), *together._get_all_nodes()]
    assert _told(node.name for node in nodes) == set(STEP_SECONDS)
    cost = expect(settings, workflow, model)
    assert cost["at_once"] == 1 and 60 < cost["seconds"] < 600 and 1 < cost["memory_gb"] < 9


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 00 s"), (83, "1 min 23 s"), (7300, "2 h 01 min")],
)
def test_durations_are_written_as_one_reads_them(seconds, text):
    assert duration(seconds) == text
