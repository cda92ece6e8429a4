"""Settings: to TOML and back, and from the command line."""

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bh_bids.cli.parser import build_parser, parse
from bh_bids.errors import InputError
from bh_bids.filters import read_filter_file
from bh_bids.settings import Settings, for_participant, new_run_uuid, read_toml

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

FILTER_VALUES = (None, "mag", "*", 3, 1.5, True, [], ["mag", None], [None, 2], {"a": [None]})

words = st.text(
    st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), min_size=1, max_size=12
)
paths = words.map(lambda word: Path("/data") / word.replace("/", "_"))


@given(
    st.builds(
        Settings,
        bids_dir=paths,
        output_dir=paths,
        work_dir=paths,
        participant_label=st.lists(words, max_size=3).map(tuple),
        session_label=st.lists(words, max_size=3).map(tuple),
        derivatives=st.dictionaries(words, paths, max_size=2),
        bids_database_dir=st.none() | paths,
        template=st.none() | words,
        model=words,
        random_seed=st.integers(0, 2**31),
        nprocs=st.integers(1, 64),
        mem_gb=st.none() | st.floats(0.1, 1e4),
        low_mem=st.booleans(),
        output_spaces=st.lists(words, max_size=2).map(tuple),
    )
)
def test_toml_gives_back_what_was_written(tmp_path_factory, settings):
    path = tmp_path_factory.mktemp("toml") / "bh-bids.toml"
    path.write_text(settings.to_toml(), encoding="utf-8")
    values = read_toml(path)
    assert "run_uuid" not in values
    assert replace(Settings(**values), run_uuid=settings.run_uuid) == settings


def test_the_written_file_is_plain_toml_without_what_was_not_given(tmp_path):
    content = tomllib.loads(Settings(tmp_path / "a", tmp_path / "b").to_toml())
    assert content["bids_dir"] == str(tmp_path / "a")
    assert content["analysis_level"] == "participant"
    assert "mem_gb" not in content and "template" not in content


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nprocs = ", "cannot be read"),
        ("nprocs = 'two'", "nprocs"),
        ("nprocs = 2.5", "nprocs"),
        ("nprocs = true", "nprocs"),
        ("low_mem = 1", "low_mem"),
        ("mem_gb = '8'", "mem_gb"),
        ("mem_gb = true", "mem_gb"),
        ("participant_label = '01'", "participant_label"),
        ("participant_label = [1, 2]", "participant_label"),
        ("derivatives = ['a=b']", "derivatives"),
        ("derivatives = {masks = 3}", "derivatives"),
        ("model = 3", "model"),
        ("template = 3", "template"),
        ("bids_dir = 3", "bids_dir"),
        ("processes = 3", "unknown option 'processes'"),
    ],
)
def test_wrong_files_are_refused_by_option(tmp_path, text, said):
    path = tmp_path / "bh-bids.toml"
    path.write_text(text)
    with pytest.raises(InputError) as refusal:
        read_toml(path)
    assert said in str(refusal.value) and str(path) in str(refusal.value)


@pytest.mark.parametrize("value", FILTER_VALUES, ids=str)
def test_filters_survive_being_written(tmp_path, value):
    """Also a None in a list, which TOML cannot hold."""
    (tmp_path / "filter.json").write_text(json.dumps({"t1w": {"part": value}}))
    filters = read_filter_file(tmp_path / "filter.json")
    path = tmp_path / "bh-bids.toml"
    for held in (filters, {"t1w": {"part": value}}):
        path.write_text(Settings(tmp_path, tmp_path, bids_filters=held).to_toml())
        assert read_toml(path)["bids_filters"] == filters


@pytest.mark.parametrize(
    "text",
    [
        "[bids_filters]\nacquisition = 'mprage'",
        "[bids_filters]\nt1w = 'mprage'",
        "[bids_filters.bold]\ntask = 'rest'",
        "bids_filters = []",
        "bids_filters = 'mprage'",
    ],
)
def test_filters_of_another_look_are_refused(tmp_path, text):
    path = tmp_path / "bh-bids.toml"
    path.write_text(text)
    with pytest.raises(InputError, match="must look like bids_filters = {t1w = ") as refusal:
        read_toml(path)
    assert str(path) in str(refusal.value)


