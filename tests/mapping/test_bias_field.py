"""The field: its basis against cosines written out, its estimate against fields put there."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bh_bids.mapping.field import (
    CENTRES,
    DARKEST,
    Lattice,
    _posterior,
    estimate_field,
    field_spread,
    local_histograms,
    log_field,
    orders,
    regional_shift,
)
from bh_bids.mapping.intensity import brain_quantiles


def random_field(lattice, inside, spread, seed=0):
    """Coefficients of a smooth field, more of the low orders, of a given spread."""
    rng = np.random.default_rng(seed)
    coefficients = np.array([rng.normal() / sum(o) ** 1.5 for o in orders()])
    return coefficients * (spread / field_spread(coefficients, lattice, inside))


@given(st.integers(0, 2**31))
@settings(max_examples=15, deadline=None)
def test_a_field_is_its_cosines_written_out(seed):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(4, 12, 3))
    coefficients = rng.normal(size=len(orders()))
    found = log_field(coefficients, shape)
    for _ in range(5):
        place = [int(rng.integers(n)) for n in shape]
        expected = 0.0
        for c, order in zip(coefficients, orders(), strict=True):
            product = c
            for wave, i, n in zip(order, place, shape, strict=True):
                product *= np.cos(np.pi * wave * (2 * i + 1) / (2 * n))
            expected += product
        assert found[tuple(place)] == pytest.approx(expected, abs=1e-5)


def test_orders_are_all_but_the_constant():
    assert len(orders()) == len(set(orders())) == 19
    assert (0, 0, 0) not in orders() and max(map(sum, orders())) == 3


@pytest.mark.parametrize(
    ("shape", "voxel"), [((40, 48, 40), (1.0, 1.0, 1.0)), ((20, 24, 18), (4.0, 2.0, 4.0))]
)
def test_the_lattice_sees_what_the_grid_has(shape, voxel):
    lattice = Lattice(shape, voxel)
    rng = np.random.default_rng(1)
    coefficients = rng.normal(size=len(orders()))
    field = log_field(coefficients, shape)
    np.testing.assert_allclose(
        np.tensordot(coefficients, lattice.basis, 1), lattice(field), atol=1e-5
    )
    # Voxels 3 mm apart, or all; blocks of about 20 mm, numbered without a gap.
    x = lattice(np.broadcast_to(np.arange(shape[0])[:, None, None], shape))[:, 0, 0]
    assert (np.diff(x) * voxel[0] == max(3.0, voxel[0])).all()
    assert lattice.blocks.shape == lattice(field).shape
    assert set(np.unique(lattice.blocks)) == set(range(int(np.prod(lattice.blocks_shape))))
    for block in np.unique(lattice.blocks)[:5]:
        used = np.nonzero(lattice.blocks == block)[0]
        assert np.ptp(x[used]) * voxel[0] <= 21


def test_the_spread_of_a_field_in_closed_form():
    """Products of cosines are orthogonal over the whole grid, with mean square 2**-factors."""
    lattice = Lattice((12, 16, 14), (4.0, 4.0, 4.0))
    everywhere = np.ones((12, 16, 14), bool)
    rng = np.random.default_rng(2)
    coefficients = rng.normal(size=len(orders()))
    square = sum(
        c**2 * 0.5 ** np.count_nonzero(o) for c, o in zip(coefficients, orders(), strict=True)
    )
    assert field_spread(coefficients, lattice, everywhere) == pytest.approx(
        np.sqrt(square), rel=1e-5
    )


def test_histograms_count_every_voxel_and_peak_where_the_tissue_is():
    lattice = Lattice((20, 20, 20), (4.0, 4.0, 4.0))
    volume = np.full((20, 20, 20), 0.5, np.float32)
    volume[:10] = 0.8
    volume[:, :, :2] = DARKEST / 2
    found = local_histograms([volume, volume], lattice)
    assert found.sum() == pytest.approx(2 * np.count_nonzero(volume > DARKEST), rel=1e-9)
    for x, level in ((1, 0.8), (18, 0.5)):
        block = lattice.blocks[x, 10, 12]
        assert abs(CENTRES[found[block].argmax()] - np.log(level)) < CENTRES[1] - CENTRES[0]


@pytest.mark.parametrize("noise", [0.1, 0.2])
def test_the_posterior_of_a_gaussian_prior_in_closed_form(noise):
    centre, spread = -0.6, 0.25
    prior = np.exp(-0.5 * ((CENTRES - centre) / spread) ** 2)[None]
    mean, variance = _posterior(prior, noise)
    keep = np.abs(CENTRES - centre) < 0.5
    weight = spread**2 / (spread**2 + noise**2)
    expected = weight * CENTRES + (1 - weight) * centre
    np.testing.assert_allclose(mean[0, keep], expected[keep], atol=2e-3)
    np.testing.assert_allclose(variance[0, keep], weight * noise**2, rtol=0.02)


@given(st.integers(0, 2**31), st.floats(0.05, 0.2))
@settings(max_examples=20, deadline=None)
def test_the_fields_residual_is_the_slope_of_the_smoothed_histograms_logarithm(seed, noise):
    """Tweedie's formula, by central differences, for any mixture of tissues."""
    rng = np.random.default_rng(seed)
    height, centre, width = (
        rng.uniform(*limits, 3)[:, None] for limits in ((0.2, 1), (-1.2, -0.1), (0.05, 0.2))
    )
    bells = height * np.exp(-0.5 * ((CENTRES - centre) / width) ** 2)
    # No tissue is impossible anywhere, as in the histograms of blocks.
    prior = 1e-3 + bells.sum(axis=0, keepdims=True)
    mean, variance = _posterior(prior, noise)

    def log_smoothed(at):
        return np.log(np.exp(-0.5 * ((at[:, None] - CENTRES) / noise) ** 2) @ prior[0])

    h = 1e-4
    slope = (log_smoothed(CENTRES + h) - log_smoothed(CENTRES - h)) / (2 * h)
    bend = (
        log_smoothed(CENTRES + h) - 2 * log_smoothed(CENTRES) + log_smoothed(CENTRES - h)
    ) / h**2
    np.testing.assert_allclose(mean[0], CENTRES + noise**2 * slope, atol=1e-6)
    # And its own slope, which shortens the steps of the fit, is the variance over the noise's.
    np.testing.assert_allclose(variance[0], noise**2 * (1 + noise**2 * bend), atol=2e-5)


