"""Typing errors are met with a suggestion, options with completion."""

import argparse
import shutil
import subprocess

import pytest

from bh_bids.cli import model, parser, simulate

PROGRAMS = {
    "bh-bids": parser.build_parser,
    "bh-model": model.build_parser,
    "bh-simulate": simulate.build_parser,
}


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        ("a b particpant", "Did you mean participant?"),
        ("a b participant --particpant-label 01", "Did you mean --participant-label?"),
        ("a b participant --devise=cpu", "Did you mean --device?"),
        ("a b participant --method mapp", "Did you mean map?"),
        ("--participant-label 01 a b participant", "Give BIDS_DIR OUTPUT_DIR and the level first"),
    ],
)
def test_what_was_meant_is_suggested(argv, hint, capsys):
    with pytest.raises(SystemExit) as exit:
        parser.build_parser().parse_args(argv.split())
    assert exit.value.code == 2
    told = capsys.readouterr().err
    assert hint in told and "bh-bids --help" in told
    assert len(told.splitlines()) <= 4, "short enough to be read"


def test_nothing_far_fetched_is_suggested(capsys):
    with pytest.raises(SystemExit):
        parser.build_parser().parse_args("a b participant --zzz".split())
    assert "Did you mean" not in capsys.readouterr().err


def test_commands_of_bh_model_are_suggested(capsys):
    with pytest.raises(SystemExit):
        model.build_parser().parse_args(["trian"])
    assert "Did you mean train?" in capsys.readouterr().err


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_option_has_a_help_text(program):
    parsers = [PROGRAMS[program]()]
    for one in parsers:
        for action in one._actions:
            if isinstance(action, argparse._SubParsersAction):
                parsers += action.choices.values()
            else:
                assert action.help, action.option_strings or action.dest


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_list_grows_when_its_option_is_given_again(program):
    parsers = [PROGRAMS[program]()]
    for one in parsers:
        for action in one._actions:
            if isinstance(action, argparse._SubParsersAction):
                parsers += action.choices.values()
            # The sides of a crop are one value, as the ends of a range are.
            elif action.nargs in ("+", "*") and action.dest != "crop":
                assert isinstance(action, argparse._ExtendAction), action.option_strings
                assert not action.default or action.default == argparse.SUPPRESS, action.dest


@pytest.mark.parametrize("program", PROGRAMS)
def test_bash_completes_the_options(program, tmp_path, capsys):
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is missing")
    with pytest.raises(SystemExit) as exit:
        PROGRAMS[program]().parse_args(["--print-completion", "bash"])
    assert exit.value.code == 0
    script = tmp_path / "completion"
    script.write_text(capsys.readouterr().out)
    ask = f"""source {script}
        spec=$(complete -p {program}); f=${{spec##*-F }}; f=${{f%% *}}
        COMP_WORDS=({program} --hel); COMP_CWORD=1; COMPREPLY=()
        $f {program} --hel {program}; echo "${{COMPREPLY[@]}}" """
    done = subprocess.run([bash, "-c", ask], capture_output=True, text=True)
    assert done.stdout.split() == ["--help"], done.stderr
