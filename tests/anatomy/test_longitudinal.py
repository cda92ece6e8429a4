"""The template of one participant's scans: halfway, in any order, with left on the left."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from bh_bids.anatomy import bias, longitudinal
from bh_bids.anatomy.longitudinal import halfway, vote, within_template
from bh_bids.anatomy.resampling import resample
from bh_bids.errors import InputError


def rigid(angles, shift):
    """About the origin: degrees about x, y, z, and mm."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    matrix[:3, 3] = shift
    return matrix


numbers = st.floats(-20, 20)
maps = st.builds(rigid, st.tuples(*[numbers] * 3), st.tuples(*[numbers] * 3))


@settings(max_examples=25, deadline=None)
@given(st.lists(maps, min_size=2, max_size=4), maps)
def test_halfway_does_not_depend_on_the_space_it_began_in(matrices, space):
    first, second = halfway(matrices), halfway([space @ matrix for matrix in matrices])
    np.testing.assert_allclose(first, second, atol=1e-6)


def test_two_scans_meet_in_the_middle():
    """A turn of 20 degrees about one axis: each goes half of it."""
    found = halfway([np.eye(4), rigid((0, 0, 20), (0, 0, 6))])
    np.testing.assert_allclose(found[0], rigid((0, 0, -10), (0, 0, -3)), atol=1e-8)
    np.testing.assert_allclose(found[1], rigid((0, 0, 10), (0, 0, 3)), atol=1e-8)


@pytest.fixture(scope="module")
def visits(small_brain):
    """A brain with a bright left hemisphere's spot, scanned in three positions."""
    volume = small_brain.volume.copy()
    spot = np.rint(np.linalg.inv(small_brain.affine) @ [-40, -20, 20, 1]).astype(int)[:3]
    volume[tuple(slice(k - 1, k + 2) for k in spot)] = 2 * volume.max()
    positions = [rigid((0, 0, 0), (0, 0, 0)), rigid((8, -4, 6), (6, -5, 4)),
                 rigid((-6, 5, 3), (-4, 6, -3))]  # fmt: skip
    scans = [resample(volume, small_brain.affine, volume.shape, small_brain.affine, m)
             for m in positions]  # fmt: skip
    return scans, positions, small_brain


@pytest.fixture
def coarse(monkeypatch):
    monkeypatch.setattr(longitudinal, "REGISTRATION_SPACING", 5.0)
    monkeypatch.setattr(longitudinal, "ROUNDS", 1)
    monkeypatch.setattr(bias, "ESTIMATION_SPACING", 8.0)


def test_the_template_lies_halfway_and_left_stays_left(visits, coarse):
    scans, positions, brain = visits
    affines = [brain.affine] * 3
    template, grid, matrices = within_template(scans, affines)
    # In the template's space all scans' brains coincide, and nothing was stretched.
    together = [matrix @ position for matrix, position in zip(matrices, positions, strict=True)]
    points = np.array([[0, 0, 0, 1], [40, -20, 10, 1], [-50, 30, 20, 1.0]]).T
    for one in together[1:]:
        assert np.linalg.norm((one - together[0]) @ points, axis=0).max() < 1.5
    for matrix in matrices:
        np.testing.assert_allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3), atol=1e-5)
    expected = halfway([np.linalg.inv(p) for p in positions])
    for matrix, right in zip(matrices, expected, strict=True):
        assert np.linalg.norm((matrix - right) @ points, axis=0).max() < 1.5
    mark = grid @ [*np.unravel_index(template.argmax(), template.shape), 1]
    assert np.linalg.norm(mark[:3] - (together[0] @ [-40, -20, 20, 1])[:3]) < 8
    assert (np.linalg.inv(together[0]) @ mark)[0] < -30


def test_the_scans_masks_vote(visits):
    scans, positions, brain = visits
    masks = [scan > 0 for scan in scans]
    matrices = [np.linalg.inv(position) for position in positions]
    found = vote(masks, [brain.affine] * 3, matrices, brain.mask.shape, brain.affine)
    assert 2 * (found & brain.mask).sum() / (found.sum() + brain.mask.sum()) > 0.95
    alone = vote([masks[0], ~masks[0]] * 2, [brain.affine] * 4, [np.eye(4)] * 4,
                 brain.mask.shape, brain.affine)  # fmt: skip
    assert not alone.any()


def test_one_scan_makes_no_template(visits):
    scans, _, brain = visits
    with pytest.raises(InputError, match="at least two"):
        within_template(scans[:1], [brain.affine])
