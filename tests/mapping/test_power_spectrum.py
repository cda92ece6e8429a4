"""The Gaussian reference against Parseval, a dense covariance matrix, and known noise."""

import numpy as np
import pytest

from bh_bids.mapping.spectrum import BANDS, noise_level, power_spectrum, wiener

SHAPE = (24, 28, 20)
CANDIDATES = (0.004, 0.006, 0.009, 0.012, 0.016, 0.02, 0.026, 0.034, 0.044)


def rings(shape):
    """Ring of each coefficient of a full complex transform, written out."""
    square = sum(
        np.fft.fftfreq(n).reshape([-1 if a == b else 1 for b in range(3)]) ** 2
        for a, n in enumerate(shape)
    )
    return np.minimum((np.sqrt(square / 0.75) * BANDS).astype(int), BANDS - 1)


def coloured(rng, shape, power):
    """A stationary periodic Gaussian field of a given power in each ring."""
    white = np.fft.fftn(rng.normal(size=shape))
    return np.fft.ifftn(white * np.sqrt(power[rings(shape)])).real


@pytest.fixture(scope="module")
def power():
    return 0.03 / (1 + (np.arange(BANDS) / 4.0) ** 4)


@pytest.mark.parametrize("masked", [False, True])
def test_white_noise_has_its_variance_in_every_ring(domain, masked):
    rng = np.random.default_rng(0)
    mask = domain.mask if masked else np.ones(SHAPE, bool)
    mean = np.full(mask.shape, 2.0)
    volumes = [np.where(mask, mean + 0.05 * rng.normal(size=mask.shape), 0) for _ in range(6)]
    found = power_spectrum(volumes, mean)
    counts = np.bincount(rings(mask.shape).ravel(), minlength=BANDS)
    full = counts > 100
    np.testing.assert_allclose(found[full], 0.05**2, rtol=0.35)
    # Parseval: summed over all coefficients, the mean power is the variance.
    assert found @ counts / counts.sum() == pytest.approx(0.05**2, rel=0.02)


def test_a_known_spectrum_is_found(power):
    rng = np.random.default_rng(1)
    mean = np.full(SHAPE, 3.0)
    volumes = [mean + coloured(rng, SHAPE, power) for _ in range(12)]
    found = power_spectrum(volumes, mean)
    full = np.bincount(rings(SHAPE).ravel(), minlength=BANDS) > 100
    np.testing.assert_allclose(found[full], power[full], rtol=0.3)


@pytest.mark.parametrize("true", CANDIDATES)
def test_the_level_of_noise_that_was_added_is_found(power, true):
    rng = np.random.default_rng(2)
    mean = np.full(SHAPE, 3.0)
    noisy = mean + coloured(rng, SHAPE, power) + true * rng.normal(size=SHAPE)
    assert noise_level(noisy, mean, power, CANDIDATES) == true


def test_the_filter_is_the_posterior_mean_of_a_dense_covariance(power):
    """Of a stationary Gaussian in white noise: C (C + s^2 I)^-1 (x - mean), by solving."""
    shape, sigma = (6, 5, 7), 0.05
    rng = np.random.default_rng(3)
    n = int(np.prod(shape))
    transform = np.stack(
        [np.fft.fftn(e.reshape(shape)).ravel() for e in np.eye(n)], axis=1
    ) / np.sqrt(n)
    covariance = (transform.conj().T @ (power[rings(shape)].ravel()[:, None] * transform)).real
    mean = 3.0 + 0.1 * rng.normal(size=shape)
    noisy = mean + coloured(rng, shape, power) + sigma * rng.normal(size=shape)
    residual = (noisy - mean).ravel()
    expected = covariance @ np.linalg.solve(covariance + sigma**2 * np.eye(n), residual)
    found = wiener(noisy, mean, power, sigma)
    np.testing.assert_allclose(found, mean + expected.reshape(shape), atol=2e-6)


def test_no_other_gain_per_ring_comes_nearer_to_the_truth(power):
    rng = np.random.default_rng(4)
    sigma, mean, ring = 0.06, np.full(SHAPE, 3.0), rings(SHAPE)
    best = power / (power + sigma**2)
    ours, others = 0.0, np.zeros(12)
    spectra = [best * np.exp(0.3 * rng.normal(size=BANDS)) for _ in range(10)]
    spectra += [np.ones(BANDS), np.zeros(BANDS)]
    for _ in range(8):
        clean = coloured(rng, SHAPE, power)
        noisy = clean + sigma * rng.normal(size=SHAPE)
        ours += np.square(wiener(mean + noisy, mean, power, sigma) - mean - clean).mean()
        transform = np.fft.fftn(noisy)
        for k, gain in enumerate(spectra):
            others[k] += np.square(np.fft.ifftn(gain[ring] * transform).real - clean).mean()
    assert (others > ours).all()


def test_background_stays_empty(domain):
    calibration = domain.calibration
    scan = domain.scans[0]
    found = wiener(scan, domain.mean, calibration.spectrum, 0.02)
    assert found.dtype == np.float32 and not found[~domain.mask].any()
