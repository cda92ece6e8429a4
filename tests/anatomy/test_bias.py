"""N4 against a bias field that was put in on purpose."""

import numpy as np
import pytest

from bh_bids.anatomy import bias
from bh_bids.anatomy.bias import n4_bias_field, rough_correction
from bh_bids.errors import InputError


@pytest.fixture(scope="module", autouse=True)
def coarse_estimation():
    """At 8 mm N4 takes a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bias, "ESTIMATION_SPACING", 8.0)
        yield


@pytest.fixture(scope="module")
def biased(small_brain):
    """The small brain under a smooth field of about +-40 %, its log field, and the mask."""
    x, y, z = (np.linspace(-1, 1, n).reshape(np.roll([n, 1, 1], k))
               for k, n in enumerate(small_brain.volume.shape))  # fmt: skip
    log_field = 0.35 * x + 0.25 * y**2 - 0.2 * z + 0.15 * x * z
    return small_brain.volume * np.exp(log_field).astype(np.float32), log_field


@pytest.fixture(scope="module")
def estimated(biased, small_brain, coarse_estimation):
    return np.log(n4_bias_field(biased[0], small_brain.affine, small_brain.mask))


def test_known_field_is_found(estimated, biased, small_brain):
    inside = small_brain.mask
    found, true = estimated[inside], biased[1][inside]
    assert np.corrcoef(found, true)[0, 1] > 0.9
    left = (true - true.mean()) - (found - found.mean())
    assert left.std() < 0.5 * true.std()


def test_tissue_becomes_more_uniform(estimated, biased, small_brain):
    white = small_brain.volume > np.percentile(small_brain.volume[small_brain.mask], 75)
    before, after = biased[0][white], (biased[0] / np.exp(estimated))[white]
    assert after.std() / after.mean() < 0.6 * before.std() / before.mean()


def test_the_field_keeps_the_scale_and_is_smooth(estimated, biased, small_brain):
    inside = small_brain.mask
    assert estimated.shape == inside.shape
    assert np.isfinite(estimated).all()
    assert abs(estimated[inside].mean()) < 0.02
    steps = [np.abs(np.diff(estimated, axis=axis)).max() for axis in range(3)]
    assert max(steps) < 0.15


def test_a_gain_changes_nothing_and_repeats_are_equal(estimated, biased, small_brain):
    again = np.log(n4_bias_field(biased[0], small_brain.affine, small_brain.mask))
    np.testing.assert_array_equal(again, estimated)
    louder = np.log(n4_bias_field(50 * biased[0], small_brain.affine, small_brain.mask))
    np.testing.assert_allclose(louder, estimated, atol=0.05)


def test_negative_intensities_do_no_harm(biased, estimated, small_brain):
    volume = np.where(small_brain.mask, biased[0], -50).astype(np.float32)
    field = n4_bias_field(volume, small_brain.affine, small_brain.mask)
    assert np.isfinite(field).all() and field.min() > 0
    found = np.log(field)[small_brain.mask]
    assert np.corrcoef(found, estimated[small_brain.mask])[0, 1] > 0.9


@pytest.mark.parametrize("voxels", [0, 1])
def test_a_mask_of_which_nothing_is_left_is_refused(voxels, small_brain):
    """One voxel of 4 mm is none of 8 mm: a field from it would be no number."""
    mask = np.zeros_like(small_brain.mask)
    mask[20 : 20 + voxels, 24, 20] = True
    with pytest.raises(InputError, match="nothing is left to estimate the bias field from"):
        n4_bias_field(small_brain.volume, small_brain.affine, mask)


def test_a_scan_of_negative_intensities_alone_is_refused(small_brain):
    with pytest.raises(InputError, match="No intensity of the scan is positive"):
        rough_correction(small_brain.volume - 1000, small_brain.affine)


@pytest.mark.slow
def test_known_field_is_found_at_the_resolution_in_use(biased, small_brain):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bias, "ESTIMATION_SPACING", 4.0)
        field = n4_bias_field(biased[0], small_brain.affine, small_brain.mask)
    inside = small_brain.mask
    assert np.corrcoef(np.log(field)[inside], biased[1][inside])[0, 1] > 0.9
