"""A small target domain: brains of known tissue, contrast and noise, on a grid of 4 mm."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from bh_bids.mapping.calibration import calibrate
from bh_bids.mapping.field import Lattice

SHAPE, VOXEL = (36, 44, 36), (4.0, 4.0, 4.0)
SCANS = 10


def smooth_noise(seed, width, shape=SHAPE):
    """Smooth noise of unit spread."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), width)
    return noise / noise.std()


def brain_mask(shape=SHAPE):
    """An ellipsoid."""
    grid = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    return sum(axis**2 for axis in grid) < 0.8


def make_scan(seed):
    """One participant: the anatomy that all share, and their own; target units."""
    rng = np.random.default_rng(1000 + seed)
    mask = brain_mask()
    anatomy = 0.9 * smooth_noise(0, 3.0) + 0.5 * smooth_noise(100 + seed, 2.0)
    grey, white = rng.normal(0.28, 0.015), rng.normal(0.27, 0.015)
    level = 0.3 + grey / (1 + np.exp(-(anatomy + 0.7) / 0.15))
    level += white / (1 + np.exp(-(anatomy - 0.4) / 0.15))
    volume = np.where(mask, level + 0.004 * rng.normal(size=SHAPE), 0)
    return (volume / np.quantile(volume[mask], 0.99)).astype(np.float32)


@pytest.fixture(scope="session")
def domain():
    """Scans of a target domain, their mask, mean, lattice and calibration."""
    scans = [make_scan(seed) for seed in range(SCANS)]
    mean = np.mean(scans, axis=0)
    return SimpleNamespace(
        scans=scans,
        mask=brain_mask(),
        mean=mean,
        voxel=VOXEL,
        lattice=Lattice(SHAPE, VOXEL),
        calibration=calibrate(lambda: iter(scans), mean, VOXEL),
    )


@pytest.fixture(scope="session")
def scan_maker():
    return make_scan


@pytest.fixture(scope="session")
def noise_maker():
    return smooth_noise
