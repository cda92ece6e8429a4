"""Brain masks: of scans that are already skull-stripped, and by a warped head template.

The whole-head template and its brain probability map are registered to the scan at 2 mm (affine,
then symmetric diffeomorphic: Avants et al. 2008, doi:10.1016/j.media.2007.06.004), the warped
probability is cut at one half, and the border moves to the scan's own, as far as it shows one.
"""

import tempfile
from functools import partial

import ants
import numpy as np
from scipy import ndimage

from ..errors import InputError
from ..intensity import few_intensities
from .ants_images import deterministic, silent, to_ants
from .bias import NO_NEGATIVE, rough_correction
from .resampling import content_box, downsample, extend, resample, voxel_sizes, voxel_volume
from .templates import find_head_template

WORKING_SPACING = 2.5
"""mm; 2 mm costs twice the time for a Dice coefficient better by 0.001 to 0.003."""
SLOPPY_SPACING = 3.5
START_SPACING = 6.0
"""mm; where the search over angles begins the registration."""
EVENING_SPACING = 3.0
"""mm; brightness around a voxel is as smooth as a field."""
BRIGHTEST = 1.7
"""Brightest brain, as share of its median; vessels are brighter."""
FLUID_TO_GREY = (0.48, 0.52)
"""Brightness of fluid over that of grey matter: up to here the scan shows its brain's border, and
from here on it does not. Simulated low contrasts have 0.51 to 0.56, others up to 0.485, four real
heads 0.20 to 0.27."""
BRAIN_VOLUME_ML = (600.0, 2500.0)
"""Plausible volumes of what a skull-stripped T1w shows, in ml."""
LEAST_CORE_ML = 10.0
"""A smaller core is no brain, and nothing of it lies deep enough to find the border from."""
NEGATIVE = (0.01, 0.10)
"""Shares of negative voxels in the brain that are told, and refused: they count as 0. An
interpolation leaves a few at edges; a z-scored brain has half of them."""
EMPTY = 0.01
"""Share of a brain mask that may lie in the scan's empty background before it is left out."""
MIN_BACKGROUND = 0.4
"""A skull-stripped scan has at least this share of voxels at its background value."""


def is_skull_stripped(volume, affine):
    """Whether a T1w scan shows nothing but a brain.

    Parameters
    ----------
    volume : numpy.ndarray, shape (x, y, z)
    affine : numpy.ndarray, shape (4, 4)

    Returns
    -------
    bool
        True if the background has one single value over much of the field of view, and what
        remains is one piece of a brain's volume that is not cut by the field of view on more than
        one side.
    """
    content = foreground(volume)
    if content.mean() > 1 - MIN_BACKGROUND:
        return False
    largest = _largest_component(content)
    volume_ml = largest.sum() * voxel_volume(affine)
    if not BRAIN_VOLUME_ML[0] <= volume_ml <= BRAIN_VOLUME_ML[1]:
        return False
    if largest.sum() < 0.9 * content.sum():
        return False
    faces = [largest[0], largest[-1], largest[:, 0], largest[:, -1]]
    faces += [largest[:, :, 0], largest[:, :, -1]]
    return bool(sum(face.mean() > 0.01 for face in faces) <= 1)


def foreground(volume):
    """Voxels that differ from the background's one value (the most frequent of the border's).

    Parameters
    ----------
    volume : numpy.ndarray, shape (x, y, z)

    Returns
    -------
    numpy.ndarray of bool, shape (x, y, z)
    """
    border = np.concatenate([volume[0].ravel(), volume[-1].ravel(), volume[:, :, -1].ravel()])
    values, counts = np.unique(border, return_counts=True)
    return volume != values[counts.argmax()]


def mask_of_skull_stripped(volume):
    """Brain mask of a scan that is already skull-stripped.

    Parameters
    ----------
    volume : numpy.ndarray, shape (x, y, z)

    Returns
    -------
    numpy.ndarray of bool, shape (x, y, z)
        The largest piece of the foreground, with its holes filled.
    """
    return _without_holes(_largest_component(foreground(volume)))


