"""The slices on disk: the scans' own values, rebuilt when a scan changes, never half written."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from bh_bids.errors import InputError
from bh_bids.flow import store as store_module
from bh_bids.flow.crops import CropSampler
from bh_bids.flow.slices import find_scans, read_volume
from bh_bids.flow.store import SliceStore, open_store


@pytest.fixture
def said():
    return []


@pytest.fixture
def scans(derivatives, tiny_config):
    return find_scans(derivatives, tiny_config.space)


@pytest.fixture
def copied(derivatives, tiny_config, tmp_path):
    """Scans whose files a test may change."""
    shutil.copytree(derivatives, tmp_path / "derivatives")
    return find_scans(tmp_path / "derivatives", tiny_config.space)


def test_volumes_are_those_of_the_scans(scans, tiny_config, tmp_path, said):
    store = open_store(tmp_path / "store", scans, tiny_config, said.append)
    assert len(store.volumes) == len(scans)
    for volume, scan in zip(store.volumes, scans, strict=True):
        expected = read_volume(scan, tiny_config)
        np.testing.assert_array_equal(volume.values, expected.values)
        given, read = vars(volume), vars(expected)
        assert {k: v for k, v in given.items() if k != "values"} == {
            k: v for k, v in read.items() if k != "values"
        }
    # An ordinary file for other programs.
    values = np.load(tmp_path / "store" / "slices.npy", mmap_mode="r")
    np.testing.assert_array_equal(values[2], store.volumes[2].values)


def test_batches_are_those_of_scans_in_memory(scans, tiny_config, tmp_path, said):
    store = open_store(tmp_path / "store", scans, tiny_config, said.append)
    read = [read_volume(scan, tiny_config) for scan in scans]
    batches = [
        CropSampler(v, (16, 16), tiny_config, 1).batch(3, 8).x for v in (store.volumes, read)
    ]
    np.testing.assert_array_equal(*batches)


def test_is_built_once(scans, tiny_config, tmp_path, said):
    open_store(tmp_path / "store", scans, tiny_config, said.append)
    open_store(tmp_path / "store", scans, tiny_config, said.append)
    assert said == ["Reading 7 scans."]


@pytest.mark.parametrize("change", ["touched", "fewer", "grid", "index", "cut", "nothing"])
def test_is_built_again_when_it_is_another(copied, tiny_config, tmp_path, said, change):
    folder = tmp_path / "store"
    open_store(folder, copied, tiny_config, said.append)
    config = tiny_config
    if change == "touched":
        os.utime(copied[3].mask, ns=(1, 1))
    elif change == "fewer":
        copied = copied[:-1]
    elif change == "grid":
        # Same slices: only the name of the space tells.
        config = replace(tiny_config, space="Other")
    elif change == "index":
        (folder / "index.json").write_text("{")
    elif change == "cut":
        size = (folder / "slices.npy").stat().st_size
        os.truncate(folder / "slices.npy", size - 1000)
    store = open_store(folder, copied, config, said.append)
    assert len(said) == (1 if change == "nothing" else 2)
    np.testing.assert_array_equal(store.volumes[-1].values, read_volume(copied[-1], config).values)


def test_a_build_that_is_killed_leaves_no_store(copied, tiny_config, tmp_path, said, monkeypatch):
    class Killed(BaseException):
        pass

    folder = tmp_path / "store"
    open_store(folder, copied, tiny_config, said.append)
    os.utime(copied[0].image, ns=(1, 1))

    def dies(*paths):
        raise Killed

    for moment in (store_module.os, "replace"), (store_module, "read_volume"):
        with monkeypatch.context() as patch:
            patch.setattr(*moment, dies)
            with pytest.raises(Killed):
                open_store(folder, copied, tiny_config, said.append)
    store = open_store(folder, copied, tiny_config, said.append)
    np.testing.assert_array_equal(
        store.volumes[0].values, read_volume(copied[0], tiny_config).values
    )


def test_released_memory_is_read_again(scans, tiny_config, tmp_path, said):
    store = open_store(tmp_path / "store", scans, tiny_config, said.append)
    before = store.volumes[4].values.copy()
    store.release()
    np.testing.assert_array_equal(store.volumes[4].values, before)


def test_folder_that_cannot_be_written(scans, tiny_config, tmp_path, said):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        open_store(tmp_path / "file" / "store", scans, tiny_config, said.append)
    with pytest.raises(InputError, match="cannot be read"):
        SliceStore(tmp_path)


MEASURE = """
import json, resource, sys
from bh_bids.flow.config import FlowConfig
from bh_bids.flow.crops import CropSampler
from bh_bids.flow.slices import find_scans
from bh_bids.flow.store import open_store
config = FlowConfig(**json.loads(sys.argv[3]))
scans = find_scans(sys.argv[1], config.space)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
store = open_store(sys.argv[2], scans * int(sys.argv[4]), config, print)
sampler = CropSampler(store.volumes, (32, 32), config, 0)
for step in range(40):
    sampler.batch(step, 8)
    store.release()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_does_not_grow_with_the_number_of_scans(
    tmp_path, tiny_config, scan_writer, volume_maker
):
    config = replace(tiny_config, slice_shape=(128, 128), slices=16, origin=(-64.0, -64.0, -8.0))
    for k in range(4):
        volume, mask = volume_maker(config, k)
        scan_writer(tmp_path / f"sub-{k}" / "anat", f"sub-{k}", volume, mask, config.affine)
    peaks = []
    for copies in (1, 16):
        arguments = [tmp_path, tmp_path / f"store{copies}", json.dumps(config.to_dict()), copies]
        result = subprocess.run(
            [sys.executable, "-c", MEASURE, *map(str, arguments)], capture_output=True, text=True
        )
        assert result.returncode == 0, result.stderr
        peaks.append(int(result.stdout.split()[-1]) / 1024)
    # In MiB: 64 scans hold 32, 4 hold 2.
    assert (tmp_path / "store16" / "slices.npy").stat().st_size > 32 * 2**20
    assert peaks[1] < peaks[0] + 10
