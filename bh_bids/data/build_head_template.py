"""Build the packaged whole-head template from label maps: a group-wise average in MNI152 space.

``python -m bh_bids.data.build_head_template HEADS`` reads whole-head label maps (the SynthSeg
project's, Apache-2.0), gives them a T1w contrast by the MPRAGE signal equation, registers their
brains to the MNI152 2009a symmetric brain, and then refines the average by symmetric
diffeomorphic registration of the whole heads to it (Avants et al. 2010,
doi:10.1016/j.neuroimage.2009.09.062). Besides the average it writes the share of heads that have
brain at each voxel.
"""

import argparse
import json
import tempfile
from pathlib import Path

import ants
import nibabel as nib
import numpy as np

from bh_bids.anatomy.ants_images import deterministic, to_ants
from bh_bids.anatomy.images import open_nifti, save_nifti
from bh_bids.anatomy.registration import register_brain
from bh_bids.anatomy.resampling import resample
from bh_bids.anatomy.templates import HEAD_TEMPLATE_DIR, mni_brain
from bh_bids.simulation.labels import tissue_classes
from bh_bids.simulation.signal import mprage_signal
from bh_bids.simulation.tissues import relaxation

SPACING = 2.0
SHAPE = (106, 130, 118)
ORIGIN = (-105.0, -140.0, -128.0)
SEQUENCE = dict(tr=2300.0, te=3.0, ti=900.0, flip_angle=9.0, echo_spacing=7.0, echoes=160)
REFINEMENTS = 2


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("heads", type=Path, help="folder with *.nii.gz whole-head label maps")
    parser.add_argument("--exclude", nargs="*", default=(), help="stems of maps to leave out")
    parser.add_argument("--output", type=Path, default=HEAD_TEMPLATE_DIR)
    options = parser.parse_args(argv)
    paths = sorted(
        path
        for path in options.heads.glob("*.nii.gz")
        if path.name.split(".")[0] not in options.exclude
    )
    grid = np.diag([SPACING, SPACING, SPACING, 1.0])
    grid[:3, 3] = ORIGIN
    heads = [_head_in_space(path, grid) for path in paths]
    template, probability = _average(heads)
    for _ in range(REFINEMENTS):
        heads_now = [_refine(head, template, grid) for head in heads]
        template, probability = _average(heads_now)
    options.output.mkdir(parents=True, exist_ok=True)
    save_nifti(template * 255, grid, options.output / "head_T1w.nii.gz", np.uint8)
    save_nifti(
        probability * 255, grid, options.output / "head_label-brain_probseg.nii.gz", np.uint8
    )
    description = {
        "Description": "Average head (T1w, MPRAGE contrast at 3 T) and share of heads with brain "
        "(0-255) in MNI152NLin2009aSym space",
        "Sources": [path.name for path in paths],
        "Excluded": list(options.exclude),
        "License": "Apache-2.0 (label maps of the SynthSeg project)",
        "BuiltBy": "python -m bh_bids.data.build_head_template",
    }
    (options.output / "head.json").write_text(json.dumps(description, indent=2) + "\n")


def _head_in_space(path, grid):
    """T1w head and brain mask of one label map, its brain affinely on the MNI152 brain."""

    image = nib.as_closest_canonical(open_nifti(path))
    labels = np.rint(image.get_fdata(dtype=np.float32)).astype(np.int32)
    sizes = np.asarray(image.header.get_zooms()[:3])
    classes, brain = tissue_classes(labels, sizes, where=str(path))
    signal = mprage_signal(*relaxation(3.0), **SEQUENCE)
    volume = signal[classes].astype(np.float32)
    volume /= np.percentile(volume[brain], 99)
    matrix = register_brain(volume, image.affine, brain, *mni_brain())
    print(f"{path.name}: volume change {np.linalg.det(matrix[:3, :3]):.2f}", flush=True)
    return tuple(
        resample(part, image.affine, SHAPE, grid, matrix)
        for part in (volume, brain.astype(np.float32))
    )


def _average(heads):
    template = np.mean([np.clip(head, 0, 1.2) / 1.2 for head, _ in heads], axis=0)
    probability = np.mean([np.clip(brain, 0, 1) for _, brain in heads], axis=0)
    return template, probability


def _refine(head, template, grid):
    volume, brain = head
    fixed = to_ants(template, grid)
    moving = to_ants(np.clip(volume, 0, 1.2) / 1.2, grid)
    with deterministic(0), tempfile.TemporaryDirectory() as folder:
        fit = ants.registration(
            fixed,
            moving,
            type_of_transform="SyNOnly",
            initial_transform="identity",
            reg_iterations=(40, 20, 0),
            outprefix=f"{folder}/",
        )
        print("refined one head", flush=True)
        return tuple(
            ants.apply_transforms(fixed, to_ants(part, grid), fit["fwdtransforms"]).numpy()
            for part in (volume, brain)
        )


if __name__ == "__main__":
    main()
