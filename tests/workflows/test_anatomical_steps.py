"""Steps of the anatomical fit, as the workflow runs them: what they say and what they refuse."""

import json

import numpy as np
import pytest

from bh_bids.anatomy import bias
from bh_bids.anatomy.images import read_ras, save_nifti
from bh_bids.anatomy.registration import write_affine
from bh_bids.errors import InputError
from bh_bids.interfaces.anatomical import CorrectBias, ExtractBrain
from bh_bids.interfaces.longitudinal import FromWithinTemplate


@pytest.fixture
def files(small_brain, tmp_path, monkeypatch):
    """Writes volumes on the small brain's grid; N4 takes a second."""
    monkeypatch.setattr(bias, "ESTIMATION_SPACING", 8.0)

    def write(**volumes):
        return {
            name: str(save_nifti(volume, small_brain.affine, tmp_path / f"{name}.nii.gz"))
            for name, volume in volumes.items()
        }

    return write


def test_negative_intensities_are_among_the_warnings_of_a_scan(small_brain, files, tmp_path):
    """Beside what was noticed before."""
    volume, mask = small_brain.volume, small_brain.mask
    dark = np.where(mask, volume - np.quantile(volume[mask], 0.03), 0)
    step = ExtractBrain(**files(in_file=dark), warnings=["noticed before"])
    details = json.loads(open(step.run(cwd=str(tmp_path)).outputs.details).read())
    before, negative = details["Warnings"]
    assert before == "noticed before" and "% of the brain is negative" in negative


def test_a_brain_of_few_intensities_is_told_as_it_was_stored(small_brain, files, tmp_path):
    """On the model's grid interpolation has made many of them."""
    labels = np.round(small_brain.volume / small_brain.volume.max() * 8)
    step = ExtractBrain(**files(in_file=labels))
    details = json.loads(open(step.run(cwd=str(tmp_path)).outputs.details).read())
    assert any("different intensities" in said for said in details["Warnings"])


def test_a_z_scored_scan_is_refused_before_its_dark_half_is_lost(small_brain, files, tmp_path):
    volume, mask = small_brain.volume, small_brain.mask
    scored = np.where(mask, (volume - volume[mask].mean()) / volume[mask].std(), 0)
    with pytest.raises(InputError, match="negative: its intensities look z-scored or shifted"):
        ExtractBrain(**files(in_file=scored)).run(cwd=str(tmp_path))


@pytest.mark.parametrize("left", [0, 1])
def test_a_lesion_that_leaves_no_brain_is_refused_before_n4(left, small_brain, files, tmp_path):
    volume, mask = small_brain.volume, small_brain.mask
    lesion = mask.copy()
    lesion[tuple(np.argwhere(mask)[:left].T)] = False
    given = files(in_file=volume, mask=mask, lesion=lesion)
    with pytest.raises(InputError, match="lesion mask covers 100% of the brain"):
        CorrectBias(**given, sloppy=True).run(cwd=str(tmp_path))


def test_a_lesion_mask_that_does_not_meet_the_brain_changes_nothing(small_brain, files, tmp_path):
    volume, mask = small_brain.volume, small_brain.mask
    given = files(in_file=volume, mask=mask, lesion=~mask)
    out = CorrectBias(**given, sloppy=True).run(cwd=str(tmp_path)).outputs.out_file
    field = bias.n4_bias_field(volume, small_brain.affine, mask, iterations=(10,))
    np.testing.assert_array_equal(read_ras(out)[0], volume / field)


def test_of_a_common_template_each_scan_is_looked_at(small_brain, files, tmp_path):
    """The template of normal scans is positive where one of them is not."""
    volume, mask = small_brain.volume, small_brain.mask
    scored = np.where(mask, (volume - volume[mask].mean()) / volume[mask].std(), 0)
    still = str(write_affine(np.eye(4), tmp_path / "still.h5"))
    details = tmp_path / "details.json"
    details.write_text(json.dumps({"Method": "template", "Warnings": []}))
    given = dict(to_template=still, to_space=still, details=str(details), scans=["a", "b"])
    with pytest.raises(InputError, match="negative: its intensities look z-scored or shifted"):
        FromWithinTemplate(**files(in_file=scored, mask=mask), **given).run(cwd=str(tmp_path))
