"""Steady places: planted agreement, and what a shift of a brain's intensities shows there."""

import numpy as np
import pytest

from bh_bids.mapping.steady import (
    BRIGHTNESS,
    FEWEST,
    GROUPS,
    SHARE,
    Agreement,
    samples,
    steady_profile,
)

SIDES = (20, 20, 20)


def planted(scans, seed=0):
    """Samples of one mean of which the first half varies little among scans, the second much."""
    rng = np.random.default_rng(seed)
    mean = rng.uniform(BRIGHTNESS[0], BRIGHTNESS[-1], SIDES)
    spread = np.full(SIDES, 0.05)
    spread[:10] = 0.005
    noise = rng.normal(size=(scans, *SIDES))
    return mean, spread, (mean + spread * noise).astype(np.float32)


def test_places_are_where_scans_agree():
    mean, spread, seen = planted(20)
    index, group, level = Agreement(seen).places()
    index, group = index.astype(int), group.astype(int)
    assert (spread.ravel()[index] < 0.01).all()
    np.testing.assert_allclose(level, seen.mean(axis=0).ravel()[index], rtol=1e-5)
    assert (BRIGHTNESS[group] <= level).all() and (level <= BRIGHTNESS[group + 1]).all()
    # Against the spread by hand, of all places of a group.
    average, own = seen.mean(axis=0, dtype=float).ravel(), seen.std(axis=0).ravel()
    for g in range(GROUPS):
        of = (average >= BRIGHTNESS[g]) & (average < BRIGHTNESS[g + 1])
        assert abs((group == g).sum() - SHARE * of.sum()) <= 1
        assert own[index[group == g]].max() <= np.quantile(own[of], SHARE + 0.01)


def test_a_scan_does_not_say_where_it_agrees():
    _, _, seen = planted(12)
    for k in (0, 7):
        without = Agreement(np.delete(seen, k, axis=0)).places()
        found = Agreement(seen).places(without=seen[k])
        np.testing.assert_array_equal(found[:2], without[:2])
        np.testing.assert_allclose(found[2], without[2], rtol=1e-9)


def test_a_brain_that_is_brighter_shows_by_how_much():
    mean, _, seen = planted(20)
    places = Agreement(seen).places()
    shift = np.where(mean < 0.5, 0.03, -0.01)
    found = steady_profile((mean + shift).astype(np.float32), places)
    middle = (BRIGHTNESS[1:] + BRIGHTNESS[:-1]) / 2
    expected = np.where(middle < 0.5, 0.03, -0.01)
    apart = np.abs(middle - 0.5) > 0.05
    np.testing.assert_allclose(found[apart], expected[apart], atol=2e-3)


def test_a_lesion_hardly_shows_and_a_part_that_is_missing_not_at_all():
    mean, _, seen = planted(20)
    places = Agreement(seen).places()
    whole = steady_profile(mean.astype(np.float32), places)
    lesion = mean.copy()
    lesion[4:8, 4:8, 4:8] = 0.3
    odd = steady_profile(lesion.astype(np.float32), places)
    assert np.abs(odd - whole).max() < 2e-3
    part = mean.copy()
    part[:4] = 0
    assert np.abs(steady_profile(part.astype(np.float32), places) - whole).max() < 2e-3
    part[1:] = 0
    bare = steady_profile(part.astype(np.float32), places)
    left = np.bincount(
        places[1][part.ravel()[places[0].astype(int)] > 0].astype(int), minlength=GROUPS
    )
    np.testing.assert_array_equal(np.isnan(bare), left < FEWEST)


def test_places_that_few_scans_have_do_not_count():
    _, _, seen = planted(20)
    seen[:5, :10] = 0
    index = Agreement(seen).places()[0].astype(int)
    assert (np.unravel_index(index, SIDES)[0] >= 10).all()


def test_samples_are_local_means_well_inside(domain):
    scan, mask = domain.scans[0], domain.mask
    seen = samples(scan, mask, domain.lattice)
    shape = domain.lattice(scan).shape
    assert seen.shape == shape and seen.dtype == np.float32
    grid = domain.lattice(np.arange(scan.size).reshape(scan.shape))
    checked = 0
    for at in np.argwhere(seen > 0)[::97]:
        x, y, z = np.unravel_index(grid[tuple(at)], scan.shape)
        around = scan[x - 1 : x + 2, y - 1 : y + 2, z - 1 : z + 2]
        assert seen[tuple(at)] == pytest.approx(around.mean(), rel=1e-4)
        assert mask[x - 2 : x + 3, y - 2 : y + 3, z - 2 : z + 3].all()
        checked += 1
    assert checked > 5
    # What lies outside the brain does not count.
    np.testing.assert_array_equal(samples(np.where(mask, scan, 9), mask, domain.lattice), seen)
