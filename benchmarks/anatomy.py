"""Brain masks and registration on whole heads that built no template: Dice, distances, costs.

    python benchmarks/anatomy.py HEADS --output results [--quick]

Whole-head label maps that the packaged head template left out are scanned by the simulator in five
contrasts and at three resolutions, turned by up to 25 degrees about each axis and under a strong
bias field. Each of the 15 pairs of contrast and resolution is scanned once, the heads taking turns
(``--full`` scans every head in every pair, ``--quick`` five pairs). The anatomical fit then runs as
in the pipeline, but always with brain extraction.

The truth of a mask is the simulator's, on the scan's grid. It leaves out cisterns and fissures
wider than 10 mm, whose walls lie deep inside any brain mask, so the Hausdorff distance is given
twice: of the masks as they are, and of their outer surfaces, both masks closed by 10 mm before. The
truth of a registration is the one found from the same head without noise, field and rotation, with
its true mask: the error is the distance, in the model's space, of the centroids of anatomical
labels through both.
"""

import argparse
import json
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from bh_bids.anatomy.bias import n4_bias_field
from bh_bids.anatomy.brain import brain_mask
from bh_bids.anatomy.fit import to_model_grid
from bh_bids.anatomy.images import save_nifti
from bh_bids.anatomy.registration import register_brain
from bh_bids.anatomy.resampling import content_box, voxel_sizes, voxel_volume
from bh_bids.anatomy.templates import HEAD_TEMPLATE_DIR, mni_brain
from bh_bids.flow.config import FlowConfig
from bh_bids.monitor import measure
from bh_bids.simulation.anatomy import head_files, load_head, make_participant
from bh_bids.simulation.scan import generator, head_position, simulate_scan
from bh_bids.simulation.sites import Site

STRONG = dict(bias=0.25, coil=0.35, transmit=0.15, noise=0.04, rotation=10.0, shift=8.0)
"""Field, noise, and position: angles have a standard deviation of 10 degrees and end at 25."""
_LONG = dict(tr=2400.0, te=3.6, ti=1000.0, flip_angle=8.0, echo_spacing=8.6, echoes=160)
CONTRASTS = {
    "MPRAGE 3 T": Site("mprage3", orientation="PSR", **STRONG),
    "MPRAGE 1.5 T": Site("mprage15", field=1.5, **_LONG, **STRONG),
    "gradient echo 3 T": Site(
        "spgr3", sequence="spgr", tr=18.0, te=4.2, flip_angle=25.0, orientation="LPS", **STRONG
    ),
    "gradient echo 1.5 T": Site(
        "spgr15", sequence="spgr", field=1.5, tr=20.0, te=4.2, flip_angle=30.0, **STRONG
    ),
    "low contrast": Site(
        "low", sequence="spgr", tr=18.0, te=4.2, flip_angle=12.0, orientation="LAS", **STRONG
    ),
}
RESOLUTIONS = {
    "1 mm": (1.0, 1.0, 1.0),
    "0.9 x 0.9 x 1.3 mm": (0.9, 0.9, 1.3),
    "1 x 1 x 3 mm": (1.0, 1.0, 3.0),
}
STRUCTURES = (4, 43, 8, 47, 10, 49, 11, 50, 12, 51, 13, 52, 16, 17, 53, 18, 54, 26, 58, 28, 60)
"""FreeSurfer labels whose centroids tell a registration's error: ventricles, cerebellar cortex,
deep grey matter, hippocampus and amygdala of both sides, brainstem."""
STEPS = ("brain mask", "bias field", "registration", "resampling")
TOLD = ("dice", "outer_hd95_mm", "hd95_mm", "centroid_mm")
BARS = {"dice_mean": 0.97, "dice_worst": 0.95, "hd95": 3.0, "centroid_median": 1.5}


def left_out():
    """Stems of the label maps that the packaged template was not built from."""
    return json.loads((HEAD_TEMPLATE_DIR / "head.json").read_text())["Excluded"]


