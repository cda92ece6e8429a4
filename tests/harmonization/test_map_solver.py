"""The method "map" on a small target domain: what it leaves alone, undoes, records and refuses."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.ndimage import fourier_gaussian, gaussian_filter

from bh_bids.errors import InputError, ModelError
from bh_bids.evaluation.similarity import psnr
from bh_bids.flow.config import FlowConfig
from bh_bids.flow.network import TargetFlow
from bh_bids.harmonization import gates, harmonize, harmonize_together, stages
from bh_bids.harmonization.denoise import FlowDenoiser
from bh_bids.harmonization.gates import ramp
from bh_bids.harmonization.slices import SliceBox
from bh_bids.mapping.calibration import calibrate
from bh_bids.mapping.disturb import NOISE
from bh_bids.mapping.field import (
    WHOLE,
    Lattice,
    field_spread,
    find_field,
    log_field,
    orders,
    regional_shift,
)
from bh_bids.mapping.intensity import SHARES, TAIL, brain_quantiles, map_between
from bh_bids.mapping.null_field import expected_field
from bh_bids.mapping.ruler import SLOPES_SHARE, contrast_profile
from bh_bids.mapping.texture import texture_profile
from bh_bids.mapping.tissue import Surroundings, unevenness

SHAPE, SCALE = (36, 44, 36), 1000.0
MASK = sum(a**2 for a in np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")) < 0.8
ALL = ("mask", "previous", "mean", "noise")


def make_scan(seed):
    """One participant in target units: shared and own anatomy, own contrast."""
    rng = np.random.default_rng(seed)

    def smooth(key, width):
        noise = gaussian_filter(np.random.default_rng(key).normal(size=SHAPE), width)
        return noise / noise.std()

    anatomy = 0.9 * smooth(0, 3.0) + 0.5 * smooth(100 + seed, 2.0)
    level = 0.3 + rng.normal(0.28, 0.015) / (1 + np.exp(-(anatomy + 0.7) / 0.15))
    level += rng.normal(0.27, 0.015) / (1 + np.exp(-(anatomy - 0.4) / 0.15))
    volume = np.where(MASK, level + 0.004 * rng.normal(size=SHAPE), 0)
    return (volume / np.quantile(volume[MASK], 0.99)).astype(np.float32)


def make_domain(scans):
    mean = np.mean(scans, axis=0)
    calibration = calibrate(lambda: iter(scans), mean, (4.0, 4.0, 4.0))
    return SimpleNamespace(scans=scans, mean=mean, calibration=calibration)


@pytest.fixture(scope="module")
def domain():
    return make_domain([make_scan(seed) for seed in range(10)])


def make_model(domain, conditions=ALL, **changes):
    config = FlowConfig(
        levels=2, steps=1, hidden_channels=4, blocks=1, bins=4, conditions=conditions,
        slice_shape=SHAPE[:2], slices=SHAPE[2], voxel_size=(4.0, 4.0, 4.0),
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        flow = TargetFlow(config)
        with torch.no_grad():
            for parameter in flow.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    model = SimpleNamespace(
        name="small",
        space=config.space,
        config=config,
        flow=flow.eval().requires_grad_(False),
        mean=domain.mean,
        intensity={"TargetScale": SCALE},
        calibration=replace(domain.calibration, **changes),
    )
    model.to = lambda device: model
    return model


@pytest.fixture(scope="module")
def model(domain):
    torch.set_num_threads(1)
    return make_model(domain)


def solve(volume, model, **parameters):
    return harmonize(volume, MASK, model, method="map", device="cpu", **parameters)


def a_field(spread=0.15, seed=0):
    lattice = Lattice(SHAPE, (4.0, 4.0, 4.0))
    rng = np.random.default_rng(seed)
    field = np.array([rng.normal() / sum(o) ** 1.5 for o in orders()])
    return log_field(field * (spread / field_spread(field, lattice, lattice(MASK))), SHAPE)


def noisy(volume, sigma, seed=0):
    noise = sigma * np.random.default_rng(seed).normal(size=SHAPE)
    return np.where(MASK, np.maximum(volume + noise, 0), 0).astype(np.float32)


@pytest.fixture
def set_noise(monkeypatch):
    """Make the flow find a given level of noise."""

    def setter(sigma):
        monkeypatch.setattr(FlowDenoiser, "noise_level", lambda self, stack: sigma)

    return setter


STAGES = ("Bias", "Resolution", "Tissue", "Contrast", "Noise")


# What is like the target's stays as it is.


def test_target_scans_are_left_as_they_are(domain, model):
    for k in range(4):
        result = solve(321.0 * domain.scans[k], model, flow="gaussian")
        assert not any(result.decisions[stage]["Applied"] for stage in STAGES)
        assert result.mapping.coefficients is None
        np.testing.assert_allclose(result.volume, SCALE * domain.scans[k], atol=1e-5 * SCALE)
    scan = make_scan(21)
    result = solve(scan, model, flow="gaussian")
    assert psnr(scan, result.volume / SCALE, MASK) > 40


def test_gain_of_the_source_does_not_matter(model):
    source = noisy(make_scan(22) ** 0.7 * np.exp(a_field()), 0.01)
    one, shifted, other = (solve(k * source, model) for k in (1.0, 4096.0, 1234.5))
    assert one.decisions["Bias"]["Applied"] and one.decisions["Contrast"]["Applied"]
    assert shifted.volume.tobytes() == one.volume.tobytes()
    assert shifted.decisions == one.decisions
    # But for rounding: a voxel at a bin's edge may fall into the next one.
    apart = np.abs(other.volume - one.volume)[MASK] / SCALE
    assert np.quantile(apart, 0.999) < 6e-4 and apart.max() < 0.01
    assert other.decisions["Noise"] == one.decisions["Noise"]


def test_same_input_same_bytes_whatever_the_batches(model, set_noise):
    set_noise(0.02)
    source = noisy(make_scan(23) ** 1.4 * np.exp(a_field()), 0.02)
    first, second, apart = (solve(source, model, batch_slices=k) for k in (8, 8, 3))
    assert first.volume.tobytes() == second.volume.tobytes()
    assert first.trace == second.trace and first.decisions == second.decisions
    np.testing.assert_allclose(apart.volume, first.volume, atol=1e-4 * SCALE)


def test_the_order_of_slices_does_not_matter(domain, model):
    """A target domain upside down gives the same result upside down; only a flow that is told the
    slice below, and blocks that begin at the grid's corner, know where down is."""

    def turned(volume):
        return np.ascontiguousarray(volume[:, :, ::-1])

    upside_down = make_model(make_domain([turned(scan) for scan in domain.scans]))
    source = noisy(make_scan(27) ** 0.6, 0.03)
    result = solve(source, model, flow="gaussian", bias=False)
    other = solve(turned(source), upside_down, flow="gaussian", bias=False)
    assert result.decisions["Noise"]["Applied"] and result.decisions["Contrast"]["Weight"] == 1
    np.testing.assert_allclose(turned(other.volume), result.volume, atol=1e-5 * SCALE)


