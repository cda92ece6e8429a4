"""Reading T1w images: what must be carried exactly. What is refused: tests/robustness."""

import gzip
import itertools
import os
import struct

import nibabel as nib
import numpy as np
import pytest

from bh_bids.anatomy.images import (
    check_header,
    load_mask,
    load_t1w,
    read_ras,
    save_nifti,
    save_on_grid_of,
)
from bh_bids.errors import InputError

SHAPE = (20, 24, 18)
AFFINE = np.array([[2.0, 0, 0, -19], [0, 2, 0, -25], [0, 0, 2.5, -20], [0, 0, 0, 1]])


def texture(shape=SHAPE, seed=0):
    return np.random.default_rng(seed).integers(1, 1000, shape).astype(np.float32)


def write(path, data=None, affine=AFFINE, codes=(1, 1), cls=nib.Nifti1Image):
    image = cls(texture() if data is None else data, affine)
    image.set_qform(affine if codes[0] else None, codes[0])
    image.set_sform(affine if codes[1] else None, codes[1])
    nib.save(image, path)
    return path


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read every file")
def test_file_without_permission_is_refused(tmp_path):
    path = write(tmp_path / "a.nii")
    path.chmod(0)
    with pytest.raises(InputError, match="permissions"):
        load_t1w(path)


def test_trailing_axes_of_one_volume_are_dropped(tmp_path):
    data = texture()
    plain = load_t1w(write(tmp_path / "a.nii", data))
    for n, shape in enumerate([(*SHAPE, 1), (*SHAPE, 1, 1)]):
        image = load_t1w(write(tmp_path / f"b{n}.nii.gz", data.reshape(shape)))
        assert image.volume.shape == SHAPE
        np.testing.assert_array_equal(image.volume, plain.volume)


@pytest.mark.parametrize("cls", [nib.Nifti1Image, nib.Nifti2Image])
def test_slope_and_intercept_are_honoured(cls, tmp_path):
    stored = np.random.default_rng(1).integers(0, 4000, SHAPE).astype(np.int16)
    image = cls(stored, AFFINE)
    image.set_sform(AFFINE, 1)
    image.header.set_slope_inter(0.5, -3)
    nib.save(image, tmp_path / "a.nii.gz")
    # nibabel takes a freshly made image's data as scaled already: put the raw numbers in place.
    raw = bytearray(gzip.decompress((tmp_path / "a.nii.gz").read_bytes()))
    start = int(nib.load(tmp_path / "a.nii.gz").dataobj.offset)
    raw[start:] = stored.tobytes(order="F")
    offset, form = (112, "<2f") if cls is nib.Nifti1Image else (176, "<2d")
    struct.pack_into(form, raw, offset, 0.5, -3)
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(bytes(raw)))
    volume = load_t1w(tmp_path / "a.nii.gz").volume
    assert volume.dtype == np.float32
    np.testing.assert_array_equal(volume, stored.astype(np.float32) * 0.5 - 3)


def test_differing_qform_and_sform_are_told_and_the_sform_used(tmp_path):
    image = nib.Nifti1Image(texture(), AFFINE)
    moved = AFFINE.copy()
    moved[0, 3] += 5
    image.set_sform(AFFINE, 1)
    image.set_qform(moved, 1)
    nib.save(image, tmp_path / "a.nii")
    found = load_t1w(tmp_path / "a.nii")
    np.testing.assert_allclose(found.affine, AFFINE)
    assert len(found.warnings) == 1 and "5.00" in found.warnings[0]


QUATERN_B = {nib.Nifti1Image: (256, "<f"), nib.Nifti2Image: (352, "<d")}


def with_quatern_b(path, value, affine=AFFINE, codes=(1, 1), cls=nib.Nifti1Image):
    """A scan whose qform says the given number, which nibabel would not write."""
    write(path, affine=affine, codes=codes, cls=cls)
    content = bytearray(path.read_bytes())
    offset, form = QUATERN_B[cls]
    struct.pack_into(form, content, offset, value)
    path.write_bytes(bytes(content))
    return path


