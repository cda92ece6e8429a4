"""Each check of the anatomical fit, on one case that is right and on one that it is there for."""

import json

import numpy as np
import pytest
from scipy import ndimage

from bh_bids.anatomy.checks import check_anatomy, check_volume, verdict_of
from bh_bids.anatomy.registration import write_affine
from bh_bids.errors import InputError

NAMES = {"MaskVolume", "FieldOfView", "TemplateOverlap", "Registration", "Contrast"}


@pytest.fixture(scope="module")
def brain(small_brain):
    """The average brain as somebody's, on the model's grid: volume, mask, affine."""
    rng = np.random.default_rng(0)
    volume = small_brain.volume + rng.normal(0, 6, small_brain.volume.shape)
    volume = np.where(small_brain.mask, np.maximum(volume, 1), 0).astype(np.float32)
    return volume, small_brain.mask, small_brain.affine


def checks(volume, mask, affine, native=None, matrix=None):
    """The checks of a brain that was scanned where it is; the native mask may differ."""
    native_mask, native_affine = native or (mask, affine)
    matrix = np.eye(4) if matrix is None else matrix
    return check_anatomy(native_mask, native_affine, volume, mask, affine, matrix)


def worst(found):
    return {name for name, check in found.items() if check["State"] == "fail"}


def test_a_brain_in_its_place_passes_all(brain):
    found = checks(*brain)
    assert set(found) == NAMES
    assert verdict_of(found) == "pass"
    assert found["TemplateOverlap"]["Value"] > 0.98
    assert all(check["Sentence"].endswith((".", ").")) for check in found.values())


@pytest.mark.parametrize(
    ("factor", "state"), [(1.0, "pass"), (0.75, "warn"), (0.62, "fail"), (1.3, "fail")]
)
def test_a_mask_s_volume_is_that_of_a_brain(brain, factor, state):
    _, mask, affine = brain
    scaled = affine @ np.diag([factor, factor, factor, 1])
    found = check_volume(mask, scaled)
    assert found["State"] == state
    expected = mask.sum() * (4 * factor) ** 3 / 1000
    assert found["Value"] == pytest.approx(expected, abs=0.1)


def test_a_misplaced_mask_fails_the_overlap(brain):
    volume, mask, affine = brain
    moved = np.roll(mask, 6, axis=2)
    found = checks(np.where(moved, np.roll(volume, 6, axis=2), 0), moved, affine)
    assert "TemplateOverlap" in worst(found)
    assert found["TemplateOverlap"]["Value"] < 0.82


def test_an_upside_down_brain_fails_the_registration_within_a_right_mask(brain):
    """The mask fits, but what lies in it is turned: only the intensities tell."""
    volume, mask, affine = brain
    turned = ndimage.zoom(volume[:, ::-1, ::-1], 1)
    turned = np.where(mask, np.where(turned > 0, turned, volume[mask].mean()), 0)
    found = checks(turned.astype(np.float32), mask, affine)
    assert worst(found) == {"Registration"}


def test_inverted_contrast_fails_and_is_no_matter_of_registration(brain):
    volume, mask, affine = brain
    inverted = np.where(mask, volume.max() + 1 - volume, 0).astype(np.float32)
    found = checks(inverted, mask, affine)
    assert worst(found) == {"Contrast"}
    assert found["Contrast"]["Value"] < -0.9 and "inverted" in found["Contrast"]["Sentence"]


@pytest.mark.parametrize(("cut", "state"), [(3, "warn"), (16, "fail")])
@pytest.mark.parametrize(
    ("axis", "sides"),
    [(0, ("left", "right")), (1, ("posterior", "anterior")), (2, ("inferior", "superior"))],
)
def test_a_brain_that_the_field_of_view_cuts_is_seen(brain, axis, sides, cut, state):
    volume, mask, affine = brain
    span = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
    for first, side in ((True, sides[0]), (False, sides[1])):
        keep = slice(span[0] + cut + 2, None) if first else slice(None, span[-1] - cut - 1)
        box = tuple(keep if a == axis else slice(None) for a in range(3))
        there = affine.copy()
        there[:3, 3] += affine[:3, :3] @ [s.start or 0 for s in box]
        seen = np.zeros_like(mask)
        seen[box] = mask[box]
        found = checks(np.where(seen, volume, 0), seen, affine, (mask[box], there))
        assert found["FieldOfView"]["State"] == state, side
        assert f"at its {side} side" in found["FieldOfView"]["Sentence"]
        # What was not scanned is not held against the overlap.
        assert found["TemplateOverlap"]["State"] == "pass"


def test_a_constant_brain_fails_instead_of_dividing_by_zero(brain):
    _, mask, affine = brain
    found = checks(mask.astype(np.float32), mask, affine)
    assert {"Registration"} <= worst(found)


def test_the_verdict_is_the_worst_state():
    def states(*names):
        return {str(k): {"State": name} for k, name in enumerate(names)}

    assert verdict_of(states("pass", "warn", "fail")) == "fail"
    assert verdict_of(states("pass", "warn")) == "warn"
    assert verdict_of(states("pass")) == "pass"


@pytest.fixture
def steps(brain, tmp_path):
    """The two steps of the workflow on a brain with inverted contrast."""
    from bh_bids.anatomy.images import save_nifti
    from bh_bids.interfaces.anatomical import CheckAnatomy, RequireChecks

    volume, mask, affine = brain
    inverted = np.where(mask, volume.max() + 1 - volume, 0)
    details = tmp_path / "details.json"
    details.write_text(json.dumps({"Method": "m", "Volume_ml": 1.0, "Warnings": ["before"]}))
    preproc = save_nifti(inverted, affine, tmp_path / "preproc.nii.gz")
    saved = save_nifti(mask, affine, tmp_path / "mask.nii.gz", np.uint8)
    check = CheckAnatomy(
        space="MNI152NLin2009aSym",
        mask=str(saved),
        preproc=str(preproc),
        preproc_mask=str(saved),
        details=str(details),
        transform=str(write_affine(np.eye(4), tmp_path / "to_space.h5")),
    )
    found = check.run(cwd=str(tmp_path)).outputs.details

    def require(force):
        step = RequireChecks(in_file=str(preproc), details=found, scan="sub-01_T1w", force=force)
        return step.run(cwd=str(tmp_path)).outputs.out_file

    return json.loads(open(found).read()), require, str(preproc)


def test_a_failing_scan_is_refused_with_its_reason_unless_forced(steps):
    details, require, preproc = steps
    assert details["Checks"]["Contrast"]["State"] == "fail"
    assert details["Warnings"][0] == "before" and "inverted" in details["Warnings"][1]
    with pytest.raises(InputError, match=r"sub-01_T1w was not harmonized.*inverted.*--force"):
        require(False)
    assert require(True) == preproc
