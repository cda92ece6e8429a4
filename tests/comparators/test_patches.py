"""Slices and crops to train on."""

import numpy as np
import pytest

from bh_bids.comparators.patches import PatchSampler, collect_slices
from bh_bids.errors import InputError


def test_slices_are_the_brains_own_evenly_spaced(target):
    scan = target(0)
    all_of_it = collect_slices([(scan.volume, scan.mask)], "axial", 100)
    sizes = scan.mask.sum(axis=(0, 1))
    assert len(all_of_it) == np.sum(sizes >= 200)
    first = np.flatnonzero(sizes >= 200)[0]
    box = tuple(slice(p.min(), p.max() + 1) for p in np.nonzero(scan.mask[:, :, first]))
    assert np.allclose(all_of_it[0][0], scan.volume[:, :, first][box], atol=1e-3)
    few = collect_slices([(scan.volume, scan.mask)] * 2, "axial", 3)
    assert len(few) == 6 and all(
        np.array_equal(a, b) for a, b in zip(few[:3], few[3:], strict=True)
    )
    assert np.array_equal(few[0], all_of_it[0]) and np.array_equal(few[2], all_of_it[-1])


def test_a_scan_without_enough_brain_is_refused(target):
    scan = target(0)
    tiny = np.zeros_like(scan.mask)
    tiny[:5, :5] = True
    with pytest.raises(InputError, match="200 brain voxels"):
        collect_slices([(scan.volume, tiny)], "coronal", 3)


def test_crops_hold_a_small_slice_whole_and_a_part_of_a_large_one():
    small, large = (np.ones((2, *shape), np.float16) for shape in ((9, 12), (40, 70)))
    whole = PatchSampler([small], 16, 0, mirror=True).batch(0, 5).numpy()
    assert whole.shape == (5, 2, 16, 16)
    assert (whole.sum(axis=(2, 3)) == 9 * 12).all()
    assert (PatchSampler([large], 16, 0, mirror=True).batch(0, 5).numpy() == 1).all()
    both = PatchSampler([large[:, :10]], 16, 0, mirror=True).batch(0, 5).numpy()
    assert (both.sum(axis=(2, 3)) == 10 * 16).all()


def test_crops_are_drawn_by_seed_and_step_and_half_are_mirrored():
    image = np.arange(16, dtype=np.float16)[None, :, None].repeat(16, axis=2)

    def rows(step, seed=1, mirror=True):
        return PatchSampler([image], 16, seed, mirror).batch(step, 40).numpy()[:, 0, 0, 0]

    assert np.array_equal(rows(0), rows(0))
    assert not np.array_equal(rows(0), rows(1)) and not np.array_equal(rows(0), rows(0, seed=2))
    assert set(rows(0)) == {0, 15} and 8 < np.sum(rows(0) == 15) < 32
    assert set(rows(0, mirror=False)) == {0}
