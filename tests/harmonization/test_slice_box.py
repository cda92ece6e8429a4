"""Cropping to the brain and back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bh_bids.errors import InputError
from bh_bids.harmonization.slices import SliceBox


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 999),
    shape=st.tuples(st.integers(3, 30), st.integers(3, 30), st.integers(1, 9)),
    multiple=st.sampled_from([1, 2, 8, 16]),
)
def test_box_holds_the_brain_and_gives_it_back(seed, shape, multiple):
    rng = np.random.default_rng(seed)
    mask = rng.random(shape) < 0.02
    mask[tuple(rng.integers(0, n) for n in shape)] = True
    volume = np.where(mask, rng.random(shape), 0).astype(np.float32)
    box = SliceBox(mask, multiple)
    stack = box.extract(volume)
    assert stack.shape == (box.shape[2], *box.slice_shape)
    assert all(n % multiple == 0 for n in box.slice_shape)
    assert np.array_equal(box.insert(stack), volume)
    filled = np.flatnonzero(mask.any(axis=(0, 1)))
    assert np.array_equal(box.grid_index(box.occupied), filled)
    for k, z in zip(box.occupied, filled, strict=True):
        assert stack[k].sum() == pytest.approx(volume[:, :, z].sum(), rel=1e-5)


def test_box_is_small_and_leaves_a_margin():
    mask = np.zeros((160, 192, 40), bool)
    mask[50:100, 60:130, 10:30] = True
    box = SliceBox(mask, 8, margin=4)
    assert box.slice_shape == (64, 80)
    assert box.shape[2] == 20
    assert box.start[0] <= 46 and box.start[0] + 64 >= 104


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 999), multiple=st.sampled_from([1, 2, 8, 16]))
def test_the_content_of_some_slices_keeps_margin_and_division(seed, multiple):
    rng = np.random.default_rng(seed)
    mask = np.zeros((48, 56, 6), bool)
    mask[tuple(rng.integers(0, n, 5) for n in mask.shape)] = True
    box = SliceBox(mask, multiple)
    chosen = box.extract(mask)[: rng.integers(1, 4)].any(axis=0)
    part = box.content(chosen)
    inside = np.zeros(box.slice_shape, bool)
    inside[part] = True
    for axis, side in enumerate(part):
        assert side.start % multiple == side.stop % multiple == 0
        used = np.flatnonzero(chosen.any(axis=1 - axis))
        assert side.start <= max(used[0] - 4, 0)
        assert side.stop >= min(used[-1] + 5, box.slice_shape[axis])
        assert side.stop - side.start <= used[-1] - used[0] + 9 + 2 * (multiple - 1)
    assert not chosen[~inside].any()


def test_real_voxels_beside_the_brain_fill_the_box():
    mask = np.zeros((32, 32, 4), bool)
    mask[28:32, :5, 1:3] = True
    box = SliceBox(mask, 8)
    inside = box.extract(np.ones(mask.shape, np.float32))
    assert inside.all()


def test_axial_slices_keep_x_and_y():
    volume = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
    stack = SliceBox(np.ones((2, 3, 4), bool), 1, margin=0).extract(volume)
    assert np.array_equal(stack[2], volume[:, :, 2])


def test_empty_mask_is_refused():
    with pytest.raises(InputError, match="empty"):
        SliceBox(np.zeros((8, 8, 8), bool), 8)
