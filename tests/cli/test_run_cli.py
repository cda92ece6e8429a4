"""bh-bids as a user meets it: exit codes, one clear sentence, no traceback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import bh_bids
from bh_bids.anatomy.templates import DEFAULT_SPACE
from bh_bids.cli.pipes import quiet_on_closed_pipe
from bh_bids.cli.run import main, prepare_environment
from bh_bids.dataset import find_scans
from bh_bids.derivatives import expected_outputs
from bh_bids.settings import Settings


@pytest.fixture(autouse=True)
def undone(clean_environment):
    """The environment as it was."""


@pytest.fixture
def dataset(tmp_path, dataset_maker):
    """Two participants whose scans nobody reads here."""
    root = dataset_maker(tmp_path / "bids")
    for name in ("sub-01/anat/sub-01_T1w.nii.gz", "sub-02/ses-A/anat/sub-02_ses-A_T1w.nii.gz"):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_bytes(b"scan")
    return root


@pytest.fixture
def call(tmp_path, dataset, small_model, capsys):
    """Run the command; its exit code and what it said."""

    def run(*options, bids=dataset, output=tmp_path / "out", level="participant", model=None):
        argv = [str(bids), str(output), level, "-w", str(tmp_path / "work")]
        argv += ["--model", str(model or small_model), "--device", "cpu", "--nprocs", "1"]
        try:
            code = main([*argv, *map(str, options)])
        except SystemExit as exit:
            code = exit.code
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


def one_sentence(error):
    """The error is one line, ends as a sentence and is no traceback."""
    lines = error.strip().splitlines()
    assert "Traceback" not in error
    assert len(lines) == 1, error
    assert lines[0].startswith("bh-bids: error: ") and lines[0].endswith((".", ")"))
    return lines[0]


def test_help_is_complete_and_imports_nothing_heavy():
    code = """if True:
        import sys
        from bh_bids.cli.run import main
        try:
            main(["--help"])
        except SystemExit as exit:
            assert exit.code == 0
        heavy = {"torch", "nipype", "niworkflows", "bids", "ants", "matplotlib", "nibabel"}
        assert not heavy & set(sys.modules), heavy & set(sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = (
        "bids_dir output_dir {participant,group} --version --verbose --participant-label "
        "--session-label --session-id --bids-filter-file --bids-database-dir "
        "--skip-bids-validation --derivatives --work-dir --nprocs --n-cpus --nthreads "
        "--omp-nthreads --mem-mb --mem-gb --low-mem --use-plugin --stop-on-first-crash "
        "--resource-monitor --write-graph --reports-only --boilerplate-only --config-file "
        "--random-seed --output-spaces --skull-strip-t1w --device --dry-run --sloppy --notrack "
        "--model --method --template --anat-only --target --comparators --segmentation "
        "--simulate-gaps --folds"
    ).split()
    for option in expected:
        assert option in done.stdout, option
    assert "exit codes" in done.stdout


def test_version(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["--version"])
    assert exit.value.code == 0
    assert capsys.readouterr().out.strip() == f"bh-bids {bh_bids.__version__}"


@pytest.mark.parametrize("argv", [[], ["a"], ["a", "b"], ["a", "b", "subject"]])
def test_wrong_usage_exits_with_two(argv, capsys):
    with pytest.raises(SystemExit) as exit:
        main(argv)
    assert exit.value.code == 2
    assert "usage: bh-bids" in capsys.readouterr().err


def test_dataset_that_is_not_there(call, tmp_path):
    code, _, error = call(bids=tmp_path / "nothing")
    assert code == 1
    assert str(tmp_path / "nothing") in one_sentence(error)


def test_folder_that_is_no_dataset(call, tmp_path):
    (tmp_path / "photos").mkdir()
    code, _, error = call(bids=tmp_path / "photos")
    assert code == 1
    assert "dataset_description.json" in one_sentence(error)


def test_dataset_without_description_can_be_forced(call, dataset):
    (dataset / "dataset_description.json").unlink()
    assert call("--dry-run")[0] == 1
    code, told, error = call("--dry-run", "--skip-bids-validation")
    assert code == 0, error
    assert "sub-01_T1w.nii.gz" in told


def test_dataset_without_t1w(call, tmp_path, dataset_maker):
    root = dataset_maker(tmp_path / "functional")
    (root / "sub-01" / "func").mkdir(parents=True)
    code, _, error = call(bids=root)
    assert code == 1
    assert "no T1w scan" in one_sentence(error)


def test_unknown_participant(call):
    code, _, error = call("--participant-label", "01", "99")
    assert code == 1
    sentence = one_sentence(error)
    assert "99" in sentence and "01, 02" in sentence


def test_unknown_session(call):
    code, _, error = call("--session-label", "Z")
    assert code == 1
    assert "session Z" in one_sentence(error)


@pytest.mark.parametrize("label", ["**", "*", "", "sub-", "ses-", "../01", "a_b", "0?", "[0]"])
@pytest.mark.parametrize("option", ["--participant-label", "--session-label"])
def test_labels_that_are_none(call, option, label):
    code, _, error = call(option, "01", label, "--dry-run")
    assert code == 1
    assert f"{option} " in one_sentence(error) and "is no label" in error


@pytest.mark.parametrize("where", ["bids", "output", "work", "index"])
@pytest.mark.parametrize("level", ["participant", "group"])
def test_links_that_lead_back_and_names_too_long(call, tmp_path, where, level):
    (tmp_path / "loop").symlink_to("loop")
    options = {"work": "-w", "index": "--bids-database-dir"}
    for folder, said in (
        (tmp_path / "loop", "leads back to itself"),
        (tmp_path / "loop" / "below", "leads back to itself"),
        (tmp_path / ("a" * 300), "its name is too long"),
    ):
        if where in options:
            code, _, error = call(options[where], folder, level=level)
        else:
            code, _, error = call(level=level, **{where: folder})
        assert code == 1
        sentence = one_sentence(error)
        assert str(folder) in sentence and said in sentence


def test_a_model_whose_name_is_too_long(call):
    code, _, error = call("--dry-run", model="m" * 300)
    assert code == 1
    assert "the name is too long" in one_sentence(error)


@pytest.mark.parametrize("name", ["dataset_description.json", "README.md", ".bidsignore"])
def test_a_folder_in_the_place_of_a_file(call, tmp_path, name):
    (tmp_path / "out" / name).mkdir(parents=True)
    code, _, error = call()
    assert code == 1
    sentence = one_sentence(error)
    assert f"{tmp_path / 'out' / name}: a folder stands in its place" in sentence


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("what", ["--help", "--dry-run"])
def test_a_reader_that_has_seen_enough(dataset, small_model, tmp_path, what, unbuffered):
    """As head is one."""
    folders = [str(dataset), str(tmp_path / "out"), "participant", "--model", str(small_model)]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "bh_bids.cli.run", *folders, "--device", "cpu", what],
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writer)
    assert done.stderr == ""
    # argparse takes no notice of a help that cannot be printed.
    assert done.returncode == 141 or (what == "--help" and done.returncode == 0)


