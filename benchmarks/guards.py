"""Sensitivity and specificity of the guards of a harmonized brain, on simulated cases.

    python benchmarks/guards.py DERIVATIVES --output DIR [--participants ...] [--gaps ...]
        [--others DERIVATIVES] [--model NAME] [--again]

DERIVATIVES holds bh-bids derivatives of the target dataset, in the model's space; only participants
that the model was trained or validated on are looked at. Of each, sources are simulated (gaps),
harmonized, and the results damaged in known ways: structure lost, structure invented. A guard that
speaks on an undamaged result is a false alarm; one that is silent on a damaged result has missed
it. Scans that are no T1w brains are simulated as well, for the guard of the contrast. --others
names derivatives of real scans of another scanner: whatever a guard says of them is a false alarm.

DIR gets guards.jsonl (one record each) and guards.md (tables). A run takes up the records that are
there.
"""

import argparse
import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

GAPS = ("none", "exp", "gamma0.7", "gamma1.5", "tissue", "bias25", "thick", "ventricles")
NOISY = ("noise2", "scanner")
DAMAGED = ("gamma0.7", "bias25")
"""Gaps whose results are damaged."""


def ball(shape, centre, radius):
    """Voxels nearer to a centre than a radius."""
    axes = np.ogrid[tuple(slice(n) for n in shape)]
    return sum((a - c) ** 2 for a, c in zip(axes, centre, strict=True)) < radius**2


def somewhere(mask, rng, depth):
    """A random voxel at least so deep inside a brain."""
    from scipy.ndimage import distance_transform_edt

    places = np.argwhere(distance_transform_edt(mask) >= depth)
    return places[rng.integers(len(places))]


def blurred(volume, mask, sigma):
    from scipy.ndimage import gaussian_filter

    weight = np.maximum(gaussian_filter(mask.astype(np.float32), sigma), 1e-3)
    return np.where(mask, gaussian_filter(volume, sigma) / weight, 0).astype(np.float32)


def damages(volume, mask, other, rng):
    """Name to (kind, damaged volume); ``other`` is another participant's brain on the same grid."""
    from scipy.ndimage import gaussian_filter

    from bh_bids.evaluation.tissue import tissue_modes

    modes = tissue_modes(volume, mask)
    place = ball(mask.shape, somewhere(mask, rng, 12), 20) & mask
    yield "blur everywhere, 2 mm", "lost", blurred(volume, mask, 2)
    yield "blur in a ball of 40 mm, 3 mm", "lost", np.where(place, blurred(volume, mask, 3), volume)
    yield "grey and white matter made one", "lost", np.minimum(volume, modes["GM"])
    small = ball(mask.shape, somewhere(mask, rng, 10), 12) & mask
    yield "ball of 24 mm made flat", "lost", np.where(small, modes["WM"], volume)
    slices = volume.copy()
    middle = int(np.median(np.nonzero(mask)[2]))
    for k in (middle, middle + 1, middle + 2):
        slices[:, :, k] = np.where(mask[:, :, k], volume[:, :, k][mask[:, :, k]].mean(), 0)
    yield "three slices made flat", "lost", slices
    noise = gaussian_filter(rng.standard_normal(mask.shape).astype(np.float32), 2)
    noise /= noise.std()
    folds = volume + 0.12 * modes["WM"] * noise
    yield "folds in a ball of 40 mm", "invented", np.where(place, np.maximum(folds, 0), volume)
    yield "another brain in a ball of 40 mm", "invented", np.where(place, other, volume)
    edge = gaussian_filter(small.astype(np.float32), 1)
    yield "bright ball of 24 mm", "invented", volume * (1 + 0.3 * edge)
    yield "dark ball of 24 mm", "invented", volume * (1 - 0.4 * edge)
    striped = np.where(np.arange(mask.shape[2]) % 4 < 2, 1.1, 0.9)
    yield "stripes of 10 % along z", "invented", (volume * striped).astype(np.float32)


def strangers(volume, mask, rng):
    """Name to volume: what is no T1w brain in place; and what still is one, with a bias field."""
    from scipy.ndimage import gaussian_filter

    from bh_bids.evaluation.tissue import tissue_modes

    modes = tissue_modes(volume, mask)
    levels = [modes[t] for t in ("CSF", "GM", "WM")]
    low, high = [0.0, *levels, 2.0], lambda *values: [values[0], *values, values[-1]]
    yield "T2w contrast", np.interp(volume, low, high(1.0, 0.55, 0.35))
    yield "PDw contrast", np.interp(volume, low, high(1.0, 0.9, 0.75))
    yield "FLAIR contrast", np.interp(volume, low, high(0.1, 0.8, 0.6))
    yield "inverted", volume[mask].max() - volume
    yield "upside down", volume[:, :, ::-1]
    yield "back to front", volume[:, ::-1]
    yield "20 mm beside its place", np.roll(volume, 20, axis=1)
    texture = gaussian_filter(rng.standard_normal(mask.shape), 4)
    yield "other body part: smooth texture", 0.6 + 0.2 * texture / texture.std()
    yield "phantom: even, with noise", 0.7 + 0.02 * rng.standard_normal(mask.shape)
    yield "noise alone", np.abs(rng.standard_normal(mask.shape))