def test_stages_and_decisions_are_told(model, set_noise):
    set_noise(0.02)
    told = []
    source = noisy(make_scan(24) ** 0.6 * np.exp(a_field()), 0.02)
    result = solve(source, model, ruler=True, progress=lambda *record: told.append(record))
    assert [r["stage"] for r in result.trace] == ["source", "field", "contrast", "noise"]
    assert all(np.isfinite([r["ncc"], r["latent"], r["bits_per_dim"]]).all() for r in result.trace)
    assert result.iterations == 3 and result.converged
    assert any("slices" in record for _, _, record in told)
    again = json.loads(json.dumps(result.decisions))
    assert set(again) == {"Bias", "Contrast", "Coverage", "Noise", "Resolution", "Tissue"}
    assert again["Noise"] == {
        "Applied": True,
        "Sigma": 0.02,
        "UsualSigma": gates.NOISY,
        "Judge": "model",
    }
    assert set(again["Bias"]) == {"Applied", "Weight", "Evidence", "UsualEvidence", "Spread"}
    assert again["Bias"]["Evidence"] > again["Bias"]["UsualEvidence"] == gates.FIELD[0]
    assert again["Bias"]["Spread"] == pytest.approx(0.15 / 0.6, abs=0.08)
    assert again["Contrast"]["Unlikeness"] > 2.3
    assert set(again["Contrast"]["Ruler"]) == {
        "Weight",
        "Distance",
        "Sharpness",
        "Deviation",
        "Share",
        "TooNoisy",
        "Evened",
    }


# What the mapping is.


@pytest.mark.parametrize("bias", [True, False])
def test_without_denoising_the_result_is_the_mapping(model, bias):
    source = make_scan(25) ** 0.7 * np.exp(a_field())
    result = solve(source, model, noise=False, bias=bias)
    assert (result.mapping.coefficients is not None) == bias
    mapped = result.mapping(result.scaled_source, result.mapping.log_field())
    np.testing.assert_allclose(result.volume / SCALE, np.where(MASK, mapped, 0), atol=1e-6)
    assert not result.volume[~MASK].any() and (result.volume >= 0).all()


def test_without_ruler_and_division_it_is_a_histogram_match(domain, model):
    source = make_scan(26) ** 0.6
    result = solve(source, model, ruler=False, division=False, bias=False, noise=False)
    assert result.decisions["Contrast"]["Weight"] == 1
    assert result.decisions["Contrast"]["Ruler"]["Reason"] == "switched off"
    assert result.decisions["Contrast"]["Division"]["Reason"] == "switched off"
    found = np.quantile(result.volume[MASK] / SCALE, SHARES)
    np.testing.assert_allclose(found, domain.calibration.quantiles, atol=2e-3)


def test_the_division_brings_participants_never_seen_nearer_to_themselves(domain, model):
    """Against a histogram match: better in the mean, and nobody much worse."""
    gains = []
    for seed in range(20, 32):
        truth = make_scan(seed)
        matched, divided = (
            solve(500 * truth**0.6, model, ruler=False, bias=False, flow="identity", division=on)
            for on in (False, True)
        )
        assert "Reason" not in divided.decisions["Contrast"]["Division"]
        gains.append(
            psnr(truth, divided.volume / SCALE, MASK) - psnr(truth, matched.volume / SCALE, MASK)
        )
    assert np.mean(gains) > 0.5 and min(gains) > -0.6 and max(gains) > 2


def test_the_ruler_moves_the_quantiles_as_it_predicts(domain):
    model = make_model(
        domain,
        ruler_gain=np.asarray(0.5),
        ruler_error=np.asarray(1e-6),
        ruler_weights=4 * domain.calibration.ruler_weights,
        sharpness=domain.calibration.sharpness * [1, 20],
    )
    source = make_scan(27) ** 0.6
    result = solve(source, model, ruler=True, division=False, bias=False, flow="identity")
    assert result.decisions["Contrast"]["Ruler"]["Weight"] == 1
    pooled = domain.calibration.quantiles
    matched = np.where(MASK, map_between(brain_quantiles(source[MASK]), pooled)(source), 0)
    lattice = Lattice(SHAPE, (4.0, 4.0, 4.0))
    profile, _ = contrast_profile(matched, MASK, pooled, lattice, model.calibration.steady)
    change = model.calibration.ruler.predict(profile)
    assert np.abs(change).max() > 0.005
    found = np.quantile(result.volume[MASK] / SCALE, SHARES)
    expected = np.maximum.accumulate(pooled + change)
    np.testing.assert_allclose(found[:-TAIL], expected[:-TAIL], atol=2e-3)


def test_a_field_is_taken_away(model):
    truth = make_scan(28)
    source = truth * np.exp(a_field())
    found, without = (solve(source, model, bias=b, noise=False).volume for b in (True, False))
    gain = psnr(truth, found / SCALE, MASK) - psnr(truth, without / SCALE, MASK)
    assert gain > 6


@pytest.mark.parametrize("exponent", [0.7, 1.4])
def test_a_change_of_contrast_is_undone(model, exponent):
    truth = make_scan(29)
    result = solve(truth**exponent, model, bias=False, noise=False)
    assert psnr(truth, result.volume / SCALE, MASK) > psnr(truth, truth**exponent, MASK) + 6