def test_a_broken_pipe_of_our_own_is_no_reader_that_left():
    def lost(argv):
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        quiet_on_closed_pipe(lost)([])


@pytest.mark.parametrize("name", ["no-such-model", "/no/such/model"])
def test_missing_model(call, name):
    code, _, error = call(model=name)
    assert code == 1
    assert name in one_sentence(error)


def test_folder_that_is_no_model(call, tmp_path):
    (tmp_path / "pictures").mkdir()
    code, _, error = call(model=tmp_path / "pictures")
    assert code == 1
    assert "is no model" in one_sentence(error)


def test_model_with_other_weights(call, tmp_path, model_maker):
    folder = model_maker(tmp_path / "model")
    with open(folder / "weights.safetensors", "ab") as stream:
        stream.write(b"\0")
    code, _, error = call(model=folder)
    assert code == 1
    assert "SHA-256" in one_sentence(error)


def test_model_of_another_space(call, tmp_path, model_maker):
    """Its template must be had; this one is known to nobody."""
    code, _, error = call(model=model_maker(tmp_path / "model", space="NoSuchSpace"))
    assert code == 1
    sentence = one_sentence(error)
    assert "template of the space NoSuchSpace" in sentence and "TEMPLATEFLOW_HOME" in sentence
    assert not (tmp_path / "out").exists()


def test_model_without_the_constants_of_the_method(call, tmp_path, model_maker):
    folder = model_maker(tmp_path / "model", constants=False)
    code, _, error = call("--dry-run", model=folder)
    assert code == 1
    sentence = one_sentence(error)
    assert "bh-model calibrate" in sentence and "--method paper" in sentence
    for option in (("--method", "paper"), ("--anat-only",)):
        code, told, error = call("--dry-run", *option, model=folder)
        assert code == 0, error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [(), ("--method", "map"), ("--method", "paper")])
