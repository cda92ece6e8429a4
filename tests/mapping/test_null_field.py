"""What anatomy feigns of a field: against a Gaussian's conditional mean, and fields put there."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal
from sklearn.covariance import ledoit_wolf

from bh_bids.mapping.field import (
    LOOKS,
    Lattice,
    field_spread,
    find_field,
    local_histograms,
    log_field,
    orders,
    standard_field,
)
from bh_bids.mapping.intensity import brain_quantiles
from bh_bids.mapping.null_field import (
    LEAST,
    SMOOTHNESS,
    STRENGTHS,
    expected_field,
    learn_null_field,
)

FUNCTIONS = len(orders())
PRIOR = np.diag([1.0 / sum(order) ** SMOOTHNESS for order in orders()])


def a_covariance(rng):
    factor = rng.normal(size=(FUNCTIONS, FUNCTIONS))
    return 1e-4 * (factor @ factor.T / FUNCTIONS + 0.2 * np.eye(FUNCTIONS))


@given(st.integers(0, 2**31), st.floats(0.005, 0.5))
@settings(max_examples=25, deadline=None)
def test_the_expected_field_is_a_gaussians_conditional_mean(seed, strength):
    """And the evidence its likelihood's ratio, written out, at the likeliest strength."""
    rng = np.random.default_rng(seed)
    covariance = a_covariance(rng)
    found = rng.multivariate_normal(np.zeros(FUNCTIONS), covariance + strength**2 * PRIOR)
    expected, evidence = expected_field(found, covariance)
    without = multivariate_normal(cov=covariance).logpdf(found)
    ratios = [multivariate_normal(cov=covariance + t**2 * PRIOR).logpdf(found) - without
              for t in STRENGTHS]  # fmt: skip
    assert evidence == pytest.approx(max(0, *ratios), abs=1e-6)
    if evidence > 0:
        prior = STRENGTHS[int(np.argmax(ratios))] ** 2 * PRIOR
        mean = prior @ np.linalg.solve(prior + covariance, found)
        np.testing.assert_allclose(expected, mean, atol=1e-8)
    else:
        assert not expected.any()


