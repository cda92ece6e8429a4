"""What was computed once is not computed again, and what is damaged is."""

import numpy as np
import pytest

from bh_bids.errors import InputError
from bh_bids.group.store import Store


def never():
    raise AssertionError("computed again")


def test_results_are_recalled_by_all_that_they_depend_on(tmp_path):
    store = Store(tmp_path)
    first = store.recall("scores", {"a": [1, 2]}, lambda: {"psnr": 1 / 3, "none": None})
    assert Store(tmp_path).recall("scores", {"a": [1, 2]}, never) == first
    assert store.recall("scores", {"a": [1, 3]}, lambda: 7) == 7
    assert store.get("scores", {"a": [1, 4]}) is None


def test_arrays_come_back_bit_for_bit(tmp_path):
    array = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    Store(tmp_path).recall_array("gaps", "x", lambda: array)
    found = Store(tmp_path).recall_array("gaps", "x", never)
    assert found.dtype == array.dtype and (found == array).all()


def test_damaged_results_are_computed_anew(tmp_path):
    store = Store(tmp_path)
    store.recall("scores", "x", lambda: 1)
    store.recall_array("gaps", "x", lambda: np.zeros(3))
    for path in tmp_path.rglob("*.*"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 - 1])
    assert store.recall("scores", "x", lambda: 2) == 2
    assert (store.recall_array("gaps", "x", lambda: np.ones(3)) == 1).all()


def test_files_are_hashed_by_content_and_again_when_they_change(tmp_path):
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(b"one")
    store = Store(tmp_path / "store")
    first = store.hash(path)
    assert first == store.hash(path)
    store.close()
    path.write_bytes(b"other")
    assert Store(tmp_path / "store").hash(path) != first
    with pytest.raises(InputError, match="cannot be read"):
        store.hash(tmp_path / "absent.nii.gz")
