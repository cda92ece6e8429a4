"""To the model's grid and back: nothing may change that was not to be changed."""

import numpy as np
import pytest

from bh_bids.anatomy.fit import to_model_grid, to_native_grid

SCAN = np.array([[1.5, 0, 0, -40], [0, 1.5, 0, -45], [0, 0, 1.5, -40], [0, 0, 0, 1]])
SHAPE = (54, 60, 54)
GRID = np.array([[2.0, 0, 0, -50], [0, 2.0, 0, -54], [0, 0, 2.0, -50], [0, 0, 0, 1]])
GRID_SHAPE = (50, 54, 50)


@pytest.fixture(scope="module")
def scan():
    """A textured ball in a head that is brighter than it, and the ball's mask."""
    rng = np.random.default_rng(0)
    world = np.moveaxis(np.indices(SHAPE), 0, -1) @ SCAN[:3, :3].T + SCAN[:3, 3]
    radius = np.linalg.norm(world - [1, 0, -1], axis=-1)
    volume = 100 + 20 * np.sin(world).sum(axis=-1) + rng.normal(0, 4, SHAPE)
    volume = np.where(radius < 28, volume, 300)
    return volume.astype(np.float32), radius < 28


@pytest.fixture(scope="module")
def fitted(scan, tools):
    matrix = tools.matrix(shift=(2.0, -1.0, 1.5))
    return matrix, *to_model_grid(scan[0], SCAN, scan[1], matrix, GRID_SHAPE, GRID)


def test_the_models_grid_holds_the_brain_alone(scan, fitted):
    matrix, moved, mask = fitted
    assert moved.shape == GRID_SHAPE and moved.dtype == np.float32
    assert mask.dtype == bool
    assert (moved[~mask] == 0).all() and moved.min() >= 0
    # The skull next to the brain is three times as bright: no voxel may be more than half of it.
    assert moved.max() < (scan[0][scan[1]].max() + 300) / 2 + 5
    volume = mask.sum() * 8 / (scan[1].sum() * 1.5**3)
    assert volume == pytest.approx(np.linalg.det(matrix[:3, :3]), rel=0.03)


def test_brain_lies_where_the_matrix_puts_it(scan, fitted):
    matrix, _, mask = fitted
    before = (np.argwhere(scan[1]) @ SCAN[:3, :3].T + SCAN[:3, 3]).mean(axis=0)
    after = (np.argwhere(mask) @ GRID[:3, :3].T + GRID[:3, 3]).mean(axis=0)
    np.testing.assert_allclose(after, (matrix @ [*before, 1])[:3], atol=0.2)


def carry(scan, fitted, harmonized):
    matrix, source, _ = fitted
    return to_native_grid(*scan, SCAN, matrix, source, harmonized, GRID)


def test_no_change_leaves_the_scan_exactly_as_it_was(scan, fitted):
    volume, mask = scan
    np.testing.assert_array_equal(carry(scan, fitted, fitted[1]), np.where(mask, volume, 0))


def test_a_constant_change_is_carried_exactly_up_to_the_brains_border(scan, fitted):
    _, source, inside = fitted
    volume, mask = scan
    result = carry(scan, fitted, np.where(inside, source + 25, 0).astype(np.float32))
    assert (result[~mask] == 0).all()
    np.testing.assert_allclose(result[mask], volume[mask] + 25, atol=1e-3)


def test_a_gain_is_carried_exactly_on_the_same_grid(scan):
    volume, mask = scan
    source = np.where(mask, volume, 0)
    result = to_native_grid(volume, mask, SCAN, np.eye(4), source, 1.4 * source, SCAN)
    np.testing.assert_allclose(result[mask], 1.4 * volume[mask], rtol=1e-5)


def test_a_gain_is_carried_in_the_mean_and_in_detail_between_grids(scan, fitted):
    _, source, _ = fitted
    volume, mask = scan
    result = carry(scan, fitted, 1.4 * source)
    assert result[mask].mean() == pytest.approx(1.4 * volume[mask].mean(), rel=0.01)
    # What finer detail loses is a share of the change, never of the scan.
    assert np.corrcoef(result[mask], volume[mask])[0, 1] > 0.98


def test_a_smooth_change_comes_back_where_it_was_made(scan, fitted):
    matrix, source, inside = fitted
    volume, mask = scan
    world = np.moveaxis(np.indices(GRID_SHAPE), 0, -1) @ GRID[:3, :3].T + GRID[:3, 3]
    change = 10 + 0.2 * world[..., 0] - 0.1 * world[..., 2]
    result = carry(scan, fitted, np.where(inside, source + change, 0).astype(np.float32))
    native = np.moveaxis(np.indices(SHAPE), 0, -1) @ SCAN[:3, :3].T + SCAN[:3, 3]
    there = native @ matrix[:3, :3].T + matrix[:3, 3]
    expected = volume + 10 + 0.2 * there[..., 0] - 0.1 * there[..., 2]
    # At the border the change is continued from the nearest voxel inside.
    np.testing.assert_allclose(result[mask], expected[mask], atol=1.5)
    core = mask & (np.linalg.norm(native - [1, 0, -1], axis=-1) < 24)
    np.testing.assert_allclose(result[core], expected[core], atol=2e-3)


def test_results_are_never_negative(scan, fitted):
    _, source, _ = fitted
    assert carry(scan, fitted, np.zeros_like(source)).min() >= 0
