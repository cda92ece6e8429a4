"""Small brains, and flows simple enough to be solved by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

SHAPE = (32, 40, 12)


class LinearFlow:
    """z = gain x + shift, voxel by voxel: a Gaussian target domain."""

    def __init__(self, gain=1.0, shift=0.0):
        self.gain, self.shift = gain, shift
        self.slices_seen = 0

    def __call__(self, x):
        self.slices_seen += len(x)
        z = (self.gain * x + self.shift).flatten(1)
        logabsdet = x.new_full((len(x),), z.shape[1] * float(np.log(self.gain)))
        return z, logabsdet

    def inverse(self, z, slice_shape):
        return ((z - self.shift) / self.gain).reshape(-1, 1, *slice_shape)

    def to(self, device):
        return self


def make_volume(seed=0, shape=SHAPE):
    """A smooth positive random brain and its ellipsoid mask."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))
    mask = (grid**2).sum(axis=0) < 0.8
    texture = gaussian_filter(rng.normal(size=shape), 1.5)
    texture /= np.abs(texture).max()
    volume = np.where(mask, 0.55 + 0.35 * texture, 0).astype(np.float32)
    return volume, mask


def make_model(flow, mean, shape=SHAPE, quantiles=None):
    """What a solver needs of a TargetModel."""
    if quantiles is None:
        quantiles = np.linspace(0.1, 1.1, 257)
    config = SimpleNamespace(shape=shape, side_multiple=8, bits=8, conditions=())
    model = SimpleNamespace(
        name="test",
        space="MNI152NLin2009aSym",
        config=config,
        flow=flow,
        mean=mean.astype(np.float32),
        intensity={"TargetScale": 1000.0, "Quantiles": list(map(float, quantiles))},
    )
    model.to = lambda device: model
    return model


@pytest.fixture
def brain():
    return make_volume()


@pytest.fixture
def tools():
    """The helpers above, for tests that need several of them."""
    torch.set_num_threads(1)
    return SimpleNamespace(shape=SHAPE, linear=LinearFlow, volume=make_volume, model=make_model)
