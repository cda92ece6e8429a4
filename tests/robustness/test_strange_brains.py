"""Scans that can be read and are no T1w brains, or not whole ones: refused or flagged."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from bh_bids import harmonize, load_model
from bh_bids.errors import InputError


@pytest.fixture(scope="module")
def model(small_model):
    return load_model(small_model)


@pytest.fixture(scope="module")
def brain(model):
    mask = model.mean > 0.05
    return np.where(mask, 900 * model.mean, 0).astype(np.float32), mask


def noise(volume, mask):
    return np.abs(np.random.default_rng(1).standard_normal(volume.shape))


def phantom(volume, mask):
    return 500 + 5 * np.random.default_rng(2).standard_normal(volume.shape)


def other_body_part(volume, mask):
    texture = gaussian_filter(np.random.default_rng(3).standard_normal(volume.shape), 3)
    return 600 + 200 * texture / texture.std()


def t2w(volume, mask):
    return np.where(mask, 1200 - volume, 0)


def upside_down(volume, mask):
    return volume[:, :, ::-1]


def negative(volume, mask):
    return -volume


def flat(volume, mask):
    return np.full_like(volume, 300)


REFUSED = {t2w: "contrast is inverted", negative: "must be finite and positive"}
FLAGGED = {
    noise: "resembles the target domain's mean little",
    phantom: "resembles the target domain's mean little",
    other_body_part: "resembles the target domain's mean little",
}


@pytest.mark.parametrize("change", REFUSED, ids=lambda change: change.__name__)
def test_what_would_be_turned_upside_down_is_refused(change, brain, model):
    volume, mask = brain
    with pytest.raises(InputError, match=REFUSED[change]):
        harmonize(np.where(mask, change(volume, mask), 0), mask, model, device="cpu")


@pytest.mark.parametrize("change", FLAGGED, ids=lambda change: change.__name__)
def test_what_does_not_look_like_the_target_is_flagged(change, brain, model):
    volume, mask = brain
    result = harmonize(np.where(mask, change(volume, mask), 0), mask, model, device="cpu")
    assert any(FLAGGED[change] in guard for guard in result.guards), result.guards
    assert np.isfinite(result.volume).all()


def test_the_target_s_own_brain_is_not_flagged(brain, model):
    result = harmonize(*brain, model, device="cpu")
    assert result.guards == []
    assert result.contrast > 0.95
    assert result.structure["EdgesLost"] < 0.05 and result.structure["EdgesInvented"] < 0.05


def test_half_a_brain_is_told_as_such(brain, model):
    volume, mask = brain
    half = mask.copy()
    half[: mask.shape[0] // 2] = False
    result = harmonize(volume, half, model, device="cpu")
    assert result.decisions["Coverage"] < 0.6
    assert (result.volume[~half] == 0).all() and np.isfinite(result.volume).all()


def test_a_lesion_s_mask_keeps_it_out_of_the_estimate(brain, model):
    """A bright tumour of a tenth of the brain: with its mask the rest is as if it were healthy."""
    volume, mask = brain
    centre = np.argwhere(mask).mean(axis=0)
    axes = np.ogrid[tuple(slice(n) for n in mask.shape)]
    lesion = sum((a - c - 4) ** 2 for a, c in zip(axes, centre, strict=True)) < 7.5**2
    lesion &= mask
    ill = np.where(lesion, 2.0 * volume.max(), volume)
    options = dict(device="cpu", method="map", bias=False, noise=False)
    healthy = harmonize(volume, mask, model, lesion=lesion, **options)
    masked = harmonize(ill, mask, model, lesion=lesion, **options)
    unmasked = harmonize(ill, mask, model, **options)
    rest = mask & ~lesion
    np.testing.assert_allclose(masked.volume[rest], healthy.volume[rest], rtol=1e-4, atol=0.1)
    assert np.abs(unmasked.volume - healthy.volume)[rest].mean() > 5
    assert masked.lesion["Voxels"] == lesion.sum()
    assert masked.lesion["ContrastBefore"] > 1 and unmasked.lesion == {}


@pytest.mark.parametrize(
    ("lesion", "said"), [("all", "covers 100% of the brain"), ("shape", "resample it")]
)
def test_lesion_masks_that_cannot_be_meant_are_refused(lesion, said, brain, model):
    volume, mask = brain
    given = mask if lesion == "all" else mask[1:]
    with pytest.raises(InputError, match=said):
        harmonize(volume, mask, model, lesion=given, device="cpu")


def test_an_empty_lesion_mask_is_none(brain, model):
    volume, mask = brain
    result = harmonize(volume, mask, model, lesion=np.zeros_like(mask), device="cpu")
    assert result.lesion == {}