def with_grain(seed, blur=0.0):
    """A scan with fine detail, blurred by a Gaussian of so many voxels."""
    grain = gaussian_filter(np.random.default_rng(300 + seed).normal(size=SHAPE), 0.6)
    volume = make_scan(seed) + np.where(MASK, 0.03 * grain / grain.std(), 0)
    inside = fourier_gaussian(np.fft.fftn(MASK.astype(float)), blur)
    volume = fourier_gaussian(np.fft.fftn(volume), blur)
    # The empty background does not leak in.
    mean = np.fft.ifftn(volume).real / np.maximum(np.fft.ifftn(inside).real, 1e-3)
    return np.where(MASK, np.maximum(mean, 0), 0).astype(np.float32)


@pytest.fixture(scope="module")
def fine_domain():
    return make_domain([with_grain(seed) for seed in range(6)])


def test_a_blur_is_undone_before_the_contrast_is_judged(fine_domain, set_noise):
    set_noise(0.004)
    model = make_model(fine_domain)
    sharp, soft = with_grain(24), with_grain(24, blur=0.7)
    result, left = solve(soft, model), solve(soft, model, resolution=False)
    decision = result.decisions["Resolution"]
    assert decision["Applied"] and decision["Weight"] == 1
    # How exactly it is told is in tests/mapping/test_resolution.py; here the match bends it.
    assert 0.2 < min(decision["BlurAlongAxes"]) < max(decision["BlurAlongAxes"]) < 0.6
    assert decision["Blur"] == pytest.approx(np.linalg.norm(decision["BlurAlongAxes"]), abs=1e-3)
    assert left.decisions["Resolution"] == {"Applied": False, "Reason": "switched off"}
    stages = [record["stage"] for record in result.trace]
    assert stages.index("resolution") < stages.index("contrast")
    truth = sharp / np.quantile(sharp[MASK], 0.99)
    mended, kept = (psnr(truth, r.volume / SCALE, MASK) for r in (result, left))
    assert mended > kept + 1
    # That a scan is sharper now, its mapping does not say: the image does.
    mapped = np.where(MASK, result.mapping(result.scaled_source, result.mapping.log_field()), 0)
    assert np.abs(result.volume / SCALE - mapped).max() > 0.01
    assert not solve(sharp, model).decisions["Resolution"]["Applied"]


@pytest.mark.parametrize(
    ("factor", "weight"), [(1.49, 0), (1.51, 0.02), (1.75, 0.5), (1.99, 0.98), (2.01, 1)]
)
def test_the_resolutions_gate_opens_with_the_blur(fine_domain, set_noise, factor, weight):
    set_noise(0.004)
    soft = with_grain(24, blur=0.7)
    blur = solve(soft, make_model(fine_domain), bias=False).decisions["Resolution"]["Blur"]
    # What is sharper than the target's along an axis makes up for no blur along another.
    null = np.array([[0.6, 0.8, -2.0], [1.0, -1.0, 0.0]]) * blur / factor
    model = make_model(fine_domain, null_blur=null)
    decision = solve(soft, model, bias=False).decisions["Resolution"]
    assert decision["Weight"] == pytest.approx(weight, abs=5e-3)
    assert decision["Applied"] == (weight > 0)
    assert decision["UsualBlur"] == pytest.approx(blur / factor, abs=1e-3)


def test_target_scans_that_hardly_differ_do_not_open_the_resolutions_gate(fine_domain, set_noise):
    set_noise(0.004)
    model = make_model(fine_domain, null_blur=np.full((2, 3), 1e-9))
    decision = solve(with_grain(24), model, bias=False).decisions["Resolution"]
    assert decision["UsualBlur"] == gates.LEAST_BLUR and not decision["Applied"]


def test_of_a_noisy_scan_nothing_is_sharpened_or_evened(fine_domain, set_noise):
    set_noise(0.02)
    for volume in (with_grain(24, blur=0.7), by_tissue(with_grain(24))):
        decisions = solve(volume, make_model(fine_domain)).decisions
        for stage in ("Resolution", "Tissue"):
            assert decisions[stage] == {"Applied": False, "Reason": "too noisy"}


def by_tissue(volume, size=0.25):
    """A gain that is largest where the surroundings are of middling brightness."""
    weight = gaussian_filter(MASK.astype(np.float32), 1.0)
    mean = gaussian_filter(volume, 1.0) / np.maximum(weight, 1e-3)
    gain = np.exp(size * np.exp(-(((mean - 0.6) / 0.15) ** 2)))
    return np.where(MASK, volume * gain, 0).astype(np.float32)


def test_a_contrast_by_tissue_is_undone_before_the_contrast_is_judged(fine_domain, set_noise):
    set_noise(0.004)
    truth, model = with_grain(24), make_model(fine_domain)
    result, left = (solve(by_tissue(truth), model, tissue=b, bias=False) for b in (True, False))
    decision = result.decisions["Tissue"]
    assert decision["Applied"] and decision["Weight"] == 1
    # How exactly it is told is in tests/mapping/test_tissue.py.
    largest = decision["Brightness"][int(np.argmax(decision["LogGain"]))]
    assert largest == pytest.approx(0.6, abs=0.1)
    assert left.decisions["Tissue"] == {"Applied": False, "Reason": "switched off"}
    assert left.mapping.tissue_gain is None
    stages = [record["stage"] for record in result.trace]
    assert stages.index("tissue") < stages.index("contrast")
    truth = truth / np.quantile(truth[MASK], 0.99)
    mended, kept = (psnr(truth, r.volume / SCALE, MASK) for r in (result, left))
    assert mended > kept + 2.5
    # All of it is in the mapping: nothing is left to say of the image alone.
    mapped = result.mapping(result.scaled_source, result.mapping.log_field())
    np.testing.assert_allclose(result.volume / SCALE, np.where(MASK, mapped, 0), atol=1e-6)
    # Its texture is what was made of it.
    assert result.decisions["Contrast"]["Ruler"]["Evened"] == 1
    assert result.decisions["Contrast"]["Ruler"]["Weight"] == 0
    assert not solve(truth, model, bias=False).decisions["Tissue"]["Applied"]


def test_field_and_tissue_are_divided_out_together(fine_domain, set_noise):
    set_noise(0.004)
    source = by_tissue(with_grain(25)) * np.exp(a_field(0.2))
    result = solve(source, make_model(fine_domain))
    assert result.decisions["Bias"]["Applied"] and result.decisions["Tissue"]["Applied"]
    mapping = result.mapping
    field = log_field(mapping.coefficients, SHAPE) + mapping.tissue_gain
    np.testing.assert_allclose(mapping.log_field(), field, atol=1e-6)
    mapped = mapping(result.scaled_source, field)
    np.testing.assert_allclose(result.volume / SCALE, np.where(MASK, mapped, 0), atol=1e-6)