def plan(heads, extent):
    """Cases as (head, contrast, resolution): every pair once, the heads in turn.

    Parameters
    ----------
    heads : sequence of str
    extent : {"balanced", "quick", "full"}

    Returns
    -------
    list of tuple of str
    """
    contrasts, resolutions = list(CONTRASTS), list(RESOLUTIONS)
    if extent == "full":
        return [(h, c, r) for h in heads for c in contrasts for r in resolutions]
    # Wherever it is stopped, contrasts, resolutions and heads have had about as many turns.
    cases = [
        (heads[(i + 2 * k) % len(heads)], contrast, resolutions[(i + k) % len(resolutions)])
        for k in range(len(resolutions))
        for i, contrast in enumerate(contrasts)
    ]
    return cases[: len(contrasts)] if extent == "quick" else cases


@cache
def _head(path):
    """Anatomy of a label map, its labels' centroids, and its reference registration."""
    anatomy = load_head(path)
    image = nib.as_closest_canonical(nib.load(path))
    # The anatomy is cropped and put elsewhere: the labels follow by the brains' first voxels.
    labels = np.asanyarray(image.dataobj).astype(np.int32)
    sizes = voxel_sizes(image.affine)
    found = np.argwhere(labels != 0)
    first = found.min(axis=0)
    centroids = {}
    for label in STRUCTURES:
        there = np.argwhere(labels == label)
        if len(there):
            index = there.mean(axis=0) - first + 2
            centroids[label] = anatomy.affine[:3, 3] + index * sizes
    anatomy = make_participant(anatomy, generator(0, Path(path).name), strength=0.0)
    ideal = replace(
        CONTRASTS["MPRAGE 3 T"], name="ideal", orientation="RAS", bias=0.0, coil=0.0,
        transmit=0.0, noise=0.0, rotation=0.0, shift=0.0,
    )  # fmt: skip
    volume, affine, truth = simulate_scan(anatomy, ideal, generator(0), noise=0.0)
    matrix = register_brain(volume.astype(np.float32), affine, truth.brain, *mni_brain())
    return anatomy, centroids, matrix


def scan(path, contrast, resolution):
    """One scan of a head: volume and true mask on RAS axes, affine, head's position."""
    anatomy = _head(path)[0]
    site = CONTRASTS[contrast]
    # The noise of a 1 mm scan, whatever the voxels: thick slices are not to look better.
    site = replace(site, voxel_size=RESOLUTIONS[resolution])
    keys = (1, Path(path).name, contrast, resolution)
    volume, affine, truth = simulate_scan(anatomy, site, generator(*keys), site_seed=len(contrast))
    position = head_position(generator(*keys), site.rotation, site.shift)
    image, brain = (
        nib.as_closest_canonical(nib.Nifti1Image(a, affine))
        for a in (volume, truth.brain.astype(np.uint8))
    )
    return (
        np.ascontiguousarray(image.get_fdata(dtype=np.float32)),
        np.asarray(brain.dataobj) > 0,
        image.affine,
        position,
    )


def fit(volume, affine, sloppy):
    """The anatomical fit with what each step took: mask, matrix, usage per step."""
    config = FlowConfig()
    usage = {}

    def step(name, function, *arguments, **options):
        result, taken = measure(lambda: function(*arguments, **options))
        usage[name] = {k: taken[k] for k in ("seconds", "cpu_seconds", "peak_gb")}
        return result

    mask, _ = step("brain mask", brain_mask, volume, affine, mode="force", sloppy=sloppy)
    corrected = volume / step("bias field", n4_bias_field, volume, affine, mask)
    matrix = step("registration", register_brain, corrected, affine, mask, *mni_brain())
    step("resampling", to_model_grid, corrected, affine, mask, matrix, config.shape, config.affine)
    return mask, matrix, usage


