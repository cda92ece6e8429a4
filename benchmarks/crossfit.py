"""Models for participants that the default model knows: described and calibrated without them.

    python benchmarks/crossfit.py DERIVATIVES --output DIR [--folds 3] [--only K] [--model NAME]
    python benchmarks/harmonization.py DERIVATIVES --model DIR/fold-1 --split test --output DIR/1
    python benchmarks/crossfit.py DERIVATIVES --output DIR --told

DERIVATIVES holds bh-bids derivatives of the target dataset. The participants that the model was
trained and validated on are dealt into folds; for each fold there is a model of which it is the
split "test". The target's mean volume, its quantiles and every constant of the method "map" are
learned from all others, the model's own test participants among them, so that each fold has as
many scans to learn from as the model's authors had.

With --told, what the contrast ruler tells of participants that it was not fitted to: those of each
fold by the fold's model, and the model's own test participants by the model itself (which is an
opening of them, and is logged). For each the root mean square, target units, of their own
deviation from the target's quantiles, which is what a histogram match gets wrong, and of what is
left of it: if all, or only the share, of what the ruler says is kept; and as the solver decides
with the scanner prior, after a gamma of 0.7. The flow is not asked of the contrast here.

The flow's weights are the model's: they have seen the fold. Of the contrast without the flow's
slopes (``map-noslopes``), in which the flow has no say but on the noise level, cross-fitting tells
all; with them (``map``) what is learned of the slopes is out of sample, the flow is not. It tells
nothing of denoising.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

GAMMA = 0.7


def main(arguments=None):
    """Write one model per fold, or print what their rulers tell."""
    from gapbench.participants import SPLITS, split_of

    from bh_bids import load_model

    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("derivatives", type=Path)
    parser.add_argument("--output", type=Path, required=True, help="folder for the models")
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--only", type=int, nargs="+", help="numbers of folds, from 1")
    parser.add_argument("--model", default="default")
    parser.add_argument("--told", action="store_true", help="what the models' rulers tell")
    args = parser.parse_args(arguments)
    model = load_model(args.model)
    if args.told:
        folds = [load_model(folder) for folder in sorted(args.output.glob("fold-*"))]
        if not folds or any(fold.calibration is None for fold in folds):
            raise SystemExit(
                f"No models of this version in {args.output}: make them without --told."
            )
        print(_table(args.derivatives, [*folds, model]))
        return
    known, kept = (split_of(model)[split] for split in SPLITS)
    for number in args.only or range(1, args.folds + 1):
        fold = known[number - 1 :: args.folds]
        others = sorted({*known, *kept} - set(fold))
        print(f"Fold {number}: without {' '.join(fold)}.", flush=True)
        _write(model, args.derivatives, args.output / f"fold-{number}", others, fold)


def _table(derivatives, models):
    """Table of what the rulers of models, the last of which is the packaged one, tell."""
    from gapbench import participants

    rows = [
        "| participant | own deviation | all kept | the share kept | divided | ruler's share |",
        "|---|---|---|---|---|---|",
    ]
    found = []
    for model in models:
        scans = participants.find_scans(derivatives, model, ("test",))
        if model is models[-1]:
            participants.log_opening(
                participants.OPENINGS, model, scans, ["ruler"], ["none"], [0], 1
            )
        for scan in scans:
            *sizes, share = _told(model, scan)
            found.append(sizes)
            cells = " | ".join(f"{size:.4f}" for size in sizes)
            rows.append(f"| {scan.participant} | {cells} | {share:.2f} |")
    own, full, part, divided = np.array(found).T
    for name, left in (("all", full), ("share", part), ("divided and", divided)):
        gain = 20 * np.log10(own / left)
        rows.append(
            f"{name} kept: explains {1 - (left**2).sum() / (own**2).sum():.2f}, error "
            f"{np.sqrt((left**2).mean()):.4f}, mean gain {gain.mean():+.2f} dB, worst "
            f"{gain.min():+.1f}, {np.count_nonzero(gain < -0.5)} of {gain.size} lose more than 0.5"
        )
    return "\n".join(rows)


def _told(model, scan):
    """Sizes of a scan's own deviation, of what is left of it, and the ruler's share."""
    from gapbench.participants import read_truth

    from bh_bids.harmonization.contrast import Seen, decide, told_deviation
    from bh_bids.mapping.field import Lattice
    from bh_bids.mapping.intensity import brain_quantiles, map_between
    from bh_bids.mapping.ruler import contrast_profile

    volume, mask = read_truth(scan)
    constants = model.calibration
    own = brain_quantiles(volume[mask])
    matched = np.where(mask, map_between(own, constants.quantiles)(volume), 0)
    lattice = Lattice(volume.shape, model.config.voxel_size)
    seen = contrast_profile(matched, mask, constants.quantiles, lattice, constants.steady)
    deviation, told = own - constants.quantiles, constants.ruler.predict(seen[0])
    account = told_deviation(constants, *seen, None)[1]
    share = account["Share"]
    gapped = own**GAMMA
    scale = float(np.quantile(gapped, 0.99))
    nothing = np.zeros_like(own)
    found = Seen(gapped, scale, constants.quantiles, nothing, told, account)
    divided = own - decide(constants, [found], mapped=True).target
    left = deviation, deviation - told, deviation - share * told, divided
    return (*(float(np.sqrt(np.mean(part**2))) for part in left), share)


def _write(model, derivatives, folder, others, fold):
    """A model of the same flow, its target described by the others alone."""
    from bh_bids.flow.domain import describe_domain, learn_constants
    from bh_bids.flow.model import save_model
    from bh_bids.flow.slices import find_scans
    from bh_bids.flow.store import open_store

    config = model.config
    scans = [s for s in find_scans(derivatives, config.space) if s.participant in others]

    def report(sentence):
        print(sentence, flush=True)

    with tempfile.TemporaryDirectory(prefix="bh-crossfit-") as aside:
        store = open_store(aside, scans, config, report)
        intensity, mean = describe_domain(store.volumes, config, store.release)
        constants = learn_constants(
            store.volumes, mean, intensity, model.flow, report, store.release
        )
    metadata = {
        **model.metadata,
        "Name": folder.name,
        "TrainingParticipants": others,
        "ValidationParticipants": [],
        "ExcludedParticipants": fold,
        "Intensity": intensity,
    }
    save_model(folder, model.flow, mean, metadata, constants)


if __name__ == "__main__":
    main()