@pytest.mark.parametrize(
    ("factor", "weight"), [(1.99, 0), (2.01, 0.02), (2.25, 0.5), (2.49, 0.98), (2.51, 1)]
)
def test_the_tissues_gate_opens_with_the_unevenness(fine_domain, set_noise, factor, weight):
    set_noise(0.004)
    source = by_tissue(with_grain(24))
    whole = solve(source, make_model(fine_domain), bias=False)
    size = whole.decisions["Tissue"]["Unevenness"]
    model = make_model(fine_domain, null_unevenness=np.full(2, size / factor))
    result = solve(source, model, bias=False)
    decision = result.decisions["Tissue"]
    assert decision["Weight"] == pytest.approx(weight, abs=5e-3)
    assert decision["Applied"] == (weight > 0)
    assert decision["UsualUnevenness"] == pytest.approx(size / factor, abs=1e-3)
    assert result.decisions["Contrast"]["Ruler"]["Evened"] == decision["Weight"]
    if weight:
        share = decision["Weight"] * np.array(whole.decisions["Tissue"]["LogGain"])
        np.testing.assert_allclose(decision["LogGain"], share, atol=2e-4)
    else:
        assert result.mapping.tissue_gain is None


def test_target_scans_that_hardly_differ_do_not_open_the_tissues_gate(fine_domain, set_noise):
    set_noise(0.004)
    scan, around = with_grain(24), Surroundings(MASK)
    match = map_between(brain_quantiles(scan[MASK]), fine_domain.calibration.quantiles)
    matched = np.where(MASK, match(scan), 0)[around.box]
    own, share = around.local_contrast(matched, around.mean(matched))
    off = np.where(np.arange(own.size) % 2, 0.03, 0.0)
    off *= 0.04 / unevenness(own + off, share, own)
    usual = {"local_contrast": own + off, "null_unevenness": np.full(2, 1e-9)}
    decision = solve(scan, make_model(fine_domain, **usual), bias=False).decisions["Tissue"]
    assert decision["UsualUnevenness"] == gates.LEAST_UNEVEN
    assert decision["Unevenness"] == pytest.approx(0.04, abs=2e-3) and not decision["Applied"]


def test_noise_is_taken_away_by_the_gaussian(model):
    truth = make_scan(30)
    source = noisy(truth, 0.034)
    clean, kept = (
        solve(source, model, flow="gaussian", bias=False, noise=b) for b in (True, False)
    )
    assert clean.decisions["Noise"]["Applied"]
    assert clean.decisions["Noise"]["Sigma"] == pytest.approx(0.034, abs=0.01)
    assert "noise" not in {r["stage"] for r in kept.trace}
    # It is known all the same: what would spoil it, or be spoilt by it, is left out.
    assert kept.decisions["Noise"] == {
        **clean.decisions["Noise"],
        "Applied": False,
        "Reason": "switched off",
    }
    for stage in ("Resolution", "Tissue"):
        assert kept.decisions[stage] == {"Applied": False, "Reason": "too noisy"}
    assert psnr(truth, clean.volume / SCALE, MASK) > psnr(truth, kept.volume / SCALE, MASK) + 1


def test_noise_is_taken_away_by_the_flow(domain, model, set_noise):
    """By its denoiser, of the mapped; and then the brain has the expected histogram again."""
    set_noise(0.02)
    source = noisy(make_scan(31) ** 0.6, 0.02)
    result = solve(source, model, bias=False, ruler=False, division=False)
    assert result.decisions["Noise"] == {
        "Applied": True,
        "Sigma": 0.02,
        "UsualSigma": gates.NOISY,
        "Judge": "model",
    }
    mapped = np.where(MASK, result.mapping(result.scaled_source), 0).astype(np.float32)
    box = SliceBox(MASK, model.config.side_multiple)
    mask, mean, stack = (
        torch.from_numpy(box.extract(v.astype(np.float32))) for v in (MASK, domain.mean, mapped)
    )
    cleaned, _ = FlowDenoiser(model.flow, box, mask, mean).clean(stack, 0.02)
    cleaned = box.insert(cleaned.numpy())
    expected = map_between(brain_quantiles(cleaned[MASK]), domain.calibration.quantiles)(cleaned)
    np.testing.assert_allclose(result.volume[MASK] / SCALE, expected[MASK], atol=1e-5)
    assert np.abs(expected - mapped)[MASK].mean() > 1e-4


def test_slices_that_stay_noisy_are_named(model, set_noise, monkeypatch):
    set_noise(0.02)
    monkeypatch.setattr(FlowDenoiser, "clean", lambda self, stack, sigma, report: (stack, 3))
    result = solve(make_scan(32), model)
    assert any("could not denoise 3 slices" in g for g in result.guards)


# Gates at their thresholds.


def test_ramp():
    values = {1.0: 0, 1.8: 0, 2.05: 0.5, 2.3: 1, 9.0: 1}
    for value, expected in values.items():
        assert ramp(value, 1.8, 2.3) == pytest.approx(expected)


@pytest.mark.parametrize(("size", "weight"), [(0.0, 0), (0.03, None), (0.1, 1)])
def test_the_expected_field_is_divided_out_by_the_evidence_for_it(domain, size, weight):
    source = make_scan(33) * np.exp(a_field(size) if size else 0)
    model = make_model(domain)
    result = solve(source, model, noise=False)
    lattice, inside = _inside()
    calibration = domain.calibration
    values = lattice(np.where(MASK, result.scaled_source, 0))
    found, power = find_field(
        values, lattice, calibration.histograms, calibration.quantiles, calibration.null_field
    )
    field, evidence = expected_field(found, calibration.null_covariance)
    decision, expected = result.decisions["Bias"], ramp(evidence, *gates.FIELD)
    assert weight is None or expected == weight
    assert decision["Evidence"] == pytest.approx(evidence, abs=0.1)
    assert decision["Weight"] == pytest.approx(expected, abs=0.02)
    assert decision["Applied"] == (decision["Weight"] > 0)
    assert decision["Spread"] == pytest.approx(field_spread(field, lattice, inside), abs=1e-3)
    if decision["Weight"]:
        np.testing.assert_allclose(
            result.mapping.coefficients, decision["Weight"] / power * field, atol=1e-3
        )
    else:
        assert result.mapping.coefficients is None
    # Where anatomy feigns much, less is believed.
    less = solve(source, make_model(domain, null_covariance=100 * calibration.null_covariance))
    assert less.decisions["Bias"]["Evidence"] <= decision["Evidence"]


