"""Distances of distributions, contrast ratios, overlap: against scipy, MONAI, hand-made cases."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bh_bids.errors import InputError
from bh_bids.evaluation import (
    contrast_ratios,
    dice,
    intensity_quantiles,
    iou,
    label_tissues,
    wasserstein,
)


def test_distance_is_that_of_scipy():
    from scipy.stats import wasserstein_distance

    rng = np.random.default_rng(0)
    a, b = rng.gamma(2, 0.2, 20_000), rng.normal(0.6, 0.2, 20_000)
    own, other = (intensity_quantiles(v, np.ones(v.shape, bool), 2049) for v in (a, b))
    assert wasserstein(own, other) == pytest.approx(wasserstein_distance(a, b), rel=2e-3)


def test_distance_of_a_shift_is_the_shift_and_of_a_gain_the_mean_times_it():
    values = np.linspace(0, 1, 257)
    assert wasserstein(values, values + 0.25) == pytest.approx(0.25)
    assert wasserstein(values, 1.5 * values) == pytest.approx(0.5 * values.mean())


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    arrays(np.float64, 33, elements=st.floats(0, 2)),
    arrays(np.float64, 33, elements=st.floats(0, 2)),
)
def test_distance_is_a_metric(a, b):
    a, b, c = np.sort(a), np.sort(b), np.linspace(0, 1, 33)
    assert wasserstein(a, b) == pytest.approx(wasserstein(b, a))
    assert wasserstein(a, a) == 0
    assert wasserstein(a, b) <= wasserstein(a, c) + wasserstein(c, b) + 1e-9


def test_unlike_numbers_of_quantiles_are_refused():
    with pytest.raises(InputError, match="equally many"):
        wasserstein([0, 1], [0, 0.5, 1])
    with pytest.raises(InputError, match="no voxel"):
        intensity_quantiles(np.ones((2, 2, 2)), np.zeros((2, 2, 2), bool))


@pytest.fixture
def phantom():
    """Three tissues with known means and spreads; volume, labels."""
    rng = np.random.default_rng(0)
    labels = np.zeros((30, 30, 30), np.uint8)
    labels[:, :, :5], labels[:, :, 5:17], labels[:, :, 17:27] = 1, 2, 3
    means, spreads = np.array([0, 0.2, 0.6, 0.9]), np.array([0, 0.04, 0.03, 0.04])
    noise = rng.standard_normal(labels.shape)
    return means[labels] + spreads[labels] * noise, labels


def test_ratios_of_known_tissues(phantom):
    found = contrast_ratios(*phantom)
    assert found["gm_wm"] == pytest.approx(0.6 / 0.9, rel=0.01)
    assert found["csf_wm"] == pytest.approx(0.2 / 0.9, rel=0.02)
    assert found["cnr"] == pytest.approx(0.3 / np.sqrt((0.03**2 + 0.04**2) / 2), rel=0.03)


def test_ratios_of_a_brain_without_white_matter_are_missing(phantom):
    volume, labels = phantom
    assert all(np.isnan(v) for v in contrast_ratios(volume, np.minimum(labels, 2)).values())


def test_tissues_are_told_by_intensity(phantom):
    volume, labels = phantom
    found = label_tissues(volume, labels > 0)
    assert (found == labels).mean() > 0.99
    assert (found[labels == 0] == 0).all()


def test_overlap_is_that_of_monai(phantom):
    import torch
    from monai.metrics import compute_dice, compute_iou

    labels = phantom[1]
    moved = np.roll(labels, 2, axis=2)
    one, other = (torch.from_numpy((v == 3)[None, None]).float() for v in (labels, moved))
    assert dice(labels, moved) == pytest.approx(float(compute_dice(other, one)))
    assert iou(labels, moved) == pytest.approx(float(compute_iou(other, one)))


def test_overlap_of_hand_made_labels():
    a, b = np.array([3, 3, 3, 0]), np.array([0, 3, 3, 3])
    assert dice(a, b) == pytest.approx(4 / 6) and iou(a, b) == pytest.approx(2 / 4)
    assert dice(a, b, label=1) != dice(a, b, label=1)  # NaN: neither holds it
    with pytest.raises(InputError, match="one grid"):
        iou(a, b[:3])