def score(mask, brain, affine, matrix, position, centroids, reference):
    """Dice, 95 % Hausdorff distances, volumes, and the errors of the labels' centroids."""
    points = np.array([[*c, 1.0] for c in centroids.values()]).T
    found, right = matrix @ position @ points, reference @ points
    errors = np.linalg.norm((found - right)[:3], axis=0)
    sizes, voxel_ml = voxel_sizes(affine), voxel_volume(affine)
    return {
        "dice": 2 * float((mask & brain).sum()) / float(mask.sum() + brain.sum()),
        "hd95_mm": hausdorff95(mask, brain, sizes),
        "outer_hd95_mm": hausdorff95(closed(mask, sizes), closed(brain, sizes), sizes),
        "centroid_mm": float(np.median(errors)),
        "worst_centroid_mm": float(errors.max()),
        "volume_ml": float(mask.sum() * voxel_ml),
        "true_ml": float(brain.sum() * voxel_ml),
        "degrees": _degrees(position),
    }


def closed(mask, sizes, radius=10.0):
    """A mask closed by a ball (mm), its holes filled: what is left has its outer surface alone."""
    pad = [int(np.ceil(radius / size)) + 1 for size in sizes]
    box = content_box(mask)
    inner = np.pad(mask[box], [(n, n) for n in pad])
    grown = ndimage.distance_transform_edt(~inner, sampling=sizes) <= radius
    inner |= ndimage.distance_transform_edt(grown, sampling=sizes) > radius
    result = mask.copy()
    result[box] |= ndimage.binary_fill_holes(inner)[tuple(slice(n, -n) for n in pad)]
    return result


def hausdorff95(first, second, sizes):
    """95 % Hausdorff distance of two masks' surfaces, by MONAI.

    Parameters
    ----------
    first, second : numpy.ndarray of bool, shape (x, y, z)
    sizes : sequence of float
        Voxel sizes in mm.

    Returns
    -------
    float
        mm.
    """
    import torch
    from monai.metrics import compute_hausdorff_distance

    box = content_box(first | second, margin=2)
    pair = [torch.from_numpy(m[box][None, None].astype(np.float32)) for m in (first, second)]
    spacing = [float(s) for s in sizes]
    return float(
        compute_hausdorff_distance(*pair, include_background=True, percentile=95, spacing=spacing)
    )


def _degrees(position):
    from scipy.spatial.transform import Rotation

    angles = Rotation.from_matrix(position[:3, :3]).as_euler("xyz", degrees=True)
    return [round(float(a), 1) for a in angles]


