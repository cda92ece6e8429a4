"""The group level with what trains: on other participants, once, and with given tissue labels."""

import dataclasses

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from bh_bids.comparators import COMPARATORS
from bh_bids.evaluation import segmentation
from bh_bids.group.run import run_group
from bh_bids.settings import Settings


def quick(kind, **settings):
    """The same network, smaller and hardly trained."""
    fields = {"features": (4, 4, 8, 8, 8, 4), "steps": 2, "batch_size": 2, "crop": 32, **settings}
    made = dataclasses.make_dataclass(
        kind.__name__, [(k, object, dataclasses.field(default=v)) for k, v in fields.items()],
        bases=(kind,), eq=False,
    )  # fmt: skip
    return made


@pytest.fixture
def trained(monkeypatch):
    """Networks whose training takes a second."""
    for name in ("unet", "cyclegan"):
        monkeypatch.setitem(COMPARATORS, name, quick(COMPARATORS[name]))
    monkeypatch.setattr(segmentation, "TissueNetwork", quick(segmentation.TissueNetwork))


def write_labels(study, root):
    """Discrete segmentations of the target's scans, with numbers of their own, in the space."""
    for path in sorted(study.glob("out/sub-*/ses-A/anat/*_desc-preproc_T1w.nii.gz")):
        image = nib.load(path)
        values = image.get_fdata() / 900
        labels = np.where(values > 0, 11 + np.digitize(values, [0.4, 0.75]), 0)
        folder = root / path.parent.relative_to(study / "out")
        folder.mkdir(parents=True)
        name = path.name.replace("desc-preproc_T1w", "dseg")
        nib.save(nib.Nifti1Image(labels.astype(np.uint8), image.affine), folder / name)
    (root / "dseg.tsv").write_text(
        "index\tname\tabbreviation\n11\tfluid\tCSF\n12\tgrey\tGM\n13\twhite\tWM\n"
    )


def test_networks_are_trained_once_and_scored(trained, scan_maker, tmp_path, capsys):
    for k in range(2):
        for site in "AB":
            scan_maker(tmp_path, f"{k + 1:02d}", site, seed=k)
    write_labels(tmp_path, tmp_path / "labels")
    # Hardly trained networks label next to nothing: volumes of 0 are no error.
    settings = Settings(
        bids_dir=tmp_path / "bids", output_dir=tmp_path / "out", work_dir=tmp_path / "work",
        analysis_level="group", target="ses-A", comparators=("hm", "unet", "cyclegan"),
        segmentation=True, derivatives={"labels": tmp_path / "labels"}, nprocs=2, device="cpu",
    )  # fmt: skip
    assert run_group(settings) == 0
    said = capsys.readouterr().err
    # Two folds of one site, each on the other participant alone; three networks of each.
    assert "fitted on 1 source and 1 target scans of other participants" in said
    assert "fitted on 2" not in said and said.count("step 2 of 2") == 6
    for name in ("source", "harmonization", "hm", "unet", "cyclegan"):
        path = tmp_path / "out" / f"group_desc-{name}_metrics.tsv"
        found = pd.read_csv(path, sep="\t", na_values="n/a")
        found = found[found.site == "B"]
        assert found.psnr.notna().all() and len(found) == 2
        # No white matter in either labelling is no overlap to tell.
        told = found.dropna(subset="wm_dice")
        assert len(told) and told.wm_dice.between(0, 1).all()
        assert (told.wm_iou <= told.wm_dice).all()
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").glob("group*")}
    assert run_group(settings) == 0
    assert "step" not in capsys.readouterr().err
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").glob("group*")} == before


def test_labels_of_others_are_read_by_their_own_numbers(small_study, tmp_path):
    from bh_bids.errors import InputError
    from bh_bids.group.study import read_study
    from bh_bids.group.tissue_maps import find_map, label_values, read_map

    write_labels(small_study, tmp_path)
    space = "MNI152NLin2009aSym"
    record = read_study(small_study / "out", small_study / "bids", space).records[0]
    path = find_map(record, {"labels": tmp_path}, space)
    labels = read_map(path, record, tmp_path)
    values = nib.load(record.preproc).get_fdata() / 900
    inside = nib.load(record.mask).get_fdata() > 0
    assert set(np.unique(labels)) == {0, 1, 2, 3} and not labels[~inside].any()
    assert (values[labels == 3] > 0.74).all() and (values[labels == 1] < 0.41).all()
    assert find_map(record, {"labels": tmp_path / "sub-01"}, space) is None
    assert label_values(tmp_path / "sub-01") == {"GM": 1, "WM": 2, "CSF": 3}
    (tmp_path / "dseg.tsv").write_text("index\tabbreviation\n1\tGM\n")
    with pytest.raises(InputError, match="index of CSF, GM and WM"):
        label_values(tmp_path)