def _inside():
    lattice = Lattice(SHAPE, (4.0, 4.0, 4.0))
    return lattice, lattice(MASK)


def source_and_quantiles():
    """A scan of another contrast, its 99th percentile 1, and its brain's quantiles."""
    source = make_scan(34) ** 0.7
    source /= np.quantile(source[MASK], 0.99)
    return source, brain_quantiles(source[MASK])


@pytest.mark.parametrize(
    ("unlikeness", "weight"), [(1.79, 0), (1.81, 0.02), (2.05, 0.5), (2.29, 0.98), (2.31, 1)]
)
def test_the_contrasts_gate_opens_with_unlikeness(domain, unlikeness, weight):
    (source, own), calibration = source_and_quantiles(), domain.calibration
    factor = calibration.unlikeness(own) / unlikeness
    model = make_model(
        domain, mode_sd=factor * calibration.mode_sd, rest_sd=factor * calibration.rest_sd
    )
    result = solve(source, model, bias=False, noise=False, ruler=False, division=False)
    decision = result.decisions["Contrast"]
    assert decision["Unlikeness"] == pytest.approx(unlikeness, abs=2e-3)
    assert decision["Weight"] == pytest.approx(weight, abs=5e-3)
    assert decision["Applied"] == (weight > 0)
    expected = weight * calibration.quantiles + (1 - weight) * own
    np.testing.assert_allclose(result.mapping(own), expected, atol=3e-3)


@pytest.mark.parametrize(("unlikeness", "ceiling"), [(1.7, None), (2.05, 4.0), (2.4, 2.0)])
def test_nothing_is_made_brighter_than_any_target_brain(domain, unlikeness, ceiling):
    """Of a scan that keeps its contrast the vessels keep their brightness, of others in part."""
    source, _ = source_and_quantiles()
    vessels = source > np.quantile(source[MASK], 0.999)
    source[vessels] = 9.0
    own, calibration = brain_quantiles(source[MASK]), domain.calibration
    factor = calibration.unlikeness(own) / unlikeness
    model = make_model(
        domain, mode_sd=factor * calibration.mode_sd, rest_sd=factor * calibration.rest_sd
    )
    model.intensity = {**model.intensity, "Quantiles": [0.0, 1.0, 2.0]}
    result = solve(source, model, bias=False, noise=False, ruler=False, tissue=False)
    found = result.mapping.intensity_map.ceiling
    assert found == (None if ceiling is None else pytest.approx(ceiling, abs=0.1))
    np.testing.assert_allclose(result.volume[vessels] / SCALE, found or 9.0, rtol=1e-3)


@pytest.mark.parametrize(
    ("unlikeness", "weight"), [(1.59, 0), (1.61, 0.025), (1.8, 0.5), (1.99, 0.975), (2.01, 1)]
)
def test_with_the_ruler_the_gate_opens_with_what_it_leaves(domain, unlikeness, weight):
    (source, own), calibration = source_and_quantiles(), domain.calibration
    change = 0.03 * np.sin(np.linspace(0, np.pi, own.size))
    factor = calibration.unlikeness_told(own, calibration.quantiles + change) / unlikeness
    model = make_model(
        domain,
        ruler_gain=np.asarray(0.5),
        ruler_weights=0 * calibration.ruler_weights,
        ruler_offset=change,
        ruler_scale=100 * calibration.ruler_scale,
        sharpness=calibration.sharpness * [1, 20],
        told_sd=factor * calibration.told_sd,
        told_rest=factor * calibration.told_rest,
    )
    decision = solve(source, model, bias=False, flow="identity", ruler=True).decisions["Contrast"]
    assert decision["Ruler"]["Weight"] == 1
    assert decision["UsualUnlikeness"] == 1.6
    assert decision["Unlikeness"] == pytest.approx(unlikeness, abs=2e-3)
    assert decision["Weight"] == pytest.approx(weight, abs=6e-3)


@pytest.mark.parametrize(("sigma", "applied"), [(0.0119, False), (0.012, True)])
def test_noises_gate_opens_at_its_level(model, set_noise, sigma, applied):
    set_noise(sigma)
    result = solve(make_scan(35) ** 0.6, model, ruler=True, bias=False)
    assert result.decisions["Noise"]["Applied"] == applied
    assert ("noise" in {r["stage"] for r in result.trace}) == applied


@pytest.mark.parametrize(("sigma", "trusted"), [(NOISE, True), (NOISE + 1e-4, False)])
def test_the_ruler_speaks_of_no_noisier_scan_than_it_was_fitted_to(
    domain, set_noise, sigma, trusted
):
    set_noise(sigma)
    wide = {
        "ruler_gain": np.asarray(0.5),
        "ruler_scale": 100 * domain.calibration.ruler_scale,
        "sharpness": domain.calibration.sharpness * [1, 20],
    }
    result = solve(make_scan(35) ** 0.6, make_model(domain, **wide), ruler=True, bias=False)
    told = result.decisions["Contrast"]["Ruler"]
    assert (told["Weight"] > 0) == trusted and told["TooNoisy"] == (not trusted)


def test_the_ruler_is_trusted_only_where_it_knows_the_texture(domain):
    calibration = domain.calibration
    source = make_scan(36) ** 0.7
    trusted = {
        "ruler_gain": np.asarray(0.5),
        "ruler_scale": 1.5 * calibration.ruler_scale,
        "sharpness": calibration.sharpness * [1, 20],
    }

    def ruler(**changes):
        model = make_model(domain, **{**trusted, **changes})
        return solve(source, model, ruler=True, bias=False, flow="identity").decisions["Contrast"][
            "Ruler"
        ]

    near = ruler()
    assert near["Weight"] == 1 and near["Distance"] < 1.5
    for distance, weight in ((1.49, 1), (1.75, 0.5), (2.01, 0)):
        scale = trusted["ruler_scale"] * (near["Distance"] / distance)
        found = ruler(ruler_scale=scale)
        assert found["Distance"] == pytest.approx(distance, abs=0.01)
        assert found["Weight"] == pytest.approx(weight, abs=0.02)
    mean, deviation = trusted["sharpness"]
    level = mean + near["Sharpness"] * deviation
    for away, weight in ((2.9, 1), (4.0, 0.5), (5.1, 0)):
        found = ruler(sharpness=np.array([level + away, 1.0]))
        assert found["Sharpness"] == pytest.approx(-away, abs=0.01)
        assert found["Weight"] == pytest.approx(weight, abs=0.02)
    assert ruler(ruler_gain=np.asarray(0.0))["Weight"] == 0


