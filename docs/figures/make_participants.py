"""Draw docs/figures/participants.png: what each of the 32 participants gains, cross-fitted.

python docs/figures/make_participants.py [RECORDS.json ...]

RECORDS are the harmonization.json of benchmarks/harmonization.py for the folds' models and the
packaged one; their figures are kept in benchmarks/crossfit_participants.tsv, which alone is drawn
when none are given.
"""

import csv
import json
import sys
from pathlib import Path

import numpy as np

from bh_bids import load_model

TABLE = Path(__file__).parents[2] / "benchmarks" / "crossfit_participants.tsv"
GAPS = ("gamma0.7", "exp", "ventricles", "lesion")
METHODS = ("hm", "map")


def main(*records):
    """Keep the records' figures, and draw them."""
    if records:
        _keep([r for path in records for r in json.loads(Path(path).read_text())])
    with TABLE.open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    _draw(rows)


def _keep(records):
    found = {}
    for r in records:
        if r["method"] in METHODS and r["gap"] in (*GAPS, "none") and r["seed"] == 0:
            found.setdefault((r["participant"], r["gap"]), {})[r["method"]] = r["psnr"]
    with TABLE.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["participant", "gap", *METHODS])
        for key, psnr in sorted(found.items()):
            if len(psnr) == len(METHODS):
                writer.writerow([*key, *(f"{psnr[m]:.3f}" for m in METHODS)])


def _draw(rows):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    held_out = load_model("default").metadata["ExcludedParticipants"]
    labels = {label.removeprefix("sub-") for label in held_out}
    figure = Figure(figsize=(3 * len(GAPS), 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, gap in zip(figure.subplots(1, len(GAPS)), GAPS, strict=True):
        own = [r for r in rows if r["gap"] == gap]
        matched, gain = np.array(
            [(float(r["hm"]), float(r["map"]) - float(r["hm"])) for r in own]
        ).T
        test = np.array([r["participant"] in labels for r in own])
        axes.axhspan(-0.5, 0, color="#dddddd")
        axes.axhline(0, color="#999999", linewidth=1)
        axes.plot(matched[~test], gain[~test], "o", color="#00798c", label="cross-fitted")
        axes.plot(matched[test], gain[test], "D", color="#d1495b", label="test split")
        axes.set_title(f"{gap}: {gain.mean():+.1f} dB in the mean", fontsize=10)
        axes.set_xlabel("after a histogram match, dB")
    figure.axes[0].set_ylabel("map less histogram match, dB")
    figure.axes[0].legend(fontsize=8)
    figure.savefig(Path(__file__).with_name("participants.png"), dpi=100)


if __name__ == "__main__":
    main(*sys.argv[1:])
