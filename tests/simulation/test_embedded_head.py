"""The embedded head looks like a head: closed, layered, symmetric."""

import numpy as np
import pytest
from scipy import ndimage

from bh_bids.simulation.embedded import embedded_head
from bh_bids.simulation.tissues import CODES, TISSUES


@pytest.fixture(scope="module")
def head():
    return embedded_head(2)


def test_layers_in_order_along_rays(head):
    """From the brain's middle upwards: brain, fluid, bone, fat, skin, air, each after the other."""
    start = np.array([0.0, -20.0, 10.0])
    order = ["csf", "bone", "fat", "skin"]
    for direction in ([0, 0, 1], [0, -1, 0.3], [0.5, -0.5, 0.7], [-0.5, -0.5, 0.7], [0, 0.6, 0.8]):
        unit = np.array(direction) / np.linalg.norm(direction)
        points = start + np.arange(0, 160, 0.5)[:, None] * unit
        voxels = np.round((points - head.affine[:3, 3]) / head.spacing).astype(int)
        voxels = voxels[(voxels < head.classes.shape).all(axis=1)]
        names = [TISSUES[c].name for c in head.classes[tuple(voxels.T)]]
        last = [max(k for k, name in enumerate(names) if name == wanted) for wanted in order]
        assert last == sorted(last)
        assert names[-1] == "air"
        inside = head.brain[tuple(voxels.T)]
        assert np.flatnonzero(inside).max() < names.index("bone")


def test_head_is_one_closed_piece(head):
    solid = head.classes > 0
    assert ndimage.label(solid)[1] == 1
    filled = ndimage.binary_fill_holes(solid)
    assert filled.sum() / solid.sum() < 1.05
    shell = ndimage.binary_dilation(filled) & ~filled
    # Outside there is air only, and the skin is what touches it.
    edge = filled & ndimage.binary_dilation(shell)
    edge[:, :, :2] = False  # The neck is cut by the grid.
    assert (head.classes[edge] == CODES["skin"]).mean() > 0.9


def test_head_is_symmetric(head):
    same = head.classes == head.classes[::-1]
    assert same[head.classes > 0].mean() > 0.97


def test_fractions_sum_to_one_in_the_brain(head):
    total = head.fractions.sum(axis=0)
    assert total[head.brain] == pytest.approx(1, abs=1e-4)
    assert (np.isclose(total, 0, atol=1e-6) | np.isclose(total, 1, atol=1e-4)).all()
    litres = [head.kind_map(kind).sum() * 8e-6 for kind in ("CSF", "GM", "WM")]
    assert 0.05 < litres[0] < 0.5 and 0.8 < litres[1] < 1.2 and 0.5 < litres[2] < 0.9


def test_grids_of_two_spacings_agree(head):
    coarse = embedded_head.__wrapped__(4)
    volumes = [h.brain.sum() * np.prod(h.spacing) for h in (head, coarse)]
    assert volumes[0] == pytest.approx(volumes[1], rel=0.02)
    assert np.allclose(coarse.affine[:3, 3], head.affine[:3, 3])
