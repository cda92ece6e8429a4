"""Locks between runs, and what a run says when it is asked to end."""

import os
import signal

from bh_bids.locks import lock_participants


def test_a_participant_is_locked_as_long_as_the_run_lasts(tmp_path):
    held, busy = lock_participants(tmp_path, ["01", "02"])
    assert busy == [] and len(held) == 2
    others, busy = lock_participants(tmp_path, ["02", "03"])
    assert busy == ["02"] and len(others) == 1
    for lock in held:
        lock.close()
    again, busy = lock_participants(tmp_path, ["01", "02"])
    assert busy == []
    for lock in [*again, *others]:
        lock.close()


def test_what_another_run_works_on_is_left_to_it(small_dataset, small_model, tmp_path, run_here):
    held, _ = lock_participants(tmp_path / "work", ["01", "02"])
    code, out, err = run_here(small_dataset, tmp_path, small_model)
    assert code == 1
    for label in ("01", "02"):
        assert f"sub-{label} is being processed by another run" in err
    assert "2 of 2 scans have no results" in err and "Traceback" not in out + err
    assert not list((tmp_path / "work").glob("software_*"))
    for lock in held:
        lock.close()


def test_sigterm_is_answered_in_words_and_with_143(
    small_dataset, small_model, tmp_path, run_here, monkeypatch
):
    from bh_bids import runner

    monkeypatch.setattr(runner, "_write_shared", lambda plan: os.kill(os.getpid(), signal.SIGTERM))
    code, out, err = run_here(small_dataset, tmp_path, small_model)
    assert code == 143
    assert err.endswith("bh-bids: terminated; the same command goes on from here\n")
