"""What harmonization may do to a brain, good or bad, told by a truth that shares its anatomy."""

from functools import partial

import numpy as np

from ..errors import InputError
from ..threads import at_once
from .similarity import _masked
from .tissue import tissue_modes

# A class of fewer voxels tells nothing.
MIN_VOXELS = 100


def tissue_classes(truth, mask, exclude=None):
    """Voxels that are surely grey and surely white matter of a T1w truth.

    Parameters
    ----------
    truth : numpy.ndarray, shape (x, y, z)
    mask : numpy.ndarray of bool, shape (x, y, z)
        Brain mask.
    exclude : numpy.ndarray of bool, shape (x, y, z), optional
        Voxels of no class, such as lesions.

    Returns
    -------
    dict of str to numpy.ndarray of bool
        "GM" and "WM": nearest to that tissue's mode, with all six neighbours. A class that
        would be left with less than 100 voxels is not eroded.
    """
    from scipy.ndimage import binary_erosion

    mask = np.asarray(mask, dtype=bool)
    modes = tissue_modes(truth, mask)
    low = (modes["CSF"] + modes["GM"]) / 2
    middle = (modes["GM"] + modes["WM"]) / 2
    high = modes["WM"] + (modes["WM"] - modes["GM"]) / 2
    free = mask if exclude is None else mask & ~np.asarray(exclude, dtype=bool)
    classes = {}
    for name, found in (
        ("GM", free & (truth > low) & (truth <= middle)),
        ("WM", free & (truth > middle) & (truth <= high)),
    ):
        core = binary_erosion(found)
        classes[name] = core if core.sum() >= MIN_VOXELS else found
    return classes


def contrast_error(truth, image, classes):
    """How far the ratio of grey to white matter is from the truth's.

    Parameters
    ----------
    truth, image : numpy.ndarray, shape (x, y, z)
    classes : dict of str to numpy.ndarray of bool
        Of :func:`tissue_classes`.

    Returns
    -------
    float
        ``|GM/WM of the image - GM/WM of the truth|``, of the classes' means; NaN if the image's
        white matter has the mean 0 or a class is empty.
    """
    if not all(part.any() for part in classes.values()):
        return float("nan")
    ratios = []
    for volume in (truth, image):
        grey, white = (float(np.mean(volume[classes[t]], dtype=np.float64)) for t in ("GM", "WM"))
        ratios.append(grey / white if white else np.nan)
    return float(abs(ratios[1] - ratios[0]))


def white_matter_change(truth, image, classes):
    """Relative change of the white matter's mean.

    Parameters
    ----------
    truth, image : numpy.ndarray, shape (x, y, z)
        In the same units.
    classes : dict of str to numpy.ndarray of bool
        Of :func:`tissue_classes`.

    Returns
    -------
    float
        Signed; 0.01 is 1 %. NaN if there is no white matter.
    """
    white = classes["WM"]
    if not white.any():
        return float("nan")
    before, after = (float(np.mean(v[white], dtype=np.float64)) for v in (truth, image))
    return after / before - 1 if before else float("nan")


def local_ncc(truth, image, mask, window=9):
    """Mean of :func:`local_ncc_map` over the brain: does structure agree?

    Parameters
    ----------
    truth, image, mask, window
        As of :func:`local_ncc_map`.

    Returns
    -------
    float
        In [-1, 1]; NaN where no window counts.

    Raises
    ------
    InputError
        If shapes differ or the mask is empty.
    """
    found = local_ncc_map(truth, image, mask, window)
    counted = np.isfinite(found)
    return float(found[counted].mean()) if counted.any() else float("nan")


def local_ncc_map(truth, image, mask, window=9):
    """Centred correlation in a small window around each voxel of the brain.

    Parameters
    ----------
    truth, image : numpy.ndarray, shape (x, y, z)
        Volumes in any units.
    mask : numpy.ndarray of bool, shape (x, y, z)
        Only its voxels count in a window.
    window : int
        Side of the cube around each voxel of the mask.

    Returns
    -------
    numpy.ndarray, shape (x, y, z)
        In [-1, 1]. NaN outside the mask, in windows that hold brain in less than half of their
        volume, and where the truth is constant; where the image alone is constant it is 0.

    Raises
    ------
    InputError
        If shapes differ or the mask is empty.
    """
    from scipy.ndimage import uniform_filter

    _masked(truth, image, mask)
    mask = np.asarray(mask, dtype=bool)
    box = tuple(slice(int(i.min()), int(i.max()) + 1) for i in np.nonzero(mask))
    inside = mask[box]
    # Centred on the brain's mean first: variances are differences of large numbers.
    a, b = (np.asarray(v, dtype=np.float64)[box] for v in (truth, image))
    a, b = (np.where(inside, v - v[inside].mean(), 0) for v in (a, b))

    def mean(v):
        return uniform_filter(v, window, mode="constant")

    share, mean_a, mean_b = at_once([partial(mean, v) for v in (inside.astype(np.float64), a, b)])
    counted = inside & (share >= 0.5)
    weight = np.where(counted, share, 1)
    mean_a, mean_b = mean_a / weight, mean_b / weight

    def moment(u, v, mean_u, mean_v):
        return mean(u * v) / weight - mean_u * mean_v

    var_a, var_b, both = at_once(
        [
            partial(moment, a, a, mean_a, mean_a),
            partial(moment, b, b, mean_b, mean_b),
            partial(moment, a, b, mean_a, mean_b),
        ]
    )
    tiny_a, tiny_b = (1e-10 * max(float((v**2).max()), 1e-30) for v in (a, b))
    counted &= var_a > tiny_a
    known = counted & (var_b > tiny_b)
    local = np.where(counted, 0.0, np.nan)
    local[known] = np.clip(both[known] / np.sqrt(var_a[known] * var_b[known]), -1, 1)
    found = np.full(mask.shape, np.nan)
    found[box] = local
    return found


