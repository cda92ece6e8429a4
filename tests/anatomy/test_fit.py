"""To the model's grid and back: nothing may change that was not to be changed."""

import numpy as np
import pytest

from bh_bids.anatomy.fit import to_model_grid, to_native_grid
from bh_bids.mapping.field import orders
from bh_bids.mapping.intensity import IntensityMap
from bh_bids.mapping.mapping import Mapping

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


UNCHANGED = IntensityMap(np.array([0.0, 1.0]), np.array([0.0, 1.0]))
NO_CEILING = Mapping(IntensityMap(np.array([0.0, 9.0]), np.array([0.0, 9.0])), None, (48, 48, 48))
NO_MAPPING = Mapping(UNCHANGED, None, GRID_SHAPE)


def carry(scan, fitted, harmonized, mapping=NO_MAPPING):
    matrix, source, _ = fitted
    return to_native_grid(*scan, SCAN, matrix, source, harmonized, GRID, mapping)


def test_a_field_goes_on_beyond_the_models_grid(scan, tools):
    """A mask may reach below it: no step in the brain there."""
    volume, mask = np.full(SHAPE, 0.8, np.float32), scan[1]
    grid = GRID.copy()
    grid[2, 3] = -12.0  # mm; the brain begins at -29
    field = np.array([0.2 * (order == (0, 0, 1)) for order in orders()])
    levels = np.array([0.0, 4.0])
    mapping = Mapping(IntensityMap(levels, levels), field, GRID_SHAPE)
    matrix = np.eye(4)
    source, _ = to_model_grid(volume, SCAN, mask, matrix, GRID_SHAPE, grid)
    flat = mapping(source, mapping.log_field())
    result = to_native_grid(volume, mask, SCAN, matrix, source, flat, grid, mapping)
    heights = np.arange(SHAPE[2]) * SCAN[2, 2] + SCAN[2, 3]
    column = result[27, 30]
    below = mask[27, 30] & (heights < grid[2, 3] - 2)
    assert np.count_nonzero(below) > 5
    np.testing.assert_allclose(
        column[below], 0.8 * np.exp(-mapping.log_field()[0, 0, 0]), rtol=1e-5
    )
    assert np.abs(np.diff(column[mask[27, 30]])).max() < 0.02


def test_no_change_leaves_the_scan_exactly_as_it_was(scan, fitted):
    volume, mask = scan
    result = carry(scan, fitted, fitted[1])
    np.testing.assert_allclose(result, np.where(mask, volume, 0), rtol=1e-6)


def test_a_constant_change_is_carried_exactly_up_to_the_brains_border(scan, fitted):
    _, source, inside = fitted
    volume, mask = scan
    result = carry(scan, fitted, np.where(inside, source + 25, 0).astype(np.float32))
    assert (result[~mask] == 0).all()
    np.testing.assert_allclose(result[mask], volume[mask] + 25, atol=1e-3)


@pytest.mark.parametrize("curve", [lambda v: 1.4 * v, lambda v: 2 * np.maximum(v, 0) ** 0.8])
def test_a_map_of_intensities_is_carried_in_every_detail(scan, fitted, curve):
    """Between different grids too: it acts on the scan's own voxels."""
    volume, mask = scan
    knots = np.linspace(0, 400, 2000)
    mapping = Mapping(IntensityMap(knots, curve(knots)), None, GRID_SHAPE)
    result = carry(scan, fitted, mapping(fitted[1]), mapping)
    np.testing.assert_allclose(result[mask], curve(volume[mask]), rtol=2e-4)


