"""What a stage finds against what it finds on the target's own scans."""

from types import SimpleNamespace

import numpy as np
import pytest

from bh_bids.harmonization.gates import (
    BLURRED,
    FIELD,
    LEAST_BLUR,
    LEAST_FIELD,
    LEAST_UNEVEN,
    MISSING,
    UNEVEN,
    blur_gate,
    field_gate,
    tissue_gate,
)
from bh_bids.mapping.field import WHOLE

# Of 21 scans, the last but one is the 95th percentile.
NULL = np.arange(21) / 100
USUAL = 0.19


@pytest.mark.parametrize("share", [0, 0.25, 1])
def test_a_stage_is_applied_by_its_share_of_the_way_between_the_limits(share):
    low, high = FIELD
    spread = USUAL * (low + share * (high - low))
    weight, decision = field_gate(spread, 1.0, SimpleNamespace(null_spread=NULL))
    assert weight == pytest.approx(share, abs=1e-9)
    assert decision["UsualSpread"] == USUAL and decision["Applied"] == (share > 0)
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
    calibration = SimpleNamespace(null_spread=NULL)
    almost = field_gate(0.2, WHOLE, calibration)[1]
    part = field_gate(0.2, 0.7, calibration)[1]
    assert almost["UsualSpread"] == USUAL
    assert part["UsualSpread"] == pytest.approx(USUAL + 0.3 * MISSING)
    low, high = (USUAL * limit + 0.3 * MISSING for limit in FIELD)
    assert field_gate(low, 0.7, calibration)[0] == pytest.approx(0, abs=1e-9)
    assert field_gate((low + high) / 2, 0.7, calibration)[0] == pytest.approx(0.5)


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
    alike = SimpleNamespace(
        null_spread=np.zeros(4), null_blur=np.zeros((4, 3)), null_unevenness=np.zeros(4)
    )
    weight, decision = field_gate(0.0, 1.0, alike)
    assert weight == 0 and decision["UsualSpread"] == LEAST_FIELD
    assert blur_gate(np.zeros(3), alike)[1]["UsualBlur"] == LEAST_BLUR
    assert tissue_gate(0.0, alike)[1]["UsualUnevenness"] == LEAST_UNEVEN
