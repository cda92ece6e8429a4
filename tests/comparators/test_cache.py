"""What was trained once is not trained again."""

import numpy as np
import pytest

from bh_bids.comparators import COMPARATORS, LazyScans, Scan, fit_cached
from bh_bids.comparators import unet as unet_module
from bh_bids.errors import InputError


@pytest.fixture
def trainings(monkeypatch):
    """Counts the trainings."""
    count = []
    train = unet_module._train

    def counted(*arguments):
        count.append(1)
        return train(*arguments)

    monkeypatch.setattr(unet_module, "_train", counted)
    return count


@pytest.fixture
def fit(source, target, tmp_path, tiny):
    """Fits a U-Net with the cache, and gives it with what was reported."""

    def run(sources=None, *, seed=0, **settings):
        told = []
        network = COMPARATORS["unet"](**(tiny | {"steps": 2} | settings))
        sources = [source(0), source(1)] if sources is None else sources
        fit_cached(
            network,
            sources,
            [target(0), target(1)],
            tmp_path / "cache",
            seed=seed,
            device="cpu",
            report=told.append,
        )
        return network, told

    return run


def test_a_second_fit_trains_nothing_and_gives_the_same(fit, source, trainings, tmp_path):
    scan = source(3)
    first = fit()[0].apply(scan.volume, scan.mask)
    lazy = LazyScans([lambda: source(0), lambda: source(1)])
    second, told = fit(lazy)
    assert len(trainings) == 1 and "trained before" in told[0]
    assert np.array_equal(second.apply(scan.volume, scan.mask), first)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_whatever_changes_the_fit_is_trained_anew(fit, source, trainings, monkeypatch):
    fit()
    one_voxel = source(0).volume.copy()
    one_voxel[16, 16, 16] += 1e-6
    fit([Scan(one_voxel, source(0).mask, "00"), source(1)])
    fit(seed=1)
    fit(learning_rate=1e-4)
    monkeypatch.setattr(COMPARATORS["unet"], "recipe", 99)
    fit()
    assert len(trainings) == 5
    fit()
    assert len(trainings) == 5


@pytest.mark.parametrize("damage", ["truncated", "flipped", "foreign"])
def test_a_damaged_file_is_ignored_with_a_sentence(damage, fit, source, trainings, tmp_path):
    scan = source(3)
    first = fit()[0].apply(scan.volume, scan.mask)
    (path,) = (tmp_path / "cache").iterdir()
    whole = bytearray(path.read_bytes())
    if damage == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "flipped":
        whole[-100] ^= 0x40
        path.write_bytes(whole)
    else:
        path.write_text("not ours")
    again, told = fit()
    assert len(trainings) == 2
    assert str(path) in told[0] and "trained anew" in told[0]
    assert np.array_equal(again.apply(scan.volume, scan.mask), first)
    fit()
    assert len(trainings) == 2


def test_a_training_that_fails_leaves_nothing(fit, source, tmp_path):
    with pytest.raises(InputError):
        fit([source(1), source(0)])
    assert not (tmp_path / "cache").exists()


def test_a_folder_that_cannot_be_written_is_named(fit, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(InputError, match="cannot be written"):
        fit()


def test_what_trains_nothing_leaves_no_file(target, tmp_path):
    fit_cached(COMPARATORS["hm"](), [], [target(0)], tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