def stripes(truth, image, mask, least=0.02):
    """Gains that jump from slice to slice, as a method that treats slices apart leaves them.

    Parameters
    ----------
    truth, image : numpy.ndarray, shape (x, y, z)
    mask : numpy.ndarray of bool, shape (x, y, z)
        Brain mask.
    least : float
        Slices that hold less than this share of the fullest slice's brain do not count.

    Returns
    -------
    float
        Standard deviation, along z, of the steps between neighbouring slices of the log of the
        median of image over truth; about the relative size of the steps. The truth's own is 0,
        and a gain that drifts evenly along z has none. NaN with fewer than three slices.

    Raises
    ------
    InputError
        If shapes differ or the mask is empty.
    """
    _masked(truth, image, mask)
    # Dark voxels have wild ratios, and zeros none.
    used = np.asarray(mask, dtype=bool) & (np.asarray(truth) > 0.5 * np.median(truth[mask]))
    voxels = used.sum(axis=(0, 1))
    levels = np.full(used.shape[2], np.nan)
    for k in np.flatnonzero((voxels > 0) & (voxels >= least * voxels.max())):
        inside = used[:, :, k]
        middle = float(np.median(image[:, :, k][inside] / truth[:, :, k][inside]))
        levels[k] = np.log(middle) if middle > 0 else np.nan
    steps = np.diff(levels)
    steps = steps[np.isfinite(steps)]
    return float(steps.std()) if steps.size >= 2 else float("nan")


def lesion_contrast_kept(truth, image, labels, mask, rim=3):
    """How much of the lesions' contrast to their surroundings is left.

    Parameters
    ----------
    truth, image : numpy.ndarray, shape (x, y, z)
    labels : numpy.ndarray of int, shape (x, y, z)
        0 where there is no lesion, else its number.
    mask : numpy.ndarray of bool, shape (x, y, z)
        Brain mask.
    rim : int
        The surroundings are the brain within so many voxels of the lesion, but for the one
        nearest to it, whose voxels hold both.

    Returns
    -------
    float
        Mean over lesions of the image's relative contrast, (lesion - surroundings) over
        surroundings, divided by the truth's: 1 is kept, 0 is erased, more is exaggerated.

    Raises
    ------
    InputError
        If shapes differ, or there is no lesion with surroundings.
    """
    contrasts = lesion_contrasts(truth, image, labels, mask, rim)
    if not contrasts:
        raise InputError("There is no lesion with surroundings to measure its contrast by.")
    return float(np.mean([after / before if before else np.nan for before, after in contrasts]))


def lesion_contrasts(truth, image, labels, mask, rim=3):
    """Relative contrast of each lesion to its surroundings, in two volumes.

    Parameters
    ----------
    truth, image, labels, mask, rim
        As of :func:`lesion_contrast_kept`.

    Returns
    -------
    list of (float, float)
        (lesion - surroundings) over surroundings in the truth and in the image, of each lesion
        that has surroundings.

    Raises
    ------
    InputError
        If shapes differ.
    """
    from scipy.ndimage import binary_dilation, find_objects

    _masked(truth, image, mask)
    found = []
    for number, place in enumerate(find_objects(labels), start=1):
        if place is None:
            continue
        box = tuple(slice(max(a.start - rim - 2, 0), a.stop + rim + 2) for a in place)
        inside = np.asarray(mask[box], dtype=bool)
        lesion = (labels[box] == number) & inside
        around = binary_dilation(lesion, iterations=rim) & inside
        around &= ~binary_dilation(labels[box] > 0)
        if not lesion.any() or not around.any():
            continue
        contrasts = []
        for volume in (truth[box], image[box]):
            inner, outer = (float(np.mean(volume[r], dtype=np.float64)) for r in (lesion, around))
            contrasts.append(inner / outer - 1 if outer else np.nan)
        found.append(tuple(contrasts))
    return found
