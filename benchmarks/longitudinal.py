"""Two visits on one scanner: what harmonization does to the change between them.

    python benchmarks/longitudinal.py DERIVATIVES [--participants ...] [--gaps ...] [--growth 1.5]
        [--output TABLE.md]

DERIVATIVES holds bh-bids derivatives of the target dataset. The first visit is a participant's
scan, the second the same with larger ventricles; both are seen through one simulated gap, the
second with another gain. Every method harmonizes both, the last with one map for both
(bh_bids.harmonization.harmonize_together, what --longitudinal does).

- false change: root mean square of the difference between the visits where the truth has none, in
  per cent of white matter's level;
- change kept: slope of that difference on the true one where there is one, in per cent;
- PSNR of both visits, dB.

Participants of the model's split "tune" alone are looked at. Nothing is asserted.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

GAIN = 1.4
UNCHANGED = 0.002
"""Of the target's scale: a difference of less is none."""
METHODS = ("gain", "hm", "map", "map, shared")


def main(arguments=None):
    """Measure, print and write."""
    from gapbench.participants import find_scans, read_truth

    from bh_bids import load_model
    from bh_bids.simulation.gaps import apply_gap
    from bh_bids.simulation.pathology import enlarge_ventricles

    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("derivatives", type=Path)
    parser.add_argument("--participants", nargs="+")
    parser.add_argument("--count", type=int, default=6, help="of the split, without names")
    parser.add_argument("--gaps", nargs="+", default=["gamma0.7", "exp", "bias25"])
    parser.add_argument("--growth", type=float, default=1.5, help="of the ventricles, in voxels")
    parser.add_argument("--model", default="default")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args(arguments)
    model = load_model(args.model)
    scans = find_scans(args.derivatives, model, ("tune",), args.participants)
    scans = scans if args.participants else scans[:: max(1, len(scans) // args.count)][: args.count]
    rows = {(gap, method): [] for gap in args.gaps for method in METHODS}
    for scan in scans:
        first, mask = read_truth(scan)
        truths = first, enlarge_ventricles(first, mask, growth=args.growth)
        for gap in args.gaps:
            seen = [
                gain * apply_gap(gap, truth, mask, seed=0)
                for gain, truth in zip((1, GAIN), truths, strict=True)
            ]
            for method in METHODS:
                found = harmonized(method, seen, mask, model)
                rows[gap, method].append(figures(truths, found, mask, model))
                told = ", ".join(f"{value:.2f}" for value in rows[gap, method][-1])
                print(f"sub-{scan.participant} {gap} {method}: {told}", flush=True)
    text = table(rows, len(scans))
    print(text)
    if args.output:
        args.output.write_text(text)


def harmonized(method, seen, mask, model):
    """Both visits in target units, by a method."""
    from gapbench.methods import METHODS as ALONE

    from bh_bids.harmonization import harmonize_together
    from bh_bids.simulation.cases import Case

    if method == "map, shared":
        results = harmonize_together(seen, [mask, mask], model, device="cpu")
        return [r.volume / np.float32(r.target_scale) for r in results]
    return [ALONE[method].run(Case(v, v, mask), model, "cpu", 0) for v in seen]


def figures(truths, found, mask, model):
    """False change and change kept (%), PSNR of each visit (dB)."""
    from bh_bids.evaluation.similarity import psnr

    true, own = (pair[1][mask] - pair[0][mask] for pair in (truths, found))
    still = np.abs(true) < UNCHANGED
    level = model.intensity["Modes"]["WM"]
    false = 100 * float(np.sqrt(np.mean(own[still] ** 2))) / level
    moved = true[~still]
    kept = 100 * float(moved @ own[~still]) / float(moved @ moved)
    return [false, kept, *(psnr(t, f, mask) for t, f in zip(truths, found, strict=True))]


def table(rows, participants):
    """The means as a table in Markdown."""
    lines = [
        f"{participants} participants; mean (worst)",
        "",
        "| gap | method | false change, % of WM | change kept, % | PSNR, first | second |",
        "|---|---|---|---|---|---|",
    ]
    for (gap, method), values in rows.items():
        false, kept, first, second = np.transpose(values)
        lines.append(
            f"| {gap} | {method} | {false.mean():.2f} ({false.max():.2f}) | {kept.mean():.1f} "
            f"({kept[np.argmax(np.abs(kept - 100))]:.1f}) | {first.mean():.1f} | "
            f"{second.mean():.1f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