def main(arguments=None):
    args = parser().parse_args(arguments)
    args.output.mkdir(parents=True, exist_ok=True)
    path = args.output / "guards.jsonl"
    if args.again:
        path.unlink(missing_ok=True)
    if not args.tables_only:
        measure(args, path)
    records = [json.loads(line) for line in path.read_text().splitlines()]
    text = tables(records)
    (args.output / "guards.md").write_text(text)
    print(text)


def parser():
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    p.add_argument("derivatives", type=Path)
    p.add_argument("--output", type=Path, required=True)
    p.add_argument("--participants", nargs="+", default=["01", "05", "20"])
    p.add_argument("--gaps", nargs="+", default=[*GAPS, *NOISY])
    p.add_argument("--others", type=Path, help="derivatives of real scans of another scanner")
    p.add_argument("--lesions", action="store_true", help="only the lesions' part")
    p.add_argument("--model", default="default")
    p.add_argument("--again", action="store_true", help="forget the records that are there")
    p.add_argument("--tables-only", action="store_true")
    return p


def measure(args, path):
    """Append the records that are missing."""
    from gapbench.participants import find_scans, read_truth

    from bh_bids import load_model

    model = load_model(args.model)
    scans = find_scans(args.derivatives, model, ["tune"], args.participants)
    done = set()
    if path.exists():
        lines = map(json.loads, path.read_text().splitlines())
        done = {(r["participant"], r["gap"], r["part"]) for r in lines}

    def keep(records):
        with path.open("a") as stream:
            stream.writelines(json.dumps(record) + "\n" for record in records)
        print(records[0]["participant"], records[0]["gap"], records[0]["part"], flush=True)

    if args.lesions:
        for scan in scans:
            for gap in args.gaps:
                if (scan.participant, gap, "lesion") not in done:
                    keep(lesion_records(scan, gap, model))
        return
    for scan, neighbour in zip(scans, [*scans[1:], scans[0]], strict=True):
        if (scan.participant, "none", "stranger") not in done:
            keep(stranger_records(scan, model))
        for gap in args.gaps:
            if (scan.participant, gap, "damage") not in done:
                other = read_truth(neighbour)[0].copy()
                keep(damage_records(scan, gap, other, model))
    for image in (
        sorted(args.others.glob("sub-*/anat/*desc-preproc_T1w.nii.gz")) if args.others else ()
    ):
        label = image.name.split("_")[0]
        if (label, "real", "damage") not in done:
            keep(real_records(image, label, model))


def record(participant, gap, part, case, kind, **figures):
    return dict(participant=participant, gap=gap, part=part, case=case, kind=kind, **figures)


def damage_records(scan, gap, other, model):
    """Figures of one harmonized source, and of its damaged versions."""
    from bh_bids import harmonize
    from bh_bids.harmonization.structure import structure_figures

    case = scan.case(gap)
    found = harmonize(case.source, case.mask, model, device="cpu")
    after = found.volume / found.target_scale
    rows = [("none", "none", after)]
    rng = np.random.default_rng(int(scan.participant))
    if gap in DAMAGED:
        rows += damages(after, case.mask, np.where(case.mask, other, 0), rng)
    return [
        record(scan.participant, gap, "damage", name, kind, contrast=found.contrast,
               **structure_figures(found.scaled_source, np.asarray(volume), case.mask))
        for name, kind, volume in rows
    ]  # fmt: skip


def real_records(image, label, model):
    """Figures of a real scan of another scanner."""
    from bh_bids import harmonize
    from bh_bids.harmonization.structure import structure_figures

    mask = np.asarray(nib.load(str(image).replace("preproc_T1w", "brain_mask")).dataobj) > 0
    volume = nib.load(image).get_fdata(dtype=np.float32)
    found = harmonize(volume, mask, model, device="cpu")
    after = found.volume / found.target_scale
    figures = structure_figures(found.scaled_source, after, mask)
    return [record(label, "real", "damage", "none", "none", contrast=found.contrast, **figures)]


def stranger_records(scan, model):
    """Correlation with the target's mean of scans that do not belong here."""
    from gapbench.participants import read_truth

    from bh_bids.evaluation.similarity import ncc
    from bh_bids.harmonization.guards import COMMON_BRAIN

    truth, mask = read_truth(scan)
    rng = np.random.default_rng(int(scan.participant))
    common = mask & (model.mean > COMMON_BRAIN)
    return [
        record(scan.participant, "none", "stranger", name, "stranger",
               contrast=float(ncc(model.mean, np.where(mask, volume, 0), common)))
        for name, volume in strangers(truth, mask, rng)
    ]  # fmt: skip


