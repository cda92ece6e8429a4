"""Simulated traveling subjects as cases: sites are gaps, two masks have one overlap."""

import json

import nibabel as nib
import numpy as np
import pytest

from bh_bids.errors import InputError


@pytest.fixture
def travelers(bench, tmp_path):
    """Two participants at two sites; the second site shows the square root, without the top."""
    from gapbench.heads import HeadScans

    folder = tmp_path / "heads"
    for seed, label in enumerate(("01", "02")):
        volume, mask = bench.brain(seed)
        scans = HeadScans(label, folder, "MNI152NLin2009aSym", "siteA")
        for site, image, inside in (
            ("siteA", 500 * volume, mask),
            ("siteB", 70 * np.sqrt(np.maximum(volume, 0)), mask & (np.arange(16) < 13)),
        ):
            for path, array in zip(scans.files(site), (image, inside), strict=True):
                path.parent.mkdir(parents=True, exist_ok=True)
                nib.save(nib.Nifti1Image(array.astype(np.float32), np.eye(4)), path)
    return folder


def test_a_site_is_a_gap_of_what_both_scans_hold(travelers, bench):
    from gapbench.heads import find_heads

    first, second = find_heads(travelers, ["siteB"], "MNI152NLin2009aSym")
    assert (first.participant, second.participant) == ("01", "02")
    case = first.case("siteB")
    volume, mask = bench.brain(0)
    mask = mask & (np.arange(16) < 13)
    assert np.array_equal(case.mask, mask)
    assert np.percentile(case.truth[mask], 99) == pytest.approx(1, abs=1e-4)
    ratio = case.truth[mask] / volume[mask]
    assert np.ptp(ratio[volume[mask] > 0.1]) < 1e-4
    assert np.allclose(case.source, 70 * np.sqrt(np.maximum(volume, 0)) * mask, atol=1e-3)


def test_participants_without_all_sites_are_left_out(travelers):
    from gapbench.heads import find_heads

    space = "MNI152NLin2009aSym"
    image = travelers / "sub-02/ses-siteB/anat" / f"sub-02_ses-siteB_space-{space}_res-1"
    next(iter(image.parent.glob("*preproc*"))).unlink()
    assert [h.participant for h in find_heads(travelers, ["siteB"], space)] == ["01"]
    with pytest.raises(InputError, match="siteA, siteC"):
        find_heads(travelers, ["siteC"], space)


def test_the_command_scores_them(travelers, bench, tmp_path, capsys):
    import runpy
    from pathlib import Path

    script = Path(__file__).parents[2] / "benchmarks" / "harmonization.py"
    runpy.run_path(str(script))["main"](
        [str(travelers), "--heads", str(tmp_path), "--sites", "siteB", "--model",
         str(bench.model), "--methods", "source", "hm", "--output", str(tmp_path / "out")]
    )  # fmt: skip
    text = capsys.readouterr().out
    assert "## Split heads: participants 01 02" in text and "| siteB |" in text
    records = json.loads((tmp_path / "out" / "harmonization.json").read_text())
    found = {(r["participant"], r["method"]): r["psnr"] for r in records}
    assert len(found) == 4
    assert all(found[p, "hm"] > found[p, "source"] + 5 for p in ("01", "02"))


def test_what_is_missing_is_simulated_and_preprocessed(monkeypatch, tmp_path):
    from gapbench import heads

    calls = []

    def run(command):
        calls.append(command)
        return type("Done", (), {"returncode": 0})

    monkeypatch.setattr(heads.subprocess, "run", run)
    out = tmp_path / "derivatives"
    heads.prepare(out, tmp_path / "maps", 3, ["siteB"], jobs=2, tell=lambda _: None)
    simulate, pipeline = ([str(a) for a in c] for c in calls)
    assert str(tmp_path / "derivatives_bids") in simulate and str(tmp_path / "maps") in simulate
    assert simulate[-3:] == ["--sites", "siteA", "siteB"]
    assert pipeline[3:6] == [str(tmp_path / "derivatives_bids"), str(out), "participant"]
    (tmp_path / "derivatives_bids").mkdir()
    heads.prepare(out, tmp_path / "maps", 3, ["siteB"], tell=lambda _: None)
    assert len(calls) == 3
    monkeypatch.setattr(heads.subprocess, "run", lambda c: type("Done", (), {"returncode": 1}))
    with pytest.raises(InputError, match="'run' failed"):
        heads.prepare(out, tmp_path / "maps", 3, ["siteB"], tell=lambda _: None)
