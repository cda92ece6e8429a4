"""What a flow should be told, and what it should count: trials of equal CPU time, in one run.

    python benchmarks/flow_trials.py DERIVATIVES [--model default] [--minutes 5]
                                     [--trials 2-D 2.5-D ...] [--output DIR]

Each trial trains the model's own architecture on its training participants for so many minutes of
one core, and is measured on its validation participants: bits per dimension of the brain (8-bit
steps) under Gaussian noise of 0.004 and 0.02 or under uniform dequantisation; and, where a flow
knows of noise, what its denoising leaves of 2 % noise: PSNR, and the gains that jump from slice to
slice (stripes), in the whole volume. It asserts nothing.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from flow_quality import flow_nats, measure, noisy, read_group, train

from bh_bids import load_model
from bh_bids.errors import BHError
from bh_bids.evaluation.harm import stripes
from bh_bids.evaluation.similarity import psnr
from bh_bids.harmonization.denoise import FlowDenoiser
from bh_bids.harmonization.slices import SliceBox

RATE, BATCH, SIGMA = 5e-3, 4, 0.02
# Name -> conditions, noise of the training where the flow is not told of it (None: uniform), and
# the side of a voxel in voxels of the grid.
TRIALS = {
    "2-D": (("mask", "noise"), 0.004, 1),
    "2.5-D": (("mask", "previous", "noise"), 0.004, 1),
    "whole slices, one noise": ((), 0.004, 1),
    "brain alone, one noise": (("mask",), 0.004, 1),
    "brain alone, uniform dequantisation": (("mask",), None, 1),
    "2.5-D, voxels of 2 mm": (("mask", "previous", "noise"), 0.004, 2),
}


def coarser(volume, side):
    """Mean over cubes of ``side`` voxels; a cube that is not all brain is background."""
    if side == 1:
        return volume
    x, y, z = (n // side for n in volume.shape)
    cubes = volume.reshape(x, side, y, side, z, side)
    return np.where((cubes > 0).all(axis=(1, 3, 5)), cubes.mean(axis=(1, 3, 5)), 0).astype(
        np.float32
    )


def denoised(flow, volumes, mean):
    """Mean PSNR and stripes of volumes with noise, before and after the flow's denoising."""
    rows = []
    for number, truth in enumerate(volumes):
        mask = truth > 0
        source = np.maximum(noisy(truth, SIGMA, np.random.default_rng(number)), 0)
        box = SliceBox(mask, flow.config.side_multiple)
        source_stack, mask_stack, mean_stack = (
            torch.from_numpy(np.ascontiguousarray(box.extract(v.astype(np.float32))))
            for v in (source, mask, mean)
        )
        cleaned, _ = FlowDenoiser(flow, box, mask_stack, mean_stack).clean(source_stack, SIGMA)
        result = box.insert(cleaned.numpy())
        rows.append(
            [psnr(truth, source, mask), psnr(truth, result, mask)]
            + [100 * stripes(truth, v, mask) for v in (source, result)]
        )
    return dict(zip(("source", "psnr", "source stripes", "stripes"), np.mean(rows, axis=0),
                    strict=True))  # fmt: skip


def run_trial(name, config, training, held_out, mean, minutes, slices):
    """Train one trial and measure it; a dictionary of figures."""
    conditions, sigma, side = TRIALS[name]
    training, held_out = ([coarser(v, side) for v in group] for group in (training, held_out))
    mean = np.mean(training, axis=0) if side > 1 else mean
    flow, steps = train(
        replace(config, conditions=conditions), RATE, training, mean, minutes, sigma, BATCH
    )
    found = {"steps": steps}
    for noise in (0.004, 0.02, None):
        # A flow that is told of noise has no word on another kind, nor the others on more of it.
        if noise is None and ("noise" in conditions or not conditions):
            continue
        if noise == SIGMA and "noise" not in conditions:
            continue
        nats = {
            name: lambda v, k, rng, s=noise: flow_nats(
                flow, mean, v, k, s, rng, everywhere=not conditions
            )
        }
        found["uniform" if noise is None else f"{noise:g}"] = measure(nats, held_out, slices)[name]
    if "noise" in conditions and side == 1:
        found |= denoised(flow, held_out, mean)
    return {key: float(value) for key, value in found.items()}


def main():
    """Train, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("derivatives", type=Path)
    parser.add_argument("--model", default="default")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--trials", nargs="+", choices=TRIALS, default=list(TRIALS))
    parser.add_argument("--slices", type=int, default=32)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    try:
        model = load_model(args.model)
        training = read_group(args.derivatives, model, "Training")
        held_out = read_group(args.derivatives, model, "Validation")
    except BHError as error:
        raise SystemExit(str(error)) from None
    columns = ("steps", "0.004", "0.02", "uniform", "psnr", "stripes")
    lines = ["| trial | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    records = {}
    for name in args.trials:
        records[name] = found = run_trial(
            name, model.config, training, held_out, model.mean, args.minutes, args.slices
        )
        cells = (f"{found[c]:.5g}" if c in found else "–" for c in columns)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
        print(name, json.dumps(found), flush=True)
    print("\n".join(lines))
    if args.output:
        args.output.mkdir(parents=True, exist_ok=True)
        (args.output / "flow_trials.json").write_text(json.dumps(records, indent=1))


if __name__ == "__main__":
    main()
