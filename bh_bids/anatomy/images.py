"""T1-weighted images: read and checked, on the RAS axes, and back on the grid they came from."""

import gzip
import os
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from ..errors import InputError, unreadable
from .resampling import SHEARED

MIN_SIDE = 16
"""Fewest voxels along any axis: fewer cannot hold a brain at any resolution in use."""
VOXEL_SIZE_RANGE = (0.2, 8.0)
"""Plausible voxel sizes in mm; outside it the header's units are wrong."""
MAX_VOXELS = 1024**3
"""A larger header is refused before anything is allocated."""
SATURATED = 1e-3
"""A scan is saturated if more than this share of its bright voxels have the largest value, and more
than have a value of the highest twentieth below it."""
MAX_SHEAR = 0.5
"""Largest cosine between two voxel axes, 60 degrees: no scanner shears a grid by more."""
UNREADABLE = (OSError, EOFError, ValueError, zlib.error, ImageFileError, HeaderDataError)
"""What nibabel raises for an image that cannot be read: a damaged file, header or gzip stream."""


@dataclass(frozen=True)
class T1wImage:
    """A checked T1w image on RAS axes.

    Attributes
    ----------
    volume : numpy.ndarray of float32, shape (x, y, z)
        Intensities as the header scales them, RAS axis order.
    affine : numpy.ndarray of float64, shape (4, 4)
        Voxel indices of ``volume`` to RAS+ mm.
    path : pathlib.Path
        The file read.
    warnings : tuple of str
        What was noticed and did not prevent reading.
    """

    volume: np.ndarray
    affine: np.ndarray
    path: Path
    warnings: tuple = field(default=())


def load_t1w(path):
    """Read a T1w image, check that it can be used, and bring it to RAS axes.

    Parameters
    ----------
    path : path-like
        NIfTI-1 or NIfTI-2 file, 3-D (trailing axes of length 1 are dropped).

    Returns
    -------
    T1wImage

    Raises
    ------
    InputError
        If the file cannot be read or holds no usable T1w volume; the message names the file, what
        is wrong with it, and what to do.
    """
    image, warnings = _read_checked(path)
    data = np.asanyarray(image.dataobj)
    check_intensities(data, path)
    warnings += saturation(data, path)
    image = nib.as_closest_canonical(image)
    return T1wImage(
        volume=np.ascontiguousarray(image.get_fdata(dtype=np.float32)),
        affine=image.affine,
        path=Path(path),
        warnings=tuple(warnings),
    )


def _read_checked(path):
    """An image whose header was checked and whose data are in memory: 3-D, float32."""
    path = Path(path)
    image = open_nifti(path)
    warnings = check_header(image, path)
    try:
        with np.errstate(over="ignore"):  # what overflows is infinite, and refused as such
            data = np.asanyarray(image.dataobj, dtype=np.float32)
        _check_gzip(path)
    except UNREADABLE:
        raise InputError(
            f"{path} is truncated or damaged: its data cannot be read to their end. "
            "Copy or convert the file again."
        ) from None
    return nib.Nifti1Image(data.reshape(data.shape[:3]), image.affine), warnings


def open_nifti(path):
    """Open a NIfTI file without reading its data.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    nibabel.Nifti1Image or nibabel.Nifti2Image

    Raises
    ------
    InputError
        If the file is missing, empty, unreadable or not a NIfTI image.
    """
    path = Path(path)
    if not path.exists():
        hint = " It is a dangling link: fetch its content first (datalad get, git annex get)."
        raise InputError(f"{path} does not exist." + (hint if path.is_symlink() else ""))
    if path.is_dir():
        raise InputError(f"{path} is a folder, where a NIfTI file was expected.")
    if not path.is_file():
        raise InputError(f"{path} is a pipe or a device, where a NIfTI file was expected.")
    if not os.access(path, os.R_OK):
        raise unreadable(path)
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty (0 bytes). Copy or convert the file again.")
    try:
        image = nib.load(path)
    except UNREADABLE:
        image = None
    # NIfTI-2's class derives from NIfTI-1's; Analyze and MGH files do not.
    if not isinstance(image, nib.Nifti1Image):
        raise InputError(
            f"{path} is not a readable NIfTI image: its header is damaged or of another format. "
            "Convert the scan again."
        )
    return image


def _check_gzip(path):
    """Read a compressed file to its checksum, which nibabel never reaches."""
    if path.suffix == ".gz":
        with gzip.open(path) as stream:
            while stream.read(1 << 22):
                pass


