"""Target data that is no good: training refuses it, or says so, in a sentence that names it."""

import json
import re
import shutil

import nibabel as nib
import numpy as np
import pytest

from bh_bids.errors import InputError
from bh_bids.flow.training import TrainingSettings, train_model


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    """Drawn again and again they would take most of the time."""
    monkeypatch.setattr("bh_bids.flow.record.plot_learning_curve", lambda *given: None)
    monkeypatch.setattr("bh_bids.flow.record.plot_samples", lambda *given: None)


@pytest.fixture
def train(derivatives, tiny_config, tmp_path):
    """Trains one step on scans of which that of participant 03 was changed; returns what it said.

    ``change`` takes its image and mask, (x, y, z), and returns both.
    """
    folder = tmp_path / "derivatives"
    shutil.copytree(derivatives, folder)

    def run(change=lambda image, mask: (image, mask), exclude=(), affine=None):
        stem = "sub-03/anat/sub-03_space-MNI152NLin2009aSym_res-1_desc-"
        paths = [folder / f"{stem}{name}.nii.gz" for name in ("preproc_T1w", "brain_mask")]
        images = [nib.load(path) for path in paths]
        changed = change(*(np.asarray(image.dataobj).copy() for image in images))
        for path, image, data in zip(paths, images, changed, strict=True):
            own = image.affine if affine is None else affine
            nib.save(nib.Nifti1Image(data, own), path)
        said = []
        settings = TrainingSettings(
            steps=1, batch_size=2, crop=(16, 16), interval=1, validation_crops=2
        )
        train_model(
            folder, tmp_path / "m", tiny_config, settings, {}, exclude=exclude, report=said.append
        )
        return [sentence for sentence in said if sentence.startswith("Warning: ")]

    return run


def test_good_data_is_not_remarked_on(train):
    assert train() == []


def with_nan(image, mask):
    image[10, 10, 5] = np.nan
    return image, mask


def smaller(image, mask):
    return image[:-4], mask[:-4]


def constant(image, mask):
    return np.where(mask > 0, 7, 0).astype(np.float32), mask


def constant_slices(image, mask):
    """All of them, each with a value of its own."""
    levels = np.arange(1, image.shape[2] + 1, dtype=np.float32)
    return np.where(mask > 0, levels, 0).astype(np.float32), mask


def no_mask(image, mask):
    return image, 0 * mask


def mask_of_ones(image, mask):
    """As of a scan that a tool took for stripped although its skull is on."""
    return image + 100, np.ones_like(mask)


@pytest.mark.parametrize(
    "change, message",
    [
        (with_nan, "NaN or infinity"),
        (smaller, "does not lie on the model's grid"),
        (constant, "constant inside its brain mask"),
        (constant_slices, "that are not all equal"),
        (no_mask, "is empty"),
        (mask_of_ones, "covers 100% of the grid"),
    ],
)
def test_refused(train, tmp_path, change, message):
    with pytest.raises(InputError, match=message) as caught:
        train(change)
    assert "sub-03_space" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    # Once the scan is mended or left out, the same command works.
    with pytest.raises(InputError, match=message):
        train(change)
    train(change, exclude=["03"])


def test_voxels_of_another_size_are_refused(train, tiny_config):
    with pytest.raises(InputError, match="grid"):
        train(affine=tiny_config.affine @ np.diag([1.1, 1.1, 1.1, 1]))


def test_fewer_than_four_participants_are_refused(train):
    with pytest.raises(InputError, match="Only 3 participant"):
        train(exclude=["01", "02", "03"])


def write_sidecar(tmp_path, label, content):
    stem = f"sub-{label}_space-MNI152NLin2009aSym_res-1_desc-preproc_T1w"
    (folder,) = (tmp_path / "derivatives").glob(f"sub-{label[:2]}/**/anat")
    (folder / f"{stem}.json").write_bytes(content)


def verdict(state):
    return json.dumps({"AnatomicalChecks": {"Verdict": state}}).encode()


def trained_on(tmp_path):
    description = json.loads((tmp_path / "m" / "model.json").read_text())
    return {*description["TrainingParticipants"], *description["ValidationParticipants"]}


def test_scans_whose_anatomical_checks_failed_are_left_out(train, tmp_path):
    write_sidecar(tmp_path, "03", verdict("fail"))
    write_sidecar(tmp_path, "05", verdict("fail"))
    (sentence,) = train()
    assert "Left out" in sentence and "checks of mask and registration failed" in sentence
    assert sentence.endswith(": sub-03, sub-05.")
    assert trained_on(tmp_path) == {"01", "02", "04", "06"}


def test_warnings_of_the_anatomical_checks_are_told(train, tmp_path):
    write_sidecar(tmp_path, "03", verdict("warn"))
    write_sidecar(tmp_path, "04", verdict("pass"))
    (sentence,) = train()
    assert "Used, though the anatomical checks warn" in sentence
    assert sentence.endswith(": sub-03.")
    assert trained_on(tmp_path) == {"01", "02", "03", "04", "05", "06"}


def test_a_failed_session_leaves_the_participants_other_one(train, tmp_path):
    folder = tmp_path / "derivatives" / "sub-02" / "ses-B" / "anat"
    stem = "sub-02_ses-B_space-MNI152NLin2009aSym_res-1_desc-preproc_T1w"
    (folder / f"{stem}.json").write_bytes(verdict("fail"))
    (sentence,) = train()
    assert sentence.endswith(": sub-02_ses-B.")
    assert "02" in trained_on(tmp_path)
    assert len(np.load(tmp_path / "m" / "training" / "store" / "slices.npy", "r")) == 6


def test_excluded_scans_are_not_remarked_on(train, tmp_path):
    write_sidecar(tmp_path, "03", verdict("fail"))
    write_sidecar(tmp_path, "05", verdict("fail"))
    (sentence,) = train(exclude=["03"])
    assert sentence.endswith(": sub-05.")
    assert trained_on(tmp_path) == {"01", "02", "04", "06"}


def test_too_few_scans_that_passed(train, tmp_path):
    for label in ("03", "04", "05"):
        write_sidecar(tmp_path, label, verdict("fail"))
    with pytest.raises(InputError, match="Only 3 .*without 3 whose anatomical checks failed"):
        train()


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"\xff\xfe",
        b"[]",
        b'{"AnatomicalChecks": 3}',
        b'{"AnatomicalChecks": {}}',
        b"[" * 9999,
    ],
)
def test_sidecars_without_a_verdict_are_no_matter(train, tmp_path, content):
    write_sidecar(tmp_path, "03", content)
    write_sidecar(tmp_path, "05", verdict("fail"))
    (sentence,) = train()
    assert sentence.endswith(": sub-05.")
    assert trained_on(tmp_path) == {"01", "02", "03", "04", "06"}


def with_skull(image, mask):
    image[:3] = 500
    return image, mask


def tighter(image, mask):
    image[:12] = 0
    return image, mask


def half(image, mask):
    keep = mask.copy()
    keep[:16] = 0
    return image * keep, keep


def few_constant_slices(image, mask):
    for k in (5, 6):
        image[..., k] = np.where(mask[..., k] > 0, 300, 0)
    return image, mask


@pytest.mark.parametrize(
    "change, message",
    [
        (with_skull, "not skull-stripped"),
        (tighter, "of its brain mask"),
        (half, "participant 03 is 0.5 times as large"),
        (few_constant_slices, "2 slice.s. of .* are constant inside the brain mask and left out"),
    ],
)
def test_remarked_on(train, change, message):
    (sentence,) = train(change)
    assert "03" in sentence
    assert re.search(message, sentence)
