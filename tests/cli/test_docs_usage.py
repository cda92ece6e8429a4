"""The documentation names what the programs have, and nothing they have not."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

import bh_bids
from bh_bids.cli import model as model_cli
from bh_bids.cli import parser as app
from bh_bids.cli import simulate as simulate_cli
from bh_bids.dataset import Scan
from bh_bids.evaluation.participant import METRICS, TRACE
from bh_bids.settings import METHODS, Settings
from bh_bids.sidecars import harmonization_block

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SCRIPTS = sorted((ROOT / "docs" / "slurm").glob("*.sbatch"))
OPTION = re.compile(r"(?<![\w-])--?[a-z][\w-]*")


def read(page):
    return (ROOT / "docs" / page).read_text(encoding="utf-8")


def documented(page, heading):
    """Options in the first column of the tables below a heading of second order."""
    section = re.split(r"^## ", read(page), flags=re.M)
    text = next(part for part in section if part.startswith(heading))
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return {option for row in rows for option in OPTION.findall(row)}


def options_of(parser):
    return {option for action in parser._actions for option in action.option_strings}


def options_in_help(arguments, capsys):
    """Options as the program itself lists them."""
    with pytest.raises(SystemExit) as stopped:
        model_cli.main([*arguments, "--help"])
    assert stopped.value.code == 0
    listed = capsys.readouterr().out.partition("\noptions:")[2].partition("\nexamples:")[0]
    lines = [line for line in listed.splitlines() if re.match(r" {2}-", line)]
    return {option for line in lines for option in OPTION.findall(line.partition("   ")[0])}


def test_every_option_of_bh_bids_is_documented_and_none_is_invented():
    assert documented("usage.md", "Options of bh-bids") == options_of(app.build_parser())


def test_every_option_of_bh_simulate_is_documented_and_none_is_invented():
    given = options_of(simulate_cli.build_parser()) - {"-h", "--help"}
    assert documented("usage.md", "Simulated data") == given


def test_every_option_of_bh_model_train_is_documented_and_none_is_invented(capsys):
    given = options_in_help(["train"], capsys) - {"-h", "--help"}
    assert "--learning-rate" in given
    assert documented("models.md", "Options of bh-model train") == given


def test_choices_of_bh_bids_are_documented():
    text = read("usage.md")
    for action in app.build_parser()._actions:
        for choice in action.choices or ():
            assert choice in text


def commands(program):
    """Commands of a program in the pages' blocks of code, with where they stand."""
    found = []
    for page in PAGES:
        for block in re.findall(r"^```shell\n(.*?)^```", page.read_text("utf-8"), re.M | re.S):
            for line in block.replace("\\\n", " ").splitlines():
                if line.startswith(f"{program} ") and "{" not in line:
                    found.append(pytest.param(line, id=f"{page.name}: {line[:60]}"))
    return found


@pytest.mark.parametrize("command", commands("bh-bids"))
def test_commands_of_bh_bids_in_the_pages_are_valid(command):
    words = shlex.split(command.partition(" > ")[0], comments=True)[1:]
    try:
        app.build_parser().parse_args(words)
    except SystemExit as stopped:  # --version and the like
        assert stopped.code == 0


@pytest.mark.parametrize("command", commands("bh-simulate"))
def test_commands_of_bh_simulate_in_the_pages_are_valid(command):
    simulate_cli.build_parser().parse_args(shlex.split(command, comments=True)[1:])


@pytest.mark.parametrize("command", commands("bh-model"))
def test_commands_of_bh_model_in_the_pages_are_valid(command):
    words = shlex.split(command.partition(" > ")[0], comments=True)[1:]
    try:
        model_cli.build_parser().parse_args(words)
    except SystemExit as stopped:  # --print-completion and the like
        assert stopped.code == 0


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_arguments_in_slurm_scripts_are_valid(script):
    text = script.read_text(encoding="utf-8").replace("\\\n", " ")
    for variable in ("$SLURM_CPUS_PER_TASK", "$((SLURM_MEM_PER_NODE * 9 / 10))"):
        text = text.replace(variable, "2")
    (line,) = [line for line in text.splitlines() if "apptainer" in line and "bind" in line]
    arguments = shlex.split(line)
    arguments = [word for word in arguments[arguments.index("$BH_IMAGE") + 1 :] if word != "$@"]
    if script.name == "train.sbatch":
        arguments = arguments[arguments.index("--no-python") + 1 :]
        assert arguments[0].endswith("/bh-model")
        assert model_cli.build_parser().parse_args(arguments[1:]).output == "/models/$name"
    else:
        assert app.build_parser().parse_args(arguments).output_dir == Path("/out")