def check_header(image, path):
    """Refuse headers that cannot describe a T1w volume in space.

    Parameters
    ----------
    image : nibabel.Nifti1Image
    path : path-like
        Named in the messages.

    Returns
    -------
    list of str
        Warnings.

    Raises
    ------
    InputError
    """
    shape = image.shape
    if len(shape) > 3 and any(side != 1 for side in shape[3:]):
        raise InputError(
            f"{path} has {len(shape)} dimensions {shape}: a T1w image must be 3-D. "
            "Extract one volume of it."
        )
    if len(shape) < 3 or min(shape[:3]) < MIN_SIDE:
        raise InputError(
            f"{path} has shape {shape}: a T1w image needs at least {MIN_SIDE} voxels along each "
            "of three axes. Localizers and single slices cannot be harmonized."
        )
    if np.prod([float(side) for side in shape]) > MAX_VOXELS:
        raise InputError(
            f"{path} claims {shape} voxels, more than any T1w image has: its header is damaged."
        )
    dtype = image.get_data_dtype()
    if dtype.fields is not None or np.issubdtype(dtype, np.complexfloating):
        raise InputError(
            f"{path} holds {dtype} voxels: a T1w image must have one real number per voxel."
        )
    return _check_affine(image, path)


def _usable_qform(header):
    """The qform, or None if there is none or its numbers are damaged."""
    try:
        qform, _ = header.get_qform(coded=True)
    except (ValueError, HeaderDataError):  # b^2 + c^2 + d^2 above 1, above all
        return None
    return qform if qform is not None and np.isfinite(qform).all() else None


def _check_affine(image, path):
    qform, qcode = _usable_qform(image.header), int(image.header["qform_code"])
    sform, scode = image.header.get_sform(coded=True)
    if not qcode and not scode:
        raise InputError(
            f"{path} has neither a qform nor an sform (both codes are 0): left and right cannot "
            "be told apart. Convert it again from DICOM, or set its orientation."
        )
    if qform is None and not scode:
        raise InputError(
            f"{path} has an unusable qform and no sform: left and right cannot be told apart. "
            "Convert it again from DICOM, or set its orientation."
        )
    affine = image.affine
    columns = affine[:3, :3]
    sizes = np.sqrt((columns**2).sum(axis=0))
    if not np.isfinite(affine).all() or sizes.min() == 0:
        raise InputError(f"{path} has a degenerate affine (zero or non-finite axes): {affine}.")
    directions = columns / sizes
    if abs(np.linalg.det(directions)) < 1e-2:
        raise InputError(f"{path} has a degenerate affine: its voxel axes lie in one plane.")
    if sizes.min() < VOXEL_SIZE_RANGE[0] or sizes.max() > VOXEL_SIZE_RANGE[1]:
        raise InputError(
            f"{path} has voxels of {np.round(sizes, 3).tolist()} mm: outside "
            f"{VOXEL_SIZE_RANGE[0]}-{VOXEL_SIZE_RANGE[1]} mm. Check the units of its header."
        )
    shear = np.abs(directions.T @ directions - np.eye(3)).max()
    if shear > MAX_SHEAR:
        raise InputError(
            f"{path} has a sheared affine, its voxel axes {np.degrees(np.arccos(shear)):.0f} "
            "degrees apart. Check its header, or resample it on a grid with orthogonal axes."
        )
    warnings = []
    if qcode and qform is None:
        warnings.append(f"{path.name}: its qform is unusable; the sform is used.")
    if shear > SHEARED:
        warnings.append(
            f"{path.name}: the voxel axes are not at right angles, but up to "
            f"{np.degrees(np.arcsin(shear)):.1f} degrees off; the results lie on the same grid."
        )
    # A qform cannot hold a shear: its differing is no conflict then.
    elif qform is not None and scode and not np.allclose(qform, sform, atol=1e-2):
        warnings.append(
            f"{path.name}: qform and sform differ by up to "
            f"{np.abs(qform - sform).max():.2f}; the sform is used."
        )
    return warnings


def check_intensities(data, path):
    """Refuse volumes without an image in them.

    Parameters
    ----------
    data : numpy.ndarray, shape (x, y, z)
    path : path-like
        Named in the messages.

    Raises
    ------
    InputError
        If any voxel is NaN or infinite, or all voxels have one value.
    """
    finite = np.isfinite(data)
    if not finite.all():
        raise InputError(
            f"{path} has {int((~finite).sum())} NaN or infinite voxels. "
            "Convert it again, or set them to 0 if they are background."
        )
    low, high = float(data.min()), float(data.max())
    if low == high:
        what = "all its voxels are 0" if low == 0 else f"all its voxels have the value {low:g}"
        raise InputError(f"{path} is blank: {what}.")