def test_a_field_is_carried_with_the_detail_of_the_scan(scan, fitted):
    matrix, source, inside = fitted
    volume, mask = scan
    coefficients = 0.1 * np.random.default_rng(1).normal(size=len(orders()))
    mapping = Mapping(UNCHANGED, coefficients, GRID_SHAPE)
    field = mapping.log_field()
    harmonized = np.where(inside, source * np.exp(-field), 0).astype(np.float32)
    result = carry(scan, fitted, harmonized, mapping)
    # The closed form, evaluated at the scan's own voxels.
    there = np.argwhere(mask) @ SCAN[:3, :3].T + SCAN[:3, 3]
    there = there @ matrix[:3, :3].T + matrix[:3, 3]
    index = (there - GRID[:3, 3]) / 2.0
    waves = [np.cos(np.pi * np.outer(np.arange(4), index[:, a] + 0.5) / GRID_SHAPE[a])
             for a in range(3)]  # fmt: skip
    expected = sum(
        c * waves[0][i] * waves[1][j] * waves[2][k]
        for c, (i, j, k) in zip(coefficients, orders(), strict=True)
    )
    np.testing.assert_allclose(result[mask], volume[mask] * np.exp(-expected), rtol=3e-3)


def test_a_gain_by_surroundings_is_carried_with_the_detail_of_the_scan(scan, fitted):
    """Linear in space here, so that interpolating it is exact: with a field, both are."""
    matrix, source, inside = fitted
    volume, mask = scan
    index = np.moveaxis(np.indices(GRID_SHAPE), 0, -1)
    gain = (0.01 * index[..., 0] - 0.005 * index[..., 2]).astype(np.float32)
    mapping = Mapping(UNCHANGED, None, GRID_SHAPE, gain)
    harmonized = np.where(inside, source * np.exp(-gain), 0).astype(np.float32)
    result = carry(scan, fitted, harmonized, mapping)
    there = np.argwhere(mask) @ SCAN[:3, :3].T + SCAN[:3, 3]
    there = (there @ matrix[:3, :3].T + matrix[:3, 3] - GRID[:3, 3]) / 2.0
    expected = volume[mask] * np.exp(-(0.01 * there[:, 0] - 0.005 * there[:, 2]))
    np.testing.assert_allclose(result[mask], expected, rtol=1e-3)


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
    # The kink there is felt a few voxels deep, a quarter as much from one to the next.
    for depth, tolerance in ((4, 2e-2), (10, 2e-3)):
        core = mask & (np.linalg.norm(native - [1, 0, -1], axis=-1) < 28 - depth)
        np.testing.assert_allclose(result[core], expected[core], atol=tolerance)


@pytest.mark.parametrize(
    ("sizes", "before", "after"),
    [
        ((1, 1, 1), (0.75, 0.9), (0.35, 0.45)),
        ((1, 4 / 3, 4 / 3), (0.75, 0.9), (0.2, 0.3)),
        ((0.5, 0.5, 0.5), (0.35, 0.5), (0.9, 1.0)),
    ],
)
def test_noise_that_is_taken_away_leaves_the_scan_as_far_as_the_grid_tells_of_it(
    sizes, before, after, tools
):
    """By one who knows the truth; shares of the noise on the model's grid, and on the scan's after.

    Of fine voxels the grid holds averages: neither does it hold their noise, nor can it tell it.
    """
    shape = tuple(int(48 / size) for size in sizes)
    affine = np.diag([*sizes, 1.0])
    affine[:3, 3] = -24
    grid = np.eye(4)
    grid[:3, 3] = -24
    # Brains grow a little on their way to the template.
    turned = tools.matrix(shift=(0.3, -0.2, 0.4))
    turned[:3, :3] *= 1.04 / np.cbrt(np.linalg.det(turned[:3, :3]))
    noise = 0.05 * np.random.default_rng(0).standard_normal(shape)
    native, mask = (1 + noise).astype(np.float32), np.ones(shape, bool)
    source, inside = to_model_grid(native, affine, mask, turned, (48, 48, 48), grid)
    clean = inside.astype(np.float32)
    found = to_native_grid(native, mask, affine, turned, source, clean, grid, NO_CEILING)
    core = tuple(slice(n // 3, 2 * n // 3) for n in shape)
    assert before[0] < (source - 1)[16:32, 16:32, 16:32].std() / 0.05 < before[1]
    assert after[0] < (found - 1)[core].std() / 0.05 < after[1]


def test_results_are_never_negative(scan, fitted):
    _, source, _ = fitted
    assert carry(scan, fitted, np.zeros_like(source)).min() >= 0
