"""Models for participants that the default model knows: described and calibrated without them.

    python benchmarks/crossfit.py DERIVATIVES --output DIR [--folds 3] [--only K] [--model NAME]
    python benchmarks/harmonization.py DERIVATIVES --model DIR/fold-1 --split test --output DIR/1

DERIVATIVES holds bh-bids derivatives of the target dataset. The participants that the model was
trained and validated on are dealt into folds; for each fold there is a model of which it is the
split "test". The target's mean volume, its quantiles and every constant of the method "map" are
learned from all others, the model's own test participants among them, so that each fold has as
many scans to learn from as the model's authors had.

The flow's weights are the model's: they have seen the fold. So cross-fitting tells of the contrast,
in which the flow has no say but on the noise level, and nothing of fields' ablations or denoising.
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))


def main(arguments=None):
    """Write one model per fold."""
    from gapbench.participants import SPLITS, split_of

    from bh_bids import load_model

    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("derivatives", type=Path)
    parser.add_argument("--output", type=Path, required=True, help="folder for the models")
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--only", type=int, nargs="+", help="numbers of folds, from 1")
    parser.add_argument("--model", default="default")
    args = parser.parse_args(arguments)
    model = load_model(args.model)
    known, kept = (split_of(model)[split] for split in SPLITS)
    for number in args.only or range(1, args.folds + 1):
        fold = known[number - 1 :: args.folds]
        others = sorted({*known, *kept} - set(fold))
        print(f"Fold {number}: without {' '.join(fold)}.", flush=True)
        _write(model, args.derivatives, args.output / f"fold-{number}", others, fold)


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
        constants = learn_constants(store.volumes, mean, intensity, config, report, store.release)
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