@given(st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_the_evidence_grows_with_the_field_and_does_not_know_its_sign(seed):
    rng = np.random.default_rng(seed)
    covariance = a_covariance(rng)
    field = rng.normal(size=FUNCTIONS) * np.sqrt(np.diag(PRIOR))
    evidence = [expected_field(size * field, covariance)[1] for size in (0, 0.01, 0.1, 0.3, 1)]
    assert evidence[0] == 0 and evidence == sorted(evidence) and evidence[-1] > 100
    there, back = (expected_field(sign * 0.1 * field, covariance)[0] for sign in (1, -1))
    np.testing.assert_allclose(there, -back, atol=1e-12)
    # A strong field is taken as it was found.
    np.testing.assert_allclose(expected_field(field, covariance)[0], field, atol=0.1)


def test_anatomy_alone_is_hardly_ever_evidence_and_a_field_is_found_better():
    """Over draws from the null and of fields whose smoothness is not the prior's."""
    rng = np.random.default_rng(3)
    covariance = a_covariance(rng)
    nulls = rng.multivariate_normal(np.zeros(FUNCTIONS), covariance, size=400)
    evidence = np.array([expected_field(null, covariance)[1] for null in nulls])
    assert np.median(evidence) < 0.2 and (evidence > 5).mean() < 0.01
    roughness = np.array([float(sum(order)) for order in orders()])
    fields = 0.05 * rng.normal(size=(400, FUNCTIONS)) / roughness
    expected = [expected_field(f + n, covariance)[0] for f, n in zip(fields, nulls, strict=True)]
    assert np.square(expected - fields).sum() < 0.9 * np.square(nulls).sum()


@pytest.fixture(scope="module")
def learned(domain):
    null = learn_null_field(
        lambda: iter(domain.scans), domain.lattice, domain.calibration.quantiles
    )
    return (*null, domain.lattice, domain.lattice(domain.mask))


def test_each_scan_is_compared_with_the_others(domain, learned):
    """Learned anew for each scan without it, by the histograms of the others."""
    histograms, null_field, covariance, lattice, inside = learned
    quantiles, scans = domain.calibration.quantiles, domain.scans
    np.testing.assert_allclose(histograms, local_histograms(scans, lattice))
    others = [local_histograms(scans[:k] + scans[k + 1 :], lattice) for k in range(len(scans))]
    first = np.array([
        standard_field(lattice(s), lattice, o, quantiles)[0]
        for s, o in zip(scans, others, strict=True)
    ])  # fmt: skip
    np.testing.assert_allclose(null_field, first.mean(axis=0), atol=1e-6)
    found = []
    for k, (scan, other) in enumerate(zip(scans, others, strict=True)):
        rest = (first.sum(axis=0) - first[k]) / (len(scans) - 1)
        found.append(find_field(lattice(scan), lattice, other, quantiles, rest)[0])
    # The spread over the brain, the mean square over scans, is kept by the shrinkage.
    basis = lattice.basis[:, inside].astype(np.float64)
    spread = np.mean([field_spread(f, lattice, inside) ** 2 for f in found])
    assert np.trace(np.cov(basis) @ covariance) == pytest.approx(spread, rel=1e-3)
    # And the shrinkage is that of fields sampled at voxels.
    values = np.array(found) @ np.linalg.cholesky(np.cov(basis))
    expected, _ = ledoit_wolf(values, assume_centered=True)
    root = np.linalg.cholesky(np.cov(basis))
    np.testing.assert_allclose(root.T @ covariance @ root, expected, rtol=2e-2, atol=1e-7)
    assert np.linalg.eigvalsh(covariance).min() > 0
    np.testing.assert_array_equal(covariance, covariance.T)


def test_constants_of_the_domain_are_what_was_learned(domain, learned):
    histograms, null_field, covariance, *_ = learned
    np.testing.assert_array_equal(domain.calibration.histograms, histograms)
    np.testing.assert_array_equal(domain.calibration.null_field, null_field)
    np.testing.assert_array_equal(domain.calibration.null_covariance, covariance)


def a_field(lattice, inside, spread, seed, power=2):
    rng = np.random.default_rng(seed)
    coefficients = np.array([rng.normal() / sum(o) ** power for o in orders()])
    return coefficients * (spread / field_spread(coefficients, lattice, inside))


def left(domain, learned, scan, true):
    """Errors of one look, of all, and of the expected field; the evidence."""
    histograms, null_field, covariance, lattice, inside = learned
    values = lattice(scan * np.exp(log_field(true, domain.mask.shape)))
    known = values, lattice, histograms, domain.calibration.quantiles
    once, power = standard_field(*known)
    found, again = find_field(*known, null_field)
    assert again == pytest.approx(power, rel=1e-6)
    expected, evidence = expected_field(found, covariance)
    errors = [
        field_spread(c / power - true, lattice, inside)
        for c in (once - null_field, found, expected)
    ]
    return errors, evidence


@pytest.mark.parametrize("contrast", [1.0, 0.7])
def test_more_looks_find_more_of_a_strong_field(domain, learned, scan_maker, contrast):
    """In brains of tissue, of participants that were not learned from."""
    *_, lattice, inside = learned
    errors, evidence = [], []
    for seed in range(30, 35):
        true = a_field(lattice, inside, 0.2, seed)
        error, ratio = left(domain, learned, scan_maker(seed) ** contrast, true)
        errors.append(error)
        evidence.append(ratio)
    once, found, expected = np.sqrt(np.square(errors).mean(axis=0))
    assert LOOKS > 1 and found < 0.85 * once and expected < 0.9 * once
    assert min(evidence) > 50


def test_anatomy_is_no_evidence_and_the_expected_field_is_nearer(domain, learned, scan_maker):
    *_, lattice, inside = learned
    none, weak = [], []
    for seed in range(40, 45):
        scan, true = scan_maker(seed), a_field(lattice, inside, 0.06, seed)
        none.append(left(domain, learned, scan, np.zeros(FUNCTIONS)))
        weak.append(left(domain, learned, scan, true))
    assert max(evidence for _, evidence in none) < 5 < np.median([e for _, e in weak])
    for cases in (none, weak):
        _, found, expected = np.sqrt(np.mean([np.square(errors) for errors, _ in cases], axis=0))
        assert expected < 0.95 * found


def test_a_gain_does_not_matter(domain, learned, scan_maker):
    histograms, null_field, _, lattice, inside = learned
    true = a_field(lattice, inside, 0.15, 1)
    values = lattice(scan_maker(36) * np.exp(log_field(true, domain.mask.shape)))
    known = lattice, histograms, domain.calibration.quantiles, null_field
    found, power = find_field(values, *known)
    again, same = find_field(4321 * values, *known)
    np.testing.assert_allclose(again, found, atol=1e-7)
    assert same == pytest.approx(power)


def test_too_little_brain_has_no_field(domain, learned):
    histograms, null_field, _, lattice, inside = learned
    for keep in (0, 9 * FUNCTIONS):
        few = np.zeros(inside.shape)
        few.ravel()[np.flatnonzero(inside)[:keep]] = 0.7
        found, power = find_field(
            few, lattice, histograms, domain.calibration.quantiles, null_field
        )
        assert not found.any() and power == 1


@pytest.mark.parametrize("noise", [0.0, 0.03])
def test_few_scans_and_such_as_are_alike_make_a_covariance_too(noise):
    """Of full rank, and not so small that nothing were anatomy."""
    shape = (24, 24, 24)
    lattice = Lattice(shape, (4.0, 4.0, 4.0))
    white = np.random.default_rng(0).uniform(size=shape) < 0.5

    def draw(seed):
        grain = np.random.default_rng(seed).normal(size=shape)
        return np.where(white, 0.9, 0.55) * np.exp(noise * grain)

    scans = [draw(k) for k in range(4)]
    quantiles = brain_quantiles(np.concatenate([s.ravel() for s in scans]))
    *_, covariance = learn_null_field(lambda: iter(scans), lattice, quantiles)
    basis = lattice.basis.reshape(FUNCTIONS, -1).astype(np.float64)
    assert np.sqrt(np.trace(np.cov(basis) @ covariance)) == pytest.approx(LEAST, rel=1e-3)
    assert np.linalg.cond(covariance) < 1e4
    assert expected_field(np.zeros(FUNCTIONS), covariance)[1] == 0
