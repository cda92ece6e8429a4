"""Which templates are used, and what is told when the one asked for cannot be had."""

import json
import os
import subprocess
import sys

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


ASKED = ("Alpha", "Half", "Alpha:res-2", "Beta", "Beta:cohort-2", "Beta:cohort-3", "Gamma", "Delta")


@pytest.fixture(scope="module")
def from_flow(tmp_path_factory):
    """What each name gives with a TemplateFlow whose cache holds some templates.

    It reads its folder when it is imported, so it gets a process of its own; there is no network:
    its address is one where nothing listens.
    """
    home = tmp_path_factory.mktemp("templateflow")

    def put(name, value, spacing, shape=(60, 64, 58)):
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = np.full(shape, value, np.uint8)
        nib.save(nib.Nifti1Image(data, np.diag([spacing, spacing, spacing, 1])), path)

    brain = "label-brain_probseg.nii.gz"
    put("tpl-Alpha/tpl-Alpha_res-01_T1w.nii.gz", 100, 1)
    put("tpl-Alpha/tpl-Alpha_res-01_desc-brain_T1w.nii.gz", 1, 1)
    put("tpl-Alpha/tpl-Alpha_res-01_desc-brain_mask.nii.gz", 1, 1)
    # Of another grid than its head: half of it is brain.
    put("tpl-Half/tpl-Half_res-01_T1w.nii.gz", 100, 1)
    put("tpl-Half/tpl-Half_res-01_desc-brain_mask.nii.gz", 1, 1, (30, 64, 58))
    put("tpl-Alpha/tpl-Alpha_res-02_T1w.nii.gz", 120, 2, (30, 32, 29))
    put("tpl-Alpha/tpl-Alpha_res-02_desc-brain_mask.nii.gz", 1, 2, (30, 32, 29))
    for cohort in (1, 2):
        stem = f"tpl-Beta/cohort-{cohort}/tpl-Beta_cohort-{cohort}_res-1"
        put(f"{stem}_T1w.nii.gz", 10 * cohort, 1)
        put(f"{stem}_{brain}", cohort, 1)
    for name in ("T1w.nii.gz", "desc-brain_mask.nii.gz"):
        (home / "tpl-Gamma").mkdir(exist_ok=True)
        (home / f"tpl-Gamma/tpl-Gamma_res-1_{name}").touch()
    script = (
        "import json, sys\n"
        "from templateflow.conf import _cache\n"
        "_cache.config.s3_root = 'http://127.0.0.1:9'\n"
        "from bh_bids.anatomy.templates import find_head_template, space_brain\n"
        "for name in sys.argv[1:]:\n"
        "    head, notes = find_head_template(name)\n"
        "    found = [head.method, notes, float(head.volume.max()), head.volume.shape,\n"
        "             head.affine[0, 0], float(head.probability.max())]\n"
        "    try:\n"
        "        brain, affine = space_brain(name)\n"
        "        found.append([brain.shape, float(brain.sum()), affine[0, 0]])\n"
        "    except Exception as error:\n"
        "        found.append([type(error).__name__, str(error)])\n"
        "    print('FOUND', json.dumps([name, *found]))\n"
    )
    environment = {**os.environ, "TEMPLATEFLOW_HOME": str(home), "TEMPLATEFLOW_AUTOUPDATE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", script, *ASKED], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(li[6:]) for li in done.stdout.splitlines() if li.startswith("FOUND ")]
    names = ("method", "notes", "brightest", "shape", "spacing", "probability", "brain")
    return {name: dict(zip(names, found, strict=True)) for name, *found in rows}


def test_a_cached_template_is_used_at_two_millimetres(from_flow):
    found = from_flow["Alpha"]
    assert found["notes"] == []
    assert "tpl-Alpha_res-01_T1w.nii.gz, from its cache" in found["method"]
    assert found["brightest"] == pytest.approx(100, abs=0.1)
    assert found["spacing"] == 2 and found["shape"] == [30, 32, 29]
    assert found["probability"] == pytest.approx(1)


def test_the_resolution_asked_for_is_taken(from_flow):
    found = from_flow["Alpha:res-2"]
    assert "tpl-Alpha_res-02_T1w.nii.gz" in found["method"]
    assert found["brightest"] == pytest.approx(120, abs=0.1)


def test_the_cohort_asked_for_is_taken(from_flow):
    found = from_flow["Beta:cohort-2"]
    assert "tpl-Beta_cohort-2_res-1_T1w.nii.gz" in found["method"]
    assert found["brightest"] == pytest.approx(20, abs=0.1) and found["notes"] == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Beta", "cohorts 1, 2: write Beta:cohort-LABEL"),
        ("Beta:cohort-3", "no image with cohort 3"),
        ("Gamma", "Connection"),
        ("Delta", "knows no template Delta"),
    ],
)
def test_what_cannot_be_had_falls_back_and_says_why(from_flow, name, said):
    """Gamma is known but not in the cache, and the network does not answer."""
    found = from_flow[name]
    assert "packaged head template" in found["method"]
    assert len(found["notes"]) == 1 and said in found["notes"][0]
    assert "the packaged head template was used" in found["notes"][0]


@pytest.mark.parametrize(("name", "share"), [("Alpha", 1), ("Half", 0.5)])
def test_a_space_of_templateflow_is_its_head_inside_its_brain_at_one_millimetre(
    from_flow, name, share
):
    shape, total, spacing = from_flow[name]["brain"]
    assert shape == [60, 64, 58] and spacing == 1
    assert total == pytest.approx(100 * share * 60 * 64 * 58, rel=0.02)


@pytest.mark.parametrize("name", ["Beta", "Gamma", "Delta"])
def test_a_space_without_a_template_is_refused(from_flow, name):
    kind, sentence = from_flow[name]["brain"]
    assert kind == "InputError"
    assert f"template of the space {name}" in sentence and "TEMPLATEFLOW_HOME" in sentence


def test_the_default_space_is_packaged(mni):
    np.testing.assert_array_equal(templates.space_brain()[0], mni[0])


@pytest.mark.parametrize("text", ["A:res", "A:cohort-", "A:res-1:res-2", "A:den-1", "../A", ""])
def test_names_that_cannot_be_read_are_refused(text):
    with pytest.raises(InputError, match="cannot be read"):
        templates.template_name(text)


def test_a_name_has_modifiers_in_any_order():
    wanted = "MNIPediatricAsym", {"cohort": 2, "resolution": 1}
    assert templates.template_name("MNIPediatricAsym:res-1:cohort-2") == wanted


def test_a_damaged_installation_is_said_to_be_one(packaged):
    (packaged / "head_T1w.nii.gz").unlink()
    with pytest.raises(InputError, match="install bh-bids again"):
        templates.find_head_template()