def brain_mask(
    volume,
    affine,
    *,
    mode="auto",
    given=None,
    given_by="mask from --derivatives",
    template=None,
    seed=0,
    sloppy=False,
    force=False,
):
    """Brain mask of a T1w scan, in the way that suits it.

    Parameters
    ----------
    volume : numpy.ndarray, shape (x, y, z)
        RAS axes.
    affine : numpy.ndarray, shape (4, 4)
    mode : {"auto", "skip", "force"}
        ``skip`` takes the scan as already skull-stripped, ``force`` as not, ``auto`` looks.
    given : numpy.ndarray of bool, shape (x, y, z), optional
        A mask made elsewhere; it is used as it is, but for what lies where the scan is empty.
    given_by : str
        What made it.
    template : str, optional
        TemplateFlow name of a head template; the packaged one without.
    seed : int
    sloppy : bool
    force : bool
        Go on with a mask of no brain's volume.

    Returns
    -------
    mask : numpy.ndarray of bool, shape (x, y, z)
    details : dict
        ``Method``, ``Volume_ml``, and ``Warnings``, a list of sentences.

    Raises
    ------
    InputError
        If no brain is found, or more than 10 % of it is negative.
    """
    warnings = []
    if given is not None:
        mask, method = given, given_by
    elif mode == "skip" or (mode == "auto" and is_skull_stripped(volume, affine)):
        mask, method = mask_of_skull_stripped(volume), "none (already skull-stripped)"
    else:
        head, notes = find_head_template(template)
        mask, method = extract_brain(volume, affine, head, seed=seed, sloppy=sloppy), head.method
        warnings += notes
    mask, notes = without_empty(volume, mask)
    warnings += notes
    volume_ml = float(mask.sum() * voxel_volume(affine))
    plausible = BRAIN_VOLUME_ML[0] <= volume_ml <= BRAIN_VOLUME_ML[1]
    if not plausible and not (force and volume_ml):
        raise InputError(
            f"The brain mask ({method}) has {volume_ml:.0f} ml, which is no brain: check that the "
            "scan is a T1w head in its true orientation, or give a mask with --derivatives."
        )
    warnings += [*negative_intensities(volume, mask), *few_intensities(volume[mask])]
    return mask, {"Method": method, "Volume_ml": round(volume_ml, 1), "Warnings": warnings}


def without_empty(volume, mask):
    """Leave out of a brain mask what lies where the scan shows nothing.

    A mask of another program may be wider than the brain that was cut out of the scan; a scan may
    be padded, or defaced into the brain. Zeros there would count as the brain's darkest tissue.

    Parameters
    ----------
    volume : numpy.ndarray, shape (x, y, z)
    mask : numpy.ndarray of bool, shape (x, y, z)

    Returns
    -------
    mask : numpy.ndarray of bool, shape (x, y, z)
        As it was, if less than 1 % of it is empty. What is empty in the middle of the brain stays.
    notes : list of str
        A sentence if something was left out.
    """
    background = ~foreground(volume)
    empty = mask & ndimage.binary_propagation(background & ~mask, mask=background)
    share = np.count_nonzero(empty) / max(np.count_nonzero(mask), 1)
    if share < EMPTY:
        return mask, []
    return mask & ~empty, [
        f"{100 * share:.1f} % of the brain mask lies where the scan is empty, and was left out: "
        "check that mask and scan belong together."
    ]


