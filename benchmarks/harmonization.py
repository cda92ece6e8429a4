"""Quality, time and memory of harmonization on target scans with simulated gaps.

    python benchmarks/harmonization.py DERIVATIVES --output DIR [--split tune|test|both]
        [--gaps ...] [--methods ...] [--seeds 0 1 2] [--participants ...] [--jobs N]
        [--slices-step N] [--quick] [--again METHOD ...] [--only-tables] [--model NAME]
    python benchmarks/harmonization.py DERIVATIVES --heads LABEL_MAPS --model MODEL [...]

DERIVATIVES holds bh-bids derivatives of the target dataset, in the model's space. The truth is a
participant's scan in target units (for the gaps of anatomy: that scan with another anatomy); the
source is a simulated gap of it, so truth and source share their anatomy exactly.

Participants are split once. "tune" are those the model was trained and validated on: look at them
as often as you like. "test" are those it never saw: every run that opens them is written down in
benchmarks/test_openings.jsonl.

With --heads the participants are simulated from whole-head label maps at a target site and at
others, go through the pipeline (DERIVATIVES is made), and each site is a gap; MODEL should have
been trained on other heads at the target site.

The methods unet, unet-3plane and cyclegan are trained for each gap, on every second participant of
"tune", as the group level trains them; those that end in -large are larger and trained longer,
which takes a GPU. unet-other is trained on gamma 0.7 alone. Nobody is scored on participants they
were trained on. Networks are kept in DIR/networks.

DIR gets harmonization.md (tables), harmonization.json (all records) and one figure per split. A
run takes up the records that are there: kill it and start it again, or add a method later. The
benchmark asserts nothing.
"""

import argparse
import os
import sys
from pathlib import Path

from bh_bids.errors import BHError

# The parts lie beside this file, wherever it is run or imported from.
sys.path.insert(0, str(Path(__file__).resolve().parent))

QUICK_GAPS = ("none", "gamma0.7", "tissue", "bias25", "scanner", "lesion")
QUICK_STEP, QUICK_PARTICIPANTS = 8, 2


def parser():
    """The command line."""
    from gapbench.heads import SITES, TARGET_SITE
    from gapbench.methods import DEFAULT_METHODS, METHODS

    from bh_bids.simulation.cases import CASES

    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    p.add_argument("derivatives", type=Path)
    p.add_argument("--model", default="default")
    p.add_argument("--split", choices=("tune", "test", "both"), default="tune")
    p.add_argument("--participants", nargs="+", help="fewer participants of the split")
    p.add_argument("--gaps", nargs="+", choices=CASES)
    p.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(DEFAULT_METHODS))
    p.add_argument("--seeds", nargs="+", type=int, default=[0])
    p.add_argument("--slices-step", type=int, help="score every N-th axial slice only")
    p.add_argument(
        "--quick",
        action="store_true",
        help=f"few gaps, {QUICK_PARTICIPANTS} participants a split, every {QUICK_STEP}th slice",
    )
    p.add_argument("--jobs", type=int, default=1, help="processes, of one thread each")
    p.add_argument("--again", nargs="+", default=[], help="methods to measure anew")
    p.add_argument(
        "--only-tables", action="store_true", help="of the records that are there: measure nothing"
    )
    p.add_argument("--device", default="auto")
    heads = p.add_argument_group("simulated traveling subjects")
    heads.add_argument("--heads", type=Path, help="folder of whole-head label maps")
    heads.add_argument("--n-heads", type=int, default=6)
    heads.add_argument("--target-site", default=TARGET_SITE)
    heads.add_argument("--sites", nargs="+", default=list(SITES), help="source sites")
    p.add_argument("--output", type=Path, help="folder for tables, records and figures")
    return p


def main(arguments=None):
    """Measure, print and write."""
    args = parser().parse_args(arguments)
    if args.jobs > 1:
        # Before a library is loaded that reads it; the processes inherit it.
        os.environ["OMP_NUM_THREADS"] = "1"
    from gapbench.participants import SPLITS, find_scans
    from gapbench.run import Setting

    from bh_bids import load_model
    from bh_bids.simulation.cases import CASES

    step = args.slices_step or (QUICK_STEP if args.quick else 1)
    splits = SPLITS if args.split == "both" else (args.split,)
    try:
        model = load_model(args.model)
        if args.heads is None:
            gaps = args.gaps or (QUICK_GAPS if args.quick else CASES)
            scans = find_scans(args.derivatives, model, splits, args.participants)
        else:
            gaps, scans = args.sites, travelers(args, model)
        if args.quick and not args.participants:
            kept = dict.fromkeys(s.split for s in scans)
            scans = [s for split in kept for s in _first(scans, split)]
        setting = Setting(
            args.model,
            args.device,
            step,
            derivatives=args.derivatives if args.heads is None else None,
            networks=args.output and args.output / "networks",
        )
        text = run(args, model, scans, gaps, setting)
    except BHError as error:
        raise SystemExit(str(error)) from None
    print(f"\n{text}")


def travelers(args, model):
    """The simulated traveling subjects, made where they are missing."""
    from gapbench import heads

    asked = args.participants and [p.removeprefix("sub-") for p in args.participants]
    where = {"target": args.target_site}
    try:
        return heads.find_heads(args.derivatives, args.sites, model.space, asked=asked, **where)
    except BHError:
        heads.prepare(
            args.derivatives, args.heads, args.n_heads, args.sites, jobs=args.jobs, **where
        )
    return heads.find_heads(args.derivatives, args.sites, model.space, asked=asked, **where)


def run(args, model, scans, gaps, setting):
    """Measure what is missing, write the outputs, and return the tables."""
    from gapbench import participants, records, run, tables
    from gapbench.methods import available

    methods, notes = available(args.methods)
    if any(s.split == "test" for s in scans) and not args.only_tables:
        participants.log_opening(
            participants.OPENINGS, model, scans, methods, gaps, args.seeds, setting.step
        )
    if args.output:
        args.output.mkdir(parents=True, exist_ok=True)
    kept = records.Records(args.output and args.output / "harmonization.json", args.again)
    units, keys = run.plan(scans, gaps, methods, args.seeds, model, setting)
    left = [] if args.only_tables else run.missing(units, kept, model, setting)
    states = run.code_states(methods)
    run.measure(left, setting, kept, states, args.jobs, lambda line: print(line, flush=True))
    wanted = [kept.get(k) for k in keys if k in kept]
    notes += [n for n in [records.stale(wanted, states)] if n]
    text = [_title(model, args, setting), *notes]
    for split in dict.fromkeys(s.split for s in scans):
        of = [r for r in wanted if r["split"] == split]
        labels = " ".join(s.participant for s in scans if s.split == split)
        heading = f"## Split {split}: participants {labels}"
        text.append(tables.report(of, gaps, methods, heading))
        if args.output and of and tables.REFERENCE in methods and len(methods) > 1:
            path = args.output / f"harmonization_{split}.png"
            tables.figure(of, gaps, methods, path, f"{split}: participants {labels}")
    text = "\n\n".join(text)
    if args.output:
        (args.output / "harmonization.md").write_text(text, encoding="utf-8")
    return text


def _title(model, args, setting):
    from gapbench.participants import identity

    every = "every axial slice" if setting.step == 1 else f"every {setting.step}th axial slice"
    return (
        f"Inside the brain, {every}; model {model.name} {model.version} "
        f"({identity(model)}), seeds {' '.join(map(str, args.seeds))}; PSNR is at most "
        "100 dB."
    )


def _first(scans, split):
    return [s for s in scans if s.split == split][:QUICK_PARTICIPANTS]


if __name__ == "__main__":
    main()
