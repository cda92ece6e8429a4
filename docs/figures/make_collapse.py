"""Draw docs/figures/collapse.png: what the density says of target scans of changed contrast.

python docs/figures/make_collapse.py DERIVATIVES

DERIVATIVES are those of the packaged model's target (OpenNeuro ds002748). Of four tuning scans the
contrast is multiplied about the brain's mean, the right answer being 1 everywhere.
"""

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from bh_bids import load_model
from bh_bids.flow.context import slice_context
from bh_bids.flow.engine import FlowEngine
from bh_bids.harmonization.slices import SliceBox
from bh_bids.intensity import to_target_units

SCANS = ("01", "05", "08", "12")
FACTORS = np.array([0.05, 0.2, 0.4, 0.6, 0.8, 0.9, 1, 1.1, 1.2, 1.4, 1.7, 2.0])
SIGMA, SLICES = 0.02, 6
STEM = "_space-MNI152NLin2009aSym_res-1_desc-"


def main(derivatives):
    """Measure, print and draw."""
    model = load_model("default")
    found = np.mean([_scan(model, Path(derivatives), label) for label in SCANS], axis=0)
    density, latent = found.T
    # The slope of the density at the right answer is what a weight has to balance.
    slope = np.gradient(density, np.log(FACTORS))[FACTORS == 1][0]
    weight = -slope
    curves = {
        "log p: flat images are the most probable": density,
        "-|z|²/2: and have the shortest latents": -latent / 2,
        "log p + log det: wants too much contrast": density + np.log(FACTORS),
        f"log p + {weight:.2f} log det: calibrated": density + weight * np.log(FACTORS),
    }
    for name, values in curves.items():
        print(f"{name}: best at {FACTORS[np.argmax(values)]:g}")
    _draw(curves)


def _scan(model, derivatives, label):
    """Log density and squared latent, per brain voxel, at every factor, (factors, 2)."""
    anat = derivatives / f"sub-{label}" / "anat"
    image, mask = (
        np.asarray(nib.load(anat / f"sub-{label}{STEM}{kind}.nii.gz").dataobj, np.float32)
        for kind in ("preproc_T1w", "brain_mask")
    )
    mask = mask > 0
    volume, _ = to_target_units(image, mask)
    noise = SIGMA * np.random.default_rng(0).normal(size=mask.shape)
    box = SliceBox(mask, model.config.side_multiple)
    inside, mean = (torch.from_numpy(box.extract(v.astype(np.float32))) for v in (mask, model.mean))
    middle = len(box.occupied) // 4, 3 * len(box.occupied) // 4
    places = box.occupied[np.linspace(*middle, SLICES).round().astype(int)]
    engine = FlowEngine.from_flow(model.flow)
    voxels = float(inside[places].sum())
    centre, rows = volume[mask].mean(), []
    for factor in FACTORS:
        changed = np.where(mask, centre + factor * (volume - centre) + noise, 0)
        stack = torch.from_numpy(box.extract(changed.astype(np.float32)))
        context = slice_context(model.config, stack, places, mask=inside, mean=mean, sigma=SIGMA)
        with torch.inference_mode():
            latents, density = engine.evaluate(stack[places][:, None], context)
        rows.append([float(density.sum()) / voxels, float((latents**2).sum()) / voxels])
    return np.array(rows)


def _draw(curves):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.axvline(1, color="#999999", linewidth=1)
    for (name, values), colour in zip(
        curves.items(), ("#d1495b", "#edae49", "#30638e", "#00798c"), strict=True
    ):
        axes.plot(FACTORS, values - values.max(), color=colour, label=name)
        best = np.argmax(values)
        axes.plot(FACTORS[best], 0, "o", color=colour)
    axes.set(
        xlabel="contrast, times the scan's own (1 is right)",
        ylabel="nats per voxel below the best",
        ylim=(-2, 0.15),
    )
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(Path(__file__).with_name("collapse.png"), dpi=110)


if __name__ == "__main__":
    main(*sys.argv[1:])
