"""Image files that cannot be used: each is refused in one sentence, and stops no other scan."""

import gzip
import os
import struct

import nibabel as nib
import numpy as np
import pytest

from bh_bids.anatomy.images import load_t1w
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


def patched(path, **fields):
    """Write a good file, then overwrite raw header fields (offset, format, values)."""
    write(path)
    content = bytearray(path.read_bytes())
    for offset, form, values in fields.values():
        struct.pack_into("<" + form, content, offset, *values)
    path.write_bytes(bytes(content))
    return path


def missing(path):
    return path


def dangling(path):
    path.symlink_to(path.with_name("never-fetched"))
    return path


def folder(path):
    path.mkdir()
    return path


def empty(path):
    path.touch()
    return path


def empty_gzip(path):
    path = path.with_suffix(".nii.gz")
    path.write_bytes(gzip.compress(b""))
    return path


def truncated_gzip(path):
    path = write(path.with_suffix(".nii.gz"))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


def gzip_cut_in_header(path):
    path = write(path.with_suffix(".nii.gz"))
    path.write_bytes(path.read_bytes()[:60])
    return path


def damaged_gzip(path):
    path = write(path.with_suffix(".nii.gz"))
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 200] = bytes(200)
    path.write_bytes(bytes(content))
    return path


def gzip_damaged_at_its_start(path):
    """Not even the header can be unpacked: zlib.error, not OSError."""
    content = gzip.compress(write(path).read_bytes())
    path = path.with_suffix(".nii.gz")
    path.write_bytes(content[:10] + b"\xff" * 40 + content[50:])
    return path


def unusable_qform(path):
    """A quaternion whose b^2 + c^2 + d^2 is above 1, and no sform."""
    write(path, codes=(1, 0))
    content = bytearray(path.read_bytes())
    struct.pack_into("<f", content, 256, 1 + 7e-7)
    path.write_bytes(bytes(content))
    return path


