"""What a training step sees: reproducible crops, and a context that belongs to them."""

from dataclasses import replace

import numpy as np
import pytest

from bh_bids.errors import InputError
from bh_bids.flow.config import CONDITIONS
from bh_bids.flow.crops import Ahead, CropSampler, bounding_box
from bh_bids.flow.domain import describe_domain
from bh_bids.flow.slices import STEP, find_scans, read_volume


@pytest.fixture(scope="module")
def volumes(derivatives, tiny_config):
    return [read_volume(scan, tiny_config) for scan in find_scans(derivatives, tiny_config.space)]


@pytest.fixture(scope="module")
def mean(volumes, tiny_config):
    return describe_domain(volumes, tiny_config)[1]


@pytest.fixture(scope="module")
def conditioned(tiny_config):
    return replace(tiny_config, conditions=CONDITIONS)


def test_crops_are_reproducible_and_discretised(volumes, tiny_config):
    sampler = CropSampler(volumes, (16, 24), tiny_config, seed=5)
    again = CropSampler(volumes, (16, 24), tiny_config, seed=5)
    again.batch(3, 4)
    x, context = sampler.batch(7, 4)
    assert x.shape == (4, 1, 16, 24) and x.dtype == np.float32 and context is None
    np.testing.assert_array_equal(x, again.batch(7, 4).x)
    assert not np.array_equal(x, sampler.batch(8, 4).x)
    # Noise within half a step; background is exactly level 0 under it.
    levels = np.rint(x * 256)
    assert np.abs(x * 256 - levels).max() <= 0.5
    assert (levels == 0).any() and levels.max() <= 1.5 * 256


def test_every_slice_is_drawn_once_per_epoch(volumes, tiny_config):
    sampler = CropSampler(volumes, None, tiny_config, seed=0)
    epoch = [sampler._nth(i) for i in range(len(sampler))]
    assert len(set(epoch)) == len(sampler) == sum(len(v.filled) for v in volumes)
    assert [sampler._nth(len(sampler) + i) for i in range(len(sampler))] != epoch


def test_crops_come_from_the_slices(volumes, tiny_config):
    sampler = CropSampler(volumes, (16, 16), tiny_config, seed=1)
    crop = np.rint(sampler.batch(0, 1, augment=False).x[0, 0] * 256)
    number, index = sampler._nth(0)
    whole = np.rint(volumes[number].values[index] * (STEP * 256))
    windows = np.lib.stride_tricks.sliding_window_view(whole, (16, 16))
    assert (windows == crop).all(axis=(2, 3)).any()


def test_context_belongs_to_the_crop(volumes, mean, conditioned):
    """Whole slices without noise to speak of: every map is the volume's, the mean's, the mask's."""
    quiet = replace(conditioned, noise_range=(1e-7, 2e-7))
    sampler = CropSampler(volumes, None, quiet, seed=2, mean=mean)
    (x0, y0), (w, h) = bounding_box(volumes, quiet.side_multiple)
    box = slice(x0, x0 + w), slice(y0, y0 + h)
    x, context = sampler.batch(0, len(sampler), augment=False)
    assert context.shape == (len(sampler), 4, w, h) and context.dtype == np.float32
    for number in range(len(sampler)):
        v, k = sampler._nth(number)
        volume = volumes[v].in_target_units()
        mask, previous, average, noise = context[number]
        np.testing.assert_allclose(x[number, 0], volume[..., k][box], atol=1e-5)
        np.testing.assert_array_equal(mask, volume[..., k][box] > 0)
        below = volume[..., k - 1][box] if k else 0 * mask
        np.testing.assert_allclose(previous, below, atol=1e-5)
        np.testing.assert_array_equal(average, mean[..., k][box])
        assert np.ptp(noise) == 0 and -1 <= noise[0, 0] <= 1


