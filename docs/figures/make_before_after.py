"""Draw docs/figures/before-after.png from the derivatives of a real scan.

The picture in the documentation shows participant 01 of OpenfMRI ds000011 (PDDL), towards the
packaged model: python docs/figures/make_before_after.py DERIVATIVES 01
"""

import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np

from bh_bids import load_model

NAMES = ("Before", "After", "Target's mean")


def main(derivatives, participant):
    """Write the picture: an axial and a coronal slice of each of three volumes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    anat = Path(derivatives) / f"sub-{participant}" / "anat"
    stem = f"sub-{participant}_space-MNI152NLin2009aSym_res-1_desc"
    scale = json.loads((anat / f"{stem}-harmonized_T1w.json").read_text())
    scale = scale["Harmonization"]["IntensityScale"]
    before, after = (
        nib.load(anat / f"{stem}-{kind}_T1w.nii.gz").get_fdata() / scale[f"{unit}Scale"]
        for kind, unit in (("preproc", "Source"), ("harmonized", "Target"))
    )
    figure = Figure(figsize=(10.8, 2.6), facecolor="black")
    FigureCanvasAgg(figure)
    for column, volume in enumerate((before, after, load_model("default").mean)):
        axes = figure.add_axes([column / 3 + 0.004, 0, 0.325, 0.89])
        axes.imshow(_planes(volume), cmap="gray", vmin=0, vmax=1, aspect="equal")
        axes.set_axis_off()
        axes.set_title(NAMES[column], color="#e6eaf0", fontsize=12)
    figure.savefig(Path(__file__).with_name("before-after.png"), dpi=100, facecolor="black")


def _planes(volume):
    axial, coronal = volume[8:-8, 4:-4, 88].T[::-1], volume[8:-8, 98, 12:-8].T[::-1]
    rest = axial.shape[0] - coronal.shape[0]
    return np.hstack([axial, np.pad(coronal, ((rest // 2, rest - rest // 2), (0, 0)))])


if __name__ == "__main__":
    main(*sys.argv[1:])
