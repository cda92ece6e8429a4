"""All that is measured of one image of one brain, by one function."""

from dataclasses import dataclass, field

import numpy as np

from ..errors import InputError
from .distributions import contrast_ratios, intensity_quantiles, wasserstein
from .overlap import dice, iou
from .similarity import ncc, nmi, psnr, ssim, ssim_slices
from .tissue import TISSUES, label_tissues

#: An exact result has no finite ratio; means need one.
MOST_DECIBELS = 100.0


@dataclass(frozen=True)
class Score:
    """What a score is, and how it is told.

    Attributes
    ----------
    title : str
        In tables and figures.
    text : str
        For the data dictionary.
    digits : int
        Shown after the point.
    better : {1, -1, 0}
        More, less, or neither is better.
    paired : bool
        Needs the participant's scan at the target.
    units : str
        BIDS unit; "" for none.
    """

    title: str
    text: str
    digits: int = 3
    better: int = 0
    paired: bool = False
    units: str = ""


SCORES = {
    "psnr": Score("PSNR (dB)", "Peak signal-to-noise ratio inside the brain to the participant's "
                  "scan at the target, at most 100", 2, 1, True, "dB"),
    "ssim": Score("SSIM", "Structural similarity to the target scan, 3-D window, inside the brain",
                  4, 1, True),
    "ssim_slices": Score("SSIM, slices", "Structural similarity to the target scan by axial slice, "
                         "mean of slices", 4, 1, True),
    "ncc": Score("NCC", "Centred correlation with the target scan inside the brain", 4, 1, True),
    "nmi": Score("NMI", "Normalised mutual information with the target scan, (H(a)+H(b))/H(a,b)",
                 4, 1, True),
    "wm_dice": Score("WM Dice", "Dice coefficient of white matter with the target scan's, both "
                     "labelled by a network trained on the target domain", 4, 1, True),
    "wm_iou": Score("WM IoU", "Intersection over union of white matter, likewise", 4, 1, True),
    "wasserstein": Score("Wasserstein", "Wasserstein distance of the brain's intensities to the "
                         "target domain's, target units", 4, -1),
    "wasserstein_csf": Score("Wasserstein CSF", "The same of the voxels that are cerebrospinal "
                             "fluid in the source", 4, -1),
    "wasserstein_gm": Score("Wasserstein GM", "The same of grey matter", 4, -1),
    "wasserstein_wm": Score("Wasserstein WM", "The same of white matter", 4, -1),
    "contrast_error": Score("GM/WM error", "Ratio of grey to white matter's mean minus the target "
                            "domain's, absolute", 4, -1),
    "gm_wm": Score("GM/WM", "Ratio of grey to white matter's mean; tissues as in the source", 3),
    "csf_wm": Score("CSF/WM", "Ratio of cerebrospinal fluid's to white matter's mean", 3),
    "cnr": Score("CNR", "White minus grey matter's mean over their root mean square standard "
                 "deviation", 2),
    "ncc_source": Score("NCC to source", "Centred correlation with the source inside the brain; "
                        "near 1 where anatomy is kept", 4),
    "csf_ml": Score("CSF (ml)", "Volume of cerebrospinal fluid in the image", 0, units="ml"),
    "gm_ml": Score("GM (ml)", "Volume of grey matter in the image", 0, units="ml"),
    "wm_ml": Score("WM (ml)", "Volume of white matter in the image", 0, units="ml"),
}  # fmt: skip
PAIRED = tuple(name for name, score in SCORES.items() if score.paired)


@dataclass(frozen=True)
class Reference:
    """What the target domain's brains look like, without any one brain.

    Attributes
    ----------
    brain : numpy.ndarray, shape (q,)
        Evenly spaced quantiles of the brain's intensities, target units.
    tissues : dict of str to numpy.ndarray, shape (q,)
        The same of "CSF", "GM" and "WM".
    gm_wm : float
        Ratio of grey to white matter's mean.
    """

    brain: np.ndarray
    tissues: dict
    gm_wm: float


def reference_from_scans(scans):
    """The reference of a target domain from its scans, one in memory at a time.

    Parameters
    ----------
    scans : iterable of (volume, mask)
        numpy.ndarray, shape (x, y, z), target units; and of bool.

    Returns
    -------
    Reference
        Means over scans of each quantile (the scans' Wasserstein barycentre) and of the ratio.

    Raises
    ------
    InputError
        If there is no scan, or one holds no brain to tell tissues in.
    """
    rows = []
    for volume, mask in scans:
        labels = label_tissues(volume, mask)
        parts = [intensity_quantiles(volume, mask)]
        parts += [intensity_quantiles(volume, labels == k) for k in (1, 2, 3)]
        rows.append((np.stack(parts), contrast_ratios(volume, labels)["gm_wm"]))
    if not rows:
        raise InputError("A target domain's reference needs at least one of its scans.")
    brain, *tissues = np.mean([parts for parts, _ in rows], axis=0)
    gm_wm = float(np.mean([ratio for _, ratio in rows]))
    return Reference(brain, dict(zip(TISSUES, tissues, strict=True)), gm_wm)


