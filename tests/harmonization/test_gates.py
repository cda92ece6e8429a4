"""What a stage finds against what it finds on the target's own scans."""

from types import SimpleNamespace

import numpy as np
import pytest

from bh_bids.harmonization.gates import (
    BLURRED,
    FIELD,
    LEAST_BLUR,
    LEAST_UNEVEN,
    MISSING,
    UNEVEN,
    blur_gate,
    field_gate,
    tissue_gate,
)
from bh_bids.mapping.field import WHOLE, orders
from bh_bids.mapping.null_field import expected_field

# Of 21 scans, the last but one is the 95th percentile.
NULL = np.arange(21) / 100
USUAL = 0.19


FUNCTIONS = len(orders())
# What anatomy feigns has a standard deviation of 0.01 in each coefficient.
FLAT = SimpleNamespace(null_covariance=1e-4 * np.eye(FUNCTIONS))


def of_evidence(wanted, covariance):
    """A field that was found, of so much evidence: by bisection on its size."""
    field = np.eye(FUNCTIONS)[0]
    low, high = 0.0, 10.0
    for _ in range(60):
        size = (low + high) / 2
        low, high = (
            (size, high) if expected_field(size * field, covariance)[1] < wanted else (low, size)
        )
    return high * field


@pytest.mark.parametrize("share", [0, 0.25, 1])
def test_a_field_is_applied_by_the_evidence_for_it(share):
    low, high = FIELD
    evidence = low + share * (high - low)
    found = of_evidence(evidence, FLAT.null_covariance)
    field, weight, decision = field_gate(found, 1.0, FLAT)
    assert weight == pytest.approx(share, abs=1e-6)
    assert decision["Evidence"] == pytest.approx(evidence, abs=0.01)
    assert decision["UsualEvidence"] == low
    assert decision["Weight"] == pytest.approx(share, abs=1e-4)
    np.testing.assert_allclose(field, expected_field(found, FLAT.null_covariance)[0])
    assert 0.5 < field[0] / found[0] < 1 and not field[1:].any()


@pytest.mark.parametrize("share", [0, 0.25, 1])
def test_a_stage_is_applied_by_its_share_of_the_way_between_the_limits(share):
    low, high = UNEVEN
    size = USUAL * (low + share * (high - low))
    weight, decision = tissue_gate(size, SimpleNamespace(null_unevenness=NULL))
    assert weight == pytest.approx(share, abs=1e-9)
    assert decision == {
        "Applied": share > 0,
        "Weight": share,
        "Unevenness": round(size, 4),
        "UsualUnevenness": USUAL,
    }


def test_a_part_of_a_brain_must_show_more_of_a_field():
    """As much more as if anatomy feigned larger fields there."""
    found = of_evidence(20, FLAT.null_covariance)
    for coverage in (1.0, WHOLE):
        assert field_gate(found, coverage, FLAT)[2]["Evidence"] == pytest.approx(20, abs=0.01)
    part = field_gate(found, 0.7, FLAT)
    larger = (1 + 0.3 * MISSING) ** 2 * FLAT.null_covariance
    assert part[2]["Evidence"] < 5 and part[1] == 0
    assert part[2]["Evidence"] == pytest.approx(expected_field(found, larger)[1], abs=0.01)
    strong = of_evidence((FIELD[0] + FIELD[1]) / 2, larger)
    assert field_gate(strong, 0.7, FLAT)[1] == pytest.approx(0.5)


def test_a_blur_is_judged_by_its_size_over_all_axes():
    null = np.tile(NULL[:, None], 3)
    calibration = SimpleNamespace(null_blur=null)
    usual = blur_gate(np.zeros(3), calibration)[1]["UsualBlur"]
    one = usual * BLURRED[1]
    weight, decision = blur_gate(np.array([0.0, 0.0, one]), calibration)
    assert weight == pytest.approx(1) and decision["BlurAlongAxes"] == [0, 0, round(one, 4)]
    assert decision["Blur"] == pytest.approx(one, abs=1e-4)
    # Sharper than usual is not blurred.
    assert blur_gate(np.full(3, -1.0), calibration)[0] == 0


def test_scans_that_are_all_alike_do_not_make_the_gates_too_fine():
    alike = SimpleNamespace(null_blur=np.zeros((4, 3)), null_unevenness=np.zeros(4))
    assert blur_gate(np.zeros(3), alike)[1]["UsualBlur"] == LEAST_BLUR
    assert tissue_gate(0.0, alike)[1]["UsualUnevenness"] == LEAST_UNEVEN