def test_arguments_in_the_babs_configuration_are_valid():
    given = yaml.safe_load(read("clusters/babs.yaml"))
    arguments = dict(given["bids_app_args"])
    words = [arguments.pop("$SUBJECT_SELECTION_FLAG"), "01"]
    words += [word for pair in arguments.items() for word in pair if word]
    parsed = app.build_parser().parse_args(["bids", "out", "participant", *words])
    assert parsed.participant_label == ["01"] and parsed.clean_workdir
    version = bh_bids.__version__.replace(".", "-")
    assert given["zip_foldernames"] == {"bh-bids": version}
    assert f"--container-name bh-bids-{version} " in read("clusters/babs.yaml")


def test_every_job_of_circleci_makes_a_target_that_is_here():
    content = yaml.safe_load((ROOT / ".circleci" / "config.yml").read_text(encoding="utf-8"))
    calls = content["workflows"]["build"]["jobs"]
    assert {next(iter(call)) if isinstance(call, dict) else call for call in calls} == set(
        content["jobs"]
    )
    targets = [call["tests"].get("target", "test") for call in calls if isinstance(call, dict)]
    for name, job in content["jobs"].items():
        runs = [step["run"] for step in job["steps"] if "run" in step]
        made = [run if isinstance(run, str) else run["command"] for run in runs]
        assert len(made) == 1 and made[0].startswith("make "), name
        targets += [made[0].split()[1]] if "<<" not in made[0] else []
    for target in targets:
        subprocess.run(["make", "-n", target], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_between_pages_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (page.parent / target).exists(), target


def test_every_column_of_the_tables_is_documented():
    text = read("outputs.md")
    for column in [*METRICS, *TRACE["map"], *TRACE["paper"]]:
        assert f"`{column}`" in text


def test_every_field_of_the_harmonization_block_is_documented():
    model = {
        "Name": "m", "WeightsSHA256": "0", "CalibrationSHA256": "0", "Config": {"space": "S"},
    }  # fmt: skip
    result = dict.fromkeys(
        ("method", "parameters", "device", "seed", "converged", "iterations", "source_scale",
         "target_scale", "threads", "contrast", "structure", "clipping", "lesion")
    )  # fmt: skip
    result |= {"lesion": {"Voxels": 1}, "shared": ["sub-01_T1w.nii.gz"]}
    result["decisions"] = {"Bias": {}}
    result["mapping"] = {
        "Input": [0, 1],
        "Output": [0, 1],
        "Ceiling": 4.0,
        "Field": None,
        "Shape": [],
    }
    settings = Settings(Path("bids"), Path("out"))
    scan = Scan(Path("bids/sub-01/anat/sub-01_T1w.nii.gz"), "01", None, "bids:raw:x")
    extraction = {"Method": "none", "Volume_ml": 1.0, "Warnings": []}
    block = harmonization_block(settings, model, {**result, "guards": []}, extraction, scan)
    text = read("outputs.md")
    nested = ("IntensityScale", "BrainExtraction", "IntensityMap")
    for field in [*block, *(field for name in nested for field in block[name])]:
        assert f"`{field}`" in text


@pytest.mark.parametrize("method", METHODS)
def test_default_parameters_of_the_methods_are_documented(method):
    import json
    from dataclasses import asdict

    from bh_bids.harmonization.solvers import get_solver

    text = read("method.md")
    for name, value in asdict(get_solver(method).Parameters()).items():
        shown = re.findall(rf"^\| `{name}` \| `?([\w.]+)`? \|", text, re.M)
        # A name that both methods have stands in both tables.
        assert value in [v if isinstance(value, str) else json.loads(v) for v in shown], name


def test_pages_hold_no_paths_of_a_developers_computer():
    for page in [*PAGES, *SCRIPTS]:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"/(?:home|root|work)/\w|/tmp/bh", text), page
