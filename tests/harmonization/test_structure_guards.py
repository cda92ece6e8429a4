"""Guards of structure: silent on what harmonization is for, and not on damage of a known kind."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from bh_bids.harmonization.structure import FIGURES, structure_figures, structure_guards

SHAPE = (56, 64, 56)
AXES = np.ogrid[tuple(slice(n) for n in SHAPE)]
MASK = sum(((a - n / 2) / (0.42 * n)) ** 2 for a, n in zip(AXES, SHAPE, strict=True)) < 1


@pytest.fixture(scope="module")
def brain():
    """Three tissues in blobs of some voxels, with a little texture."""
    rng = np.random.default_rng(3)
    smooth = gaussian_filter(rng.standard_normal(SHAPE), 2.5)
    smooth /= smooth[MASK].std()
    tissue = np.where(smooth < -1, 0.25, np.where(smooth < 0.3, 0.6, 0.9))
    texture = gaussian_filter(rng.standard_normal(SHAPE), 1) * 0.03
    return np.where(MASK, gaussian_filter(tissue, 0.6) + texture, 0).astype(np.float32)


def place(radius, centre=(28, 36, 28)):
    return sum((a - c) ** 2 for a, c in zip(AXES, centre, strict=True)) < radius**2


def spoken(brain, result):
    return structure_guards(structure_figures(brain, np.where(MASK, result, 0), MASK))


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.floats(0.5, 2.0), st.floats(0.01, 100), st.floats(-0.25, 0.25))
def test_contrast_gain_and_field_are_no_loss(power, gain, slope):
    rng = np.random.default_rng(3)
    smooth = gaussian_filter(rng.standard_normal(SHAPE), 2.5)
    volume = np.where(MASK, 1 + 0.2 * smooth / smooth.std(), 0).clip(0).astype(np.float32)
    field = np.exp(slope * (AXES[1] / SHAPE[1] - 0.5))
    figures = structure_figures(volume, gain * field * volume**power, MASK)
    assert structure_guards(figures) == []


def test_nothing_done_is_nothing_lost(brain):
    figures = structure_figures(brain, brain, MASK)
    assert figures["EdgesLost"] == figures["EdgesInvented"] == figures["Difference"] == 0
    assert figures["LocalNCC"] == pytest.approx(1, abs=1e-5)
    assert figures["Stripes"] == pytest.approx(0, abs=1e-6)


def test_noise_that_was_taken_away_is_no_structure(brain):
    noise = 0.03 * np.random.default_rng(1).standard_normal(SHAPE)
    noisy = np.where(MASK, np.maximum(brain + noise, 0), 0).astype(np.float32)
    assert spoken(noisy, brain) == []


def flat(brain):
    return np.where(place(10), 0.9, brain)


def two_tissues_made_one(brain):
    return np.minimum(brain, 0.5)


def blurred(brain):
    return gaussian_filter(brain, 2.5)


def a_slice_made_flat(brain):
    result = brain.copy()
    result[:, :, 26:30] = 0.7
    return result


LOST = (flat, two_tissues_made_one, blurred, a_slice_made_flat)


@pytest.mark.parametrize("damage", LOST, ids=lambda damage: damage.__name__)
def test_lost_structure_is_told(damage, brain):
    assert any("lost" in guard for guard in spoken(brain, damage(brain)))


def folds(brain):
    texture = gaussian_filter(np.random.default_rng(5).standard_normal(SHAPE), 1.2)
    return np.where(place(12), 0.6 + 0.2 * texture / texture.std(), brain)


def another_brain(brain):
    return np.where(place(12), brain[::-1, ::-1], brain)


@pytest.mark.parametrize("damage", [folds, another_brain], ids=lambda damage: damage.__name__)
def test_invented_structure_is_told(damage, brain):
    assert any("invented" in guard for guard in spoken(brain, damage(brain)))


def test_a_new_lesion_is_a_change_of_fine_structure(brain):
    lesion = gaussian_filter(place(7).astype(float), 0.7)
    guards = spoken(brain, brain * (1 - 0.4 * lesion))
    assert any("Fine structure was changed" in guard for guard in guards)


def test_stripes_are_told(brain):
    gains = np.where(np.arange(SHAPE[2]) % 2, 1.1, 0.9)
    assert any("slice to slice" in guard for guard in spoken(brain, brain * gains))


@pytest.mark.parametrize("kind", ["flat", "tiny", "empty"])
def test_what_has_no_structure_has_no_figures(kind):
    mask = {"flat": MASK, "tiny": place(1), "empty": np.zeros_like(MASK)}[kind]
    volume = np.where(mask, 1, 0).astype(np.float32)
    figures = structure_figures(volume, volume, mask)
    assert set(figures) == set(FIGURES)
    assert structure_guards(figures) == []
