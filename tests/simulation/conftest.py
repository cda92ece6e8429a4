"""A small head of known tissues: nested ellipsoids, coarse, in seconds."""

import os
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def phantom_labels():
    """Label map (x, y, z) at 4 mm on RAS axes, and its affine.

    From the middle outwards: ventricle 4/43, white matter 2/41, cortex 3/42, fluid 24, bone 515,
    other tissue 507, skin 511; left labels where x is smaller.
    """
    shape = (52, 60, 60)
    centre = (np.array(shape) - 1) / 2
    grid = np.indices(shape) - centre.reshape(3, 1, 1, 1)
    radius = np.sqrt((grid[0] / 18) ** 2 + (grid[1] / 22) ** 2 + (grid[2] / 20) ** 2)
    labels = np.zeros(shape, dtype=np.int32)
    for edge, left, right in (
        (1.22, 511, 511),
        (1.14, 507, 507),
        (1.05, 515, 515),
        (0.98, 24, 24),
        (0.90, 3, 42),
        (0.72, 2, 41),
        (0.22, 4, 43),
    ):
        inside = radius < edge
        labels[inside] = np.where(grid[0] < 0, left, right)[inside]
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = -4 * centre
    return labels, affine


@pytest.fixture(scope="session")
def still_site():
    """A site without noise, fields, blur or movement, on a 4 mm grid."""
    from bh_bids.simulation.sites import Site

    return Site(
        "still",
        bias=0,
        coil=0,
        transmit=0,
        noise=0,
        rotation=0,
        shift=0,
        blur=0.01,
        voxel_size=(4, 4, 4),
    )


@pytest.fixture(scope="session")
def heads_folder():
    """Folder of the whole-head label maps, or a skip."""
    data = Path(os.environ.get("BH_DATA", Path(__file__).parents[3] / "shared" / "data"))
    folder = data / "heads"
    if not folder.is_dir():
        pytest.skip("no folder of whole-head label maps (set BH_DATA)")
    return folder
