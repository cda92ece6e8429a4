"""The constants of a target domain: stationary on its own scans, safe on disk, refused if bad."""

import numpy as np
import pytest
from safetensors.numpy import load, save

from bh_bids.comparators.histogram import histogram_match
from bh_bids.errors import InputError, ModelError
from bh_bids.mapping.calibration import COMPONENTS, Calibration, calibrate
from bh_bids.mapping.disturb import disturbed, other_anatomy
from bh_bids.mapping.field import field_spread, regional_shift, standard_field
from bh_bids.mapping.intensity import LEVELS, SHARES, brain_quantiles, map_between
from bh_bids.mapping.null_field import expected_field
from bh_bids.mapping.resolution import AXES, RINGS, blur_between, detail_spectrum
from bh_bids.mapping.ruler import ARRAYS, COLUMNS, SLOPES_SHARE, ContrastRuler, contrast_profile
from bh_bids.mapping.steady import Agreement, samples
from bh_bids.mapping.texture import texture_profile
from bh_bids.mapping.tissue import Surroundings, together, unevenness
from bh_bids.mapping.versions import ANATOMIES, DISTURBED


@pytest.fixture(scope="module")
def quantiles(domain):
    return np.stack([brain_quantiles(scan[domain.mask]) for scan in domain.scans])


def test_the_average_target_scan_is_left_alone(domain, quantiles):
    """Neither the mean field nor the quantiles of all scans ask for a change."""
    calibration, lattice = domain.calibration, domain.lattice
    together = np.concatenate([scan[domain.mask] for scan in domain.scans])
    np.testing.assert_allclose(
        calibration.quantiles[8:-8], brain_quantiles(together)[8:-8], rtol=5e-3
    )
    fields = [
        standard_field(lattice(s), lattice, calibration.histograms, calibration.quantiles)[0]
        for s in domain.scans
    ]
    inside = lattice(domain.mask)
    mean = np.mean(fields, axis=0) - calibration.null_field
    # (Each was compared with the others; here it is with all.)
    assert field_spread(mean, lattice, inside) < 0.002
    for field in fields:
        assert expected_field(field - calibration.null_field, calibration.null_covariance)[1] < 3


def test_unlikeness_is_1_on_average_over_target_scans(domain, quantiles, scan_maker):
    calibration = domain.calibration
    found = np.array([calibration.unlikeness(q) for q in quantiles])
    n = len(quantiles)
    expected = (COMPONENTS * (n - 1) / n + 1) / (COMPONENTS + 1)
    assert np.mean(found**2) == pytest.approx(expected, rel=1e-6)
    assert found.max() < 1.8
    fresh = [
        calibration.unlikeness(brain_quantiles(scan_maker(k)[domain.mask])) for k in range(40, 44)
    ]
    assert np.median(fresh) < 1.8


@pytest.mark.parametrize("exponent", [0.7, 1.4])
def test_another_contrast_is_unlike(domain, exponent):
    for scan in domain.scans[:3]:
        own = brain_quantiles(scan[domain.mask] ** exponent)
        assert domain.calibration.unlikeness(own) > 2.3


def test_what_is_unlike_in_no_principal_way_shows_in_the_rest(domain):
    calibration = domain.calibration
    odd = np.cos(9 * np.pi * np.linspace(0, 1, LEVELS))
    odd -= calibration.modes.T @ (calibration.modes @ odd)
    odd *= 6 * float(calibration.rest_sd) / np.sqrt(np.mean(odd**2))
    assert calibration.unlikeness(calibration.quantiles + odd) == pytest.approx(3.0)


def test_constants_survive_a_file_and_predict_the_same(domain):
    calibration = domain.calibration
    arrays = load(save(calibration.to_arrays()))
    again = Calibration.from_arrays(arrays)
    for name, array in calibration.to_arrays().items():
        np.testing.assert_array_equal(again.to_arrays()[name], array)
    profile = np.linspace(-1, 1, COLUMNS)
    np.testing.assert_array_equal(again.ruler.predict(profile), calibration.ruler.predict(profile))


