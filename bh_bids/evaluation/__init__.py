"""What the group level measures, for notebooks: arrays in, numbers out.

Volumes are RAS, (x, y, z), in target units where a unit matters (:mod:`bh_bids.intensity`: the
brain's 99th percentile is 1); masks are of bool. Volumes that are compared must lie on one grid.

>>> import numpy as np
>>> from bh_bids.evaluation import psnr
>>> truth, image, mask = np.ones((4, 4, 4)), np.full((4, 4, 4), 0.9), np.ones((4, 4, 4), bool)
>>> round(psnr(truth, image, mask), 2)
20.0
"""

from .agreement import coefficient_of_variation, icc
from .distributions import contrast_ratios, intensity_quantiles, wasserstein
from .harm import contrast_error, local_ncc, stripes, tissue_classes, white_matter_change
from .overlap import dice, iou
from .similarity import ncc, nmi, psnr, ssim, ssim_slices
from .site_effect import embed, predict_class, predict_number, scan_features
from .statistics import (
    bootstrap_interval,
    describe,
    paired_difference,
    robust_z,
    wilcoxon_p,
)
from .tissue import label_tissues, tissue_modes

__all__ = [
    "bootstrap_interval",
    "coefficient_of_variation",
    "contrast_error",
    "contrast_ratios",
    "describe",
    "dice",
    "embed",
    "icc",
    "intensity_quantiles",
    "iou",
    "label_tissues",
    "local_ncc",
    "ncc",
    "nmi",
    "paired_difference",
    "predict_class",
    "predict_number",
    "psnr",
    "robust_z",
    "scan_features",
    "ssim",
    "ssim_slices",
    "stripes",
    "tissue_classes",
    "tissue_modes",
    "wasserstein",
    "white_matter_change",
    "wilcoxon_p",
]
