"""Whole-head label maps (FreeSurfer's labels and extra-cerebral classes) as tissue classes.

Labels up to 255 are FreeSurfer's; 501 and up are the head classes of SimNIBS' charm, which the
label maps of SynthSeg use; 136, 137, 163 and 164 are their choroid plexus, left and right, in
the lateral ventricle and in its inferior horn.
"""

import numpy as np
from scipy import ndimage

from ..errors import InputError
from .tissues import CODES

_CLASSES = {
    "air": (0, 501, 517),
    "csf": (4, 5, 14, 15, 24, 43, 44, 72, 520),
    "grey": (3, 8, 17, 18, 19, 20, 26, 27, 42, 47, 53, 54, 55, 56, 58, 59, 80),
    "white": (2, 7, 41, 46, 251, 252, 253, 254, 255),
    "striatum": (11, 12, 50, 51),
    "thalamus": (9, 10, 48, 49),
    "pallidum": (13, 52),
    "brainstem": (16, 28, 60),
    "choroid plexus": (31, 63, 136, 137, 163, 164),
    "nerve": (85, 530),
    "cord": (512,),
    "artery": (502,),
    "vein": (30, 62, 514),
    "bone": (515,),
    "marrow": (516,),
    "muscle": (507, 508),
    "skin": (511,),
    "mucosa": (509,),
    "vitreous": (506,),
}
# Lesions and hypointensities lie in white matter and are counted, and shown, as white matter.
_HYPOINTENSE = (25, 57, 77, 78, 79)

LABEL_CLASSES = {label: CODES[name] for name, labels in _CLASSES.items() for label in labels}
LABEL_CLASSES.update({label: CODES["white"] for label in _HYPOINTENSE})
"""Tissue class code of every label that is known."""

OTHER_TISSUE = 507
CSF_LABEL = 24

BRAIN_LABELS = frozenset(
    label for label in LABEL_CLASSES if (1 <= label < 256) and label != CSF_LABEL
)
"""Labels that are brain: tissue, ventricles with their plexus, chiasm and pial vessels."""


def check_labels(labels, where="the label map"):
    """Integer labels, or an error that names the first unknown one.

    Parameters
    ----------
    labels : numpy.ndarray, shape (x, y, z)
        Label map; floating-point arrays must hold whole numbers.
    where : str
        The file, for the error's sentence.

    Returns
    -------
    numpy.ndarray of int32, shape (x, y, z)

    Raises
    ------
    InputError
        If the map is not three-dimensional, holds fractions, or holds unknown labels.
    """
    labels = np.asarray(labels)
    if labels.ndim != 3:
        raise InputError(f"{where} has {labels.ndim} dimensions: a label map has three.")
    whole = labels.astype(np.int32)
    if not np.array_equal(whole, labels):
        raise InputError(f"{where} holds fractions: a label map holds whole numbers.")
    unknown = sorted(set(np.unique(whole).tolist()) - set(LABEL_CLASSES))
    if unknown:
        raise InputError(
            f"{where} holds label {unknown[0]}, which is not a FreeSurfer or head label known "
            "here: give whole-head maps of FreeSurfer's labels and the extra-cerebral classes."
        )
    return whole


def tissue_classes(labels, voxel_size=1.0, where="the label map"):
    """Tissue classes and brain mask of a whole-head label map.

    "Other tissue" (507) is split by depth: subcutaneous and orbital fat near the skin and the
    eyes, muscle elsewhere. The brain mask is all brain labels and the sulcal part of the
    cerebrospinal fluid (24), the part that a closing of the brain labels reaches; the fluid
    between the closed brain and the skull is outside, as in common brain extraction.

    Parameters
    ----------
    labels : numpy.ndarray, shape (x, y, z)
        Label map in any orientation.
    voxel_size : float or sequence of float
        Voxel size in mm.
    where : str
        The file, for the error's sentence.

    Returns
    -------
    classes : numpy.ndarray of uint8, shape (x, y, z)
        Codes of :data:`bh_bids.simulation.tissues.CODES`.
    brain : numpy.ndarray of bool, shape (x, y, z)

    Raises
    ------
    InputError
        If a label is unknown or there is no brain label.
    """
    labels = check_labels(labels, where)
    voxel_size = np.broadcast_to(np.asarray(voxel_size, dtype=float), 3)
    lookup = np.zeros(max(LABEL_CLASSES) + 1, dtype=np.uint8)
    for label, code in LABEL_CLASSES.items():
        lookup[label] = code
    classes = lookup[labels]
    brain = brain_mask(labels, voxel_size)
    if not brain.any():
        raise InputError(f"{where} holds no brain label: give whole-head label maps.")
    _fill_ventricles(classes, brain)
    _split_other_tissue(labels, classes, voxel_size)
    return classes, brain


def brain_mask(labels, voxel_size=1.0, closing_mm=5.0):
    """Brain labels with the cerebrospinal fluid of the sulci.

    Parameters
    ----------
    labels : numpy.ndarray of int, shape (x, y, z)
    voxel_size : float or sequence of float
        Voxel size in mm.
    closing_mm : float
        Radius of the closing that bridges sulci, in mm.

    Returns
    -------
    numpy.ndarray of bool, shape (x, y, z)
        Empty where there is no brain label.
    """
    voxel_size = np.broadcast_to(np.asarray(voxel_size, dtype=float), 3)
    flags = np.zeros(int(labels.max()) + 1, dtype=bool)
    flags[[label for label in BRAIN_LABELS if label < len(flags)]] = True
    tissue = flags[labels]
    brain = np.zeros(labels.shape, dtype=bool)
    box = _bounding_box(tissue)
    if box is None:
        return brain
    pad = [int(np.ceil(closing_mm / size)) + 1 for size in voxel_size]
    padded = np.pad(tissue[box], [(n, n) for n in pad])
    grown = ndimage.distance_transform_edt(~padded, sampling=voxel_size) <= closing_mm
    closed = ndimage.distance_transform_edt(grown, sampling=voxel_size) > closing_mm
    closed = closed[tuple(slice(n, -n) for n in pad)]
    fluid = np.isin(labels[box], (0, CSF_LABEL, 520))
    brain[box] = ndimage.binary_fill_holes(tissue[box] | (closed & fluid))
    return brain


def _bounding_box(mask, margin=0):
    """Slices around a mask's voxels, or None where it is empty."""
    found = ndimage.find_objects(mask.astype(np.uint8))
    if not found:
        return None
    return tuple(slice(max(part.start - margin, 0), part.stop + margin) for part in found[0])


def _fill_ventricles(classes, brain):
    """Unlabelled voxels inside the brain, a few in most maps, become cerebrospinal fluid."""
    classes[brain & (classes == CODES["air"])] = CODES["csf"]


def _split_other_tissue(labels, classes, voxel_size, fat_mm=5.5, orbit_mm=9.0):
    """Turn the superficial and the orbital part of "other tissue" into fat, in place.

    The depth is from the inner side of the skin, so a thick label of skin does not eat the fat.
    """
    for source, reach_mm in (("skin", fat_mm), ("vitreous", orbit_mm)):
        margin = int(np.ceil(reach_mm / voxel_size.min()))
        box = _bounding_box(classes == CODES[source], margin)
        if box is None:
            continue
        near = ndimage.distance_transform_edt(classes[box] != CODES[source], sampling=voxel_size)
        classes[box][(labels[box] == OTHER_TISSUE) & (near <= reach_mm)] = CODES["fat"]