def test_constants_that_are_damaged_are_refused(domain):
    arrays = domain.calibration.to_arrays()
    for name in ("null_covariance", "ruler_gain"):
        for bad in (np.nan, np.inf):
            broken = {**arrays, name: np.full_like(arrays[name], bad)}
            with pytest.raises(ModelError, match=f"'{name}'.*NaN or infinity"):
                Calibration.from_arrays(broken)


def test_constants_of_another_version_are_none(domain):
    """A model with them loads, and can be calibrated again."""
    arrays = domain.calibration.to_arrays()
    missing = {k: v for k, v in arrays.items() if k != "spectrum"}
    less = {**arrays, "null_covariance": arrays["null_covariance"][:-1, :-1]}
    for other in (missing, less, {**arrays, "more": np.zeros(1)}):
        assert Calibration.from_arrays(other) is None


def test_too_few_scans_are_refused_and_few_are_enough(domain):
    with pytest.raises(InputError, match="3 scans are too few.*at least 4"):
        calibrate(lambda: iter(domain.scans[:3]), domain.mean, domain.voxel)
    said = []
    few = calibrate(lambda: iter(domain.scans[:4]), domain.mean, domain.voxel, said.append)
    # Two sentences on what it does, and one for each scan whose texture is looked at.
    assert len(said) == 6
    arrays = few.to_arrays()
    assert Calibration.from_arrays(arrays) is not None
    # Those of versions of bh-bids that looked at other columns of texture, at one blur for all, or
    # at other brightnesses.
    for older in (
        {"ruler_centre": np.zeros(COLUMNS + 16)},
        {"detail": np.zeros(RINGS)},
        {"local_contrast": np.zeros(8)},
    ):
        assert Calibration.from_arrays({**arrays, **older}) is None
    # A scan it has not seen is not called another scanner's for want of deviations to know it by.
    own = brain_quantiles(domain.scans[6][domain.mask])
    assert few.unlikeness(own) < 6
    assert few.unlikeness(own**0.5) > 2 * few.unlikeness(own)


def test_blur_is_usual_against_the_other_scans(domain):
    calibration, mask = domain.calibration, domain.mask
    spectra = [
        detail_spectrum(map_between(brain_quantiles(scan[mask]), calibration.quantiles)(scan), mask)
        for scan in domain.scans
    ]
    assert calibration.null_blur.shape == (len(spectra), AXES)
    for k, spectrum in enumerate(spectra):
        others = np.mean([other for i, other in enumerate(spectra) if i != k], axis=0)
        found = blur_between(spectrum, others)
        np.testing.assert_allclose(calibration.null_blur[k], found, atol=1e-6)


def test_local_contrast_is_usual_against_the_other_scans(domain):
    calibration, surroundings = domain.calibration, Surroundings(domain.mask)
    found = []
    for scan in domain.scans:
        match = map_between(brain_quantiles(scan[domain.mask]), calibration.quantiles)
        matched = match(scan)[surroundings.box]
        found.append(surroundings.local_contrast(matched, surroundings.mean(matched)))
    np.testing.assert_allclose(together(found)[0], calibration.local_contrast, atol=1e-9)
    for k, own in enumerate(found):
        left = unevenness(*own, together(found[:k] + found[k + 1 :])[0])
        # Where each shows much the same of every brightness.
        assert calibration.null_unevenness[k] == pytest.approx(left, rel=0.15)


def test_where_the_ruler_is_silent_the_map_is_the_histogram_match(domain, scan_maker):
    """Of the quantiles that the model describes its target by; but for the ends."""
    scans, mask = domain.scans[:4], domain.mask
    together = np.concatenate([scan[mask] for scan in scans])
    pooled = np.quantile(together, np.linspace(0, 1, 257)) * 1.03
    known = calibrate(lambda: iter(scans), domain.mean, domain.voxel, pooled=pooled)
    inner = slice(8, -8)
    np.testing.assert_allclose(
        known.quantiles[inner], np.quantile(together * 1.03, SHARES)[inner], atol=1e-3
    )
    assert (np.diff(known.quantiles) >= 0).all() and known.quantiles[-1] < pooled[-1]
    source = 700 * scan_maker(50) ** 0.7
    matched = map_between(brain_quantiles(source[mask]), known.quantiles)(source)
    other = histogram_match(source, mask, pooled)
    low, high = np.quantile(source[mask], (0.03, 0.97))
    most = mask & (source > low) & (source < high)
    np.testing.assert_allclose(matched[most], other[most], atol=2e-3)