@pytest.mark.parametrize("cls", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("value", [1 + 7e-7, 2.0, float("nan")])
def test_an_unusable_qform_is_told_and_the_sform_used(value, cls, tmp_path):
    path = with_quatern_b(tmp_path / "a.nii", value, cls=cls)
    found = load_t1w(path)
    assert found.warnings == ("a.nii: its qform is unusable; the sform is used.",)
    np.testing.assert_allclose(found.affine, AFFINE)
    np.testing.assert_array_equal(found.volume, texture())


@pytest.mark.parametrize("value", [1 + 7e-7, float("nan")])
def test_an_unusable_qform_alone_is_refused(value, tmp_path):
    path = with_quatern_b(tmp_path / "a.nii", value, codes=(1, 0))
    with pytest.raises(InputError, match="a.nii"):
        load_t1w(path)
    image = nib.Nifti1Image(texture(), AFFINE)
    image.set_sform(None, 0)
    image.set_qform(AFFINE, 1)
    image.header["quatern_b"] = value
    with pytest.raises(InputError, match="a.nii has an unusable qform and no sform"):
        check_header(image, path)


@pytest.mark.parametrize("shear", [0, 0.2])
@pytest.mark.parametrize("value", [1 + 7e-7, float("nan")])
@pytest.mark.parametrize("cls", [nib.Nifti1Image, nib.Nifti2Image])
def test_a_result_has_the_sform_in_place_of_an_unusable_qform(cls, value, shear, tmp_path):
    """Its code is the sform's, too: the qform says the same as the sform, of the same space."""
    affine = AFFINE.copy()
    affine[0, 1] = shear
    path = with_quatern_b(tmp_path / "a.nii", value, affine, codes=(1, 4), cls=cls)
    result = save_on_grid_of(load_t1w(path).volume, path, tmp_path / "b.nii.gz")
    header = nib.load(result).header
    qform, code = header.get_qform(coded=True)
    assert code == 4 and header["sform_code"] == 4
    # A qform has no shear: the nearest rotation of the voxels is what it can say.
    np.testing.assert_allclose(qform, affine, atol=1e-5 if not shear else 0.15)
    np.testing.assert_array_equal(nib.load(result).affine, nib.load(path).affine)
    assert not any("unusable" in warning for warning in load_t1w(result).warnings)


def test_a_sheared_grid_is_told_and_kept(tmp_path):
    """Its qform cannot hold the shear: that is no conflict."""
    affine = AFFINE.copy()
    affine[0, 1] = 0.2
    image = nib.Nifti1Image(texture(), affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    nib.save(image, tmp_path / "a.nii")
    found = load_t1w(tmp_path / "a.nii")
    np.testing.assert_allclose(found.affine, affine, atol=1e-6)
    assert len(found.warnings) == 1 and "5.7 degrees" in found.warnings[0]


def test_only_a_qform_is_enough(tmp_path):
    image = load_t1w(write(tmp_path / "a.nii", codes=(1, 0)))
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-5)
    assert image.warnings == ()


ORIENTATIONS = [
    "".join(axes)
    for order in itertools.permutations(["LR", "PA", "IS"])
    for axes in itertools.product(*order)
]


def in_orientation(volume, affine, codes):
    """The same image with its axes stored in another order, by nibabel."""
    start = nib.io_orientation(affine)
    wanted = nib.orientations.axcodes2ornt(codes)
    change = nib.orientations.ornt_transform(start, wanted)
    return nib.Nifti1Image(volume, affine).as_reoriented(change)


def marked_head():
    """A marker left, one in front, one on top, at places known in mm."""
    volume = np.ones(SHAPE, np.float32)
    places = {"left": (-15, 5, 0), "front": (3, 21, 0), "top": (3, 5, 20)}
    for value, place in enumerate(places.values(), start=100):
        index = np.linalg.inv(AFFINE) @ [*place, 1]
        volume[tuple(np.rint(index[:3]).astype(int))] = value
    return volume


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_every_axis_order_comes_to_ras_with_its_hemisphere(codes, tmp_path):
    head = marked_head()
    stored = in_orientation(head, AFFINE, codes)
    stored.set_sform(stored.affine, 1)
    nib.save(stored, tmp_path / "a.nii")
    image = load_t1w(tmp_path / "a.nii")
    np.testing.assert_array_equal(image.volume, head)
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-5)
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
    left = np.argwhere(image.volume == 100)[0]
    assert (image.affine @ [*left, 1])[0] < 0
    assert image.volume.flags.c_contiguous


