"""Quality and time of harmonization on held-out target scans with simulated gaps.

    python benchmarks/harmonization.py DERIVATIVES [--model default] [--participants 01 02 ...]
                                       [--gaps ...] [--methods ...] [--slices-step N] [--quick]
                                       [--output DIR]

DERIVATIVES holds bh-bids derivatives of the target dataset, in the model's space. The truth is a
held-out participant's scan in target units; the source is a simulated gap of it, so truth and
source share their anatomy exactly. Every table has the comparators a flow must beat: the source
with one gain, and the source with its brain's histogram matched. It asserts nothing.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np

from bh_bids import load_model
from bh_bids.comparators.histogram import gain_match, histogram_match
from bh_bids.errors import BHError, InputError
from bh_bids.evaluation.similarity import psnr, ssim
from bh_bids.harmonization import harmonize
from bh_bids.intensity import to_target_units
from bh_bids.simulation.gaps import GAPS, apply_gap

QUICK_GAPS = ("none", "gamma0.7", "tissue", "bias25", "scanner")


class IdentityFlow:
    """What is left of a method when its flow knows nothing."""

    def __call__(self, x):
        return x.flatten(1), x.new_zeros(len(x))

    def inverse(self, z, slice_shape):
        """Slices of latents."""
        return z.reshape(-1, 1, *slice_shape)

    def to(self, device):
        """The identity has no place."""
        return self


def flow_method(identity=False, **parameters):
    """A method of the table that is a call of ``harmonize``."""

    def run(source, mask, model, device):
        if identity:
            model = replace(model, flow=IdentityFlow())
        result = harmonize(source, mask, model, device=device, **parameters)
        return result.volume / np.float32(result.target_scale)

    return run


def quantiles(model):
    """The target domain's pooled quantiles."""
    return model.intensity["Quantiles"]


METHODS = {
    "source": lambda source, mask, model, device: to_target_units(source, mask)[0],
    "gain": lambda source, mask, model, device: gain_match(source, mask, quantiles(model)),
    "hm": lambda source, mask, model, device: histogram_match(source, mask, quantiles(model)),
    "paper": flow_method(),
    "paper-gain": flow_method(start="gain"),
    "paper-histogram": flow_method(start="histogram"),
    "paper-identity": flow_method(identity=True),
}


def held_out(model, derivatives, asked):
    """(label, image, mask) of the scans to test on, none of them trained on."""
    trained = {str(p).removeprefix("sub-") for p in model.metadata.get("TrainingParticipants", [])}
    # Those kept for tests took no part at all; those of the validation chose the weights.
    labels = (
        asked
        or model.metadata.get("ExcludedParticipants")
        or model.metadata.get("ValidationParticipants", [])
    )
    labels = sorted({str(p).removeprefix("sub-") for p in labels})
    for label in set(labels) & trained:
        print(f"Note: sub-{label} is one of the model's training participants.")
    found = []
    for label in labels:
        ending = f"_space-{model.space}_res-1_desc-preproc_T1w.nii.gz"
        folder = Path(derivatives) / f"sub-{label}"
        images = sorted([*folder.glob(f"anat/*{ending}"), *folder.glob(f"ses-*/anat/*{ending}")])
        if images:
            mask = images[0].with_name(images[0].name.replace("preproc_T1w", "brain_mask"))
            found.append((label, images[0], mask))
    if not found:
        raise InputError(f"No scan of a held-out participant of the model lies in {derivatives}.")
    return found


def read_truth(image, mask, step):
    """A scan in target units and its mask, of which every ``step``-th axial slice counts."""
    inside = np.asarray(nib.load(mask).dataobj) > 0
    volume = np.asarray(nib.load(image).dataobj, dtype=np.float32)
    truth, _ = to_target_units(volume, inside)
    used = np.zeros_like(inside)
    used[:, :, ::step] = inside[:, :, ::step]
    return truth, inside, used


def measure(scans, model, gaps, methods, *, step, device, seed=0):
    """One record per scan, gap and method."""
    records = []
    for label, image, mask_file in scans:
        truth, inside, used = read_truth(image, mask_file, step)
        for gap in gaps:
            source = truth if gap == "none" else apply_gap(gap, truth, inside, seed=seed)
            for method in methods:
                began = time.perf_counter()
                found = METHODS[method](source, used, model, device)
                seconds = time.perf_counter() - began
                thin = (slice(None), slice(None), slice(None, None, step))
                record = {
                    "participant": label,
                    "gap": gap,
                    "method": method,
                    "psnr": psnr(truth, found, used),
                    "ssim": ssim(truth[thin], found[thin], used[thin]),
                    "seconds": seconds,
                }
                records.append(record)
                print("  ".join(_text(v) for v in record.values()), flush=True)
    return records


def table(records, gaps, methods):
    """Markdown: mean PSNR / SSIM, and the worst participant's below it in brackets."""
    lines = ["| gap | " + " | ".join(methods) + " |", "|---" * (len(methods) + 1) + "|"]
    for gap in gaps:
        cells = []
        for method in methods:
            of = [r for r in records if r["gap"] == gap and r["method"] == method]
            p, s = (np.array([r[k] for r in of]) for k in ("psnr", "ssim"))
            cells.append(f"{p.mean():.1f} ({p.min():.1f}) / {s.mean():.3f} ({s.min():.3f})")
        lines.append(f"| {gap} | " + " | ".join(cells) + " |")
    seconds = [np.mean([r["seconds"] for r in records if r["method"] == m]) for m in methods]
    lines.append("| seconds per scan | " + " | ".join(f"{s:.1f}" for s in seconds) + " |")
    return "\n".join(lines)


def parser():
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    p.add_argument("derivatives", type=Path)
    p.add_argument("--model", default="default")
    p.add_argument("--participants", nargs="+", help="default: those held out from training")
    p.add_argument("--gaps", nargs="+", choices=["none", *GAPS])
    p.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    p.add_argument("--slices-step", type=int, default=1, help="use every N-th axial slice")
    p.add_argument("--quick", action="store_true", help="fewer gaps, every 8th slice")
    p.add_argument("--device", default="auto")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--output", type=Path, help="folder for harmonization.md and .json")
    return p


def main():
    """Measure, print and write."""
    args = parser().parse_args()
    gaps = args.gaps or (QUICK_GAPS if args.quick else ("none", *GAPS))
    step = 8 if args.quick and args.slices_step == 1 else args.slices_step
    try:
        model = load_model(args.model)
        scans = held_out(model, args.derivatives, args.participants)
        records = measure(
            scans, model, gaps, args.methods, step=step, device=args.device, seed=args.seed
        )
    except BHError as error:
        raise SystemExit(str(error)) from None
    title = (
        f"Mean PSNR in dB (worst participant) / mean SSIM (worst) inside the brain; "
        f"{len(scans)} participants, every {step} axial slice(s), model {model.name} "
        f"{model.version}."
    )
    text = f"{title}\n\n{table(records, gaps, args.methods)}\n"
    print(f"\n{text}")
    if args.output:
        args.output.mkdir(parents=True, exist_ok=True)
        (args.output / "harmonization.md").write_text(text)
        (args.output / "harmonization.json").write_text(json.dumps(records, indent=1))


def _text(value):
    return f"{value:.3f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