def test_scans_are_asked_for_one_at_a_time(domain):
    """They need not be in memory together."""
    asked = []

    def volumes():
        asked.append(0)
        for scan in domain.scans[:5]:
            asked[-1] += 1
            yield scan

    calibrate(volumes, domain.mean, domain.voxel)
    assert asked and all(count == 5 for count in asked)


def test_own_spread_is_that_of_the_scans_about_the_usual(domain, quantiles):
    calibration = domain.calibration
    of_logs = np.log(quantiles / calibration.quantiles)
    spread = calibration.own_spread
    assert spread.shape == (len(quantiles), LEVELS)
    np.testing.assert_allclose(spread.T @ spread, of_logs.T @ of_logs / len(quantiles), atol=1e-9)


def test_the_rulers_arrays_have_their_shapes(domain):
    calibration = domain.calibration
    assert calibration.sharpness.shape == (2,) and calibration.sharpness[1] > 0
    assert calibration.ruler_centre.shape == (COLUMNS,)
    components = len(calibration.ruler_limit)
    assert calibration.ruler_weights.shape == (COLUMNS, components)
    assert calibration.ruler_modes.shape == (components, LEVELS)


def test_the_rulers_error_is_that_of_scans_it_was_not_fitted_to(domain, quantiles):
    """By hand, a ruler for each scan left out in all its versions."""
    pooled, profiles, deviations = domain.calibration.quantiles, [], []
    lattice, histograms = domain.lattice, domain.calibration.histograms
    seen = [samples(scan, domain.mask, lattice) for scan in domain.scans]
    for k, scan in enumerate(domain.scans):
        rng = np.random.default_rng(k)
        places = Agreement(seen[:k] + seen[k + 1 :]).places()
        versions = [(scan, scan, domain.mask)]
        for _ in range(DISTURBED):
            truth, mask = other_anatomy(scan, domain.mask, domain.voxel, rng)
            versions.append((truth, disturbed(truth, mask, rng), mask))
        profiles.append([])
        deviations.append([])
        for truth, volume, mask in versions:
            inside = lattice(truth) > 0
            usual = pooled + regional_shift(inside, lattice, histograms, len(domain.scans))[0]
            usual = np.maximum.accumulate(usual)
            match = map_between(brain_quantiles(volume[mask]), usual)
            matched = np.where(mask, match(volume), 0)
            profiles[-1].append(contrast_profile(matched, mask, pooled, lattice, places)[0])
            own = brain_quantiles(truth[mask]) - usual
            deviations[-1].append(np.interp(pooled, usual, own))
    profiles, deviations = np.array(profiles), np.array(deviations)
    left = []
    for k in range(len(profiles)):
        others = [i for i in range(len(profiles)) if i != k]
        ruler = ContrastRuler(profiles[others], deviations[others])
        left.append(deviations[k] - ruler.predict(profiles[k]))
    left = np.stack(left)
    calibration = domain.calibration
    error = np.sqrt(np.mean(left**2))
    assert float(calibration.ruler_error) == pytest.approx(error)
    # What it leaves of logarithms, asked as far as a deviation is beyond 1.3 of its errors.
    told = deviations - left
    asked = np.maximum(0, 1 - (1.3 * error) ** 2 / np.mean(told**2, axis=-1, keepdims=True))
    expected = np.maximum.accumulate(pooled + asked * told, axis=-1)
    of_logs = np.log((pooled + deviations) / expected).reshape(-1, LEVELS)
    spread = calibration.told_spread
    assert spread.shape == (32, LEVELS)
    np.testing.assert_allclose(
        spread.T @ spread, of_logs.T @ of_logs / len(of_logs), atol=0.01 * of_logs.var()
    )
    assert float(calibration.ruler_gain) == pytest.approx(
        1 - np.mean(left**2) / np.mean(deviations**2)
    )
    # Of the scans that it was fitted to a ruler explains more: that is not the share it has.
    own = np.stack([ContrastRuler(profiles, deviations).predict(p) for p in profiles])
    assert 1 - np.mean((deviations - own) ** 2) / np.mean(deviations**2) > 0.1 + float(
        calibration.ruler_gain
    )
    # Of the scans as they are.
    left = left[:, 0]
    size = np.linalg.svd(left, compute_uv=False)[0] / np.sqrt(len(left) - 1)
    np.testing.assert_allclose(calibration.told_sd, [size])
    rest = left - left @ calibration.told_modes.T @ calibration.told_modes
    assert float(calibration.told_rest) == pytest.approx(np.sqrt(np.mean(rest**2)))


