"""The configuration's own consistency."""

import numpy as np
import pytest

from bh_bids.errors import ModelError
from bh_bids.flow.config import FlowConfig


def test_default_grid():
    config = FlowConfig()
    assert config.shape == (160, 192, 160)
    assert config.side_multiple == 8
    # The grid's last voxel centre, from the first one and the number of millimetres between.
    np.testing.assert_allclose(config.affine @ [159, 191, 159, 1], [79, 78, 87, 1])


def test_dictionary_round_trip():
    config = FlowConfig(levels=2, steps=3, batch_norm=True, slice_shape=(32, 40))
    assert FlowConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    "change",
    [
        {"levels": 0},
        {"levels": 2.5},
        {"bins": 1},
        {"bits": 20},
        {"bits": True},
        {"tail_bound": -1.0},
        {"tail_bound": float("nan")},
        {"tail_bound": "3"},
        {"batch_norm": 1},
        {"slice_shape": [160, 190]},
        {"slice_shape": 160},
        {"slices": 0},
        {"voxel_size": [1, 1]},
        {"voxel_size": [1, 1, 0]},
        {"origin": ["a", 0, 0]},
        {"space": "MNI 152"},
    ],
)
def test_bad_field_is_named(change):
    with pytest.raises(ModelError, match=next(iter(change))):
        FlowConfig.from_dict({**FlowConfig().to_dict(), **change})


def test_unknown_field_is_named():
    with pytest.raises(ModelError, match="colour"):
        FlowConfig.from_dict({"colour": 3})


def test_no_table():
    with pytest.raises(ModelError, match="Config"):
        FlowConfig.from_dict(None)


@pytest.mark.parametrize("conditions", [("noise", "mask"), ("age",), "mask", ("mask", "mask")])
def test_conditions_out_of_order_or_unknown_are_refused(conditions):
    with pytest.raises(ModelError, match="conditions"):
        FlowConfig(conditions=conditions)


@pytest.mark.parametrize("ends", [(0.05, 0.004), (0, 0.1), (0.1,), (0.1, float("inf"))])
def test_noise_range_is_checked(ends):
    with pytest.raises(ModelError, match="noise_range"):
        FlowConfig(noise_range=ends)
