"""Changed anatomy, and the cases made of it, against geometry that is known."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, label

from bh_bids.errors import InputError
from bh_bids.evaluation.tissue import tissue_modes
from bh_bids.simulation.cases import CASES, RANDOM_CASES, make_case
from bh_bids.simulation.gaps import apply_gap
from bh_bids.simulation.pathology import (
    BRIGHT,
    DARK,
    add_lesions,
    cut_field_of_view,
    enlarge_ventricles,
    ventricles,
)

RADIUS = 7.0


def test_ventricles_are_the_ball_in_the_middle_alone(layered_head):
    volume, mask, from_centre = layered_head()
    found = ventricles(volume, mask)
    ball = from_centre < RADIUS
    assert (found & ball).sum() > 0.9 * ball.sum()
    assert not found[from_centre > RADIUS + 1.5].any()


def test_a_brain_without_ventricles_is_refused(layered_head):
    volume, mask, from_centre = layered_head()
    volume[from_centre < 20] = 0.9
    with pytest.raises(InputError, match="No ventricles"):
        ventricles(volume, mask)


@pytest.mark.parametrize("growth", [0.0, 2.0, 4.0])
def test_a_ball_grows_by_what_is_asked(growth, layered_head):
    volume, mask, from_centre = layered_head(texture=0)
    made = enlarge_ventricles(volume, mask, growth=growth, reach=14)
    fluid = (made < 0.54) & (from_centre < 16)
    radius = (3 * fluid.sum() / (4 * np.pi)) ** (1 / 3)
    assert radius == pytest.approx(RADIUS + growth, abs=0.6)
    assert label(fluid)[1] == 1
    far = from_centre > RADIUS + 16
    assert np.array_equal(made[far], volume[far])
    assert made.min() >= volume.min() and made.max() <= volume.max()


def test_enlarging_folds_nothing(layered_head):
    """A ramp outwards stays a ramp: intensities still rise along every ray."""
    volume, mask, from_centre = layered_head(texture=0)
    ramp = np.where(from_centre < RADIUS, 0.2, 0.6 + 0.01 * from_centre)
    ramp = np.where(mask & (volume < 0.4) & (from_centre > 15), 0.3, ramp).astype(np.float32) * mask
    made = enlarge_ventricles(ramp, mask, growth=4, reach=14)
    ray = made[32, 40, 36 + 13 : 36 + 22]
    assert (np.diff(ray) > 0).all()
    with pytest.raises(InputError, match="less than a third"):
        enlarge_ventricles(ramp, mask, growth=5, reach=14)


@pytest.mark.parametrize("share", [0.1, 0.25])
def test_the_field_of_view_ends_at_a_share_of_the_brain(share, layered_head):
    _, mask, _ = layered_head()
    kept = cut_field_of_view(mask, share)
    lost = mask & ~kept
    assert lost.any(axis=(0, 1)).nonzero()[0].max() < kept.any(axis=(0, 1)).nonzero()[0].min()
    thickest = mask.sum(axis=(0, 1)).max() / mask.sum()
    assert share - thickest <= lost.sum() / mask.sum() <= share


@pytest.mark.parametrize("seed", range(3))
def test_lesions_lie_in_white_matter_and_have_their_contrast(seed, layered_head):
    volume, mask, _ = layered_head()
    white = tissue_modes(volume, mask)["WM"]
    made, labels = add_lesions(volume, mask, seed=seed, diameters=(5, 12))
    assert set(np.unique(labels)) == {0, 1, 2, 3, 4}
    for number, (gain, diameter) in enumerate(
        zip((DARK, BRIGHT, DARK, BRIGHT), np.linspace(12, 5, 4), strict=True), start=1
    ):
        lesion = labels == number
        assert lesion.sum() == pytest.approx(np.pi * diameter**3 / 6, rel=0.25)
        middle = tuple(np.round(np.mean(np.nonzero(lesion), axis=1)).astype(int))
        assert made[middle] == pytest.approx(gain * white, abs=0.02)
        assert np.median(volume[lesion]) == pytest.approx(white, abs=0.03)
    away = gaussian_filter((labels > 0).astype(float), 1) < 1e-3
    assert np.abs(made - volume)[away].max() < 0.02
    assert not labels[~mask].any()


def test_every_case_has_its_truth_source_and_mask(layered_head):
    volume, mask, _ = layered_head()
    for gap in CASES:
        one, same, other = (make_case(gap, volume, mask, seed=s) for s in (1, 1, 2))
        for part in (one.truth, one.source):
            assert part.shape == volume.shape and part.dtype == np.float32
            assert np.isfinite(part).all() and not part[~one.mask].any()
        assert one.source.tobytes() == same.source.tobytes()
        assert (gap in RANDOM_CASES) != np.array_equal(one.source, other.source), gap
        assert (one.lesion is not None) == (gap == "lesion")
        changed = gap in ("ventricles", "lesion", "finer")
        assert changed != np.array_equal(one.truth, np.where(one.mask, volume, 0)), gap
        assert (gap == "fov") != np.array_equal(one.mask, mask), gap


def test_a_finer_scan_has_more_detail_along_foot_head_alone(layered_head):
    """What a blur leaves of a wave, 1 - g, is what is added, 4 times; inside, away from edges."""
    _, mask, _ = layered_head()
    inside = gaussian_filter(mask.astype(float), 3) > 1 - 1e-4
    for axis, frequency in ((2, 0.2), (2, 0.1), (0, 0.2)):
        place = np.indices(mask.shape)[axis]
        wave = np.where(mask, 0.5 + 0.05 * np.cos(2 * np.pi * frequency * place), 0)
        truth = make_case("finer", wave.astype(np.float32), mask).truth
        taken = (1 - np.exp(-2 * (np.pi * frequency * 0.8) ** 2)) * (axis == 2)
        expected = 0.5 + (1 + 4 * taken) * (wave - 0.5)
        np.testing.assert_allclose(truth[inside], expected[inside], atol=2e-3)


def test_another_truth_is_seen_through_gamma(layered_head):
    volume, mask, _ = layered_head()
    for gap in ("ventricles", "fov", "lesion", "finer"):
        case = make_case(gap, volume, mask, seed=3)
        assert np.allclose(case.source[case.mask], case.truth[case.mask] ** 0.7, atol=1e-5)
    plain = make_case("scanner", volume, mask, seed=3)
    assert np.array_equal(plain.source, apply_gap("scanner", volume, mask, seed=3))
    untouched = make_case("none", volume, mask)
    assert np.array_equal(untouched.source, volume)
    assert untouched.source is not untouched.truth


def test_unknown_cases_and_unlike_shapes_are_refused(layered_head):
    volume, mask, _ = layered_head()
    with pytest.raises(InputError, match="no simulated gap 'venus'.*lesion"):
        make_case("venus", volume, mask)
    with pytest.raises(InputError, match="mask"):
        make_case("none", volume, mask[1:])
    with pytest.raises(InputError, match="equal"):
        add_lesions(np.ones(mask.shape, np.float32), mask)