def reference_from_quantiles(quantiles, modes):
    """The reference of a target domain from what a model remembers of it.

    Parameters
    ----------
    quantiles : array_like, shape (q,)
        Pooled quantiles of the domain's brains, evenly spaced, target units.
    modes : dict of str to float
        Modes of "CSF", "GM" and "WM"; tissues part in the middle between them.

    Returns
    -------
    Reference
    """
    quantiles = np.asarray(quantiles, dtype=np.float64)
    even = np.linspace(0, 1, 257)
    shares = np.linspace(0, 1, quantiles.size)
    brain = np.interp(even, shares, quantiles)
    centres = [modes[t] for t in TISSUES]
    borders = [(a + b) / 2 for a, b in zip(centres, centres[1:], strict=False)]
    ends = [0.0, *(float(np.interp(b, quantiles, shares)) for b in borders), 1.0]
    tissues = {
        t: np.interp(ends[k] + even * (ends[k + 1] - ends[k]), shares, quantiles)
        for k, t in enumerate(TISSUES)
    }
    return Reference(brain, tissues, float(tissues["GM"].mean() / tissues["WM"].mean()))


@dataclass(frozen=True)
class Setting:
    """What all images of one scan are measured against.

    Attributes
    ----------
    source : numpy.ndarray, shape (x, y, z)
        The untouched scan, target units.
    mask : numpy.ndarray of bool, shape (x, y, z)
        Its brain mask.
    reference : Reference or None
        Of the target domain.
    truth, truth_mask : numpy.ndarray, shape (x, y, z), or None
        The participant's scan at the target, target units, moved onto the source; and its mask.
    label : callable
        ``label(volume, mask)`` gives tissues, 1 to 3; by intensity without a network.
    trained : bool
        Whether ``label`` is a network trained on the target domain: only then is the overlap of
        white matter told.
    voxel_ml : float
        Volume of a voxel in the participant's head, ml.
    """

    source: np.ndarray
    mask: np.ndarray
    reference: Reference | None = None
    truth: np.ndarray | None = None
    truth_mask: np.ndarray | None = None
    label: object = label_tissues
    trained: bool = False
    voxel_ml: float = 0.001
    _kept: dict = field(default_factory=dict, repr=False)

    def once(self, name, compute):
        """What is the same for all images, computed for the first."""
        if name not in self._kept:
            self._kept[name] = compute()
        return self._kept[name]


def score_image(image, setting):
    """Measure one image of a scan: the untouched one, or what a method made of it.

    Parameters
    ----------
    image : numpy.ndarray, shape (x, y, z)
        Target units.
    setting : Setting

    Returns
    -------
    dict of str to float
        Names of :data:`SCORES`; those that cannot be told (without a pair, a reference or a
        trained network) are missing.

    Raises
    ------
    InputError
        If shapes differ, or no tissue can be told.
    """
    mask = setting.mask
    tissues = setting.once("tissues", lambda: label_tissues(setting.source, mask))
    found = dict(contrast_ratios(image, tissues))
    found["ncc_source"] = ncc(setting.source, image, mask)
    labels = setting.label(image, mask)
    for number, tissue in enumerate(TISSUES, start=1):
        count = int(np.count_nonzero(labels == number))
        found[f"{tissue.lower()}_ml"] = count * setting.voxel_ml
    if setting.reference is not None:
        found.update(_unpaired(image, tissues, mask, setting.reference))
        found["contrast_error"] = abs(found["gm_wm"] - setting.reference.gm_wm)
    if setting.truth is not None:
        found.update(_paired(image, labels, setting))
    return {name: float(found[name]) for name in SCORES if name in found}


def _unpaired(image, tissues, mask, reference):
    found = {"wasserstein": wasserstein(intensity_quantiles(image, mask), reference.brain)}
    for number, tissue in enumerate(TISSUES, start=1):
        region = tissues == number
        if region.any():
            own = intensity_quantiles(image, region)
            found[f"wasserstein_{tissue.lower()}"] = wasserstein(own, reference.tissues[tissue])
    return found


def _paired(image, labels, setting):
    both = setting.once("both", lambda: setting.mask & setting.truth_mask)
    truth = setting.truth
    found = {
        "psnr": min(psnr(truth, image, both), MOST_DECIBELS),
        "ssim": ssim(truth, image, both),
        "ssim_slices": ssim_slices(truth, image, both),
        "ncc": ncc(truth, image, both),
        "nmi": nmi(truth, image, both),
    }
    if setting.trained:
        wanted = setting.once("labels", lambda: np.where(both, setting.label(truth, both), 0))
        seen = np.where(both, labels, 0)
        found |= {"wm_dice": dice(wanted, seen), "wm_iou": iou(wanted, seen)}
    return found