def negative_intensities(volume, mask):
    """Tell of a brain with negative intensities, which all that follows takes for 0.

    Parameters
    ----------
    volume : numpy.ndarray, shape (x, y, z)
    mask : numpy.ndarray of bool, shape (x, y, z)
        Brain mask.

    Returns
    -------
    list of str
        A sentence if 1 % of the brain's voxels or more are negative.

    Raises
    ------
    InputError
        If more than 10 % are.
    """
    share = np.count_nonzero(volume[mask] < 0) / max(np.count_nonzero(mask), 1)
    told, refused = NEGATIVE
    if share > refused:
        raise InputError(
            f"{100 * share:.0f} % of the brain is negative: its intensities look z-scored or "
            f"shifted; {NO_NEGATIVE}"
        )
    if share < told:
        return []
    return [
        f"{100 * share:.1f} % of the brain is negative and counts as 0: check that the scan's "
        "intensities were not shifted."
    ]


def extract_brain(volume, affine, head, *, seed=0, sloppy=False):
    """Brain mask of a whole-head T1w scan.

    Parameters
    ----------
    volume : numpy.ndarray, shape (x, y, z)
        Whole head, RAS axes, not yet bias-corrected.
    affine : numpy.ndarray, shape (4, 4)
    head : HeadTemplate
    seed : int
        Seed of the registration's sampling.
    sloppy : bool
        Fewer iterations, for trials: faster and worse.

    Returns
    -------
    numpy.ndarray of bool, shape (x, y, z)
        Empty, or a few ml, if the template was not found in the scan.

    Raises
    ------
    InputError
        If no intensity is positive, or more than 10 % of the brain is negative.
    """
    corrected = rough_correction(volume, affine)
    small, grid = downsample(corrected, affine, SLOPPY_SPACING if sloppy else WORKING_SPACING)
    # Beyond the head's brightest fat, intensities carry no anatomy but pull the metric.
    small = np.maximum(small, 0)
    small = np.minimum(small, np.percentile(small[small > small.mean()], 98))
    fixed, moving = to_ants(small, grid), to_ants(head.volume, head.affine)
    with deterministic(seed), tempfile.TemporaryDirectory() as folder:
        # A head that nods far is lost from a start at the middles alone.
        with silent():
            start = ants.affine_initializer(
                to_ants(*downsample(small, grid, START_SPACING)),
                to_ants(*downsample(head.volume, head.affine, START_SPACING)),
                search_factor=20,
                radian_fraction=0.2,
                local_search_iterations=10,
                txfn=f"{folder}/start.mat",
            )
        fit = ants.registration(
            fixed,
            moving,
            type_of_transform="SyN",
            initial_transform=start,
            reg_iterations=(20, 5) if sloppy else (40, 30, 10),
            outprefix=f"{folder}/",
        )
        warped = ants.apply_transforms(
            fixed, to_ants(head.probability, head.affine), fit["fwdtransforms"]
        ).numpy()
    probability = resample(warped, grid, volume.shape, affine)
    core = _largest_component(probability > 0.5)
    if _too_small(core, affine):
        return core
    negative_intensities(volume, core)  # below 0 there is no contrast that shows a border
    evened = corrected / _tissue_level(corrected, affine, core)
    within = None
    # Where fluid is nearly as bright as cortex, the border is the average head's rather than the
    # scan's: the mask starts from where nearly all heads have brain, and grows where most have.
    doubt = _fluid_like_cortex(evened, core)
    if doubt:
        within = probability > 0.5 * doubt
        core = _largest_component(probability > 0.5 + 0.3 * doubt)
        if _too_small(core, affine):
            return core
    return _without_holes(refine_mask(evened, core, voxel_sizes(affine), within=within))


def _too_small(core, affine):
    return core.sum() * voxel_volume(affine) < LEAST_CORE_ML