def test_mirroring_takes_the_context_along(volumes, mean, conditioned):
    sampler = CropSampler(volumes, None, conditioned, seed=2, mean=mean)
    straight = sampler.batch(0, 12, augment=False, sigma=0.01).context
    turned = sampler.batch(0, 12, sigma=0.01).context
    # The mask and the mean carry no noise, so that they can be compared.
    fixed = [0, 2]
    mirrored = [
        np.array_equal(a[fixed], b[fixed, ::-1]) for a, b in zip(turned, straight, strict=True)
    ]
    same = [np.array_equal(a[fixed], b[fixed]) for a, b in zip(turned, straight, strict=True)]
    assert all(m != s for m, s in zip(mirrored, same, strict=True)) and 2 <= sum(mirrored) <= 10


def test_noise_has_the_strength_that_its_code_tells(volumes, mean, conditioned):
    sampler = CropSampler(volumes, None, conditioned, seed=3, mean=mean)
    low, high = conditioned.noise_range
    drawn = []
    for step in range(8):
        x, context = sampler.batch(step, 8, augment=False)
        quiet = sampler.batch(step, 8, augment=False, sigma=1e-9)
        inside = context[:, 0] > 0
        noise, below = x[:, 0] - quiet.x[:, 0], context[:, 1] - quiet.context[:, 1]
        assert not x[:, 0][~inside].any()
        for n in range(8):
            sigma = low * (high / low) ** ((context[n, 3, 0, 0] + 1) / 2)
            assert noise[n][inside[n]].std() == pytest.approx(sigma, rel=0.15)
            lower = quiet.context[n, 1] > 1e-6
            if lower.any():
                assert below[n][lower].std() == pytest.approx(sigma, rel=0.15)
                assert abs(np.corrcoef(noise[n][lower], below[n][lower])[0, 1]) < 0.2
            drawn.append(sigma)
    # Log-uniform over the whole range.
    share = np.log(np.array(drawn) / low) / np.log(high / low)
    assert share.min() >= 0 and share.max() <= 1 and abs(share.mean() - 0.5) < 0.12
    assert 0.2 < share.std() < 0.37


def test_dequantised_slices_may_be_conditioned_too(volumes, tiny_config):
    config = replace(tiny_config, conditions=("mask", "previous"))
    x, context = CropSampler(volumes, (16, 16), config, 0).batch(0, 4)
    assert context.shape == (4, 2, 16, 16)
    assert np.abs(x[:, 0][context[:, 0] == 0]).max() <= 0.5 / 256


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_parts_make_up_the_batch(volumes, mean, conditioned, parts):
    sampler = CropSampler(volumes, (16, 16), conditioned, seed=1, mean=mean)
    whole = sampler.batch(5, 7)
    pieces = [sampler.batch(5, 7, part=(k, parts)) for k in range(parts)]
    for name in ("x", "context"):
        together = np.concatenate([getattr(piece, name) for piece in pieces])
        np.testing.assert_array_equal(together, getattr(whole, name))


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches_drawn_ahead_are_the_same(volumes, tiny_config, workers):
    sampler = CropSampler(volumes, (16, 16), tiny_config, seed=1)
    # More crops than an epoch has: threads cross from one permutation to the next.
    size = len(sampler) // 2 + 1
    ahead = Ahead(lambda step: sampler.batch(step, size), 7, workers)
    fresh = CropSampler(volumes, (16, 16), tiny_config, seed=1)
    for step in range(2, 7):
        np.testing.assert_array_equal(ahead(step).x, fresh.batch(step, size).x)
    ahead.close()


def test_whole_slices_hold_the_whole_brain(volumes, tiny_config):
    corner, sides = bounding_box(volumes, 4)
    assert all(side % 4 == 0 for side in sides)
    for volume in volumes:
        inside = volume.values[
            :, corner[0] : corner[0] + sides[0], corner[1] : corner[1] + sides[1]
        ]
        assert np.count_nonzero(inside) == np.count_nonzero(volume.values)
    assert CropSampler(volumes, None, tiny_config, 0).batch(0, 2).x.shape == (2, 1, *sides)


@pytest.mark.parametrize("crop, message", [((18, 16), "multiples"), ((64, 16), "larger")])
def test_impossible_crops(volumes, tiny_config, crop, message):
    with pytest.raises(InputError, match=message):
        CropSampler(volumes, crop, tiny_config, 0)