def test_a_run_without_filters_leaves_an_empty_table(tmp_path):
    path = tmp_path / "bh-bids.toml"
    path.write_text(Settings(tmp_path, tmp_path).to_toml())
    assert read_toml(path)["bids_filters"] == {}


def test_missing_and_binary_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_toml(tmp_path / "nothing.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read"):
        read_toml(tmp_path / "binary.toml")


def test_run_names_differ_and_sort_by_time():
    first, second = new_run_uuid(), new_run_uuid()
    assert first != second
    assert sorted([second[:15], first[:15]]) == [first[:15], second[:15]]


def test_one_participants_settings():
    settings = Settings(Path("/a"), Path("/b"), participant_label=("01", "02"), nprocs=3)
    own = for_participant(settings, "02")
    assert own.participant_label == ("02",)
    assert replace(own, participant_label=("01", "02")) == settings


BASE = ["bids", "out", "participant"]


def test_defaults(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings, action = parse(BASE)
    assert action is None
    assert settings.bids_dir == tmp_path / "bids"
    assert settings.output_dir == tmp_path / "out"
    assert settings.work_dir == tmp_path / "work"
    assert (settings.model, settings.method, settings.device) == ("default", "map", "auto")
    assert settings.omp_nthreads is None
    assert settings.nprocs >= 1


def test_every_setting_that_is_a_user_s_can_be_given():
    own = {"bids_filters": "bids_filter_file", "run_uuid": None}
    known = {action.dest for action in build_parser()._actions}
    for item in fields(Settings):
        name = own.get(item.name, item.name)
        assert name is None or name in known, item.name


def test_labels_lose_their_prefix_and_their_doubles():
    settings, _ = parse([*BASE, "--participant_label", "sub-01", "01", "sub-sub",
                         "--session-id", "ses-A", "B"])  # fmt: skip
    assert settings.participant_label == ("01", "sub")
    assert settings.session_label == ("A", "B")


def test_an_option_that_is_given_again_adds_to_its_list(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
    given = ["--participant-label", "01", "02", "--participant_label", "03", "--session-label", "A"]
    given += ["--session-id", "B", "--output-spaces", "T1w", "--output-spaces", "MNI"]
    given += ["--comparators", "hm", "--comparators", "unet", "hm"]
    given += ["--simulate-gaps", "exp", "--simulate-gaps", "log"]
    given += ["-d", f"a={tmp_path / 'a'}", "--derivatives", f"b={tmp_path / 'b'}"]
    settings, _ = parse([*BASE, *given])
    assert settings.participant_label == ("01", "02", "03")
    assert settings.session_label == ("A", "B")
    assert settings.output_spaces == ("T1w", "MNI")
    assert settings.comparators == ("hm", "unet")
    assert settings.simulate_gaps == ("exp", "log")
    assert settings.derivatives == {name: tmp_path / name for name in "ab"}


@pytest.mark.parametrize("apart", [[], ["-d"]])
def test_two_derivatives_of_one_name_are_refused(tmp_path, capsys, apart):
    with pytest.raises(SystemExit) as exit:
        parse([*BASE, "-d", f"a={tmp_path}", *apart, "a=/other"])
    assert exit.value.code == 2
    assert f"two folders a ({tmp_path} and /other)" in capsys.readouterr().err


@pytest.mark.parametrize("action", ["--reports-only", "--boilerplate-only"])
def test_actions_of_the_participant_level_are_refused_at_the_group_level(capsys, action):
    with pytest.raises(SystemExit) as exit:
        parse(["bids", "out", "group", action])
    assert exit.value.code == 2
    assert f"{action} is for the participant level only" in capsys.readouterr().err
    assert parse(["bids", "out", "group", "--dry-run"])[1] == "dry_run"


def test_memory_in_either_unit():
    assert parse([*BASE, "--mem-mb", "2048"])[0].mem_gb == 2
    assert parse([*BASE, "--mem_gb", "1.5"])[0].mem_gb == 1.5


def test_threads_and_processes_are_given_apart():
    assert parse([*BASE, "--n-cpus", "3"])[0].nprocs == 3
    settings, _ = parse([*BASE, "--nthreads", "3", "--omp-nthreads", "2"])
    assert (settings.nprocs, settings.omp_nthreads) == (3, 2)


def test_the_command_line_wins_over_the_file(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text("nprocs = 5\nrandom_seed = 7\nanalysis_level = 'group'\nsloppy = true\n")
    settings, _ = parse([*BASE, "--config-file", str(path), "--random-seed", "9"])
    assert settings.nprocs == 5
    assert settings.random_seed == 9
    assert settings.analysis_level == "participant"
    assert settings.sloppy is True


def test_a_run_can_be_repeated_from_its_own_file(tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    first, _ = parse([*BASE, "-d", f"masks={masks}", "--skull-strip-t1w", "force",
                      "--participant-label", "01", "--low-mem"])  # fmt: skip
    (tmp_path / "a.toml").write_text(first.to_toml())
    places = [str(first.bids_dir), str(first.output_dir), "participant"]
    again, _ = parse([*places, "--config-file", str(tmp_path / "a.toml")])
    assert replace(again, run_uuid=first.run_uuid) == first


def test_a_file_s_labels_and_folders_are_treated_as_the_command_line_s(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text("participant_label = ['sub-01']\nsession_label = ['ses-A']\n")
    settings, _ = parse([*BASE, "--config-file", str(path)])
    assert (settings.participant_label, settings.session_label) == (("01",), ("A",))
    path.write_text("derivatives = {masks = '/no/such/folder'}\n")
    with pytest.raises(InputError, match="/no/such/folder"):
        parse([*BASE, "--config-file", str(path)])


@pytest.mark.parametrize(
    "wrong",
    [
        ["--nprocs", "0"],
        ["--omp-nthreads", "-1"],
        ["--mem-gb", "0"],
        ["--mem-gb", "nan"],
        ["--mem-gb", "inf"],
        ["--mem-mb", "1e999"],
        ["--mem-gb", "1", "--mem-mb", "1"],
        ["--random-seed", "-1"],
        ["--method", "magic"],
        ["--skull-strip-t1w", "maybe"],
        ["--derivatives", "nothing"],
        ["--derivatives", "=path"],
        ["--dry-run", "--reports-only"],
        ["--no-such-option"],
    ],
)
def test_wrong_usage_exits_with_two(wrong, capsys):
    with pytest.raises(SystemExit) as exit:
        parse([*BASE, *wrong])
    assert exit.value.code == 2
    told = capsys.readouterr().err
    assert "usage: bh-bids" in told and "error:" in told


@pytest.mark.parametrize("text", ["nprocs = 0", "method = 'magic'", "random_seed = -3",
                                  "mem_gb = nan", "mem_gb = inf", "comparators = ['foo']",
                                  "comparators = ['none', 'hm']",
                                  "simulate_gaps = ['magic']"])  # fmt: skip
def test_values_of_a_file_are_checked_as_the_command_line_s(tmp_path, text, capsys):
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(SystemExit) as exit:
        parse([*BASE, "--config-file", str(tmp_path / "a.toml")])
    assert exit.value.code == 2


def test_comparators_and_gaps_of_a_file_are_treated_as_the_command_line_s(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text("comparators = ['none']\nsimulate_gaps = ['exp', 'exp']\n")
    settings, _ = parse([*BASE, "--config-file", str(path)])
    assert (settings.comparators, settings.simulate_gaps) == ((), ("exp",))
    # What a run without gaps has left does not ask for the default ones.
    path.write_text(Settings(tmp_path, tmp_path, comparators=()).to_toml())
    settings, _ = parse([*BASE, "--config-file", str(path)])
    assert (settings.comparators, settings.simulate_gaps) == ((), ())


@pytest.mark.parametrize("seed", [-1, 2**31 - 1, 20261127113000])
def test_seeds_that_itk_cannot_take_are_wrong_usage(tmp_path, capsys, seed):
    asked = [str(tmp_path), str(tmp_path / "out"), "participant", "--random-seed"]
    assert parse([*asked, str(2**31 - 2)])[0].random_seed == 2**31 - 2
    with pytest.raises(SystemExit) as left:
        parse([*asked, str(seed)])
    assert left.value.code == 2
    assert "--random-seed must be from 0 to 2147483646" in capsys.readouterr().err