def picture(volume, mask, brain, affine, path, title):
    """Three planes of a scan with the true mask in green and the found one in red."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    sizes = voxel_sizes(affine)
    centre = [int(round(c)) for c in np.argwhere(brain).mean(axis=0)]
    offsets = (-25, 0, 25)
    high = np.percentile(volume[brain], 99.5) * 1.1
    fig, axes = plt.subplots(3, 3, figsize=(9, 9.4), layout="constrained")
    for row, axis in enumerate(range(3)):
        for ax, offset in zip(axes[row], offsets, strict=True):
            k = int(np.clip(centre[axis] + offset / sizes[axis], 0, volume.shape[axis] - 1))
            others = [a for a in range(3) if a != axis]
            views = [np.take(v, k, axis=axis).T for v in (volume, brain, mask)]
            ratio = sizes[others[1]] / sizes[others[0]]
            ax.imshow(views[0], cmap="gray", origin="lower", vmin=0, vmax=high, aspect=ratio)
            for view, colour in zip(views[1:], ("lime", "red"), strict=True):
                if view.any() and not view.all():
                    ax.contour(view, [0.5], colors=colour, linewidths=0.7)
            ax.set_axis_off()
    fig.suptitle(title, fontsize=10)
    fig.savefig(path, dpi=90)
    plt.close(fig)


def tables(records):
    """The benchmark's tables as markdown.

    Parameters
    ----------
    records : list of dict

    Returns
    -------
    str
    """
    lines = [
        "| head | contrast | resolution | Dice | HD95 mm, outer surface | HD95 mm, as it is | "
        "centroids mm | volume / true | s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in records:
        seconds = sum(u["seconds"] for u in r["usage"].values())
        lines.append(
            f"| {r['head'][-2:]} | {r['contrast']} | {r['resolution']} | {r['dice']:.3f} | "
            f"{r['outer_hd95_mm']:.1f} | {r['hd95_mm']:.1f} | {r['centroid_mm']:.2f} | "
            f"{r['volume_ml'] / r['true_ml']:.2f} | {seconds:.0f} |"
        )
    dice, hd95, raw, centroid = (
        np.array([r[k] for r in records])
        for k in ("dice", "outer_hd95_mm", "hd95_mm", "centroid_mm")
    )
    lines += [
        "",
        f"{len(records)} scans: Dice mean {dice.mean():.3f} (bar {BARS['dice_mean']}), worst "
        f"{dice.min():.3f} (bar {BARS['dice_worst']}); HD95 mean {hd95.mean():.1f}, worst "
        f"{hd95.max():.1f} mm (bar {BARS['hd95']}; as it is: {raw.mean():.1f} and "
        f"{raw.max():.1f} mm); centroids' error median "
        f"{np.median(centroid):.2f}, worst scan {centroid.max():.2f} mm "
        f"(bar {BARS['centroid_median']}).",
        "",
        "| step | mean s | worst s | worst s at 1 mm | peak GB |",
        "|---|---|---|---|---|",
    ]
    for name in STEPS:
        used = [r["usage"][name] for r in records]
        seconds = [u["seconds"] for u in used]
        fine = [
            u["seconds"] for u, r in zip(used, records, strict=True) if r["resolution"] == "1 mm"
        ]
        lines.append(
            f"| {name} | {np.mean(seconds):.0f} | {max(seconds):.0f} | "
            f"{max(fine, default=float('nan')):.0f} | {max(u['peak_gb'] for u in used):.1f} |"
        )
    return "\n".join(lines) + "\n"


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="whole-head label maps")
    parser.add_argument("--heads", nargs="+", help="stems of maps (default: the template's rest)")
    parser.add_argument("--output", type=Path, default=Path("anatomy"), help="for the results")
    extent = parser.add_mutually_exclusive_group()
    for name, text in (("quick", "five scans"), ("full", "every head in every pair")):
        extent.add_argument(f"--{name}", dest="extent", action="store_const", const=name, help=text)
    parser.add_argument("--sloppy", action="store_true", help="as bh-bids --sloppy")
    parser.add_argument("--keep", action="store_true", help="keep scans and masks as NIfTI files")
    options = parser.parse_args(argv)
    options.output.mkdir(parents=True, exist_ok=True)
    paths = {p.name.split(".")[0]: p for p in head_files(options.folder)}
    heads = options.heads or [name for name in left_out() if name in paths]
    if not heads or set(heads) - set(paths):
        parser.error(f"{options.folder} lacks the label maps {', '.join(heads or left_out())}")
    run(plan(heads, options.extent or "balanced"), paths, options)


def run(cases, paths, options):
    """Every case that has no record yet, then the tables."""
    log = options.output / "records.jsonl"
    records = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    done = {(r["head"], r["contrast"], r["resolution"]) for r in records}
    for case in cases:
        if case in done:
            continue
        name, contrast, resolution = case
        volume, brain, affine, position = scan(paths[name], contrast, resolution)
        _, centroids, reference = _head(paths[name])
        mask, matrix, usage = fit(volume, affine, options.sloppy)
        scores = score(mask, brain, affine, matrix, position, centroids, reference)
        record = {"head": name, "contrast": contrast, "resolution": resolution, **scores}
        record["usage"] = usage
        if scores["dice"] < min((r["dice"] for r in records), default=1):
            title = f"{name}, {contrast}, {resolution}: Dice {scores['dice']:.3f} (true: green)"
            picture(volume, mask, brain, affine, options.output / "worst.png", title)
        if options.keep:
            stem = "_".join(part.replace(" ", "") for part in case)
            for kind, data in (("scan", volume), ("true", brain), ("mask", mask)):
                save_nifti(data, affine, options.output / f"{stem}_{kind}.nii.gz", np.int16)
        records.append(record)
        with log.open("a") as stream:
            stream.write(json.dumps(record) + "\n")
        print(
            " | ".join(case), *(f"{k} {scores[k]:.3f}" for k in TOLD), file=sys.stderr, flush=True
        )
    text = tables(records)
    (options.output / "anatomy.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
