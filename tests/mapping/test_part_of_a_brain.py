"""A brain of which a part was not scanned, against the target's own scans cut the same way."""

import numpy as np
import pytest

from bh_bids.mapping.field import Lattice, local_histograms, regional_shift
from bh_bids.mapping.intensity import LEVELS, brain_quantiles

SHAPE, VOXEL = (60, 66, 60), (3.0, 3.0, 3.0)


def scan(seed):
    """Dark below, bright above, in a ball."""
    rng = np.random.default_rng(seed)
    grid = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
    inside = sum(axis**2 for axis in grid) < 0.8
    values = np.where(grid[2] < 0, 0.4, 0.8) * np.exp(0.05 * rng.normal(size=SHAPE))
    return np.where(inside, values, 0).astype(np.float32)


@pytest.fixture(scope="module")
def target():
    scans = [scan(seed) for seed in range(5)]
    lattice = Lattice(SHAPE, VOXEL)
    return lattice, local_histograms(scans, lattice), scans


def test_a_whole_brain_is_compared_with_the_whole_target(target):
    lattice, histograms, scans = target
    shift, coverage = regional_shift(lattice(scan(9)) > 0, lattice, histograms, len(scans))
    assert coverage > 0.8
    assert not shift.any()


def test_half_a_brain_is_compared_with_that_half_of_the_target(target):
    lattice, histograms, scans = target
    cut = scan(9)
    cut[:, :, : SHAPE[2] // 2] = 0
    shift, coverage = regional_shift(lattice(cut) > 0, lattice, histograms, len(scans))
    assert 0.35 < coverage < 0.6
    whole = np.concatenate([s[s > 0] for s in scans])
    upper = np.concatenate([s[:, :, SHAPE[2] // 2 :][s[:, :, SHAPE[2] // 2 :] > 0] for s in scans])
    expected = brain_quantiles(upper) - brain_quantiles(whole)
    # The blocks at the cut, 20 mm wide and blending with their neighbours, still hold some of the
    # dark half: the darkest quarter of what is expected is theirs.
    assert np.abs(shift - expected)[LEVELS // 4 :].max() < 0.04
    assert expected[LEVELS // 4 : LEVELS // 2].min() > 0.3
