"""Small scans: a ball of smooth texture at a target, and what another site makes of it."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from bh_bids.comparators import Scan
from bh_bids.intensity import to_target_units

SHAPE = (32, 34, 30)


@pytest.fixture(scope="session")
def target():
    """Makes the target scan of a participant."""

    def make(number):
        rng = np.random.default_rng(number)
        place = np.indices(SHAPE) - np.reshape(np.array(SHAPE) / 2 - 0.5, (3, 1, 1, 1))
        mask = (place**2).sum(axis=0) < 14**2
        texture = gaussian_filter(rng.normal(size=SHAPE), 2)
        unit = (texture - texture.min()) / np.ptp(texture)
        return Scan(to_target_units(0.2 + unit, mask)[0], mask, f"{number:02d}")

    return make


@pytest.fixture(scope="session")
def source(target):
    """Makes the same participant's scan at another site."""

    def make(number):
        scan = target(number)
        volume, _ = to_target_units(scan.volume**1.6, scan.mask)
        return Scan(volume, scan.mask, scan.participant)

    return make


@pytest.fixture(scope="session")
def tiny():
    """Settings of networks so small that a test takes seconds."""
    return {"features": (4, 8, 8, 8, 8, 4), "crop": 32, "batch_size": 4}