def lesion_records(scan, gap, model):
    """How much of each lesion's contrast is left, with and without its mask."""
    from gapbench.participants import read_truth

    from bh_bids import harmonize
    from bh_bids.evaluation.harm import lesion_contrast_kept
    from bh_bids.simulation.gaps import apply_gap
    from bh_bids.simulation.pathology import add_lesions

    truth, mask = read_truth(scan)
    made, labels = add_lesions(truth, mask, seed=int(scan.participant), count=4)
    source = made if gap == "none" else apply_gap(gap, made, mask)
    rows = []
    for given in (False, True):
        found = harmonize(source, mask, model, device="cpu", lesion=labels > 0 if given else None)
        after = found.volume / found.target_scale
        for number in range(1, int(labels.max()) + 1):
            one = np.where(labels == number, 1, 0)
            one_of_all = labels * 0 + one
            if not one.any():
                continue
            millimetres = 2 * (3 * one.sum() / (4 * np.pi)) ** (1 / 3)
            rows.append(record(
                scan.participant, gap, "lesion", f"{'bright' if number % 2 else 'dark'}",
                "masked" if given else "unmasked", diameter=float(millimetres),
                kept=float(lesion_contrast_kept(made, after, one_of_all, mask)),
                source_kept=float(lesion_contrast_kept(made, source, one_of_all, mask)),
            ))  # fmt: skip
    return rows


def tables(records):
    """The tables of the documentation."""
    parts = {
        name: [r for r in records if r["part"] == name] for name in ("damage", "stranger", "lesion")
    }
    lines = [*_damage_table(parts["damage"]), "", *_sound_table(parts["damage"])]
    lines += ["", *_stranger_table(parts["stranger"]), "", *_lesion_table(parts["lesion"])]
    return "\n".join(lines) + "\n"


def _limits():
    from bh_bids.harmonization import structure
    from bh_bids.harmonization.guards import DOUBTFUL_BELOW

    return {
        "EdgesLost": (structure.EDGES_LOST_ABOVE, 1),
        "EdgesInvented": (structure.EDGES_INVENTED_ABOVE, 1),
        "LocalNCC": (structure.LOCAL_NCC_BELOW, -1),
        "Difference": (structure.DIFFERENCE_ABOVE, 1),
        "Stripes": (structure.STRIPES_ABOVE, 1),
        "contrast": (DOUBTFUL_BELOW, -1),
    }


def _fires(row, name):
    limit, sign = _limits()[name]
    return row.get(name) is not None and sign * (row[name] - limit) > 0


def _row(*cells):
    return f"| {' | '.join(map(str, cells))} |"


def _head(*cells):
    return [_row(*cells), "|---" * len(cells) + "|"]


def _damage_table(rows):
    """How often each guard speaks, by what was done to the result."""
    names = [name for name in _limits() if name != "contrast"]
    lines = _head("done to the result", "", "n", *names, "any")
    for case, kind in dict.fromkeys((r["case"], r["kind"]) for r in rows):
        own = [r for r in rows if r["case"] == case]
        some = sum(any(_fires(r, n) for n in names) for r in own)
        lines.append(_row(case, kind, len(own), *(sum(_fires(r, n) for r in own) for n in names),
                          some))  # fmt: skip
    return lines


def _sound_table(rows):
    """Range of each figure on results that nothing was done to."""
    names = list(_limits())
    lines = _head("undamaged results of", "n", *names)
    sound = [r for r in rows if r["kind"] == "none"]
    for gap in dict.fromkeys(r["gap"] for r in sound):
        own = [r for r in sound if r["gap"] == gap]
        lines.append(_row(gap, len(own), *(_span([r[n] for r in own]) for n in names)))
    return lines


def _stranger_table(rows):
    lines = _head("scan", "n", "correlation", "flagged or refused")
    for case in dict.fromkeys(r["case"] for r in rows):
        own = [r for r in rows if r["case"] == case]
        flagged = sum(_fires(r, "contrast") for r in own)
        lines.append(_row(case, len(own), _span([r["contrast"] for r in own]), flagged))
    return lines


def _lesion_table(rows):
    lines = _head("gap", "lesion", "its mask", "n", "contrast in the source, of the truth's",
                  "after harmonization", "within 15 %")  # fmt: skip
    for key in dict.fromkeys((r["gap"], r["case"], r["kind"]) for r in rows):
        own = [r for r in rows if (r["gap"], r["case"], r["kind"]) == key]
        good = sum(abs(r["kept"] - 1) <= 0.15 for r in own)
        spans = (_span([r[name] for r in own]) for name in ("source_kept", "kept"))
        lines.append(_row(*key, len(own), *spans, good))
    return lines


def _span(values):
    values = [v for v in values if v is not None]
    return f"{min(values):.2f} to {max(values):.2f}" if values else "n/a"


if __name__ == "__main__":
    main()
