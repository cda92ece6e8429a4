"""Resampling against nibabel's own, and what it must conserve."""

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.processing import resample_from_to
from scipy import ndimage

from bh_bids.anatomy.resampling import (
    box_affine,
    content_box,
    downsample,
    low_pass,
    resample,
    voxel_sizes,
)

SOURCE = np.array([[1.1, 0, 0, -12], [0, 1.3, 0, -15], [0, 0, 0.9, -11], [0, 0, 0, 1]])
TARGET = np.array([[0.9, 0.1, 0, -14], [-0.1, 1.0, 0.2, -12], [0, -0.2, 1.1, -13], [0, 0, 0, 1]])
SHAPE, TARGET_SHAPE = (24, 26, 28), (30, 27, 25)


def textured(seed=0, margin=6):
    """Random smooth content with a margin of zeros."""
    inner = tuple(n - 2 * margin for n in SHAPE)
    noise = np.random.default_rng(seed).uniform(10, 100, inner)
    return np.pad(noise, margin).astype(np.float32)


@pytest.mark.parametrize(("order", "tolerance"), [(0, 0), (1, 1e-4), (3, 0.3)])
def test_agrees_with_nibabel(order, tolerance):
    volume = textured()
    expected = resample_from_to(
        nib.Nifti1Image(volume, SOURCE), (TARGET_SHAPE, TARGET), order=order
    ).get_fdata()
    found = resample(volume, SOURCE, TARGET_SHAPE, TARGET, order=order)
    assert found.dtype == np.float32
    assert expected.max() > 20
    np.testing.assert_allclose(found, expected, atol=tolerance, rtol=1e-5)


@pytest.mark.parametrize("order", [0, 1, 3])
def test_a_matrix_moves_the_image_in_the_direction_it_says(order, tools):
    volume, matrix = textured(), tools.matrix(shift=(2.0, -1.0, 1.5))
    expected = resample_from_to(
        nib.Nifti1Image(volume, matrix @ SOURCE), (TARGET_SHAPE, TARGET), order=order
    ).get_fdata()
    found = resample(volume, SOURCE, TARGET_SHAPE, TARGET, matrix, order=order)
    np.testing.assert_allclose(found, expected, atol=0.3)


def test_the_same_grid_gives_the_same_values():
    volume = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    np.testing.assert_allclose(resample(volume, SOURCE, SHAPE, SOURCE), volume, atol=1e-5)


def test_empty_volume_stays_empty():
    assert not resample(np.zeros(SHAPE), SOURCE, TARGET_SHAPE, TARGET).any()


def test_arguments_are_left_alone():
    volume, source, target = textured(), SOURCE.copy(), TARGET.copy()
    matrix = np.eye(4)
    resample(volume, source, TARGET_SHAPE, target, matrix)
    downsample(volume, source, 3.0)
    for now, before in ((source, SOURCE), (target, TARGET), (matrix, np.eye(4))):
        np.testing.assert_array_equal(now, before)
    np.testing.assert_array_equal(volume, textured())


def world_centre(volume, affine):
    return affine[:3, :3] @ ndimage.center_of_mass(volume) + affine[:3, 3]


@settings(max_examples=25, deadline=None)
@given(
    spacing=st.floats(1.0, 4.0),
    sizes=st.tuples(*[st.floats(0.6, 2.5)] * 3),
    place=st.tuples(*[st.floats(-0.15, 0.15)] * 3),
)
def test_downsampling_keeps_place_and_amount(spacing, sizes, place):
    shape = tuple(int(60 / size) for size in sizes)
    affine = np.diag([*sizes, 1.0])
    affine[:3, 3] = [-5, 7, 11]
    middle = (np.array(shape) - 1) / 2 + np.array(place) * shape
    distance = (np.indices(shape) - middle.reshape(3, 1, 1, 1)) * np.reshape(sizes, (3, 1, 1, 1))
    blob = np.exp(-(distance**2).sum(axis=0) / (2 * 5.0**2)).astype(np.float32)
    small, grid = downsample(blob, affine, spacing)
    np.testing.assert_allclose(voxel_sizes(grid), spacing, rtol=1e-6)
    np.testing.assert_allclose(world_centre(small, grid), world_centre(blob, affine), atol=0.1)
    amount = small.sum() * spacing**3 / (blob.sum() * np.prod(sizes))
    assert amount == pytest.approx(1, abs=0.02)


