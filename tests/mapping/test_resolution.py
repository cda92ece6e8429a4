"""Blur told from the power of detail, and undone, against closed forms and scipy's own filters."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import fourier_gaussian, gaussian_filter

from bh_bids.mapping.resolution import (
    ACROSS,
    ALONG,
    AXES,
    RINGS,
    STRONGEST,
    blur_between,
    blur_size,
    detail_spectrum,
    sharpened,
    smoothed,
)

SHAPE = (60, 72, 64)
MASK = sum(a**2 for a in np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")) < 0.8


def brain(seed=0, noise=0.004, blur=0.0):
    """Tissues with sharp borders, and fine grain; blurred by a Gaussian of that many voxels."""
    rng = np.random.default_rng(seed)
    coarse = gaussian_filter(rng.normal(size=SHAPE), 4.0)
    level = 0.4 + 0.3 * (coarse > 0) + 0.2 * (coarse > coarse.std())
    fine = gaussian_filter(rng.normal(size=SHAPE), 0.8)
    volume = gaussian_filter(level, 0.5) + 0.04 * fine / fine.std()
    volume = volume + noise * rng.normal(size=SHAPE)
    # By its transfer function: scipy's sampled kernel is another blur where it is narrow.
    volume = np.fft.ifftn(fourier_gaussian(np.fft.fftn(volume), blur)).real
    return np.where(MASK, volume, 0).astype(np.float32)


def test_the_mean_squares_of_a_part_are_the_integrals_over_the_sphere():
    """Over one face of a cube around it, whose solid angle is (1 + u^2 + v^2)^(-3/2) du dv."""
    u, v = np.meshgrid(*2 * [(np.arange(2000) + 0.5) / 2000], indexing="ij")
    angle = (1 + u**2 + v**2) ** -1.5
    assert ALONG == pytest.approx((angle / (1 + u**2 + v**2)).sum() / angle.sum(), abs=1e-6)
    assert ALONG + 2 * ACROSS == pytest.approx(1)


@given(st.lists(st.floats(-0.2, 0.6), min_size=AXES, max_size=AXES))
@settings(max_examples=20, deadline=None)
def test_the_slopes_of_a_gaussian_are_its_variances(variances):
    """P exp(-4 pi^2 sum of v f^2)."""
    rng = np.random.default_rng(0)
    usual, f = rng.normal(size=(RINGS, AXES)), (np.arange(RINGS) + 0.5) / 64
    mean_square = ACROSS + (ALONG - ACROSS) * np.eye(AXES)
    blurred = np.outer(f**2, mean_square @ variances)
    spectrum = usual - 4 * np.pi**2 * blurred
    assert blur_between(spectrum, usual) == pytest.approx(variances, abs=1e-9)
    pair = blur_between(np.stack([spectrum, usual]), usual)
    np.testing.assert_allclose(pair, [variances, [0] * AXES], atol=1e-9)


@pytest.mark.parametrize("sigma", [0.3, 0.45, 0.6, (0.6, 0, 0), (0, 0.5, 0), (0.4, 0, 0.7)])
def test_a_blur_is_told_along_each_axis(sigma):
    sharp = detail_spectrum(brain(), MASK)
    found = blur_between(detail_spectrum(brain(blur=sigma), MASK), sharp)
    expected = np.broadcast_to(np.square(sigma), AXES)
    np.testing.assert_allclose(found, expected, rtol=0.15, atol=0.03)


def test_another_brain_is_no_blur_and_noise_is_none():
    sharp = detail_spectrum(brain(0), MASK)
    assert np.abs(blur_between(detail_spectrum(brain(1), MASK), sharp)).max() < 0.05
    noisy = brain(0) + np.where(MASK, 0.03 * np.random.default_rng(5).normal(size=SHAPE), 0)
    assert blur_between(detail_spectrum(noisy, MASK), sharp).max() < 0


def test_the_size_of_a_blur_is_that_of_what_is_blurred():
    assert blur_size(np.array([0.3, 0.4, -5.0])) == pytest.approx(0.5)
    np.testing.assert_allclose(blur_size(np.array([[-1, -1, 0], [0, 2, 0]])), [0, 2])


def test_fewer_of_the_highest_frequencies_alone_are_no_blur():
    """Another matrix size: as much detail or more up to 0.35 cycles per voxel, then hardly any."""
    sharp, frequency = detail_spectrum(brain(), MASK), (np.arange(RINGS) + 0.5) / 64
    other = sharp + np.where(frequency < 0.35, 0.6, -0.8)[:, None]
    assert blur_between(other, sharp).max() < 0.05
    # A line with a level of its own would have taken it for one.
    band = (frequency > 0.12) & (frequency < 0.42)
    slope = np.polyfit(frequency[band] ** 2, (other - sharp)[band, 0], 1)[0]
    assert -slope / (4 * np.pi**2) > 0.2


@given(st.permutations(range(AXES)), st.integers(0, 3))
@settings(max_examples=6, deadline=None)
def test_turning_the_volume_turns_the_blur(order, seed):
    volume, sharp = brain(seed, blur=(0.6, 0.3, 0.0)), detail_spectrum(brain(seed), MASK)
    found = blur_between(detail_spectrum(volume, MASK), sharp)
    turned = detail_spectrum(volume.transpose(order), MASK.transpose(order))
    usual = detail_spectrum(brain(seed).transpose(order), MASK.transpose(order))
    np.testing.assert_allclose(blur_between(turned, usual), found[list(order)], atol=0.02)


def test_the_mask_s_own_edge_is_no_detail():
    """Of a brain without any, hardly anything is found, however bright its border."""
    flat = detail_spectrum(np.where(MASK, 1.0, 0.0), MASK)
    assert flat.max() < np.log(1e-6) < detail_spectrum(brain(), MASK)[8:20].min()


@pytest.mark.parametrize("sigma", [0.4, 0.6, (0.7, 0, 0), (0, 0.4, 0.6)])
def test_sharpening_brings_a_blurred_brain_nearer(sigma):
    sharp, soft = brain(noise=0.0), brain(noise=0.0, blur=sigma)
    mended = sharpened(soft, MASK, np.broadcast_to(np.square(sigma), AXES))
    before, after = (np.square(v - sharp)[MASK].mean() for v in (soft, mended))
    assert after < 0.35 * before
    inner = gaussian_filter(MASK.astype(float), 2) > 0.9999
    border = MASK & ~inner
    assert np.square(mended - sharp)[border].mean() < np.square(soft - sharp)[border].mean()


def test_a_wave_is_multiplied_by_the_blur_s_inverse_up_to_the_strongest():
    """Away from the border: exp(2 pi^2 v f^2), at most ``STRONGEST``."""
    x = np.arange(SHAPE[0])[:, None, None]
    for f, variance in ((0.1, 0.5), (0.2, 0.5), (0.3, 0.5), (0.45, 0.5)):
        wave = 0.1 * np.cos(2 * np.pi * f * x)
        volume = np.where(MASK, 1 + wave + np.zeros(SHAPE), 0)
        # What is along the other axes does not count; a negative variance undoes nothing.
        result = sharpened(volume, MASK, (variance, 0.3, -0.3))[:, 36, 32]
        inner = slice(20, 40)
        basis = np.stack([np.cos(2 * np.pi * f * x[inner, 0, 0]), np.ones(20)], axis=1)
        found = np.linalg.lstsq(basis, result[inner], rcond=None)[0][0] / 0.1
        expected = min(np.exp(2 * np.pi**2 * variance * f**2), STRONGEST)
        assert found == pytest.approx(expected, rel=0.06)


def test_no_blur_changes_nothing_and_outside_stays_empty():
    volume = brain()
    np.testing.assert_allclose(sharpened(volume, MASK, (0.0, 0.0, -1.0)), volume, atol=1e-5)
    result = sharpened(volume, MASK, (0.4, 0.4, 0.4))
    assert result.dtype == np.float32 and result.shape == SHAPE
    assert (result[~MASK] == 0).all() and (result >= 0).all()


@pytest.mark.parametrize("cut", [np.s_[30:], np.s_[:30]], ids=["first slice", "last slice"])
@pytest.mark.parametrize("axis", range(3))
def test_where_the_volume_ends_the_brain_is_not_sharpened_against_nothing(axis, cut):
    """A brain that reaches the border of its volume: its last slice is as one further in."""
    whole = np.where(MASK, 1.0, 0.0)
    part = (np.s_[:],) * axis + (cut,)
    result = sharpened(whole[part], MASK[part], np.where(np.arange(3) == axis, 0.4, 0))
    assert MASK[part].take([0, -1], axis=axis).any()
    np.testing.assert_allclose(result[MASK[part]], 1, atol=0.05)
    # Ten voxels further in nobody knows that the volume ends.
    volume, far = brain(blur=0.5), (np.s_[:],) * axis + (np.s_[10:],)
    beside = (np.s_[:],) * axis + (np.s_[30:],)
    found = sharpened(volume[beside], MASK[beside], (0.25, 0.25, 0.25))[far]
    expected = sharpened(volume, MASK, (0.25, 0.25, 0.25))[beside][far]
    np.testing.assert_allclose(found, expected, atol=5e-3)
    assert np.abs(expected - volume[beside][far]).max() > 0.05


@given(st.floats(0.2, 5.0))
@settings(max_examples=5, deadline=None)
def test_sharpening_knows_no_units(gain):
    volume = brain()
    result, expected = (sharpened(v, MASK, (0.3, 0.2, 0.1)) for v in (gain * volume, volume))
    np.testing.assert_allclose(result, gain * expected, rtol=1e-4, atol=1e-5 * gain)


@pytest.mark.parametrize("variances", [(0, 0, 0.6), (0.3, 0.3, 0.3), (0.4, 0, 0.7)])
def test_what_was_smoothed_is_blurred_by_that(variances):
    volume = brain(noise=0.01)
    found = smoothed(volume, MASK, variances)
    told = blur_between(detail_spectrum(found, MASK), detail_spectrum(volume, MASK))
    # A sampled kernel is another blur where it is narrow.
    np.testing.assert_allclose(told, variances, atol=0.12)
    inside = gaussian_filter(MASK.astype(float), np.sqrt(variances)) > 1 - 1e-6
    plain = gaussian_filter(volume.astype(float), np.sqrt(variances))
    np.testing.assert_allclose(found[inside], plain[inside], atol=1e-5)


def test_smoothing_takes_nothing_from_beyond_the_brain():
    level = np.where(MASK, 0.7, 5.0)
    found = smoothed(level, MASK, (0.5, 0, 0.5))
    np.testing.assert_allclose(found[MASK], 0.7, rtol=1e-5)
    assert not found[~MASK].any()
    same = smoothed(brain(), MASK, (0, 0, 0))
    np.testing.assert_allclose(same, brain(), atol=1e-6)