def saturation(data, path):
    """Tell of a scan whose bright end was cut off.

    Parameters
    ----------
    data : numpy.ndarray, shape (x, y, z)
    path : path-like
        Named in the sentence.

    Returns
    -------
    list of str
        A sentence if more than one in a thousand of the voxels brighter than the mean have the
        very largest value, and fewer come close to it.
    """
    largest = data.max()
    bright, top = int((data > data.mean()).sum()), int((data == largest).sum())
    if top <= max(SATURATED * bright, int((data > 0.95 * largest).sum()) - top):
        return []
    return [
        f"{Path(path).name}: {top} voxels have its largest value, {largest:g}: its bright end "
        "was cut off."
    ]


def read_ras(path):
    """Read an image that this program wrote, on RAS axes.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    volume : numpy.ndarray of float32, shape (x, y, z)
    affine : numpy.ndarray, shape (4, 4)
    """
    image = nib.as_closest_canonical(open_nifti(path))
    return np.ascontiguousarray(image.get_fdata(dtype=np.float32)), image.affine


def load_mask(path, shape, affine, of="brain"):
    """Read a mask made elsewhere for a scan.

    Parameters
    ----------
    path : path-like
    shape : tuple of int
        Of the scan on RAS axes.
    affine : numpy.ndarray, shape (4, 4)
        Of the scan on RAS axes.
    of : {"brain", "lesion"}
        What it covers. Of a brain are the voxels above 0.5, of lesions all above 0; a mask of
        lesions may be empty.

    Returns
    -------
    numpy.ndarray of bool, shape ``shape``

    Raises
    ------
    InputError
        If the mask cannot be read, does not lie on the scan's grid, or is a brain's and empty.
    """
    image = nib.as_closest_canonical(_read_checked(path)[0])
    without = {"brain": "leave out --derivatives", "lesion": "take it away"}[of]
    if image.shape != tuple(shape) or not np.allclose(image.affine, affine, atol=1e-2):
        raise InputError(
            f"The {of} mask {path} does not lie on the grid of its T1w scan: resample it, or "
            f"{without}."
        )
    mask = image.get_fdata(dtype=np.float32) > {"brain": 0.5, "lesion": 0}[of]
    if of == "brain" and not mask.any():
        raise InputError(f"The {of} mask {path} is empty: make it again, or {without}.")
    return mask


def save_nifti(volume, affine, path, dtype=np.float32, code=1):
    """Write a volume on RAS axes as NIfTI-1, in mm.

    Parameters
    ----------
    volume : numpy.ndarray, shape (x, y, z)
    affine : numpy.ndarray, shape (4, 4)
    path : path-like
    dtype : numpy dtype
        Type on disk; integers are rounded, never scaled.
    code : int
        NIfTI code of qform and sform: 1 for the scanner's space, 4 for MNI152.

    Returns
    -------
    pathlib.Path
    """
    dtype = np.dtype(dtype)
    data = np.rint(volume) if np.issubdtype(dtype, np.integer) else np.asarray(volume)
    image = nib.Nifti1Image(data.astype(dtype), affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code)
    image.set_qform(affine, code)
    nib.save(image, path)
    return Path(path)


def save_on_grid_of(volume, reference_path, path, dtype=np.float32):
    """Write a RAS volume on the grid of an existing image, which may have any axis order.

    Shape, affine, qform, sform, their codes, and units are the reference's, bit for bit. Only a
    qform that cannot be used is set from the sform, with the sform's code: programs that prefer
    the qform then find the same grid, and so does ITK where it refuses a sheared sform.

    What the header says about the reference's own data is left out: header extensions (DICOM,
    comments, AFNI attributes), free text, and intent.

    Parameters
    ----------
    volume : numpy.ndarray, shape (x, y, z)
        RAS axis order, as :func:`load_t1w` gives it for ``reference_path``.
    reference_path : path-like
    path : path-like
    dtype : numpy dtype
        Type on disk.

    Returns
    -------
    pathlib.Path
    """
    reference = open_nifti(reference_path)
    to_ras = nib.io_orientation(reference.affine)
    back = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), to_ras)
    data = nib.orientations.apply_orientation(np.asarray(volume), back).astype(dtype)
    header = reference.header.copy()
    header.set_data_dtype(dtype)
    header.set_data_shape(data.shape)
    header["scl_slope"], header["scl_inter"] = np.nan, np.nan
    header["cal_min"], header["cal_max"] = 0, 0
    for name in ("descrip", "aux_file", "db_name", "data_type"):
        if name in header.keys():  # NIfTI-2 has no place for the last two
            header[name] = b""
    header.set_intent("none")
    header.extensions.clear()
    if header["qform_code"] and _usable_qform(header) is None:
        header.set_qform(reference.affine, int(header["sform_code"]))
    image = type(reference)(data, None, header)
    nib.save(image, path)
    return Path(path)