def wrong_checksum(path):
    """Other intensities than were written; the stream can still be unpacked."""
    content = bytearray(gzip.compress(write(path).read_bytes(), compresslevel=0))
    content[len(content) // 2] ^= 255
    path = path.with_suffix(".nii.gz")
    path.write_bytes(bytes(content))
    return path


def truncated(path):
    write(path)
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    return path


def header_cut(path):
    write(path)
    path.write_bytes(path.read_bytes()[:200])
    return path


def text(path):
    path.write_text("version https://git-lfs.github.com/spec/v1\n" * 20)
    return path


def not_gzip(path):
    path = path.with_suffix(".nii.gz")
    path.write_bytes(b"this was never compressed" * 40)
    return path


def other_format(path):
    path = path.with_suffix(".mgz")
    nib.save(nib.MGHImage(texture(), AFFINE), path)
    return path


def four_d(path):
    return write(path, texture((*SHAPE, 3)))


def five_d(path):
    return write(path, texture((*SHAPE, 1, 3)))


def two_d(path):
    return write(path, texture((64, 64)))


def three_slices(path):
    return write(path, texture((64, 64, 3)))


def one_voxel_axis(path):
    return write(path, texture((64, 64, 1)))


def zeros(path):
    return write(path, np.zeros(SHAPE, np.float32))


def constant(path):
    return write(path, np.full(SHAPE, 7, np.int16))


def nan(path):
    data = texture()
    data[3, 4, 5] = np.nan
    return write(path, data)


def infinite(path):
    data = texture()
    data[3, 4, 5] = np.inf
    return write(path, data)


def no_codes(path):
    return write(path, codes=(0, 0))


def zero_column(path):
    """An sform whose first axis has no length."""
    row = (0.0, 0.0, 0.0, -19.0)
    return patched(path, srow_x=(280, "4f", row))


def nan_affine(path):
    return patched(path, srow_x=(280, "4f", (float("nan"),) * 4))


def flat_affine(path):
    """Two voxel axes point the same way."""
    affine = AFFINE.copy()
    affine[:3, 1] = affine[:3, 0] * 1.001
    return write(path, affine=affine, codes=(0, 1))


def sheared(path):
    """Voxel axes 51 degrees apart."""
    affine = AFFINE.copy()
    affine[0, 1] = 1.6
    return write(path, affine=affine, codes=(0, 1))


def metres(path):
    return write(path, affine=np.diag([0.001, 0.001, 0.001, 1]))


def micrometres(path):
    return write(path, affine=np.diag([1000.0, 1000, 1000, 1]))


def huge(path):
    """30000 voxels along each axis: 100 TB if anyone believed it."""
    return patched(path, dim=(40, "8h", (3, 30000, 30000, 30000, 1, 1, 1, 1)))


def huge_nifti2(path):
    write(path, cls=nib.Nifti2Image)
    content = bytearray(path.read_bytes())
    struct.pack_into("<8q", content, 16, 3, 2**40, 2**20, 2**20, 1, 1, 1, 1)
    path.write_bytes(bytes(content))
    return path


def negative_dim(path):
    return patched(path, dim=(40, "8h", (3, -20, 24, 18, 1, 1, 1, 1)))


def too_many_dims(path):
    return patched(path, dim=(40, "8h", (99, 20, 24, 18, 1, 1, 1, 1)))


def unknown_type(path):
    return patched(path, datatype=(70, "2h", (1234, 32)))


def rgb(path):
    data = np.zeros(SHAPE, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    return write(path, data)


def complex_numbers(path):
    return write(path, (texture() * (1 + 2j)).astype(np.complex64))


def pipe(path):
    os.mkfifo(path)
    return path


def device(path):
    path.symlink_to("/dev/zero")
    return path


def link_to_itself(path):
    path.symlink_to(path)
    return path


def wrong_magic(path):
    return patched(path, magic=(344, "4s", (b"zzz\0",)))


def data_beyond_the_end(path):
    return patched(path, vox_offset=(108, "f", (1e6,)))


def overflowing_slope(path):
    return patched(path, scl_slope=(112, "2f", (3e38, 0.0)))


def no_number_as_intercept(path):
    return patched(path, scl_inter=(112, "2f", (1.0, float("nan"))))


def no_dimensions(path):
    return patched(path, dim=(40, "8h", (0, 0, 0, 0, 0, 0, 0, 0)))


def more_voxels_than_data(path):
    return patched(path, dim=(40, "8h", (3, 200, 240, 180, 1, 1, 1, 1)))


def more_voxels_than_packed_data(path):
    content = more_voxels_than_data(path).read_bytes()
    path = path.with_suffix(".nii.gz")
    path.write_bytes(gzip.compress(content))
    return path


def truncated_nifti2(path):
    write(path, cls=nib.Nifti2Image)
    path.write_bytes(path.read_bytes()[:-50])
    return path


def packed_but_not_named_so(path):
    path.write_bytes(gzip.compress(write(path).read_bytes()))
    return path


def named_packed_but_is_not(path):
    content = write(path).read_bytes()
    path = path.with_suffix(".nii.gz")
    path.write_bytes(content)
    return path


def rubbish_behind_the_end(path):
    content = gzip.compress(write(path).read_bytes())
    path = path.with_suffix(".nii.gz")
    path.write_bytes(content + b"rubbish")
    return path


def island_of_nan(path):
    data = texture()
    data[5:9, 5:9, 5:9] = np.nan
    return write(path, data)


def nothing_but_nan(path):
    return write(path, np.full(SHAPE, np.nan, np.float32))


def rgba(path):
    data = np.zeros(SHAPE, np.dtype([(c, "u1") for c in "RGBA"]))
    return write(path, data)


BAD = {
    missing: "does not exist",
    dangling: "dangling link",
    link_to_itself: "dangling link",
    folder: "folder",
    pipe: "pipe or a device",
    device: "pipe or a device",
    empty: "empty",
    empty_gzip: "header",
    truncated_gzip: "truncated or damaged",
    gzip_cut_in_header: "header",
    damaged_gzip: "truncated or damaged",
    gzip_damaged_at_its_start: "header",
    wrong_checksum: "truncated or damaged",
    rubbish_behind_the_end: "truncated or damaged",
    truncated: "truncated or damaged",
    truncated_nifti2: "truncated or damaged",
    header_cut: "header",
    text: "not a readable NIfTI",
    not_gzip: "not a readable NIfTI",
    packed_but_not_named_so: "not a readable NIfTI",
    named_packed_but_is_not: "not a readable NIfTI",
    other_format: "not a readable NIfTI",
    wrong_magic: "not a readable NIfTI",
    data_beyond_the_end: "truncated or damaged",
    more_voxels_than_data: "truncated or damaged",
    more_voxels_than_packed_data: "truncated or damaged",
    four_d: "3-D",
    five_d: "3-D",
    two_d: "three axes",
    three_slices: "three axes",
    one_voxel_axis: "three axes",
    no_dimensions: "",
    negative_dim: "",
    too_many_dims: "",
    zeros: "all its voxels are 0",
    constant: "value 7",
    nan: "1 NaN",
    infinite: "1 NaN or infinite",
    island_of_nan: "64 NaN or infinite",
    nothing_but_nan: "NaN or infinite",
    overflowing_slope: "NaN or infinite",
    no_number_as_intercept: "",
    no_codes: "codes are 0",
    unusable_qform: "header is damaged",
    zero_column: "degenerate",
    nan_affine: "degenerate",
    flat_affine: "degenerate",
    sheared: "sheared",
    metres: "mm",
    micrometres: "mm",
    huge: "header is damaged",
    huge_nifti2: "header is damaged",
    unknown_type: "",
    rgb: "real number",
    rgba: "real number",
    complex_numbers: "real number",
}


@pytest.mark.parametrize("make", BAD, ids=lambda make: make.__name__)
def test_bad_images_are_refused_in_one_sentence_that_names_the_file(make, tmp_path):
    path = make(tmp_path / "sub-01_T1w.nii")
    with pytest.raises(InputError) as refusal:
        load_t1w(path)
    sentence = str(refusal.value)
    assert str(path) in sentence
    assert BAD[make] in sentence
    assert sentence.rstrip().endswith(".")
    assert "Traceback" not in sentence


@pytest.mark.parametrize("make", [huge, huge_nifti2, more_voxels_than_packed_data])
def test_what_a_header_claims_is_not_allocated(make, tmp_path):
    import tracemalloc

    path = make(tmp_path / "sub-01_T1w.nii")
    tracemalloc.start()
    with pytest.raises(InputError):
        load_t1w(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # The largest claim that is plausible, and so read, is 17 MB on disk and 69 in memory.
    assert peak < 100e6


TYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8")


@pytest.mark.parametrize("order", ["<", ">"], ids=["little-endian", "big-endian"])
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("cls", [nib.Nifti1Image, nib.Nifti2Image])
def test_every_real_type_in_either_byte_order_is_read(cls, kind, order, tmp_path):
    data = np.random.default_rng(2).integers(0, 120, SHAPE).astype(kind)
    image = cls(data, AFFINE, cls.header_class(endianness=order))
    image.set_data_dtype(np.dtype(order + kind))
    image.set_sform(AFFINE, 1)
    nib.save(image, tmp_path / "a.nii.gz")
    with gzip.open(tmp_path / "a.nii.gz") as stream:
        first = struct.unpack(order + "i", stream.read(4))[0]
    assert first == {nib.Nifti1Image: 348, nib.Nifti2Image: 540}[cls]
    np.testing.assert_array_equal(load_t1w(tmp_path / "a.nii.gz").volume, data)


@pytest.mark.parametrize(
    ("slope", "intercept", "gain", "shift"),
    [
        (0, 5, 1, 0),
        (float("nan"), 0, 1, 0),
        (float("inf"), 0, 1, 0),
        (2, 0, 2, 0),
        (1, -3, 1, -3),
        (1e-6, 0, 1e-6, 0),
    ],
)
def test_odd_scalings_mean_what_the_format_says(slope, intercept, gain, shift, tmp_path):
    """A slope of 0 means none (nifti1.h); nibabel takes one that is not finite as none, too."""
    path = patched(tmp_path / "a.nii", scaling=(112, "2f", (slope, intercept)))
    expected = texture().astype(np.float64) * gain + shift
    np.testing.assert_allclose(load_t1w(path).volume, expected, rtol=1e-6)


def test_a_cut_off_bright_end_is_told(tmp_path):
    data = np.minimum(texture(), 800)
    (told,) = load_t1w(write(tmp_path / "a.nii", data)).warnings
    assert f"a.nii: {int((data == 800).sum())} voxels have its largest value, 800" in told
    assert load_t1w(write(tmp_path / "b.nii", texture())).warnings == ()


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory, dataset_maker, write_t1w, small_brain, small_model, run_here):
    """One run over a participant for each bad image, and a good one among them."""
    folder = tmp_path_factory.mktemp("images")
    root = dataset_maker(folder / "bids")
    labels = {}
    for make in BAD:
        label = make.__name__.replace("_", "")
        anat = root / f"sub-{label}" / "anat"
        anat.mkdir(parents=True)
        path = make(anat / f"sub-{label}_T1w.nii")
        # A folder is no scan to pybids.
        if path.suffix in (".nii", ".gz") and os.path.lexists(path) and not path.is_dir():
            for other in anat.iterdir():
                if other != path:
                    other.unlink()
            labels[label] = BAD[make]
    write_t1w(root / "sub-good" / "anat" / "sub-good_T1w.nii.gz", 3 * small_brain.volume,
              small_brain.affine)  # fmt: skip
    code, out, err = run_here(root, folder, small_model, "--sloppy")
    return folder, labels, code, out, err


def test_no_bad_image_stops_the_others(whole_run):
    folder, labels, code, out, err = whole_run
    assert code == 1
    assert "Traceback" not in out + err
    assert len(labels) > 45
    assert f"{len(labels)} of {len(labels) + 1} scans have no results" in err
    done = list((folder / "out" / "sub-good" / "anat").glob("*_desc-harmonized_T1w.nii.gz"))
    assert len(done) == 2 and all(np.isfinite(nib.load(path).get_fdata()).all() for path in done)


def test_every_bad_image_is_named_with_its_reason_and_leaves_nothing(whole_run):
    folder, labels, _, _, err = whole_run
    for label, said in labels.items():
        line = next(li for li in err.splitlines() if li.startswith(f"sub-{label} failed"))
        assert said in line and f"sub-{label}_T1w.nii" in line, line
        assert (folder / "out" / f"sub-{label}.html").is_file()
        left = {p.name for p in (folder / "out" / f"sub-{label}").rglob("*") if p.is_file()}
        assert all(name.startswith("crash-") or name == "bh-bids.toml" for name in left), left


def test_a_scan_that_was_mended_is_done_by_the_next_run(
    whole_run, write_t1w, small_brain, small_model, run_here
):
    folder, labels, *_ = whole_run
    for path in (folder / "bids" / "sub-truncated" / "anat").iterdir():
        path.unlink()
    path = folder / "bids" / "sub-truncated" / "anat" / "sub-truncated_T1w.nii.gz"
    write_t1w(path, 3 * small_brain.volume, small_brain.affine)
    options = ("--sloppy", "--participant-label", "truncated", "good")
    code, out, err = run_here(folder / "bids", folder, small_model, *options)
    assert code == 0, err
    assert "1 of 2 scans are done already" in out
    for label in ("truncated", "good"):
        anat = folder / "out" / f"sub-{label}" / "anat"
        assert len(list(anat.glob("*_desc-harmonized_T1w.nii.gz"))) == 2