def test_a_told_deviation_counts_where_it_is_beyond_the_rulers_error(domain):
    calibration = domain.calibration
    trusted = {
        "ruler_gain": np.asarray(0.5),
        "ruler_scale": 100 * calibration.ruler_scale,
        "ruler_offset": 0.03 * np.sin(np.linspace(0, np.pi, calibration.quantiles.size)),
        "sharpness": calibration.sharpness * [1, 20],
    }
    source = make_scan(36) ** 0.7
    change = trusted["ruler_offset"]
    size = np.sqrt(np.mean(change**2))
    for deviation in (0.9, 1.2, 1.7, 3.0):
        model = make_model(domain, **trusted, ruler_error=np.asarray(size / deviation))
        result = solve(source, model, ruler=True, division=False, bias=False, flow="identity")
        told = result.decisions["Contrast"]["Ruler"]
        assert told["Deviation"] == pytest.approx(deviation, abs=0.1)
        # Positive-part James-Stein: what is left is the more certain the larger it is.
        assert told["Share"] == pytest.approx(
            max(0, 1 - 1.15**2 / told["Deviation"] ** 2), abs=2e-3
        )
        got = brain_quantiles(result.mapping(source[source > 0]))
        expected = calibration.quantiles + told["Share"] * change
        np.testing.assert_allclose(got[20:-20], expected[20:-20], atol=5e-3)


# Switches, and what is refused.


def test_switches_switch_off(model):
    source = noisy(make_scan(37) ** 0.6 * np.exp(a_field()), 0.034)
    off = dict.fromkeys(("bias", "resolution", "tissue", "contrast", "noise"), False)
    result = solve(source, model, **off)
    for stage in ("Bias", "Resolution", "Tissue"):
        assert result.decisions[stage] == {"Applied": False, "Reason": "switched off"}
    assert not result.decisions["Contrast"]["Applied"]
    noise = result.decisions["Noise"]
    assert not noise["Applied"] and noise["Reason"] == "switched off"
    np.testing.assert_allclose(result.volume / SCALE, result.scaled_source, atol=1e-5)
    result = solve(source, model, flow="identity")
    assert result.decisions["Noise"] == {"Applied": False, "Reason": "no flow"}
    assert result.decisions["Bias"]["Applied"] and result.decisions["Contrast"]["Applied"]


@pytest.mark.parametrize("conditions", [(), ("mask", "mean")])
def test_a_flow_that_knows_no_noise_is_replaced_and_that_is_said(domain, conditions):
    result = solve(make_scan(38), make_model(domain, conditions), bias=False)
    assert any("Gaussian took its place" in g for g in result.guards)
    assert result.decisions["Noise"]["Judge"] == "gaussian"


def test_a_model_without_constants_is_refused(domain):
    model = make_model(domain)
    model.calibration = None
    with pytest.raises(ModelError, match="'small' lacks the constants.*bh-model calibrate.*paper"):
        solve(make_scan(39), model)


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        ({"bias": 1}, "bias must be true or false"),
        ({"ruler": "yes"}, "ruler must be true or false"),
        ({"division": 1}, "division must be true or false"),
        ({"flow": "wave"}, "one of model, gaussian, identity, not 'wave'"),
        ({"batch_slices": 0}, "batch_slices must be an integer"),
    ],
)
def test_parameters_out_of_range_are_refused(model, bad, sentence):
    with pytest.raises(InputError, match=sentence):
        solve(make_scan(40), model, **bad)


# Several scans of one head by one scanner share their map.