@pytest.fixture
def asks(domain):
    """Stands for a flow's slopes: the texture, which tells more of scans that are undisturbed."""
    return lambda matched, mask: texture_profile(matched, mask, domain.calibration.quantiles)[0]


def test_without_a_flow_that_can_be_asked_there_are_no_slopes(domain):
    assert domain.calibration.slopes is None
    assert domain.calibration.both_error.size == 0


def test_slopes_that_tell_nothing_are_not_kept(domain):
    """70 % of what the ruler says would be replaced by nothing."""
    rng = np.random.default_rng(0)
    asked = calibrate(
        lambda: iter(domain.scans), domain.mean, domain.voxel, slopes=lambda *_: rng.random(10)
    )
    assert asked.slopes is None and asked.both_error.size == 0


def test_what_slopes_and_ruler_leave_is_told_of_scans_they_were_not_fitted_to(domain, asks):
    """By hand, of scans as they are and with other anatomies, that no scanner has disturbed."""
    plain = domain.calibration
    asked = calibrate(lambda: iter(domain.scans), domain.mean, domain.voxel, slopes=asks)
    for name, array in plain.to_arrays().items():
        if not name.startswith(("slopes_", "both_")):
            np.testing.assert_array_equal(asked.to_arrays()[name], array)
    lattice, pooled = domain.lattice, plain.quantiles
    seen = [samples(scan, domain.mask, lattice) for scan in domain.scans]

    def look(truth, volume, mask, places):
        inside = lattice(truth) > 0
        shift = regional_shift(inside, lattice, plain.histograms, len(domain.scans))[0]
        usual = np.maximum.accumulate(pooled + shift)
        match = map_between(brain_quantiles(volume[mask]), usual)
        matched = np.where(mask, match(volume), 0)
        profile = contrast_profile(matched, mask, pooled, lattice, places)[0]
        own = np.interp(pooled, usual, brain_quantiles(truth[mask]) - usual)
        return profile, own, asks(matched, mask)

    versions, clean = [], []
    for k, scan in enumerate(domain.scans):
        rng = np.random.default_rng(k)
        places = Agreement(seen[:k] + seen[k + 1 :]).places()
        versions.append([look(scan, scan, domain.mask, places)])
        clean.append([versions[-1][0]])
        for number in range(DISTURBED):
            truth, mask = other_anatomy(scan, domain.mask, domain.voxel, rng)
            versions[-1].append(look(truth, disturbed(truth, mask, rng), mask, places))
            if number < ANATOMIES:
                clean[-1].append(look(truth, truth, mask, places))
    profiles, deviations = (np.array([[v[i] for v in s] for s in versions]) for i in (0, 1))
    shown, own, slopes = (np.array([[v[i] for v in s] for s in clean]) for i in (0, 1, 2))
    left = []
    for k in range(len(clean)):
        others = [i for i in range(len(clean)) if i != k]
        first = ContrastRuler(profiles[others], deviations[others]).predict(shown[k])
        second = ContrastRuler(slopes[others], own[others]).predict(slopes[k])
        left.append(own[k] - (1 - SLOPES_SHARE) * first - SLOPES_SHARE * second)
    left = np.array(left)
    assert float(asked.both_error) == pytest.approx(np.sqrt(np.mean(left**2)))
    ruler = ContrastRuler(slopes, own)
    for name in ARRAYS:
        np.testing.assert_allclose(getattr(asked.slopes, name), ruler.arrays[name])
    # Stationary: of the target's own scans, together, no change is asked.
    np.testing.assert_allclose(
        (own - ruler.predict(slopes)).mean(axis=(0, 1)), 0, atol=0.1 * np.abs(own).mean()
    )
    again = Calibration.from_arrays(load(save(asked.to_arrays())))
    np.testing.assert_array_equal(again.slopes.predict(slopes[0]), ruler.predict(slopes[0]))
