"""The benchmark's parts, and a small dataset with a small model that they can run on."""

import sys
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SHAPE = (32, 40, 16)


@pytest.fixture(scope="session", autouse=True)
def benchmark_parts():
    """Importable as they are when the benchmark runs as a script."""
    if not (BENCHMARKS / "gapbench").is_dir():
        pytest.skip("benchmarks/ is not part of this installation")
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


def brain(seed):
    """Three tissues in an ellipsoid, target units."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij"))
    mask = (grid**2).sum(axis=0) < 0.9
    field = gaussian_filter(rng.normal(size=SHAPE), 2)
    volume = np.array([0.2, 0.55, 0.9])[np.digitize(field, np.quantile(field[mask], [0.15, 0.6]))]
    volume = gaussian_filter(volume + 0.02 * rng.standard_normal(SHAPE), 0.5)
    volume = np.where(mask, volume, 0) / np.percentile(volume[mask], 99)
    return volume.astype(np.float32), mask


@pytest.fixture(scope="session")
def bench(tmp_path_factory):
    """Derivatives of five participants, and a model that was trained on three of them."""
    import torch

    from bh_bids.flow.config import FlowConfig
    from bh_bids.flow.model import save_model
    from bh_bids.flow.network import TargetFlow

    root = tmp_path_factory.mktemp("bench")
    config = FlowConfig(
        levels=2, steps=1, hidden_channels=4, blocks=1, slice_shape=SHAPE[:2], slices=SHAPE[2]
    )
    for seed, label in enumerate(("01", "02", "03", "04", "05")):
        volume, mask = brain(seed)
        folder = root / "derivatives" / f"sub-{label}" / "anat"
        folder.mkdir(parents=True)
        stem = f"sub-{label}_space-MNI152NLin2009aSym_res-1_desc-"
        for name, array in (("preproc_T1w", volume * 900), ("brain_mask", mask)):
            image = nib.Nifti1Image(array.astype(np.float32), config.affine)
            nib.save(image, folder / f"{stem}{name}.nii.gz")
    pooled = np.concatenate([v[m] for v, m in map(brain, (0, 1))])
    metadata = {
        "Name": "small",
        "Version": "1.0.0",
        "TrainingParticipants": ["sub-01", "02"],
        "ValidationParticipants": ["03"],
        "ExcludedParticipants": ["04", "05"],
        "TargetDomain": {},
        "Intensity": {
            "TargetScale": 1500.0,
            "Quantiles": np.quantile(pooled, np.linspace(0, 1, 257)).tolist(),
        },
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        flow = TargetFlow(config)
    save_model(root / "model", flow, brain(0)[0], metadata)
    return SimpleNamespace(
        derivatives=root / "derivatives", model=root / "model", brain=brain, shape=SHAPE
    )
