"""What the options of bh-model train become."""

import pytest

from bh_bids.cli.model import main
from bh_bids.flow.config import CONDITIONS, FlowConfig
from bh_bids.flow.training import TrainingSettings


@pytest.fixture
def given(monkeypatch):
    """Configuration, settings and the rest that a command line asks a training for."""

    def capture(*options):
        seen = {}

        def train_model(derivatives, output, config, settings, about, **rest):
            seen.update(config=config, settings=settings, about=about, rest=rest)
            return {"Training": {"BitsPerDimension": 3.0}}

        monkeypatch.setattr("bh_bids.flow.training.train_model", train_model)
        status = main(["train", "derivatives", "--output", "models/ours", *options])
        return status, seen

    return capture


def test_defaults_are_those_of_the_settings(given):
    status, seen = given("--device", "cpu")
    assert status == 0
    assert seen["settings"] == TrainingSettings()
    assert seen["config"].noise_range == FlowConfig().noise_range
    assert seen["about"]["Name"] == "ours"
    assert seen["rest"]["store"] is None and seen["rest"]["validation"] == 0.12


@pytest.mark.parametrize(
    "named, expected",
    [
        (["noise", "--conditions", "mask"], ("mask", "noise")),
        (["noise", "mask"], ("mask", "noise")),
        (["mean", "noise", "previous", "mask"], CONDITIONS),
        (["none"], ()),
    ],
)
def test_conditions_in_any_order(given, named, expected):
    _, seen = given("--conditions", *named, "--noise-range", "0.01", "0.1")
    assert seen["config"].conditions == expected
    assert seen["config"].noise_range == (0.01, 0.1)


def test_participants_in_several_lists(given):
    options = ["--exclude-participants", "1", "--exclude-participants", "2"]
    options += ["--validation-participants", "3", "--validation-participants", "4"]
    _, seen = given(*options, "--noise-range", "0.01", "0.1")
    assert seen["rest"]["exclude"] == ["1", "2"] and seen["rest"]["validation"] == ["3", "4"]
    assert seen["config"].conditions == ("mask", "previous", "noise")
    _, seen = given()
    assert seen["rest"]["exclude"] == []


def test_noise_is_taken_away_from_the_level_that_the_command_names():
    from bh_bids.cli import model_train
    from bh_bids.harmonization import gates

    assert model_train.NOISY == gates.NOISY


def test_where_and_how_long_it_runs(given):
    options = ["--precision", "bf16", "--patience", "5", "--ema", "0.99", "--workers", "3"]
    _, seen = given(*options, "--tensorboard", "--store", "kept", "--device", "cpu", "--resume")
    expected = TrainingSettings(precision="bf16", patience=5, ema=0.99, workers=3, tensorboard=True)
    assert seen["settings"] == expected
    assert seen["rest"]["store"] == "kept" and seen["rest"]["resume"] is True


@pytest.mark.parametrize(
    "options, message",
    [
        (["--conditions", "none", "mask"], "either 'none'"),
        (["--noise-range", "0.1", "0.01"], "noise_range"),
        (["--conditions", "noise", "--noise-range", "0.02", "0.1"], "does not enclose 0.012"),
        (["--conditions", "noise", "--noise-range", "0.001", "0.01"], "does not enclose 0.012"),
        (["--ema", "1"], "ema"),
        (["--patience", "0"], "patience"),
        (["--workers", "-1"], "workers"),
        (["--seed", "-1"], "seed"),
        (["--seed", str(2**64)], "seed"),
        (["--device", "foo"], "There is no device 'foo'"),
    ],
)
def test_mistakes(given, capsys, options, message):
    status, seen = given(*options)
    assert status == 1 and not seen
    assert message in capsys.readouterr().err


def test_only_the_first_of_several_processes_names_the_result(monkeypatch, capsys):
    monkeypatch.setattr("bh_bids.flow.training.train_model", lambda *given, **options: None)
    assert main(["train", "derivatives", "--output", "m"]) == 0
    assert capsys.readouterr().out == ""