def visits(domain):
    """A head before and after a part of its brightest tissue turned grey, in another contrast."""
    first = domain.scans[0]
    bright = first > np.quantile(first[MASK], 0.7)
    bright[SHAPE[0] // 2 :] = False
    second = np.where(bright, 0.75 * first, first)
    return (first, second), [v**0.6 for v in (first, 1.7 * second)]


def together(volumes, model, **parameters):
    return harmonize_together(
        volumes, [MASK] * len(volumes), model, method="map", device="cpu", **parameters
    )


def test_one_scan_alone_is_harmonized_as_ever(domain, model):
    volume = noisy(domain.scans[0] ** 0.6, 0.03)
    (shared,) = together([volume], model)
    alone = solve(volume, model)
    assert shared.volume.tobytes() == alone.volume.tobytes()
    assert (shared.decisions, shared.trace) == (alone.decisions, alone.trace)


def test_scans_share_their_map_but_for_the_gain(domain, model):
    _, scans = visits(domain)
    first, second = together(scans, model, bias=False, noise=False)
    assert first.decisions["Contrast"]["Applied"] and second.decisions["Contrast"]["Applied"]
    levels = np.linspace(0, 1, 50)
    gains = [np.quantile(r.scaled_source[MASK], 0.99) for r in (first, second)]
    curves = [
        r.mapping.intensity_map(g * levels) for r, g in zip((first, second), gains, strict=True)
    ]
    np.testing.assert_allclose(*curves, atol=1e-6)
    for result in (first, second):
        np.testing.assert_array_equal(
            result.volume, result.mapping(result.scaled_source) * MASK * np.float32(SCALE)
        )


def test_what_differs_between_visits_stays_with_a_shared_map(domain, model):
    """A map for each makes their histograms alike; the truth is known."""
    (before, after), scans = visits(domain)
    true = (after - before)[MASK].mean()
    kept = {}
    for name, (first, second) in {
        "shared": together(scans, model, bias=False, noise=False, ruler=False),
        "apart": [solve(v, model, bias=False, noise=False, ruler=False) for v in scans],
    }.items():
        kept[name] = ((second.volume - first.volume)[MASK] / SCALE).mean() / true
    assert 0.8 < kept["shared"] < 1.2
    assert abs(kept["apart"]) < 0.1


def test_scans_of_two_contrasts_that_share_a_map_are_told(domain, model):
    """Not people's changes, nor gains."""
    (before, after), _ = visits(domain)
    settings = {"bias": False, "noise": False, "ruler": False}
    for alike in together([before, 2 * after], model, **settings):
        assert not any("shares its map" in guard for guard in alike.guards)
    for other in together([before**2.5, before], model, **settings):
        assert sum("shares its map of intensities with" in guard for guard in other.guards) == 1


def test_the_scan_that_cannot_be_used_is_named(domain, model):
    flat = np.where(MASK, 1.0, 0)
    names = ["sub-01_ses-A_T1w.nii.gz", "sub-01_ses-B_T1w.nii.gz"]
    with pytest.raises(InputError, match=r"^sub-01_ses-B_T1w\.nii\.gz: The brain is equally"):
        together([domain.scans[0], flat], model, names=names)
    with pytest.raises(InputError, match="^The brain is equally bright"):
        solve(flat, model)


def test_scans_that_differ_only_by_gain_and_noise_come_out_alike(domain, model):
    head = domain.scans[0] ** 0.6
    first, second, third = together([head, 3 * head, noisy(head, 0.03)], model, flow="gaussian")
    np.testing.assert_allclose(first.volume, second.volume, atol=1e-3 * SCALE)
    assert not first.decisions["Noise"]["Applied"] and third.decisions["Noise"]["Applied"]
    assert first.trace[-1]["stage"] == "contrast" and third.trace[-1]["stage"] == "noise"
    assert psnr(first.volume / SCALE, third.volume / SCALE, MASK) > 25


def test_what_differs_between_visits_stays_where_one_of_them_is_noisy(domain, model):
    """Its histogram is brought back to its own, not to the mean of all."""
    (before, after), (first, second) = visits(domain)
    true = (after - before)[MASK].mean()
    results = together(
        [first, noisy(second, 0.03)], model, bias=False, ruler=False, flow="gaussian"
    )
    assert [r.decisions["Noise"]["Applied"] for r in results] == [False, True]
    kept = ((results[1].volume - results[0].volume)[MASK] / SCALE).mean() / true
    assert 0.7 < kept < 1.3


def test_each_scan_keeps_its_own_field(domain, model):
    head = domain.scans[0]
    bent = (head * np.exp(a_field())).astype(np.float32)
    flat, mended = together([head, bent], model, contrast=False, noise=False)
    assert not flat.decisions["Bias"]["Applied"] and mended.decisions["Bias"]["Applied"]
    assert flat.mapping.coefficients is None and mended.mapping.coefficients is not None


def test_a_lesion_is_to_the_field_what_a_missing_part_is(domain, model):
    """A field is told from the same voxels, so on the same evidence; and none is found."""
    scan, lesion = make_scan(42), MASK.copy()
    lesion[:, : SHAPE[1] * 2 // 3] = False
    assert 0.15 < lesion.sum() / MASK.sum() < 0.4
    ill = solve(scan, model, lesion=lesion, noise=False)
    part = harmonize(scan, MASK & ~lesion, model, method="map", device="cpu", noise=False)
    assert ill.decisions["Bias"] == part.decisions["Bias"]
    assert not ill.decisions["Bias"]["Applied"]
    # But all of the brain was scanned.
    assert ill.decisions["Coverage"] > WHOLE > part.decisions["Coverage"]


def test_of_a_slab_no_field_is_told(domain, model):
    slab = MASK.copy()
    slab[:, :, : SHAPE[2] * 3 // 4] = False
    bent = (make_scan(43) * np.exp(a_field(0.3))).astype(np.float32)
    result = harmonize(bent, slab, model, method="map", device="cpu", noise=False)
    for stage in ("Bias", "Tissue"):
        assert result.decisions[stage] == {"Applied": False, "Reason": "too small"}
    assert result.mapping.coefficients is None
    assert any("of the target's average brain was scanned" in g for g in result.guards)


def test_progress_counts_up_to_the_end(domain, model):
    told = []
    bent = noisy(domain.scans[0] ** 0.6 * np.exp(a_field(0.3)), 0.04)
    solve(bent, model, progress=lambda *given: told.append(given[:2]))
    done = [k for k, _ in told]
    assert done == sorted(done) and done[0] == 0
    assert {of for _, of in told} == {5} and done[-1] <= 5


def test_odd_brains_pass(domain, model):
    """One of which little is in view."""
    part = MASK.copy()
    part[:, :, 6:] = False
    result = harmonize(make_scan(41), part, model, method="map", device="cpu", noise=False)
    assert np.isfinite(result.volume).all() and not result.volume[~part].any()


def test_of_a_part_of_a_brain_less_is_asked(domain, model):
    whole = solve(make_scan(42), model, noise=False)
    assert whole.decisions["Coverage"] > WHOLE
    part = MASK.copy()
    part[:, :, :16] = False
    settings = {"method": "map", "device": "cpu", "noise": False, "ruler": False}
    result = harmonize(make_scan(42), part, model, **settings)
    covered = result.decisions["Coverage"]
    assert covered == pytest.approx(part.sum() / MASK.sum(), abs=0.08)
    assert result.decisions["Bias"]["Evidence"] < gates.FIELD[0]
    # Its ranks are compared with those of that part of the target.
    own = brain_quantiles(result.scaled_source[part])
    lattice = Lattice(SHAPE, (4.0, 4.0, 4.0))
    shift, _ = regional_shift(
        lattice(part), lattice, domain.calibration.histograms, len(domain.scans)
    )
    found = result.decisions["Contrast"]["Unlikeness"]
    assert found == pytest.approx(domain.calibration.unlikeness(own - shift), rel=0.02)


class Asked:
    """In a flow's place: the matched brain's texture, which tells more of undisturbed scans."""

    def __init__(self, engine, mean, quantiles, batch_slices):
        assert len(quantiles) == 257 and batch_slices == 8

    def __call__(self, matched, mask):
        return texture_profile(matched, mask, brain_quantiles(matched[mask]))[0]


@pytest.fixture(scope="module")
def slopes_domain():
    scans = [make_scan(seed) for seed in range(10)]
    mean = np.mean(scans, axis=0)
    asked = Asked(None, None, np.zeros(257), 8)
    calibration = calibrate(lambda: iter(scans), mean, (4.0, 4.0, 4.0), slopes=asked)
    return SimpleNamespace(scans=scans, mean=mean, calibration=calibration)


@pytest.fixture
def with_slopes(slopes_domain, monkeypatch, set_noise):
    """Solve with a model whose flow is asked of the contrast; a quiet scan unless set."""
    monkeypatch.setattr(stages, "ContrastSlopes", Asked)
    set_noise(0.004)
    known = slopes_domain.calibration
    trusted = {
        "ruler_gain": np.asarray(0.5), "ruler_scale": 100 * known.ruler_scale,
        "slopes_scale": 100 * known.slopes_scale, "sharpness": known.sharpness * [1, 20],
        "null_blur": 100 * known.null_blur, "null_unevenness": 100 * known.null_unevenness,
    }  # fmt: skip

    def call(source=None, changes=(), **parameters):
        model = make_model(slopes_domain, **{**trusted, **dict(changes)})
        model.intensity["Quantiles"] = np.linspace(0, 4, 257).tolist()
        source = make_scan(36) ** 0.7 if source is None else source
        result = solve(source, model, ruler=True, bias=False, **parameters)
        return result.decisions["Contrast"]["Ruler"], result

    return call


def test_the_flow_is_asked_of_the_contrast_of_an_undisturbed_scan(slopes_domain, with_slopes):
    told, result = with_slopes(division=False)
    assert told["Slopes"]["Weight"] == 1 and told["Weight"] == 1
    source, calibration = make_scan(36) ** 0.7, slopes_domain.calibration
    pooled = calibration.quantiles
    matched = np.where(MASK, map_between(brain_quantiles(source[MASK]), pooled)(source), 0)
    lattice = Lattice(SHAPE, (4.0, 4.0, 4.0))
    profile, _ = contrast_profile(matched, MASK, pooled, lattice, calibration.steady)
    slopes = Asked(None, None, np.zeros(257), 8)(matched.astype(np.float32), MASK)
    wide = replace(
        calibration,
        ruler_scale=100 * calibration.ruler_scale,
        slopes_scale=100 * calibration.slopes_scale,
    )
    change = (1 - SLOPES_SHARE) * wide.ruler.predict(profile)
    change = change + SLOPES_SHARE * wide.slopes.predict(slopes)
    size = np.sqrt(np.mean(change**2)) / float(calibration.both_error)
    assert told["Deviation"] == pytest.approx(size, rel=0.01)
    expected = np.maximum.accumulate(pooled + told["Share"] * change)
    found = np.quantile(result.volume[MASK] / SCALE, SHARES)
    np.testing.assert_allclose(found[8:-8], expected[8:-8], atol=2e-3)


@pytest.mark.parametrize("weight", [0.0, 0.4, 1.0])
def test_what_was_sharpened_says_less(with_slopes, monkeypatch, weight):
    decision = {"Applied": weight > 0, "Weight": weight}
    monkeypatch.setattr(stages, "blur_gate", lambda blur, calibration: (weight, decision))
    told, _ = with_slopes()
    assert told.get("Slopes", {"Weight": 0.0})["Weight"] == pytest.approx(1 - weight)


def test_of_a_disturbed_scan_it_is_not_asked(with_slopes, set_noise, slopes_domain):
    for parameters in ({"slopes": False}, {"flow": "gaussian"}, {"resolution": False}):
        assert "Slopes" not in with_slopes(**parameters)[0]
    for sigma, asked in ((0.006, True), (0.009, False)):
        set_noise(sigma)
        assert ("Slopes" in with_slopes()[0]) == asked
    # A model whose flow could not be asked.
    nothing = {
        name: np.zeros(0)
        for name, array in slopes_domain.calibration.to_arrays().items()
        if name.startswith(("slopes_", "both_"))
    }
    set_noise(0.004)
    assert "Slopes" not in with_slopes(changes=nothing)[0]


def test_what_a_lesion_shows_is_nothing_that_the_flow_is_asked_of(with_slopes, monkeypatch):
    """Whatever its voxels are, the others are asked the same."""
    asked, lesion = [], np.zeros(SHAPE, bool)
    lesion[12:18, 14:22, 12:18] = True
    lesion &= MASK

    class Recorded(Asked):
        def __call__(self, matched, mask):
            asked.append(mask)
            return super().__call__(matched, mask)

    monkeypatch.setattr(stages, "ContrastSlopes", Recorded)
    source = make_scan(36) ** 0.7
    told = []
    for brightness in (1.0, 1.3):
        ill = np.where(lesion, brightness * source, source)
        told.append(with_slopes(source=ill, lesion=lesion)[0])
    assert told[0]["Slopes"]["Weight"] > 0 and told[0] == told[1]
    for mask in asked:
        np.testing.assert_array_equal(mask, MASK & ~lesion)


@pytest.mark.parametrize("finer", [False, True])
def test_of_a_finer_scan_the_flow_is_shown_no_more_than_the_targets_detail(
    slopes_domain, with_slopes, monkeypatch, finer
):
    """Smoothed among brain voxels, along the axes where it is finer, and matched again."""
    shown, found = [], np.array([0.0, 0.02, -0.6])
    spread = np.sqrt(np.mean(found**2)) / (4.0 if finer else 1.9)

    class Recorded(Asked):
        def __call__(self, matched, mask):
            shown.append(matched)
            return super().__call__(matched, mask)

    monkeypatch.setattr(stages, "ContrastSlopes", Recorded)
    # As the scan is, and as it is shown.
    blurs = iter([found, np.zeros(3)])
    monkeypatch.setattr(stages, "blur_between", lambda spectrum, usual: next(blurs))
    told, _ = with_slopes(changes={"null_blur": np.full((10, 3), spread)})
    assert told["Slopes"]["Weight"] == 1 and ("DetailShown" in told["Slopes"]) == finer
    source, usual = make_scan(36) ** 0.7, slopes_domain.calibration.quantiles

    def match(volume):
        return np.where(MASK, map_between(brain_quantiles(volume[MASK]), usual)(volume), 0)

    expected = match(source)
    if finer:
        blurred, inside = (
            gaussian_filter(v.astype(float), (0, 0, np.sqrt(0.6))) for v in (expected, MASK)
        )
        expected = match(np.where(MASK, blurred / np.maximum(inside, 1e-9), 0))
    np.testing.assert_allclose(shown[0], expected, atol=2e-3)
