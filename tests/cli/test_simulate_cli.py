"""The program bh-simulate: arguments, exit codes, sentences."""

import json
import subprocess
import sys

import pytest

from bh_bids.cli.simulate import build_parser, main


def test_writes_a_dataset(tmp_path, capsys):
    out = tmp_path / "demo"
    arguments = [str(out), "--participants", "1", "--sites", "siteB", "--voxel-size", "6"]
    assert main([*arguments, "--seed", "5"]) == 0
    captured = capsys.readouterr()
    assert ": 1 scans, 1 participants, 1 sites" in captured.out
    assert "sub-01 ses-siteB" in captured.err
    assert (out / "sub-01/ses-siteB/anat/sub-01_ses-siteB_T1w.nii.gz").is_file()
    # A second run must not touch it.
    assert main([*arguments, "--quiet"]) == 1
    captured = capsys.readouterr()
    assert "is not empty" in captured.err and "Traceback" not in captured.err
    description = json.loads((out / "dataset_description.json").read_text())
    assert "Seed 5" in description["GeneratedBy"][0]["Description"]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["out", "--participants", "0"],
        ["out", "--participants", "many"],
        ["out", "--n-sites", "0"],
        ["out", "--n-sites", "99"],
        ["out", "--sites", "siteQ"],
        ["out", "--sites", "siteA", "siteA"],
        ["out", "--sites", "siteA", "--sites", "siteA"],
        ["out", "--sites", "siteA", "--n-sites", "1"],
        ["out", "--voxel-size", "0"],
        ["out", "--noise", "-1"],
        ["out", "--seed", "-1"],
        ["out", "--unknown"],
    ],
)
def test_wrong_usage_exits_with_2(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: bh-simulate" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--heads", "missing"], "no folder of heads at missing"),
        (["--heads", "."], "holds no .nii"),
        (["--site-config", "missing.toml"], "missing.toml cannot be read"),
    ],
)
def test_wrong_inputs_exit_with_1(arguments, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["out", *arguments]) == 1
    assert sentence in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_own_sites_are_scanned(tmp_path, monkeypatch):
    from bh_bids.simulation import dataset

    (tmp_path / "sites.toml").write_text('[mine]\nlike = "siteD"\nfield = 3\n')
    seen = []
    monkeypatch.setattr(
        dataset, "write_dataset", lambda out, settings, **_: seen.append(settings) or 1
    )
    config = ["--site-config", str(tmp_path / "sites.toml")]
    assert main(["out", *config]) == 0
    assert main(["out", *config, "--sites", "ses-mine", "siteA"]) == 0
    assert main(["out", "--n-sites", "5"]) == 0
    assert [[site.name for site in settings.sites] for settings in seen] == [
        ["mine"],
        ["mine", "siteA"],
        ["siteA", "siteB", "siteC", "siteD", "siteE"],
    ]


def test_help_is_grouped_and_fast():
    text = build_parser().format_help()
    for wanted in ("participants and sites", "images", "examples:", "--skull-stripped"):
        assert wanted in text
    code = (
        "import sys\nfrom bh_bids.cli.simulate import build_parser\nbuild_parser()\n"
        "sys.exit(int(any(m in sys.modules for m in ('torch', 'numpy', 'nibabel'))))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
