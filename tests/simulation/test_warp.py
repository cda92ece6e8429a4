"""Diffeomorphic warps against flows that are known in closed form."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from bh_bids.simulation.warp import exponential, jacobian_determinant, random_velocity, random_warp


def test_flow_of_a_constant_field_is_a_translation():
    velocity = np.zeros((3, 10, 10, 10))
    velocity[1] = 3.0
    assert exponential(velocity, 2.0) == pytest.approx(velocity)


def test_flow_of_a_linear_field_is_a_scaling():
    spacing, rate = 3.0, 0.12
    axis = spacing * (np.arange(31) - 15)
    velocity = np.zeros((3, 31, 31, 31))
    velocity[0] = rate * axis[:, None, None]
    moved = exponential(velocity, spacing)[0, 5:-5, 15, 15]
    assert moved == pytest.approx((np.exp(rate) - 1) * axis[5:-5], abs=0.05)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=8, deadline=None)
def test_random_warps_never_fold(seed):
    rng = np.random.default_rng(seed)
    warp = random_warp([-60] * 3, [60] * 3, rng, spacing=5.0, strength=1.3)
    assert jacobian_determinant(warp.displacement, warp.spacing).min() > 0.1


def test_flow_of_the_opposite_field_is_the_inverse():
    rng = np.random.default_rng(3)
    spacing = 4.0
    velocity = random_velocity((32, 32, 32), spacing, rng, ((20.0, 2.5),))
    there, back = exponential(velocity, spacing), exponential(-velocity, spacing)
    points = np.indices((32, 32, 32)) + there / spacing
    returned = there + np.stack([ndimage.map_coordinates(p, points, order=3) for p in back])
    inside = (slice(None),) + (slice(6, -6),) * 3
    assert np.abs(there[inside]).max() > 2.5
    assert np.abs(returned[inside]).max() < 0.12


def test_jacobian_of_a_known_map():
    axis = 2.0 * np.arange(8.0)
    displacement = np.zeros((3, 8, 8, 8))
    displacement[0] = 0.5 * axis[:, None, None] + 0.3 * axis[None, :, None]
    displacement[2] = -0.2 * axis
    assert jacobian_determinant(displacement, 2.0) == pytest.approx(1.5 * 0.8)


def test_growth_scales_about_the_centre():
    rng = np.random.default_rng(0)
    warp = random_warp(
        [-40] * 3, [40] * 3, rng, strength=0.0, growth=(0.1, 0.0, -0.1), centre=(0, 0, 0)
    )
    moved = warp.displacement[:, 10, 7, 4]
    point = warp.origin + warp.spacing * np.array([10, 7, 4])
    assert moved == pytest.approx(point * (np.exp([0.1, 0, -0.1]) - 1), abs=0.05)
