"""Means, worst participants, bootstrap intervals, tables."""

import numpy as np
import pytest


def record(participant, psnr, *, gap="exp", method="hm", seed=0, **others):
    keys = ("ssim", "contrast_error", "local_ncc", "stripes", "wm_change", "lesion_kept")
    return {
        "participant": participant, "gap": gap, "method": method, "seed": seed, "psnr": psnr,
        **dict.fromkeys(keys), "seconds": 2.0, "cpu_seconds": 1.0, "memory": 2**30, **others,
    }  # fmt: skip


def test_seeds_are_averaged_before_participants():
    from gapbench.statistics import METRICS, by_participant

    records = [record("01", 30.0), record("01", 34.0, seed=1), record("02", 20.0)]
    records += [record("01", 99.0, gap="log"), record("02", 99.0, method="gain")]
    assert by_participant(records, "exp", "hm", METRICS[0]) == {"01": 32.0, "02": 20.0}


def test_signed_changes_do_not_cancel_and_missing_values_are_left_out():
    from gapbench.statistics import METRICS, by_participant, worst

    change = next(m for m in METRICS if m.name == "wm_change")
    records = [record("01", 1.0, wm_change=0.02), record("02", 1.0, wm_change=-0.04)]
    records += [record("03", 1.0, wm_change=None)]
    found = by_participant(records, "exp", "hm", change)
    assert found == {"01": pytest.approx(2), "02": pytest.approx(4)}
    assert worst(found.values(), change) == pytest.approx(4)
    kept = next(m for m in METRICS if m.name == "lesion_kept")
    assert worst([90, 130, 101], kept) == 130 and worst([40, 130, 101], kept) == 40
    assert worst([30, 20], METRICS[0]) == 20


def test_paired_interval_is_that_of_the_mean_and_ignores_the_participants_level():
    from bh_bids.evaluation.statistics import paired_difference

    rng = np.random.default_rng(0)
    level = rng.normal(30, 10, 200)
    gain = rng.normal(2, 1, 200)
    other = {str(i): v for i, v in enumerate(level)}
    own = {str(i): v for i, v in enumerate(level + gain)}
    found = paired_difference(own, other)
    assert found.mean == pytest.approx(gain.mean())
    half = 1.96 * gain.std() / np.sqrt(200)
    assert found.low == pytest.approx(gain.mean() - half, abs=0.03)
    assert found.high == pytest.approx(gain.mean() + half, abs=0.03)
    assert found == paired_difference(own, other)


def test_intervals_of_few_participants():
    from bh_bids.evaluation.statistics import paired_difference

    assert paired_difference({"01": 3.0}, {"02": 1.0}) is None
    assert paired_difference({"01": 3.0, "02": 9.0}, {"01": 1.0}) == (2.0, 2.0, 2.0)


def test_tables_hold_means_worst_and_differences(tmp_path):
    from gapbench.tables import figure, report

    records = []
    for participant, base in (("01", 30.0), ("02", 40.0)):
        records.append(record(participant, base, ssim=0.9))
        records.append(record(participant, base + 3, method="map", ssim=0.95))
    records.append(record("01", 25.0, gap="lesion", lesion_kept=0.9))
    text = report(records, ("exp", "lesion"), ("hm", "map"), "## Here")
    lines = text.splitlines()
    assert text.startswith("## Here\n\n### PSNR in dB")
    assert "| exp | 35.0 (30.0) | 38.0 (33.0) |" in lines
    assert "| exp | +3.0 [+3.0, +3.0]; +3.0 |" in lines
    assert "| exp | 0.900 (0.900) | 0.950 (0.950) |" in lines
    assert "| lesion | 25.0 (25.0) n=1 | n/a |" in lines
    assert "| lesion | 90 (90) n=1 | n/a |" in lines
    assert "| exp | 90" not in text
    assert "| seconds per scan | 2.0 (2.0) | 2.0 (2.0) |" in lines
    assert "| CPU seconds per scan | 1.0 (1.0) | 1.0 (1.0) |" in lines
    assert "| peak memory, GiB | 1.00 (1.00) | 1.00 (1.00) |" in lines
    figure(records, ("exp", "lesion"), ("hm", "map"), tmp_path / "f.png", "title")
    assert (tmp_path / "f.png").stat().st_size > 5000
