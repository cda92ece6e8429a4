"""Which templates are used, and what is told when the one asked for cannot be had."""

import nibabel as nib
import numpy as np
import pytest

from bh_bids.anatomy import templates
from bh_bids.errors import InputError


@pytest.fixture
def packaged(tmp_path, monkeypatch):
    """A packaged head template of 10 mm."""
    affine = np.diag([10.0, 10, 10, 1])
    head = np.arange(17**3, dtype=np.uint8).reshape(17, 17, 17)
    nib.save(nib.Nifti1Image(head, affine), tmp_path / "head_T1w.nii.gz")
    brain = np.full((17, 17, 17), 51, np.uint8)
    nib.save(nib.Nifti1Image(brain, affine), tmp_path / "head_label-brain_probseg.nii.gz")
    monkeypatch.setattr(templates, "HEAD_TEMPLATE_DIR", tmp_path)
    templates.packaged_head.cache_clear()
    yield tmp_path
    templates.packaged_head.cache_clear()


def test_mni_brain_is_nilearns(mni):
    volume, affine = templates.mni_brain()
    np.testing.assert_array_equal(volume, mni[0])
    np.testing.assert_array_equal(affine, mni[1])
    assert volume.dtype == np.float32 and nib.aff2axcodes(affine) == ("R", "A", "S")


def test_without_a_name_the_packaged_head_is_used(packaged):
    head, notes = templates.find_head_template()
    assert notes == []
    assert head.volume.shape == head.probability.shape == (17, 17, 17)
    np.testing.assert_allclose(head.probability, 0.2)
    assert "packaged" in head.method


def test_an_unknown_name_falls_back_and_says_so(packaged):
    head, notes = templates.find_head_template("NoSuchTemplate")
    assert head is templates.packaged_head()
    assert len(notes) == 1
    assert "NoSuchTemplate" in notes[0] and "packaged head template was used" in notes[0]


def test_a_template_that_cannot_be_fetched_falls_back_and_says_so(packaged, monkeypatch):
    from templateflow import api

    def unreachable(*args, **kwargs):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(api, "get", unreachable)
    head, notes = templates.find_head_template("MNI152NLin2009cAsym")
    assert "packaged" in head.method
    assert "(no route)" in notes[0]


def test_a_cached_template_is_used_at_two_millimetres(packaged, monkeypatch, tmp_path):
    from templateflow import api

    head = np.random.default_rng(0).uniform(0, 200, (60, 64, 58)).astype(np.float32)
    mask = np.zeros(head.shape, np.uint8)
    mask[20:40, 20:40, 20:40] = 1
    for name, data in (("head", head), ("mask", mask)):
        nib.save(nib.Nifti1Image(data, np.eye(4)), tmp_path / f"{name}.nii.gz")

    def get(name, *, suffix, **entities):
        if suffix == "probseg":
            raise FileNotFoundError("no such file")
        return tmp_path / ("head.nii.gz" if suffix == "T1w" else "mask.nii.gz")

    monkeypatch.setattr(api, "get", get)
    found, notes = templates.find_head_template("MNI152NLin2009cAsym")
    assert notes == []
    assert found.method == "SyN of TemplateFlow's MNI152NLin2009cAsym"
    np.testing.assert_allclose(np.diag(found.affine), [2, 2, 2, 1])
    assert found.volume.shape == (30, 32, 29)
    assert found.probability.sum() * 8 == pytest.approx(8000, rel=0.02)


def test_a_damaged_installation_is_said_to_be_one(packaged):
    (packaged / "head_T1w.nii.gz").unlink()
    with pytest.raises(InputError, match="install bh-bids again"):
        templates.find_head_template()
