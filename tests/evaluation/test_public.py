"""The public surface: what the documentation names is there, and its examples are true."""

import doctest
import re
from pathlib import Path

import numpy as np
import pytest

import bh_bids.evaluation as evaluation

GUIDE = Path(__file__).parents[2] / "docs" / "group.md"


def test_examples_of_the_package_are_true():
    found = doctest.testmod(evaluation)
    assert found.attempted >= 3 and found.failed == 0


@pytest.mark.skipif(not GUIDE.is_file(), reason="docs/ is not part of this installation")
def test_every_function_that_the_guide_names_is_public():
    section = GUIDE.read_text(encoding="utf-8").split("## From Python")[1]
    named = {
        name
        for line in section.splitlines() if line.startswith("| ")
        for name in re.findall(r"`([a-z_]+)`", line.split("|")[2])
    }  # fmt: skip
    assert len(named) > 25 and named <= set(evaluation.__all__)


def test_every_public_function_says_what_it_takes_and_gives():
    for name in evaluation.__all__:
        text = getattr(evaluation, name).__doc__
        assert "Parameters" in text and "Returns" in text, name


def test_one_image_is_measured_by_the_same_functions():
    from bh_bids.evaluation.scan import (
        Setting,
        reference_from_quantiles,
        reference_from_scans,
        score_image,
    )

    rng = np.random.default_rng(0)
    shape = (24, 26, 20)
    mask = np.ones(shape, bool)
    truth = np.array([0.2, 0.55, 0.9])[rng.choice(3, shape, p=[0.15, 0.45, 0.4])]
    truth = truth + 0.03 * rng.standard_normal(shape)
    image = np.clip(truth * 0.9, 0, None)
    reference = reference_from_scans([(truth, mask)])
    setting = Setting(image, mask, reference, truth, mask, voxel_ml=0.002)
    found = score_image(image, setting)
    assert found["psnr"] == pytest.approx(evaluation.psnr(truth, image, mask))
    assert found["nmi"] == pytest.approx(evaluation.nmi(truth, image, mask))
    assert found["gm_wm"] == pytest.approx(reference.gm_wm, abs=0.01)  # a gain changes no ratio
    assert found["wasserstein"] == pytest.approx(0.1 * truth.mean(), rel=0.05)
    assert found["wm_ml"] + found["gm_ml"] + found["csf_ml"] == pytest.approx(mask.sum() * 0.002)
    assert found["wm_ml"] == pytest.approx(0.4 * mask.sum() * 0.002, rel=0.05)
    assert "wm_dice" not in found and found["ncc_source"] == pytest.approx(1)
    assert "psnr" not in score_image(image, Setting(image, mask))
    # What a model remembers gives about the same reference as the scan itself.
    quantiles = evaluation.intensity_quantiles(truth, mask)
    told = reference_from_quantiles(quantiles, evaluation.tissue_modes(truth, mask))
    assert told.gm_wm == pytest.approx(reference.gm_wm, abs=0.01)
    for tissue, own in reference.tissues.items():
        assert np.abs(told.tissues[tissue][10:-10] - own[10:-10]).max() < 0.03, tissue