def _tissue_level(volume, affine, core, *, spread=12.0, rounds=3):
    """How bright the brain's tissue is around each voxel.

    What is left of a strong field makes fluid here as bright as cortex there. ``spread`` is the
    standard deviation in mm of the weights around a voxel.
    """
    small, grid = downsample(volume, affine, EVENING_SPACING)
    inside = downsample(core, affine, EVENING_SPACING)[0] > 0.5
    around = partial(ndimage.gaussian_filter, sigma=spread / voxel_sizes(grid))
    level = np.full(small.shape, np.median(small[inside]))
    for _ in range(rounds):
        relative = small / level
        tissue = inside & (relative > _darkest_brain(relative[inside])) & (relative < BRIGHTEST)
        weight = around(tissue.astype(np.float64))
        known = weight > 1e-3
        level = around(np.where(tissue, small, 0.0)) / np.maximum(weight, 1e-3)
        nearest = ndimage.distance_transform_edt(
            ~known, return_distances=False, return_indices=True
        )
        level = level[tuple(nearest)]
    level = np.maximum(level, np.finfo(np.float32).tiny)
    return np.exp(extend(np.log(level), grid, volume.shape, affine))


def refine_mask(volume, core, sizes, *, within=None, reach=4.0, bridge=2.0, sulci=5.0):
    """Let a mask move to the cortex's edge, but never far.

    An averaged head's probability map is cut a little inside the gyri's crowns, or outside them
    where much fluid surrounds the brain. From deep inside the mask follows voxels as bright as
    brain; the dark rim of cerebrospinal fluid and bone stops it.

    Parameters
    ----------
    volume : numpy.ndarray, shape (x, y, z)
        T1w volume, tissue as bright everywhere.
    core : numpy.ndarray of bool, shape (x, y, z)
        Mask to start from.
    sizes : sequence of float
        Voxel sizes in mm.
    within : numpy.ndarray of bool, shape (x, y, z), optional
        Where the mask may grow; everywhere without.
    reach : float
        Farthest distance in mm, outwards and inwards, that the mask's border moves.
    bridge : float
        Radius in mm of the opening that cuts thin bridges to other tissue.
    sulci : float
        Radius in mm of the closing that takes in sulci.

    Returns
    -------
    numpy.ndarray of bool, shape (x, y, z)
    """
    relative = volume / np.median(volume[core])
    box = content_box(core, margin=int(np.ceil((reach + sulci) / min(sizes))) + 1)
    edt = partial(ndimage.distance_transform_edt, sampling=sizes)
    like_brain = (relative[box] > _darkest_brain(relative[core])) & (relative[box] < BRIGHTEST)
    deep = edt(core[box]) > reach
    zone = edt(~core[box]) <= reach
    if within is not None:
        zone &= within[box]
    grown = ndimage.binary_propagation(deep, mask=deep | (like_brain & zone))
    opened = edt(~(edt(grown) > bridge)) <= bridge
    kept = deep | (grown & opened)
    closed = edt(edt(~kept) <= sulci) > sulci
    refined = np.zeros_like(core)
    refined[box] = _largest_component(kept | (closed & zone))
    return refined


def _darkest_brain(relative):
    """Halfway between fluid, the darkest in a brain, and grey matter, whatever the contrast is."""
    return float(np.clip(sum(_fluid_and_grey(relative)) / 2, 0.4, 0.75))


def _fluid_like_cortex(volume, core):
    """Whether fluid is too like grey matter to show the brain's border: 0 no, 1 yes."""
    fluid, grey = _fluid_and_grey(volume[core])
    low, high = FLUID_TO_GREY
    return float(np.clip((fluid / grey - low) / (high - low), 0, 1))


def _fluid_and_grey(values):
    """How bright fluid and the darker half of grey matter are in a brain."""
    return np.percentile(values, [1, 30])


def _largest_component(mask):
    labels, count = ndimage.label(mask)
    if count == 0:
        return np.zeros_like(mask, dtype=bool)
    return labels == np.bincount(labels.ravel())[1:].argmax() + 1


def _without_holes(mask):
    box = content_box(mask, margin=1)
    filled = np.zeros_like(mask, dtype=bool)
    if box is not None:
        filled[box] = ndimage.binary_fill_holes(mask[box])
    return filled
