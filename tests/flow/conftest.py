"""Tiny flows and tiny derivatives folders."""

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from bh_bids.flow.config import FlowConfig


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_config():
    return FlowConfig(
        levels=2,
        steps=2,
        hidden_channels=8,
        blocks=1,
        bins=4,
        slice_shape=(32, 40),
        slices=12,
        origin=(-16.0, -20.0, -6.0),
    )


def tiny_volume(config, seed, gain=1000.0):
    """A smooth "brain" of three intensities in an ellipsoid; returns volume and mask."""
    rng = np.random.default_rng(seed)
    grid = np.meshgrid(*[np.linspace(-1, 1, n) for n in config.shape], indexing="ij")
    mask = sum(axis**2 for axis in grid) < 0.8
    field = gaussian_filter(rng.normal(size=config.shape), 2.0)
    field /= field[mask].std()
    tissue = 0.35 + 0.25 * (field > -0.6) + 0.25 * (field > 0.5)
    volume = gaussian_filter(tissue, 1.2) + 0.004 * rng.normal(size=config.shape)
    return (gain * volume * mask).astype(np.float32), mask


def write_scan(folder, stem, volume, mask, affine, space="MNI152NLin2009aSym"):
    """Write one preprocessed scan under the names of the derivatives."""
    folder.mkdir(parents=True, exist_ok=True)
    image = folder / f"{stem}_space-{space}_res-1_desc-preproc_T1w.nii.gz"
    nib.save(nib.Nifti1Image(volume, affine), image)
    path = folder / f"{stem}_space-{space}_res-1_desc-brain_mask.nii.gz"
    nib.save(nib.Nifti1Image(mask.astype(np.uint8), affine), path)
    return image


@pytest.fixture(scope="session")
def scan_writer():
    return write_scan


@pytest.fixture(scope="session")
def volume_maker():
    return tiny_volume


@pytest.fixture(scope="session")
def derivatives(tmp_path_factory, tiny_config):
    """Six participants; the second has two sessions."""
    root = tmp_path_factory.mktemp("derivatives")
    for k in range(6):
        label = f"{k + 1:02d}"
        sessions = ("A", "B") if k == 1 else (None,)
        for i, session in enumerate(sessions):
            folder, stem = root / f"sub-{label}", f"sub-{label}"
            if session:
                folder, stem = folder / f"ses-{session}", f"{stem}_ses-{session}"
            volume, mask = tiny_volume(tiny_config, 10 * k + i, gain=1000.0 + 100 * k)
            write_scan(folder / "anat", stem, volume, mask, tiny_config.affine)
    return root
