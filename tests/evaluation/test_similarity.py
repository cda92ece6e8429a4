"""PSNR, SSIM and correlation against scikit-image, numpy and closed forms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from bh_bids.errors import InputError
from bh_bids.evaluation.similarity import ncc, nmi, psnr, ssim, ssim_slices


def pair(seed=0, shape=(24, 26, 28)):
    rng = np.random.default_rng(seed)
    a = rng.random(shape).astype(np.float32)
    return a, (a + 0.1 * rng.standard_normal(shape)).astype(np.float32)


def test_psnr_on_a_full_mask_is_scikit_images():
    a, b = pair()
    full = np.ones(a.shape, bool)
    for peak in (1.0, 255.0):
        expected = peak_signal_noise_ratio(a, b, data_range=peak)
        assert psnr(a, b, full, peak) == pytest.approx(expected, abs=1e-4)


def test_psnr_of_a_constant_error_is_known_and_local():
    a, _ = pair()
    mask = np.zeros(a.shape, bool)
    mask[5:15, 5:15, 5:15] = True
    b = np.where(mask, a + 0.1, 55.0)
    assert psnr(a, b, mask) == pytest.approx(20.0, abs=1e-4)
    assert psnr(a, np.where(mask, a, 9), mask) == float("inf")


def test_ssim_on_a_full_mask_is_scikit_images():
    a, b = pair()
    core = np.zeros(a.shape, bool)
    core[7:-7, 7:-7, 7:-7] = True
    _, local = structural_similarity(
        a * core, b * core, data_range=1.0, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False, full=True,
    )  # fmt: skip
    assert ssim(a, b, core) == pytest.approx(float(local[core].mean()), abs=1e-5)


def test_ssim_is_one_for_equals_and_blind_outside_the_mask():
    a, b = pair(1)
    mask = np.zeros(a.shape, bool)
    mask[3:20, :22, 4:] = True
    assert ssim(a, np.where(mask, a, 3.0), mask) == pytest.approx(1, abs=1e-6)
    assert ssim(a, b, mask) == pytest.approx(ssim(a, np.where(mask, b, -4.0), mask), abs=1e-12)
    assert ssim(a, b, mask) < 0.99
    assert ssim(b, a, mask) == pytest.approx(ssim(a, b, mask), abs=1e-6)


def test_ssim_of_constants_is_the_luminance_term():
    """In the middle of a large constant block only the means differ: (2ab + c)/(a^2 + b^2 + c)."""
    mask = np.ones((40, 40, 40), bool)
    a, b = np.full(mask.shape, 0.6, np.float32), np.full(mask.shape, 0.4, np.float32)
    centre = np.zeros_like(mask)
    centre[20, 20, 20] = True
    _, local = structural_similarity(
        a, b, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        full=True,
    )  # fmt: skip
    expected = (2 * 0.24 + 1e-4) / (0.52 + 1e-4)
    assert local[20, 20, 20] == pytest.approx(expected, abs=1e-4)
    # Where the brain ends both volumes fall to 0, and there the variances count too.
    assert ssim(a, b, mask) == pytest.approx(expected, abs=0.05)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), gain=st.floats(0.01, 100), shift=st.floats(-10, 10))
def test_ncc_is_pearsons_and_ignores_gain_and_level(seed, gain, shift):
    a, b = pair(seed, (6, 6, 6))
    mask = np.random.default_rng(seed).random(a.shape) < 0.7
    expected = np.corrcoef(a[mask], b[mask])[0, 1]
    assert ncc(a, b, mask) == pytest.approx(expected, abs=1e-9)
    assert ncc(a, gain * b.astype(float) + shift, mask) == pytest.approx(expected, abs=1e-6)
    assert ncc(-a, b, mask) == pytest.approx(-expected, abs=1e-9)


def test_ncc_with_a_constant_is_zero():
    a, _ = pair()
    assert ncc(a, np.full(a.shape, 0.5), np.ones(a.shape, bool)) == 0


@pytest.mark.parametrize("measure", [psnr, ssim, ncc])
def test_unlike_grids_and_empty_masks_are_refused(measure):
    a, b = pair()
    with pytest.raises(InputError, match="one grid"):
        measure(a, b[1:], np.ones(a.shape, bool))
    with pytest.raises(InputError, match="empty"):
        measure(a, b, np.zeros(a.shape, bool))


def test_slicewise_similarity_is_the_mean_of_scikit_images_slices():
    from skimage.metrics import structural_similarity

    rng = np.random.default_rng(0)
    a = rng.uniform(size=(24, 26, 9)).astype(np.float32)
    b = np.clip(a + 0.1 * rng.normal(size=a.shape), 0, 1).astype(np.float32)
    mask = np.zeros(a.shape, bool)
    mask[8:16, 8:18, 2:7] = True
    mask[10:12, 10:12, 7] = True  # a slice with little brain counts as any other
    a, b = (np.where(mask, v, 0) for v in (a, b))
    expected = []
    for k in range(2, 8):
        _, local = structural_similarity(
            a[:, :, k], b[:, :, k], data_range=1.0, gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False, full=True,
        )  # fmt: skip
        expected.append(local[mask[:, :, k]].mean())
    assert ssim_slices(a, b, mask) == pytest.approx(np.mean(expected), abs=1e-5)
    assert ssim_slices(a, a, mask) == pytest.approx(1)


def test_mutual_information_of_hand_made_cases():
    grid = np.indices((4, 4, 4))
    mask = np.ones((4, 4, 4), bool)
    # Four values that determine each other: 2. Two independent ones: H(a) + H(b) = H(a, b).
    assert nmi(grid[0], 10 - grid[0], mask) == pytest.approx(2)
    assert nmi(grid[0], grid[1], mask) == pytest.approx(1)
    assert nmi(grid[0], np.zeros((4, 4, 4)), mask) == 1
    # Half of one bit is shared: (2 + 1) / 2 with b a function of a.
    assert nmi(grid[0], grid[0] // 2, mask) == pytest.approx(1.5)


def test_mutual_information_does_not_ask_for_the_same_contrast():
    rng = np.random.default_rng(0)
    a = rng.uniform(size=(20, 20, 20))
    mask = np.ones(a.shape, bool)
    inverted, noisy = 1 - a**2, a + rng.normal(size=a.shape)
    assert nmi(a, inverted, mask) > 1.5 > nmi(a, noisy, mask)