def oblique(codes, angle=0.2):
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    affine = AFFINE.copy()
    affine[:3, :3] = turn @ AFFINE[:3, :3]
    return in_orientation(marked_head(), affine, codes)


@pytest.mark.parametrize("cls", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("codes", ["RAS", "LAS", "PSR", "AIL", "LPI", "SRA"])
def test_result_lies_bit_for_bit_on_the_grid_of_the_scan(codes, cls, tmp_path):
    stored = oblique(codes)
    reference = cls(np.asarray(stored.dataobj, dtype=np.int16), stored.affine)
    reference.set_sform(stored.affine, 1)
    reference.set_qform(stored.affine, 2)
    reference.header.set_xyzt_units("mm", "sec")
    reference.header.set_slope_inter(2.0, 1.0)
    reference.header["descrip"] = b"a patient's name"
    reference.header["cal_max"] = 900
    nib.save(reference, tmp_path / "a.nii.gz")
    volume = load_t1w(tmp_path / "a.nii.gz").volume
    save_on_grid_of(volume, tmp_path / "a.nii.gz", tmp_path / "b.nii.gz")
    before, after = nib.load(tmp_path / "a.nii.gz"), nib.load(tmp_path / "b.nii.gz")
    assert type(after) is type(before)
    assert after.shape == before.shape
    assert after.affine.tobytes() == before.affine.tobytes()
    kept = ("pixdim", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d",
            "qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z",
            "xyzt_units")  # fmt: skip
    for name in kept:
        assert after.header[name].tobytes() == before.header[name].tobytes(), name
    assert after.get_data_dtype() == np.float32
    assert after.dataobj.slope == 1 and after.dataobj.inter == 0
    assert after.header["descrip"].item() == b"" and after.header["cal_max"] == 0
    np.testing.assert_array_equal(after.get_fdata(), before.get_fdata())


PRIVATE = b"Doe^Jane"


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("cls", [nib.Nifti1Image, nib.Nifti2Image])
def test_a_result_tells_nothing_of_the_scan_s_own_data(cls, name, tmp_path):
    """Names of patients, and attributes of AFNI that no longer hold, are not carried along."""
    scan = cls(texture(), AFFINE)
    scan.set_sform(AFFINE, 1)
    afni = b'<AFNI_attributes atr_name="BRICK_STATS">Doe^Jane</AFNI_attributes>'
    for code, content in ((2, PRIVATE), (4, afni), (6, PRIVATE)):
        scan.header.extensions.append(nib.nifti1.Nifti1Extension(code, content))
    for field in {"descrip", "aux_file", "db_name", "data_type"} & set(scan.header.keys()):
        scan.header[field] = PRIVATE
    scan.header.set_intent("z score", name="Doe^Jane")
    nib.save(scan, tmp_path / name)
    assert len(nib.load(tmp_path / name).header.extensions) == 3
    volume = load_t1w(tmp_path / name).volume
    result = save_on_grid_of(volume, tmp_path / name, tmp_path / "b.nii")
    content = result.read_bytes()
    assert PRIVATE not in content and b"AFNI" not in content
    header = nib.load(result).header
    assert not header.extensions and header.get_intent() == ("none", (), "")
    assert header.sizeof_hdr + 4 + volume.nbytes == len(content)
    np.testing.assert_array_equal(nib.load(result).get_fdata(), volume)


def test_result_of_a_scan_with_a_trailing_axis_is_three_dimensional(tmp_path):
    write(tmp_path / "a.nii", texture((*SHAPE, 1)))
    volume = load_t1w(tmp_path / "a.nii").volume
    save_on_grid_of(volume, tmp_path / "a.nii", tmp_path / "b.nii.gz")
    after = nib.load(tmp_path / "b.nii.gz")
    assert after.shape == SHAPE
    np.testing.assert_array_equal(after.get_fdata(), volume)


def test_written_image_says_mm_and_its_space(tmp_path):
    data = texture() / 7
    save_nifti(data, AFFINE, tmp_path / "a.nii.gz", code=4)
    image = nib.load(tmp_path / "a.nii.gz")
    assert image.header.get_xyzt_units()[0] == "mm"
    assert (image.header["qform_code"], image.header["sform_code"]) == (4, 4)
    np.testing.assert_array_equal(image.get_fdata(dtype=np.float32), data)
    volume, affine = read_ras(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(volume, data)
    np.testing.assert_allclose(affine, AFFINE, atol=1e-6)


def test_integers_are_rounded_not_scaled(tmp_path):
    save_nifti(texture() + 0.6, AFFINE, tmp_path / "a.nii", np.int16)
    stored = nib.load(tmp_path / "a.nii")
    assert stored.dataobj.slope == 1
    np.testing.assert_array_equal(stored.dataobj, texture() + 1)


def test_writing_twice_gives_the_same_bytes(tmp_path):
    save_nifti(texture(), AFFINE, tmp_path / "a.nii.gz")
    save_nifti(texture(), AFFINE, tmp_path / "b.nii.gz")
    # The gzip header holds the file's name; everything else is the same.
    first, second = (gzip.decompress((tmp_path / n).read_bytes()) for n in ("a.nii.gz", "b.nii.gz"))
    assert first == second


def test_mask_in_another_axis_order_is_taken(tmp_path):
    head = marked_head()
    stored = in_orientation((head > 1).astype(np.uint8), AFFINE, "PIL")
    stored.set_sform(stored.affine, 1)
    nib.save(stored, tmp_path / "mask.nii.gz")
    np.testing.assert_array_equal(load_mask(tmp_path / "mask.nii.gz", SHAPE, AFFINE), head > 1)


@pytest.mark.parametrize("value", [0.2, 0.4, 1, 3])
def test_all_above_zero_is_a_lesion_and_above_one_half_a_brain(value, tmp_path):
    data = np.where(marked_head() > 1, np.float32(value), np.float32(0))
    write(tmp_path / "mask.nii", data)
    lesion = load_mask(tmp_path / "mask.nii", SHAPE, AFFINE, of="lesion")
    np.testing.assert_array_equal(lesion, data > 0)
    if value > 0.5:
        brain = load_mask(tmp_path / "mask.nii", SHAPE, AFFINE)
        np.testing.assert_array_equal(brain, data > 0)
    else:
        with pytest.raises(InputError, match="empty"):
            load_mask(tmp_path / "mask.nii", SHAPE, AFFINE)


@pytest.mark.parametrize("wrong", ["shape", "affine", "empty"])
def test_mask_that_does_not_fit_is_refused(wrong, tmp_path):
    data, affine = (marked_head() > 1).astype(np.uint8), AFFINE.copy()
    if wrong == "shape":
        data = data[:-1]
    elif wrong == "affine":
        affine[0, 3] += 3
    else:
        data[:] = 0
    write(tmp_path / "mask.nii", data, affine)
    with pytest.raises(InputError, match="mask"):
        load_mask(tmp_path / "mask.nii", SHAPE, AFFINE)
