"""Draw docs/figures/real-source.png: real scans of a scanner that no model has seen.

python docs/figures/make_real_source.py DERIVATIVES

DERIVATIVES are those of OpenNeuro ds000011 (PDDL) and the packaged model. A row for each scan:
source, brain-only histogram match, result, and the result less the match.
"""

import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np

from bh_bids import load_model
from bh_bids.comparators.histogram import histogram_match

INK = "#e6eaf0"
COLUMNS = ("Source", "Histogram match", "Harmonized", "Harmonized less match")
WINDOW, DIFFERENCE = (0, 1.05), (-0.25, 0.25)
STEM = "_space-MNI152NLin2009aSym_res-1_desc-"


def main(derivatives):
    """Write the picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    model, scans = load_model("default"), sorted(Path(derivatives).glob("sub-*/anat"))
    height = 1 / len(scans)
    figure = Figure(figsize=(11.2, 2.1 * len(scans)), facecolor="black")
    FigureCanvasAgg(figure)
    for row, folder in enumerate(scans):
        source, harmonized, mask = _volumes(folder)
        match = histogram_match(source, mask, model.intensity["Quantiles"])
        pictures = source, match, harmonized, np.where(mask, harmonized - match, 0)
        for column, (name, volume) in enumerate(zip(COLUMNS, pictures, strict=True)):
            axes = figure.add_axes([column / 4, 1 - (row + 1) * height, 0.248, 0.97 * height])
            low, high = DIFFERENCE if column == 3 else WINDOW
            colours = "RdBu_r" if column == 3 else "gray"
            axes.imshow(_planes(volume), cmap=colours, vmin=low, vmax=high)
            axes.set_axis_off()
            if row == 0:
                colour = "black" if column == 3 else INK
                axes.text(4, 4, name, color=colour, fontsize=9, va="top")
    path = Path(__file__).with_name("real-source.png")
    figure.savefig(path, dpi=100, facecolor="black", pil_kwargs={"optimize": True})


def _volumes(folder):
    """Source and result in target units, and the brain mask."""
    (path,) = folder.glob(f"*{STEM}harmonized_T1w.nii.gz")
    scale = json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())
    scale = scale["Harmonization"]["IntensityScale"]
    preproc, mask = (
        nib.load(path.with_name(path.name.replace("harmonized_T1w", kind)))
        for kind in ("preproc_T1w", "brain_mask")
    )
    source = preproc.get_fdata(dtype=np.float32) / scale["SourceScale"]
    harmonized = nib.load(path).get_fdata(dtype=np.float32) / scale["TargetScale"]
    return source, harmonized, np.asarray(mask.dataobj) > 0


def _planes(volume):
    """An axial and a coronal slice side by side."""
    axial, coronal = volume[8:-8, 4:-4, 88].T[::-1], volume[8:-8, 98, 12:-8].T[::-1]
    rest = axial.shape[0] - coronal.shape[0]
    return np.hstack([axial, np.pad(coronal, ((rest // 2, rest - rest // 2), (0, 0)))])


if __name__ == "__main__":
    main(*sys.argv[1:])