@pytest.fixture(scope="module")
def two_tissues():
    """A domain whose tissue is drawn voxel by voxel, brighter on one side by anatomy alone.

    What a histogram of the whole brain would take for a field is the place's own tissue.
    """
    shape = (30, 30, 30)
    lattice = Lattice(shape, (4.0, 4.0, 4.0))
    share = np.linspace(0.15, 0.85, shape[0])[:, None, None]

    def draw(seed):
        rng = np.random.default_rng(seed)
        white = rng.uniform(size=shape) < share
        return np.where(white, 0.9, 0.55) * np.exp(0.03 * rng.normal(size=shape))

    histograms = local_histograms([draw(k) for k in range(8)], lattice)
    quantiles = np.mean([brain_quantiles(draw(k)) for k in range(8)], axis=0)
    inside = np.ones(shape, bool)

    def estimate(volume):
        return estimate_field(lattice(volume), lattice, histograms, quantiles)

    null = np.mean([estimate(draw(k)) for k in range(8)], axis=0)
    return draw, estimate, null, lattice, inside


def test_a_part_of_the_brain_has_that_parts_quantiles():
    """White matter lies where x is large: the half there is brighter than the whole."""
    shape = (30, 30, 30)
    lattice = Lattice(shape, (4.0, 4.0, 4.0))
    share = np.linspace(0.05, 0.95, shape[0])[:, None, None]

    def draw(seed):
        rng = np.random.default_rng(seed)
        level = np.where(rng.uniform(size=shape) < share, 0.9, 0.55)
        return level * np.exp(0.1 * rng.normal(size=shape))

    histograms = local_histograms([draw(k) for k in range(5)], lattice)
    quantiles = brain_quantiles(draw(9))
    inside = np.ones(shape, bool)
    shift, coverage = regional_shift(inside, lattice, histograms, 5)
    assert not shift.any() and coverage == pytest.approx(1, abs=0.02)
    for side in (slice(15, None), slice(None, 15)):
        part = np.zeros(shape, bool)
        part[side] = True
        shift, coverage = regional_shift(part, lattice, histograms, 5)
        own = brain_quantiles(draw(10)[part])
        assert coverage == pytest.approx(0.5, abs=0.05)
        assert np.abs(quantiles - own).mean() > 0.06
        assert np.abs(quantiles + shift - own).mean() < 0.02
    # Voxels that the lattice misses, or where no target brain is, say nothing.
    shift, coverage = regional_shift(np.zeros(shape, bool), lattice, histograms, 5)
    assert not shift.any() and coverage == 0


def test_anatomy_that_depends_on_place_is_no_field(two_tissues):
    draw, estimate, null, lattice, inside = two_tissues
    assert field_spread(estimate(draw(50)) - null, lattice, inside) < 0.006
    # While brightness itself does: a smooth fit to it finds a field of many times that.
    log = np.log(draw(50))[inside]
    naive, *_ = np.linalg.lstsq(lattice.basis[:, inside].T, log - log.mean(), rcond=None)
    assert field_spread(naive, lattice, inside) > 0.05


@pytest.mark.parametrize("spread", [0.05, 0.15])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_field_that_was_put_there_is_found(two_tissues, spread, seed):
    draw, estimate, null, lattice, inside = two_tissues
    true = random_field(lattice, inside, spread, seed)
    found = estimate(draw(60 + seed) * np.exp(log_field(true, inside.shape)))
    assert field_spread(found - null - true, lattice, inside) < 0.008


def test_gain_does_not_matter_and_a_change_of_contrast_little(two_tissues):
    draw, estimate, null, lattice, inside = two_tissues
    true = random_field(lattice, inside, 0.12)
    bright = draw(70) ** 0.8 * np.exp(log_field(true, inside.shape))
    found = estimate(bright)
    np.testing.assert_allclose(estimate(4321.0 * bright), found, atol=1e-7)
    assert field_spread(found - null - true, lattice, inside) < 0.02


def test_a_field_in_brains_of_tissue(domain, scan_maker):
    """With partial volume, own anatomy and noise, in a participant that was not trained on."""
    lattice, inside = domain.lattice, domain.lattice(domain.mask)
    calibration = domain.calibration
    for seed in (30, 31):
        true = random_field(lattice, inside, 0.15, seed)
        source = scan_maker(seed) * np.exp(log_field(true, domain.mask.shape))
        found = estimate_field(
            lattice(source), lattice, calibration.histograms, calibration.quantiles
        )
        found = found - calibration.null_field
        assert field_spread(found, lattice, inside) > 0.08
        assert field_spread(found - true, lattice, inside) < 0.05


def test_too_little_brain_has_no_field(two_tissues):
    draw, estimate, *_, inside = two_tissues
    few = np.zeros(inside.shape)
    few[:5, :6, :6] = draw(0)[:5, :6, :6]
    assert not estimate(few).any()
    assert not estimate(np.zeros(inside.shape)).any()
