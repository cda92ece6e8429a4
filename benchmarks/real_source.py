"""What a real scan of another scanner looks like against the target: source, match, harmonized.

    python benchmarks/real_source.py DERIVATIVES [--target TARGET] [--model NAME]

DERIVATIVES holds harmonized scans, TARGET preprocessed scans of the target (its rows are a
standard: how far the target's own scans lie). There is no truth. So nothing here is a score; each
figure is one way to see whether a result may be the target's:

- peaks: those of fluid, grey and white matter less the target's, and the ratio of grey to white.
  A histogram match brings peaks together by making the histogram the target's, whoever it is of.
- deep fluid: median and 10th percentile of the voxels, 20 mm and more inside the brain, that are
  darkest in the target's mean. Fluid without any tissue in it is as bright in one head as in the
  next, however much of it there is.
- mean: root mean square distance from the target's mean, both smoothed by 2 voxels.
"""

import argparse
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter

DEEP, DARKEST, SMOOTH = 20, 0.012, 2.0
ENDING = "_res-1_desc-preproc_T1w.nii.gz"
HEAD = (
    "| scan | image | CSF | GM | WM | GM/WM | deep fluid, median (10 %) | mean |\n"
    "|---|---|---|---|---|---|---|---|"
)


def main(arguments=None):
    """Print the table."""
    from bh_bids import load_model

    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("derivatives", type=Path)
    parser.add_argument("--target", type=Path, help="derivatives of the target")
    parser.add_argument("--model", default="default")
    args = parser.parse_args(arguments)
    model = load_model(args.model)
    look = _Look(model)
    rows = [
        f"| {path.name.split('_')[0]} | {name} | {' | '.join(look(volume, mask))} |"
        for path in _scans(args.derivatives, model)
        for name, (volume, mask) in _images(path, model).items()
    ]
    if not rows:
        raise SystemExit(f"No harmonized scan on the grid of the model lies in {args.derivatives}.")
    print("\n".join([HEAD, *rows]))
    if args.target:
        seen = [look.figures(*_source(path)) for path in _scans(args.target, model)]
        low, middle, high = np.quantile(np.array(seen), (0, 0.5, 1), axis=0)
        for name, figures in (("least", low), ("median", middle), ("most", high)):
            print(f"| target's scans | {name} | {' | '.join(look.cells(figures))} |")


class _Look:
    """Figures of a brain in target units."""

    def __init__(self, model):
        self.mean, self.modes = model.mean, model.intensity["Modes"]
        deep = distance_transform_edt(self.mean > 0) > DEEP
        self.fluid = deep & (self.mean < np.quantile(self.mean[deep], DARKEST))

    def figures(self, volume, mask):
        """Peaks' and ratio's differences, deep fluid's median and 10th percentile, distance."""
        from bh_bids.evaluation.tissue import tissue_modes

        found = tissue_modes(volume, mask)
        peaks = [found[tissue] - self.modes[tissue] for tissue in ("CSF", "GM", "WM")]
        ratio = found["GM"] / found["WM"] - self.modes["GM"] / self.modes["WM"]
        both = mask & (self.mean > 0)
        weight = gaussian_filter(both.astype(float), SMOOTH)
        apart = gaussian_filter(np.where(both, volume - self.mean, 0), SMOOTH)
        distance = np.sqrt(np.mean((apart[both] / weight[both]) ** 2))
        fluid = volume[self.fluid & mask]
        return [*peaks, ratio, *np.quantile(fluid, (0.5, 0.1)), distance]

    def cells(self, figures):
        """The same as text."""
        *signed, median, low, distance = figures
        return [*(f"{x:+.3f}" for x in signed), f"{median:.2f} ({low:.2f})", f"{distance:.4f}"]

    def __call__(self, volume, mask):
        return self.cells(self.figures(volume, mask))


def _scans(derivatives, model):
    return sorted(derivatives.glob(f"sub-*/**/anat/*_space-{model.space}{ENDING}"))


def _source(path):
    """A preprocessed scan in target units, and its mask."""
    mask = nib.load(str(path).replace("preproc_T1w", "brain_mask")).get_fdata() > 0
    volume = nib.load(path).get_fdata(dtype=np.float32)
    return volume / np.quantile(volume[mask], 0.99), mask


def _images(path, model):
    """Source, match and result of a scan, each with the mask, by name."""
    from bh_bids.comparators.histogram import histogram_match

    volume, mask = _source(path)
    harmonized = Path(str(path).replace("desc-preproc", "desc-harmonized"))
    if not harmonized.exists():
        return {}
    result = nib.load(harmonized).get_fdata(dtype=np.float32) / model.intensity["TargetScale"]
    match = histogram_match(volume, mask, model.intensity["Quantiles"])
    # The match of what has no field any more differs from the result by the contrast alone.
    evened = histogram_match(result, mask, model.intensity["Quantiles"])
    images = {"source": volume, "histogram match": match, "match of the result": evened}
    return {name: (image, mask) for name, image in (images | {"harmonized": result}).items()}


if __name__ == "__main__":
    main()