def test_downsampling_covers_the_field_of_view_and_keeps_the_directions():
    turn = np.eye(4)
    turn[:2, :2] = [[0.8, -0.6], [0.6, 0.8]]
    affine = turn @ SOURCE
    _, grid = downsample(np.ones(SHAPE), affine, 3.0)
    corner = affine[:3, :3] @ ([-0.5] * 3) + affine[:3, 3]
    np.testing.assert_allclose(grid[:3, :3] @ ([-0.5] * 3) + grid[:3, 3], corner, atol=1e-9)
    np.testing.assert_allclose(
        grid[:3, :3] / voxel_sizes(grid), affine[:3, :3] / voxel_sizes(affine), atol=1e-12
    )


def test_downsampling_a_sheared_grid_gives_an_upright_one_around_it():
    affine = np.array([[2.0, 0.5, 0, -30], [0, 2, 0.3, -20], [0, 0, 2.5, -25], [0, 0, 0, 1]])
    shape = (30, 28, 24)
    world = np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
    centre = world.reshape(-1, 3).mean(axis=0) + [4, -3, 2]
    blob = np.exp(-((world - centre) ** 2).sum(axis=-1) / 2 / 6**2).astype(np.float32)
    small, grid = downsample(blob, affine, 3.0)
    axes = grid[:3, :3] / 3.0
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-6)
    inside = np.moveaxis(np.indices(small.shape), 0, -1) @ grid[:3, :3].T + grid[:3, 3]
    found = (inside * small[..., None]).sum(axis=(0, 1, 2)) / small.sum()
    np.testing.assert_allclose(found, centre, atol=0.1)
    # As much of it as there was, by volume.
    amount = blob.sum() * abs(np.linalg.det(affine[:3, :3]))
    assert small.sum() * 27 == pytest.approx(amount, rel=0.02)
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(shape) - 1)
    index = (corners @ affine[:3, :3].T + affine[:3, 3] - grid[:3, 3]) @ np.linalg.inv(
        grid[:3, :3]
    ).T
    assert (index > -0.6).all() and (index < np.array(small.shape) - 0.4).all()


def test_downsampling_does_not_alias():
    """A pattern finer than the coarse voxels becomes its mean, not a slow wave."""
    stripes = np.zeros((60, 60, 60), np.float32)
    stripes[::2] = 2
    small, _ = downsample(stripes, np.eye(4), 4.0)
    inner = small[3:-3, 3:-3, 3:-3]
    np.testing.assert_allclose(inner, 1, atol=0.02)


def test_box_holds_all_content_and_its_affine_its_place():
    mask = np.zeros(SHAPE, bool)
    mask[5, 8:11, 20] = True
    box = content_box(mask, margin=2)
    assert box == (slice(3, 8), slice(6, 13), slice(18, 23))
    assert content_box(mask, margin=100) == tuple(slice(0, n) for n in SHAPE)
    assert content_box(np.zeros(SHAPE, bool)) is None
    inner = box_affine(TARGET, box)
    start = [side.start for side in box]
    np.testing.assert_allclose(inner @ [1, 2, 3, 1], TARGET @ [*np.add(start, [1, 2, 3]), 1])


def test_a_matrix_that_rounding_has_touched_is_taken():
    volume = np.random.default_rng(3).random((6, 7, 8)).astype(np.float32)
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    touched = np.eye(4)
    touched[3, 3] = 1 - 1e-16
    touched[3, 0] = 1e-17
    same = resample(volume, affine, volume.shape, affine, touched, order=1)
    np.testing.assert_allclose(same, volume, atol=1e-6)


@pytest.mark.parametrize("size", [1.0, 0.9, 0.81])
def test_voxels_that_are_little_finer_stay_as_they_are(size):
    volume = textured()
    np.testing.assert_array_equal(low_pass(volume, (size, 1.5, size), 1.0), volume)


@pytest.mark.parametrize("size", [0.8, 0.5, 0.35, 0.2])
def test_voxels_that_are_much_finer_are_averaged_as_wider_ones_would(size):
    """Of an edge: its width is that of a wide voxel less that of a narrow one, its height stays."""
    mark = np.zeros((81, 3, 3), np.float32)
    mark[40] = 1
    found = low_pass(mark, (size, 1.0, 1.0), 1.0)[:, 1, 1].astype(np.float64)
    assert found.sum() == pytest.approx(1, abs=1e-6) and found.min() >= 0
    places = size * (np.arange(81) - 40)
    assert places @ found == pytest.approx(0, abs=1e-6)
    assert places**2 @ found == pytest.approx((1 - size**2) / 12, rel=1e-4)
