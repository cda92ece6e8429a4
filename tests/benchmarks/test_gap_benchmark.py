"""The benchmark of simulated gaps: splits, records that are taken up, and its outputs."""

import importlib.util
import json
from pathlib import Path

import pytest

from bh_bids.errors import InputError
from bh_bids.flow.model import load_model

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "harmonization.py"


@pytest.fixture
def benchmark(monkeypatch, tmp_path):
    """The script as a module; openings of the tests are written down elsewhere."""
    from gapbench import participants

    monkeypatch.setattr(participants, "OPENINGS", tmp_path / "openings.jsonl")
    spec = importlib.util.spec_from_file_location("bh_benchmark_harmonization", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(benchmark, bench, tmp_path, capsys):
    """Run the command; returns tables, records, and what was printed."""

    def call(*arguments, gaps=("none", "gamma0.7"), methods=("source", "hm", "nyul")):
        out = tmp_path / "out"
        benchmark.main(
            [str(bench.derivatives), "--model", str(bench.model), "--device", "cpu", "--gaps",
             *gaps, "--methods", *methods, "--output", str(out), *arguments]
        )  # fmt: skip
        records = json.loads((out / "harmonization.json").read_text())
        return (out / "harmonization.md").read_text(), records, capsys.readouterr().out

    return call


def test_participants_are_split_as_the_model_knows_them(bench):
    from gapbench.participants import find_scans, split_of

    model = load_model(bench.model)
    assert split_of(model) == {"tune": ["01", "02", "03"], "test": ["04", "05"]}
    scans = find_scans(bench.derivatives, model, ("test",))
    assert [(s.participant, s.split) for s in scans] == [("04", "test"), ("05", "test")]
    both = find_scans(bench.derivatives, model, ("tune", "test"), ["sub-02", "05"])
    assert [(s.participant, s.split) for s in both] == [("02", "tune"), ("05", "test")]
    with pytest.raises(InputError, match="99"):
        find_scans(bench.derivatives, model, ("tune",), ["99"])
    with pytest.raises(InputError, match="No scan"):
        find_scans(bench.derivatives, model, ("tune",), ["05"])
    model.metadata["ExcludedParticipants"].append("01")
    with pytest.raises(InputError, match="both splits"):
        split_of(model)


def test_tuning_leaves_the_tests_closed_and_writes_its_tables(run, tmp_path):
    text, records, printed = run()
    assert not (tmp_path / "openings.jsonl").exists()
    assert {r["participant"] for r in records} == {"01", "02", "03"}
    assert len(records) == 3 * 2 * 3
    assert "## Split tune: participants 01 02 03" in text and "Split test" not in text
    assert "| gap | source | hm | nyul |" in text and "| gap | source | nyul |" in text
    assert text in printed and "sub-02 gamma0.7 seed 0 hm" in printed
    assert (tmp_path / "out" / "harmonization_tune.png").stat().st_size > 10_000
    identity = [r for r in records if r["method"] == "source" and r["gap"] == "none"]
    assert all(r["psnr"] > 90 and r["wm_change"] == pytest.approx(0, abs=1e-6) for r in identity)
    # The whole brain, and no more, is scored as the metric itself would score it.
    assert all(r["seconds"] > 0 and r["step"] == 1 for r in records)


def test_every_opening_of_the_tests_is_written_down(run, tmp_path):
    from gapbench.records import code_state

    text, records, _ = run("--split", "both", "--participants", "01", "05", "--seeds", "3")
    run("--split", "test", methods=("hm",))
    lines = [json.loads(line) for line in (tmp_path / "openings.jsonl").read_text().splitlines()]
    assert [line["participants"] for line in lines] == [["05"], ["04", "05"]]
    assert lines[0]["methods"] == ["source", "hm", "nyul"] and lines[0]["seeds"] == [3]
    assert lines[0]["model"] == "small" and len(lines[0]["weights"]) == 12
    assert lines[0]["gaps"] == ["none", "gamma0.7"] and lines[0]["date"].startswith("20")
    assert lines[0]["code"] == code_state(solver=True)
    assert "## Split tune: participants 01" in text and "## Split test: participants 05" in text
    assert {(r["split"], r["participant"]) for r in records} == {("tune", "01"), ("test", "05")}


def test_tables_alone_measure_nothing_and_open_nothing(run, tmp_path):
    _, measured, _ = run("--split", "test", methods=("source", "hm"))
    openings = (tmp_path / "openings.jsonl").read_text()
    text, records, printed = run("--split", "both", "--only-tables")
    assert records == measured and (tmp_path / "openings.jsonl").read_text() == openings
    tune, test = text.split("## Split test")
    assert "sub-" not in printed
    psnr = next(line for line in test.splitlines() if line.startswith("| gamma0.7 |"))
    assert psnr.endswith("| n/a |") and psnr.count("n/a") == 1
    assert "| gamma0.7 | n/a | n/a | n/a |" in tune


def test_records_that_are_there_are_not_measured_again(run, monkeypatch):
    from gapbench import methods

    one = ("--participants", "01")
    _, first, _ = run(*one, methods=("source", "hm"))
    calls = []
    plain = methods.METHODS["hm"]

    def counted(*given):
        calls.append(given)
        return plain.run(*given)

    monkeypatch.setitem(methods.METHODS, "hm", methods.Method(counted))
    text, second, _ = run(*one, methods=("source", "hm", "gain"))
    assert not calls and "| gap | source | hm | gain |" in text
    assert [r for r in second if r["method"] != "gain"] == first
    run(*one, "--again", "hm", methods=("hm",))
    assert len(calls) == 2
    run(*one, "--slices-step", "2", methods=("hm",))
    assert len(calls) == 4


def test_a_killed_run_keeps_what_it_has(run, monkeypatch, tmp_path):
    from gapbench import methods

    def killed(case, model, device, seed):
        if case.source.max() > 0 and (case.source != case.truth).any():
            raise KeyboardInterrupt
        return case.source

    monkeypatch.setitem(methods.METHODS, "gain", methods.Method(killed))
    with pytest.raises(KeyboardInterrupt):
        run("--participants", "02", methods=("hm", "gain"))
    kept = json.loads((tmp_path / "out" / "harmonization.json").read_text())
    assert [(r["gap"], r["method"]) for r in kept] == [("none", "hm"), ("none", "gain")]


def test_only_what_is_drawn_is_repeated_over_seeds(run):
    _, records, _ = run(
        "--participants", "01", "--seeds", "0", "1", gaps=("gamma0.7", "bias10"), methods=("hm",)
    )
    found = sorted((r["gap"], r["seed"]) for r in records)
    assert found == [("bias10", 0), ("bias10", 1), ("gamma0.7", 0)]
    a, b = (r["psnr"] for r in records if r["gap"] == "bias10")
    assert a != b


def test_processes_give_the_same_records(run, tmp_path):
    _, alone, _ = run("--participants", "01", "02", gaps=("gamma0.7",), methods=("hm",))
    (tmp_path / "out" / "harmonization.json").unlink()
    _, shared, _ = run(
        "--jobs", "2", "--participants", "01", "02", gaps=("gamma0.7",), methods=("hm",)
    )
    kept = ("participant", "psnr", "ssim", "stripes")
    assert sorted([r[k] for k in kept] for r in shared) == [[r[k] for k in kept] for r in alone]


def test_what_cannot_be_measured_is_told_and_left_out(run, monkeypatch):
    from gapbench import methods

    def refuses(case, model, device, seed):
        raise InputError("no such brain")

    monkeypatch.setitem(methods.METHODS, "gain", methods.Method(refuses))
    # Not an entry of the solvers' own table: put back, it would be the last.
    monkeypatch.setattr(methods, "SOLVERS", {"paper": None})
    text, records, printed = run(
        "--participants", "01", gaps=("gamma0.7",), methods=("hm", "gain", "map")
    )
    assert {r["method"] for r in records} == {"hm"}
    assert "Not measured: sub-01 gamma0.7 seed 0 gain: no such brain" in printed
    assert "Left out: map" in text and "| gap | hm | gain |" in text and "n/a" in text


def test_records_of_other_code_are_told(run, tmp_path):
    run("--participants", "01", methods=("hm",))
    path = tmp_path / "out" / "harmonization.json"
    records = json.loads(path.read_text())
    records[0]["code"] = "another"
    path.write_text(json.dumps(records))
    text, _, _ = run("--participants", "01", methods=("hm",))
    assert "1 of 2 records were made by an earlier state of the code (hm)" in text


def test_an_empty_folder_ends_with_a_sentence(benchmark, bench, tmp_path):
    with pytest.raises(SystemExit, match="No scan of a participant of the split test"):
        benchmark.main([str(tmp_path), "--model", str(bench.model), "--split", "test"])
    assert not (tmp_path / "openings.jsonl").exists()


def test_networks_learn_from_other_participants_and_are_kept(run, monkeypatch, tmp_path):
    from functools import partial

    from gapbench import trained

    from bh_bids.comparators import COMPARATORS

    small = partial(
        COMPARATORS["unet"], features=(4, 4, 4, 4, 4, 4), steps=40, batch_size=2, crop=32
    )
    monkeypatch.setitem(trained.COMPARATORS, "unet", small)
    text, records, out = run(gaps=("gamma0.7", "exp"), methods=("source", "unet", "unet-other"))
    trained_for = {(r["participant"], r["gap"], r["method"]): r["psnr"] for r in records}
    assert {p for p, _, m in trained_for if m == "unet"} == {"02"}
    assert out.count("it was trained on this participant") == 8
    own, other = (trained_for["02", "gamma0.7", m] for m in ("unet", "unet-other"))
    assert own == other > trained_for["02", "gamma0.7", "source"]
    assert trained_for["02", "exp", "unet-other"] < trained_for["02", "exp", "unet"]
    assert len(list((tmp_path / "out" / "networks").iterdir())) == 2
    trained.fitted.cache_clear()
    _, _, out = run("--again", "unet", gaps=("exp",), methods=("source", "unet"))
    assert "trained before" in out and "U-Net: step" not in out


def test_the_quick_mode_runs_every_default_method(benchmark, bench, tmp_path, capsys):
    """The command as an integration run would give it: all gaps and methods of the quick mode."""
    from gapbench.methods import DEFAULT_METHODS

    from bh_bids.flow.calibration import calibrate_model

    calibrate_model(bench.model, bench.derivatives, output=tmp_path / "model")
    out = tmp_path / "quick"
    benchmark.main(
        [str(bench.derivatives), "--model", str(tmp_path / "model"), "--device", "cpu", "--quick",
         "--output", str(out)]
    )  # fmt: skip
    records = json.loads((out / "harmonization.json").read_text())
    assert {r["method"] for r in records} == set(DEFAULT_METHODS)
    assert {r["gap"] for r in records} == set(benchmark.QUICK_GAPS)
    assert {r["step"] for r in records} == {benchmark.QUICK_STEP}
    assert len({r["participant"] for r in records}) == benchmark.QUICK_PARTICIPANTS
    assert (out / "harmonization_tune.png").stat().st_size > 10_000
    assert "## Split tune" in capsys.readouterr().out
    # What undoes a contrast is nearer to the truth than the scan as it is.
    found = {(r["participant"], r["gap"], r["method"]): r["psnr"] for r in records}
    for participant in {r["participant"] for r in records}:
        source = found[participant, "gamma0.7", "source"]
        assert found[participant, "gamma0.7", "hm"] > source + 3
        assert found[participant, "gamma0.7", "map"] > source + 3
