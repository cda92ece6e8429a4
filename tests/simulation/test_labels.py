"""Label maps as tissue classes, and their brain masks."""

import numpy as np
import pytest
from scipy import ndimage

from bh_bids.errors import InputError
from bh_bids.simulation.anatomy import head_files, load_head
from bh_bids.simulation.labels import BRAIN_LABELS, tissue_classes
from bh_bids.simulation.tissues import CODES, TISSUES


def test_classes_of_the_phantom(phantom_labels):
    labels, _ = phantom_labels
    classes, brain = tissue_classes(labels, 4.0)
    for label, name in ((0, "air"), (2, "white"), (41, "white"), (42, "grey"), (515, "bone")):
        assert (classes[labels == label] == CODES[name]).all()
    assert (classes[np.isin(labels, (4, 43, 24))] == CODES["csf"]).all()
    # What touches the skin from below is fat.
    below = ndimage.binary_dilation(labels == 511) & (labels == 507)
    assert below.any() and (classes[below] == CODES["fat"]).all()
    assert np.array_equal(brain, np.isin(labels, (2, 3, 4, 41, 42, 43)))


def test_sulci_are_brain_and_outer_fluid_is_not():
    labels = np.full((40, 40, 40), 24)
    labels[5:35, 5:35, 5:35] = 3
    labels[19:21, 5:35, 20:35] = 24  # a sulcus 2 mm wide that opens at the top
    _, brain = tissue_classes(labels, 1.0)
    assert brain[20, 20, 25]
    assert not brain[20, 20, 38] and not brain[1, 20, 20]


def test_deep_other_tissue_is_muscle():
    labels = np.full((40, 40, 40), 507)
    labels[:3] = 511
    labels[30:, 10:20, 10:20] = 3
    classes, _ = tissue_classes(labels, 1.0)
    assert classes[4, 20, 20] == CODES["fat"] and classes[15, 20, 20] == CODES["muscle"]


def test_brain_labels_are_freesurfers():
    asked = set(range(2, 6)) | {7, 8, *range(10, 19), 26, 28, 30, *range(41, 45), 46, 47}
    asked |= {*range(49, 55), 58, 60, 62, 72, 77, 85}
    assert asked <= BRAIN_LABELS
    assert not BRAIN_LABELS & {0, 24, 502, 506, 507, 511, 512, 515, 530}


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (np.full((4, 4, 4), 999), "label 999"),
        (np.full((4, 4, 4), 2.5), "fractions"),
        (np.full((4, 4), 2), "dimensions"),
        (np.full((4, 4, 4), 515), "no brain label"),
    ],
)
def test_wrong_label_maps_are_named(labels, sentence):
    with pytest.raises(InputError, match=f"head.nii.*{sentence}"):
        tissue_classes(labels, where="head.nii")


def test_folders_of_heads(tmp_path):
    with pytest.raises(InputError, match="no folder"):
        head_files(tmp_path / "none")
    with pytest.raises(InputError, match="holds no"):
        head_files(tmp_path)
    (tmp_path / "broken.nii").write_bytes(b"not an image")
    with pytest.raises(InputError, match=r"broken\.nii cannot be read"):
        load_head(head_files(tmp_path)[0])


@pytest.mark.data
def test_every_head_is_known_and_whole(heads_folder):
    """All 14 maps: every label has a class, the brain is one piece of a likely volume."""
    for path in head_files(heads_folder):
        head = load_head(path, spacing=2.0)
        volume = head.brain.sum() * np.prod(head.spacing) / 1e6
        assert 1.0 < volume < 1.9, path.name
        assert ndimage.label(head.classes > 0)[1] == 1
        names = {TISSUES[code].name for code in np.unique(head.classes)}
        assert {"grey", "white", "csf", "bone", "marrow", "fat", "muscle", "skin"} <= names
        # Stray voxels of another label that the brain encloses count as brain.
        assert (head.classes[head.brain] >= CODES["bone"]).mean() < 1e-4
