"""Draw docs/figures/before-after.png from the results of make demo: both sites, before and after.

python docs/figures/make_before_after.py demo/out
"""

import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np

from bh_bids import load_model

SITES = {"siteB": "GE, 1.5 T", "siteC": "Siemens, 3 T"}
INK = "#e6eaf0"


def main(derivatives):
    """Write the picture: a row for each site, and the target's mean beside them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.8, 4.6), facecolor="black")
    FigureCanvasAgg(figure)
    for row, (site, name) in enumerate(SITES.items()):
        bottom = 0.47 * (1 - row)
        figure.text(0.012, bottom + 0.235, name, color=INK, rotation=90, va="center", fontsize=12)
        for column, volume in enumerate(_pair(Path(derivatives), site)):
            _show(figure, [0.03 + 0.325 * column, bottom, 0.32, 0.46], volume)
    _show(figure, [0.685, 0.235, 0.31, 0.46], load_model("default").mean)
    for left, top, name in (
        (0.19, 0.955, "Before"),
        (0.515, 0.955, "After"),
        (0.84, 0.73, "Target's mean"),
    ):
        figure.text(left, top, name, color=INK, ha="center", fontsize=13)
    path = Path(__file__).with_name("before-after.png")
    figure.savefig(path, dpi=100, facecolor="black", pil_kwargs={"optimize": True})


def _pair(derivatives, site):
    """Source and result of a site's scan in target units."""
    stem = f"sub-01_ses-{site}_space-MNI152NLin2009aSym_res-1_desc"
    folder = derivatives / "sub-01" / f"ses-{site}" / "anat"
    scale = json.loads((folder / f"{stem}-harmonized_T1w.json").read_text())
    scale = scale["Harmonization"]["IntensityScale"]
    for kind, unit in (("preproc", "Source"), ("harmonized", "Target")):
        image = nib.load(folder / f"{stem}-{kind}_T1w.nii.gz")
        yield image.get_fdata() / scale[f"{unit}Scale"]


def _show(figure, place, volume):
    axial, coronal = volume[8:-8, 4:-4, 88].T[::-1], volume[8:-8, 98, 12:-8].T[::-1]
    rest = axial.shape[0] - coronal.shape[0]
    picture = np.hstack([axial, np.pad(coronal, ((rest // 2, rest - rest // 2), (0, 0)))])
    axes = figure.add_axes(place)
    axes.imshow(picture, cmap="gray", vmin=0, vmax=1.05)
    axes.set_axis_off()


if __name__ == "__main__":
    main(*sys.argv[1:])