def test_the_plan_names_the_method(call, options):
    code, told, error = call("--dry-run", *options)
    assert code == 0, error
    assert f"by {'paper' if 'paper' in options else 'map'}, on cpu" in told


def test_gpu_that_is_not_there(call, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, _, error = call("--device", "cuda")
    assert code == 1
    assert "CUDA" in one_sentence(error)


def test_auto_says_that_it_takes_the_cpu(call, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, told, error = call("--device", "auto", "--dry-run")
    assert code == 0
    assert "CPU" in error
    assert "on cpu" in told


@pytest.mark.parametrize("device", ["tpu", "cuda:x", "gpu"])
def test_device_that_nobody_knows(call, device):
    code, _, error = call("--device", device)
    assert code == 1
    assert device in one_sentence(error)


def test_output_inside_the_dataset(call, dataset):
    before = sorted(dataset.rglob("*"))
    code, _, error = call(output=dataset / "results")
    assert code == 1
    assert "derivatives" in one_sentence(error)
    assert sorted(dataset.rglob("*")) == before


def test_output_that_cannot_be_a_folder(call, tmp_path):
    (tmp_path / "taken").write_text("")
    code, _, error = call(output=tmp_path / "taken")
    assert code == 1
    assert "cannot be written to" in one_sentence(error)


def test_derivatives_without_a_name(call, tmp_path):
    code, _, error = call("--derivatives", tmp_path)
    assert code == 2
    assert "NAME=PATH" in error


def test_derivatives_that_are_not_there(call):
    code, _, error = call("--derivatives", "masks=/no/such/folder")
    assert code == 1
    assert "/no/such/folder" in one_sentence(error)


def test_unknown_output_space(call):
    code, _, error = call("--output-spaces", "fsaverage")
    assert code == 1
    assert "fsaverage" in one_sentence(error)


@pytest.mark.parametrize("option", ["--config-file", "--bids-filter-file"])
def test_files_that_are_not_there(call, option):
    code, _, error = call(option, "/no/such/file")
    assert code == 1
    assert "/no/such/file" in one_sentence(error)


def test_dry_run_tells_the_plan_and_writes_nothing(call, tmp_path):
    code, told, error = call("--dry-run")
    assert code == 0
    assert "2 of 2" in told
    assert "sub-01/anat/sub-01_T1w.nii.gz" in told and "sub-02_ses-A_T1w" in told
    assert "small" in told
    assert not (tmp_path / "out").exists() and not (tmp_path / "work").exists()
    assert "Traceback" not in error


def test_interruption_is_no_crash(call, monkeypatch):
    import bh_bids.runner

    def interrupted(settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(bh_bids.runner, "check_folders", interrupted)
    code, _, error = call()
    assert code == 130
    assert "goes on from here" in error and "Traceback" not in error


def test_group_without_results(call, tmp_path):
    code, _, error = call(level="group")
    assert code == 1
    assert "participant level first" in one_sentence(error)


@pytest.mark.parametrize("action", ["--reports-only", "--boilerplate-only"])
def test_group_level_without_its_evaluation(call, tmp_path, action):
    (tmp_path / "out" / "sub-01" / "anat").mkdir(parents=True)
    code, _, error = call(action, level="group")
    assert code == 2 and f"{action} is for the participant level only" in error
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--comparators", "none", "hm"], "either 'none' or"),
        (["--comparators", "magic"], "invalid choice"),
        (["--simulate-gaps", "magic"], "there is no gap magic"),
        (["--folds", "1"], "at least 2"),
    ],
)
def test_wrong_options_of_the_group_level(options, says, capsys):
    with pytest.raises(SystemExit) as exit:
        main(["in", "out", "group", *options])
    assert exit.value.code == 2 and says in capsys.readouterr().err


def test_options_of_the_group_level_become_settings():
    from bh_bids.cli.parser import parse
    from bh_bids.comparators import COMPARATORS, FAST
    from bh_bids.settings import COMPARATORS as NAMES
    from bh_bids.simulation.cases import DEFAULT_GAPS

    assert tuple(COMPARATORS) == NAMES
    settings, _ = parse(["in", "out", "group"])
    assert settings.comparators == FAST and settings.simulate_gaps == ()
    given = ["--comparators", "hm", "hm", "unet", "--simulate-gaps", "--target", "ses-A"]
    settings, _ = parse(["in", "out", "group", *given])
    assert settings.comparators == ("hm", "unet") and settings.simulate_gaps == DEFAULT_GAPS
    assert parse(["in", "out", "group", "--comparators", "none"])[0].comparators == ()


def test_reports_of_scans_without_results_say_so_and_fail(call, tmp_path):
    code, _, error = call("--reports-only")
    assert code == 1
    assert "2 of 2 scans have no results" in error and "sub-02_ses-A" in error
    for label in ("01", "02"):
        assert "<html" in (tmp_path / "out" / f"sub-{label}.html").read_text()
    description = json.loads((tmp_path / "out" / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"


def test_reports_of_older_results_count_as_results(call, tmp_path, dataset):
    settings = Settings(dataset, tmp_path / "out", output_spaces=("T1w", DEFAULT_SPACE))
    for scan in find_scans(dataset):
        for name in expected_outputs(scan, DEFAULT_SPACE, settings):
            path = tmp_path / "out" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}")
        (path.parents[1] / "figures" / f"{scan.key}_desc-viewer_T1w.json").unlink()
        break
    code, out, error = call("--reports-only")
    assert code == 1 and "2 of 2 scans have no results" in error  # one figure is missing
    path.parents[1].joinpath("figures", f"{scan.key}_desc-viewer_T1w.json").write_text("{}")
    code, out, error = call("--reports-only")
    assert code == 1 and "1 of 2 scans have no results" in error
    assert "1 of 2 scans have results of other input, options or versions" in error
    assert error.rstrip().endswith(scan.key)


@pytest.mark.parametrize("options", [(), ("--anat-only",)])
def test_methods_text_alone(call, tmp_path, dataset, options):
    told = {"Harmonization": {"Model": "kept", "Method": "map"}}
    settings = Settings(dataset, tmp_path / "out", anat_only=bool(options))
    names = expected_outputs(find_scans(dataset)[0], DEFAULT_SPACE, settings)
    if not options:
        names = [n for n in names if n.name.endswith("_desc-harmonization_metrics.tsv")]
        names.append(Path("sub-01/anat/sub-01_desc-harmonized_T1w.json"))
    for name in names:
        path = tmp_path / "out" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(told))
    code, _, error = call("--boilerplate-only", *options)
    assert code == 0, error
    text = (tmp_path / "out" / "logs" / "CITATION.md").read_text()
    assert ("*kept*" in text) == (not options)
    assert not (tmp_path / "out" / "sub-01.html").exists()


def test_methods_text_of_no_results(call, tmp_path):
    code, _, error = call("--boilerplate-only")
    assert code == 1
    sentence = one_sentence(error)
    assert "no results of sub-01, sub-02" in sentence and "--boilerplate-only" in sentence
    assert not (tmp_path / "out").exists() and not (tmp_path / "work").exists()


def settings_of(tmp_path, **more):
    return Settings(tmp_path / "a", tmp_path / "b", omp_nthreads=3, **more)


@pytest.mark.parametrize("home", [None, "/no/such/home"])
def test_a_missing_home_folder_gets_a_substitute(tmp_path, monkeypatch, home):
    for name in ("HOME", "TEMPLATEFLOW_HOME", "MPLCONFIGDIR"):
        os.environ.pop(name, None)
    if home:
        os.environ["HOME"] = home
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    fonts = tmp_path / "image" / "matplotlib" / "fontlist.json"
    fonts.parent.mkdir(parents=True)
    fonts.write_text("{}")
    monkeypatch.setattr("sys.prefix", str(tmp_path / "image"))
    prepare_environment(settings_of(tmp_path))
    for name in ("HOME", "TEMPLATEFLOW_HOME", "MPLCONFIGDIR"):
        assert os.environ[name].startswith(str(tmp_path)), name
    assert os.access(os.environ["HOME"], os.W_OK)
    assert Path(os.environ["MPLCONFIGDIR"], fonts.name).read_text() == "{}"


def test_libraries_are_kept_quiet_and_small(tmp_path):
    before = os.environ.get("HOME")
    prepare_environment(settings_of(tmp_path))
    assert os.environ["NIPYPE_NO_ET"] == os.environ["NO_ET"] == "1"
    assert os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] == "1"
    assert os.environ["TEMPLATEFLOW_AUTOUPDATE"] == "0"
    assert os.environ["MPLBACKEND"] == "Agg"
    assert os.environ.get("HOME") == before
