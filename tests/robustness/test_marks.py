"""What marks scans as done: never there while files of two runs may be mixed."""

import json
import shutil
from dataclasses import replace

import pytest

from bh_bids import engine, runner
from bh_bids.derivatives import expected_outputs, is_done
from bh_bids.errors import InputError
from bh_bids.settings import Settings

SPACE = "MNI152NLin2009aSym"


@pytest.fixture
def settings(small_dataset, small_model, tmp_path):
    return Settings(
        small_dataset, tmp_path / "out", work_dir=tmp_path / "work", model=str(small_model),
        device="cpu", nprocs=1, run_uuid="20260101-000000_test",
    )  # fmt: skip


def finish(plan):
    """All results of a plan's scans, as if its run had just ended."""
    for scan in plan.scans:
        for name in expected_outputs(scan, SPACE, plan.settings):
            path = plan.settings.output_dir / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("x")
            if path.suffix == ".json":
                path.write_text(json.dumps({"ProvenanceKey": plan.keys[scan.key]}))


def done(plan):
    return [is_done(s, SPACE, plan.settings, plan.keys[s.key]) for s in plan.scans]


@pytest.mark.parametrize(
    "changes",
    [
        {"random_seed": 1},
        {"anat_only": True, "random_seed": 1},
        {"anat_only": True, "sloppy": True},
    ],
)
def test_a_run_that_is_killed_leaves_nothing_that_counts_as_done(settings, monkeypatch, changes):
    first = runner.make_plan(settings)
    finish(first)
    assert all(done(first)) and not runner.make_plan(settings).todo
    second = runner.make_plan(replace(settings, **changes))
    assert len(second.todo) == 2

    class Killed(BaseException):
        pass

    def run_workflow(workflow, settings, names):
        assert not any(done(first) + done(second))
        finish(replace(second, scans=second.scans[:1]))
        raise Killed

    monkeypatch.setattr(engine, "run_workflow", run_workflow)
    with pytest.raises(Killed):
        runner._execute(second)
    assert done(first) == [False, False]
    assert done(second) == [True, False]


def test_the_anatomy_alone_with_the_same_options_keeps_the_harmonization(settings, monkeypatch):
    first = runner.make_plan(settings)
    finish(first)
    second = runner.make_plan(replace(settings, anat_only=True))
    assert len(second.todo) == 2

    def run_workflow(workflow, settings, names):
        assert not any(done(first) + done(second)), "the anatomy is not whole now"
        finish(second)
        return True

    monkeypatch.setattr(engine, "run_workflow", run_workflow)
    runner._execute(second)
    assert all(done(first) + done(second))


def test_what_is_done_or_left_to_another_run_keeps_its_mark(settings, monkeypatch):
    from bh_bids.locks import lock_participants

    first = runner.make_plan(settings)
    finish(first)
    held, _ = lock_participants(settings.work_dir, ["01"])
    monkeypatch.setattr(engine, "run_workflow", lambda *_: False)
    runner._execute(runner.make_plan(replace(settings, random_seed=1)))
    assert done(first) == [True, False]
    for lock in held:
        lock.close()


def run_with(in_the_way, run, tmp_path):
    """A run with something in the way of its results, and what it left; then one without."""
    anat = tmp_path / "out" / "sub-01" / "anat"
    code, _, err = run()
    assert code == 1 and "1 of 1 scans have no results" in err
    assert (anat / "sub-01_desc-harmonized_T1w.nii.gz").is_file()
    left = {p.name for p in anat.glob("*_desc-harmonization_metrics.*")}
    in_the_way.unlink() if in_the_way.is_file() else shutil.rmtree(in_the_way)
    code, _, err = run()
    assert code == 0, err
    mark = anat / "sub-01_desc-harmonization_metrics.json"
    others = [p for p in anat.iterdir() if "_desc-harmonization_metrics" not in p.name]
    assert max(p.stat().st_mtime_ns for p in others) <= mark.stat().st_mtime_ns
    return left


def test_a_step_that_crashes_leaves_the_scan_undone(small_dataset, small_model, tmp_path, run_here):
    def run():
        options = ("--sloppy", "--participant-label", "01")
        return run_here(small_dataset, tmp_path, small_model, *options)

    trace = tmp_path / "out" / "sub-01" / "anat" / "sub-01_desc-trace_metrics.tsv"
    (trace / "no file can be written here").mkdir(parents=True)
    assert run_with(trace, run, tmp_path) == set()


def test_a_figure_that_fails_leaves_the_table(small_dataset, small_model, tmp_path, run_here):
    """The scan is not done, and is drawn again; its results are whole."""

    def run():
        options = ("--sloppy", "--participant-label", "01")
        return run_here(small_dataset, tmp_path, small_model, *options)

    figures = tmp_path / "out" / "sub-01" / "figures"
    figures.parent.mkdir(parents=True)
    figures.write_text("no folder: no figure can be written")
    ends = ("json", "tsv")
    left = {f"sub-01_desc-harmonization_metrics.{end}" for end in ends}
    assert run_with(figures, run, tmp_path) == left
    assert list(figures.glob("*.svg"))


@pytest.mark.parametrize("fault", ["plugin", "node_args", "dot"])
@pytest.mark.parametrize("action", [None, "dry_run"])
def test_an_option_that_cannot_be_used_costs_no_result(settings, monkeypatch, fault, action):
    first = runner.make_plan(settings)
    finish(first)
    changes = {"write_graph": True}
    if fault == "dot":
        monkeypatch.setenv("PATH", "")
    else:
        plugin = settings.output_dir.parent / "plugin.yml"
        if fault == "node_args":
            plugin.write_text("plugin: SLURM\nplugin_args: {node_args: '--mem={memory}'}\n")
        changes = {"use_plugin": plugin}
    before = {path: path.stat().st_mtime_ns for path in settings.output_dir.rglob("*")}
    with pytest.raises(InputError, match=r"plugin\.yml|node_args|dot: install it"):
        runner.run(replace(settings, random_seed=3, **changes), action)
    assert before == {path: path.stat().st_mtime_ns for path in settings.output_dir.rglob("*")}


@pytest.mark.parametrize("place", ["sub-01", "sub-01/anat"])
def test_a_participants_folder_that_cannot_be_used_stops_nobody_else(
    place, settings, monkeypatch, capsys
):
    plan = runner.make_plan(settings)
    (settings.output_dir / place).parent.mkdir(parents=True)
    (settings.output_dir / place).write_text("no folder")

    def run_workflow(workflow, settings, names):
        assert list(names.values()) == ["sub-02"]
        finish(replace(plan, scans=plan.scans[1:]))
        return True

    monkeypatch.setattr(engine, "run_workflow", run_workflow)
    assert runner.run(settings) == 1
    assert done(plan)[1:] == [True]
    said = capsys.readouterr()
    assert said.err.count("sub-01 is left out") == 2, "at the beginning, and at the end"
    assert "cannot be written to (Not a directory)" in said.err
    assert "sub-02.html" in said.out
