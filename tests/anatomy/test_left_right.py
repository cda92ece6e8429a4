"""Left stays left: a brain with a marked left hemisphere on every way that a scan can take."""

import json

import nibabel as nib
import numpy as np
import pytest

from bh_bids.anatomy import bias, longitudinal, registration
from bh_bids.anatomy.fit import to_native_grid
from bh_bids.anatomy.images import read_ras, save_on_grid_of
from bh_bids.anatomy.registration import image_matrix
from bh_bids.interfaces import anatomical as anat
from bh_bids.interfaces.longitudinal import FromWithinTemplate, WithinTemplate
from bh_bids.mapping.intensity import IntensityMap
from bh_bids.mapping.mapping import Mapping

MARK = np.array([-44.0, -20.0, 18.0, 1.0])
"""mm in the left hemisphere, of the average brain."""
GRID = np.array([[4.0, 0, 0, -78.5], [0, 4, 0, -111.5], [0, 0, 4, -70.5], [0, 0, 0, 1]])
SHAPE = (40, 48, 40)


def turned(angle):
    matrix = np.eye(4)
    cos, sin = np.cos(angle), np.sin(angle)
    matrix[:3, :3] = [[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]
    return matrix


def sheared():
    matrix = np.eye(4)
    matrix[1, 2] = 0.12
    return matrix


HEADERS = {
    "RAS": ("RAS", np.eye(4)),
    "LAS, left-handed": ("LAS", np.eye(4)),
    "PSR": ("PSR", np.eye(4)),
    "AIL, oblique": ("AIL", turned(0.25)),
    "LPS, sheared": ("LPS", sheared()),
}


@pytest.fixture(scope="module")
def marked(small_brain):
    """The average brain with a small, very bright cube in its left hemisphere."""
    volume = small_brain.volume.copy()
    at = np.rint(np.linalg.inv(small_brain.affine) @ MARK).astype(int)[:3]
    volume[tuple(slice(k - 1, k + 2) for k in at)] = 3 * volume.max()
    return volume, small_brain.affine


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    monkeypatch.setattr(registration, "REGISTRATION_SPACING", 4.0)
    monkeypatch.setattr(longitudinal, "REGISTRATION_SPACING", 4.0)
    monkeypatch.setattr(longitudinal, "ROUNDS", 1)
    monkeypatch.setattr(bias, "ESTIMATION_SPACING", 8.0)


def store(marked, name, path):
    """The brain as a file whose header says where it is; turned and sheared with its grid."""
    codes, world = HEADERS[name]
    volume, affine = marked
    change = nib.orientations.ornt_transform(
        nib.io_orientation(affine), nib.orientations.axcodes2ornt(codes)
    )
    image = nib.Nifti1Image(volume, affine).as_reoriented(change)
    image = nib.Nifti1Image(np.asarray(image.dataobj), world @ image.affine)
    image.set_sform(image.affine, 1)
    nib.save(image, path)
    return path


def where_bright(volume, affine):
    """World coordinates of the brightest voxels' middle."""
    found = np.argwhere(volume > 0.7 * volume.max()).mean(axis=0)
    return (affine @ [*found, 1])[:3]


def run(interface, folder):
    folder.mkdir(exist_ok=True)
    return interface.run(cwd=str(folder)).outputs


def carry(path, t1w, mask, to_space, folder):
    """To the model's grid, and back to the file's own with nothing changed."""
    corrected = run(anat.CorrectBias(in_file=t1w, mask=mask), folder / "n4").out_file
    moved = run(
        anat.ResampleToModel(in_file=corrected, mask=mask, transform=to_space, shape=list(SHAPE),
                             affine=GRID.tolist()), folder / "resample"
    )  # fmt: skip
    preproc, grid = read_ras(moved.out_file)
    native, affine = read_ras(corrected)
    unchanged = IntensityMap(np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    identity = Mapping(unchanged, None, SHAPE)
    back = to_native_grid(native, read_ras(mask)[0] > 0, affine, image_matrix(to_space), preproc,
                          preproc, grid, identity)  # fmt: skip
    result = nib.load(save_on_grid_of(back, path, folder / "native.nii.gz"))
    return preproc, grid, result


def check(path, preproc, grid, result):
    """The mark is on the left in the model's space, and at its own voxels in the native result."""
    there = where_bright(preproc, grid)
    assert there[0] < -30 and np.linalg.norm(there - MARK[:3]) < 12
    source = nib.load(path)
    assert result.affine.tobytes() == source.affine.tobytes() and result.shape == source.shape
    raw, found = (np.asarray(image.dataobj) for image in (source, result))
    marks = np.argwhere(raw > 0.9 * raw.max()).mean(axis=0)
    np.testing.assert_allclose(np.argwhere(found > 0.7 * found.max()).mean(axis=0), marks, atol=0.5)


@pytest.mark.parametrize("name", HEADERS)
def test_left_stays_left_alone(marked, name, tmp_path):
    path = store(marked, name, tmp_path / "scan.nii.gz")
    t1w = run(anat.ConformT1w(in_file=str(path)), tmp_path / "conform").out_file
    mask = run(anat.ExtractBrain(in_file=t1w, mode="skip"), tmp_path / "mask").out_mask
    corrected = run(anat.CorrectBias(in_file=t1w, mask=mask), tmp_path / "first").out_file
    found = run(
        anat.RegisterBrain(space="MNI152NLin2009aSym", in_file=corrected, mask=mask),
        tmp_path / "register",
    )
    check(path, *carry(path, t1w, mask, found.to_space, tmp_path))


def test_left_stays_left_through_a_common_template(marked, tmp_path):
    """Three visits with headers of three kinds."""
    names = ("PSR", "AIL, oblique", "LPS, sheared")
    paths = [store(marked, n, tmp_path / f"visit{k}.nii.gz") for k, n in enumerate(names)]
    files = [str(path) for path in paths]
    template = run(WithinTemplate(in_files=files), tmp_path / "template")
    brain = run(
        anat.ExtractBrain(in_file=template.template, mask=template.mask, mask_by=template.mask_by),
        tmp_path / "mask",
    )
    found = run(
        anat.RegisterBrain(
            space="MNI152NLin2009aSym", in_file=template.template, mask=brain.out_mask
        ),
        tmp_path / "register",
    )
    for k, path in enumerate(paths):
        folder = tmp_path / f"own{k}"
        folder.mkdir()
        t1w = run(anat.ConformT1w(in_file=str(path)), folder / "conform").out_file
        own = run(
            FromWithinTemplate(
                in_file=t1w, mask=brain.out_mask, to_template=template.transforms[k],
                to_space=found.to_space, details=brain.details, scans=files,
            ), folder / "own",
        )  # fmt: skip
        check(path, *carry(path, t1w, own.out_mask, own.to_space, folder))
        details = json.loads(open(own.details).read())
        assert details["WithinTemplate"] == files
        assert details["Method"] == "none (already skull-stripped)"


def test_scans_with_and_without_a_skull_make_no_template(marked, tools, small_brain, tmp_path):
    from bh_bids.errors import InputError

    head = tools.head(small_brain)
    paths = [store(marked, "RAS", tmp_path / "a.nii"), tmp_path / "b.nii"]
    nib.save(nib.Nifti1Image(head.volume, head.affine), paths[1])
    with pytest.raises(InputError, match="others are not"):
        run(WithinTemplate(in_files=[str(path) for path in paths]), tmp_path / "template")
