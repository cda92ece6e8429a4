"""Run one method on one case, and score it."""

import os
import time
from pathlib import Path

import numpy as np

from bh_bids.evaluation.harm import (
    contrast_error,
    lesion_contrast_kept,
    local_ncc,
    stripes,
    tissue_classes,
    white_matter_change,
)
from bh_bids.evaluation.similarity import psnr, ssim

# An exact result has no finite ratio; means need one.
MOST_DECIBELS = 100.0


def run_method(method, case, model, device, seed, step):
    """Result, and what it cost.

    Returns
    -------
    result : numpy.ndarray, shape (x, y, z)
    costs : dict
        "seconds", "cpu_seconds" (of all threads), and "memory", this process's peak in bytes (None
        where the system does not tell).
    """
    if method.slices_apart and step > 1:
        thinned = np.zeros_like(case.mask)
        thinned[:, :, ::step] = case.mask[:, :, ::step]
        case = case._replace(mask=thinned, source=np.where(thinned, case.source, 0))
    known = _forget_peak()
    began, busy = time.perf_counter(), time.process_time()
    result = method.run(case, model, device, seed)
    # On a machine that does other things too only the CPU's seconds say what a method costs.
    costs = {
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - busy,
        "memory": _peak() if known else None,
    }
    return result, costs


class Scorer:
    """Scores against one case's truth, on every ``step``-th axial slice.

    What looks at neighbours along z (SSIM, local NCC, stripes) sees the scored slices as if
    they were neighbours: with a step such figures compare methods, and only those of whole
    volumes stand for themselves.
    """

    def __init__(self, case, step=1):
        self.step = step
        self.truth, self.mask = self._thin(case.truth), self._thin(case.mask)
        self.lesion = None if case.lesion is None else self._thin(case.lesion)
        # Classes come of the whole volume: erosion needs true neighbours.
        exclude = None if case.lesion is None else case.lesion > 0
        classes = tissue_classes(case.truth, case.mask, exclude)
        self.classes = {name: self._thin(part) for name, part in classes.items()}

    def score(self, result):
        """All metrics of one result."""
        image = self._thin(result)
        found = {
            "psnr": min(psnr(self.truth, image, self.mask), MOST_DECIBELS),
            "ssim": ssim(self.truth, image, self.mask),
            "contrast_error": contrast_error(self.truth, image, self.classes),
            "local_ncc": local_ncc(self.truth, image, self.mask),
            "stripes": stripes(self.truth, image, self.mask),
            "wm_change": white_matter_change(self.truth, image, self.classes),
            "lesion_kept": float("nan"),
        }
        if self.lesion is not None and self.lesion.any():
            found["lesion_kept"] = lesion_contrast_kept(self.truth, image, self.lesion, self.mask)
        # JSON has no NaN.
        return {k: float(v) if np.isfinite(v) else None for k, v in found.items()}

    def _thin(self, volume):
        return np.ascontiguousarray(volume[:, :, :: self.step])


def _forget_peak():
    """Start the kernel's high-water mark of this process anew; False where that cannot be."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _peak():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


def one_thread():
    """Keep the libraries of this process to one thread; called before they are loaded."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS",
                 "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"):  # fmt: skip
        os.environ[name] = "1"
    import torch

    torch.set_num_threads(1)
