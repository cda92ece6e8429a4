"""Transform files against ANTs itself: what is said to move an image there, does."""

import time

import ants
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from bh_bids.anatomy import registration
from bh_bids.anatomy.ants_images import deterministic, to_ants
from bh_bids.anatomy.registration import image_matrix, read_affine, register_brain, write_affine
from bh_bids.anatomy.resampling import resample

SCAN = np.array([[1.5, 0, 0, -40], [0, 1.2, 0, -35], [0, 0, 2.0, -30], [0, 0, 0, 1]])
TEMPLATE = np.array([[2.0, 0, 0, -50], [0, 2.0, 0, -45], [0, 0, 2.0, -44], [0, 0, 0, 1]])
SHAPES = {"scan": (54, 60, 32), "template": (50, 48, 44)}


def blob(shape, affine, place, width=5.0):
    """A Gaussian of unit height at a place in mm."""
    grid = np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
    return np.exp(-((grid - place) ** 2).sum(axis=-1) / (2 * width**2)).astype(np.float32)


def centre(volume, affine):
    return affine[:3, :3] @ ndimage.center_of_mass(np.asarray(volume)) + affine[:3, 3]


def oblique(affine, angle=0.3):
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return turn @ affine


@pytest.mark.parametrize("extension", ["h5", "mat"])
@pytest.mark.parametrize("affine", [SCAN, oblique(SCAN)], ids=["straight", "oblique"])
def test_ants_moves_an_image_as_the_matrix_says(affine, extension, tools, tmp_path):
    matrix = tools.matrix()
    place = np.array([12.0, -8.0, 9.0])
    scan = blob(SHAPES["scan"], affine, place)
    path = write_affine(matrix, tmp_path / f"xfm.{extension}")
    fixed = to_ants(np.zeros(SHAPES["template"]), TEMPLATE)
    moved = ants.apply_transforms(fixed, to_ants(scan, affine), [str(path)]).numpy()
    expected = (matrix @ [*place, 1])[:3]
    np.testing.assert_allclose(centre(moved, TEMPLATE), expected, atol=0.15)
    ours = resample(scan, affine, SHAPES["template"], TEMPLATE, matrix)
    np.testing.assert_allclose(ours, moved, atol=2e-3)
    back = write_affine(np.linalg.inv(matrix), tmp_path / f"back.{extension}")
    returned = ants.apply_transforms(
        to_ants(np.zeros(SHAPES["scan"]), affine), to_ants(moved, TEMPLATE), [str(back)]
    ).numpy()
    np.testing.assert_allclose(centre(returned, affine), place, atol=0.2)


def test_volumes_given_to_ants_lie_where_their_affine_says():
    for affine in (SCAN, oblique(SCAN), oblique(SCAN) @ np.diag([-1, 1, 1, 1])):
        image = to_ants(np.zeros(SHAPES["scan"]), affine)
        for index in ([0, 0, 0], [3, 0, 0], [7, 11, 5]):
            world = ants.transform_index_to_physical_point(image, index)
            lps = np.array([-1, -1, 1]) * (affine @ [*index, 1])[:3]
            np.testing.assert_allclose(world, lps, atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(
    angles=st.tuples(*[st.floats(-0.6, 0.6)] * 3),
    shift=st.tuples(*[st.floats(-80, 80)] * 3),
    scales=st.tuples(*[st.floats(0.6, 1.6)] * 3),
)
def test_matrix_survives_its_file(angles, shift, scales, tools, tmp_path_factory):
    matrix = tools.matrix(angles, shift, scales)
    path = tmp_path_factory.mktemp("xfm") / "xfm.h5"
    write_affine(matrix, path)
    np.testing.assert_allclose(image_matrix(path), matrix, atol=2e-4)
    np.testing.assert_allclose(read_affine(path), np.linalg.inv(matrix), atol=2e-4)


def test_a_transform_about_a_centre_is_read_as_itk_applies_it(tmp_path):
    rng = np.random.default_rng(3)
    transform = ants.new_ants_transform(
        precision="double", dimension=3, transform_type="AffineTransform"
    )
    transform.set_fixed_parameters([10.0, -20.0, 30.0])
    linear = np.eye(3) + 0.1 * rng.normal(size=(3, 3))
    transform.set_parameters([*linear.ravel(), 4.0, 5.0, -6.0])
    ants.write_transform(transform, str(tmp_path / "a.mat"))
    matrix = read_affine(tmp_path / "a.mat")
    flip = np.array([-1.0, -1.0, 1.0])
    for point in rng.normal(scale=50, size=(5, 3)):
        itk = flip * transform.apply_to_point((flip * point).tolist())
        np.testing.assert_allclose((matrix @ [*point, 1])[:3], itk, atol=1e-3)


def known_registration(brain, tools):
    """A brain, another gain, moved by a known matrix; points of the brain to judge by."""
    matrix = tools.matrix()
    moved = 0.37 * tools.move(brain.volume, brain.affine, np.linalg.inv(matrix))
    mask = tools.move(brain.mask.astype(np.float32), brain.affine, np.linalg.inv(matrix)) > 0.5
    points = tools.world(brain.affine, np.argwhere(mask)[::50])
    return matrix, moved, mask, np.c_[points, np.ones(len(points))]


def errors(found, true, points):
    return np.linalg.norm((points @ (found - true).T)[:, :3], axis=1)


@pytest.fixture
def coarse_registration(monkeypatch):
    monkeypatch.setattr(registration, "REGISTRATION_SPACING", 4.0)


def test_known_affine_is_recovered_and_repeats_bit_for_bit(small_brain, tools, coarse_registration):
    true, moved, mask, points = known_registration(small_brain, tools)
    args = (moved, small_brain.affine, mask, small_brain.volume, small_brain.affine)
    found = register_brain(*args)
    wrong = errors(found, true, points)
    centroid = np.linalg.norm(((points @ found.T) - (points @ true.T)).mean(axis=0))
    assert centroid < 1.5
    assert wrong.max() < 3.0
    again = register_brain(*args)
    assert again.tobytes() == found.tobytes()


@pytest.mark.slow
def test_known_affine_is_recovered_at_the_resolution_in_use(small_brain, mni, tools):
    true, moved, mask, points = known_registration(small_brain, tools)
    found = register_brain(moved, small_brain.affine, mask, *mni)
    assert errors(found, true, points).max() < 3.0


def test_what_lies_outside_the_mask_does_not_matter(small_brain, tools, coarse_registration):
    _, moved, mask, _ = known_registration(small_brain, tools)
    template = (small_brain.volume, small_brain.affine)
    clean = register_brain(moved, small_brain.affine, mask, *template)
    rubbish = np.where(mask, moved, np.random.default_rng(0).uniform(0, 999, moved.shape))
    dirty = register_brain(rubbish.astype(np.float32), small_brain.affine, mask, *template)
    np.testing.assert_array_equal(dirty, clean)


def test_determinism_ends_with_its_context_whatever_happens():
    with pytest.raises(RuntimeError), deterministic(5):
        assert ants.config._deterministic
        raise RuntimeError
    assert not ants.config._deterministic


def test_equal_transforms_are_equal_bytes(tmp_path):
    """HDF5 notes when it was written; results that are compared by their bytes must not."""
    matrix = np.array([[1.1, 0.1, 0, 3], [-0.1, 0.9, 0.05, -4], [0, 0.02, 1.2, 5], [0, 0, 0, 1]])
    first = write_affine(matrix, tmp_path / "a.h5").read_bytes()
    time.sleep(1.1)
    assert write_affine(matrix, tmp_path / "b.h5").read_bytes() == first
