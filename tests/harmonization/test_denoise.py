"""Noise by likelihood and Tweedie's step against finite differences and exact Gaussians."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from bh_bids.flow.config import FlowConfig
from bh_bids.flow.layers import SplineCoupling
from bh_bids.flow.spline import MIN_DERIVATIVE
from bh_bids.harmonization.denoise import CANDIDATES, SLICES, FlowDenoiser
from bh_bids.harmonization.slices import SliceBox

ALL = ("mask", "previous", "mean", "noise")


@pytest.fixture
def random_flow(make_flow):
    """Every parameter away from its initial value; double precision."""
    few = {"levels": 2, "steps": 2, "hidden_channels": 6, "blocks": 1, "bins": 4}

    def make(conditions=ALL):
        return make_flow(FlowConfig(**few, conditions=conditions), spread=0.1).requires_grad_(False)

    return make


@pytest.fixture
def gaussian_flow(random_flow):
    """The same with couplings that do nothing: z is linear in x, so x is exactly Gaussian."""
    flow = random_flow()
    outer = math.log(math.expm1(1 - MIN_DERIVATIVE))
    for module in flow.modules():
        if isinstance(module, SplineCoupling):
            last, bins = module.transform_net.final_layer, module.num_bins
            last.weight.zero_()
            bias = torch.zeros(module.num_transform_features, 3 * bins - 1)
            bias[:, 2 * bins :] = outer
            last.bias.copy_(bias.flatten())
    return flow


class WhiteFlow:
    """Voxels about a level, independent but for the slice below; noise widens them.

    Along z a stationary chain: covariance ``(tau**2 + sigma**2) * link**|j - k|``.
    """

    def __init__(self, tau=0.01, link=0.0, level=0.5):
        self.config = FlowConfig(levels=2, conditions=ALL)
        self.tau, self.link, self.level = tau, link, level

    def sigma(self, context):
        low, high = self.config.noise_range
        return low * (high / low) ** ((context[:, 3].amax(dim=(1, 2)).double() + 1) / 2)

    def log_prob(self, x, context):
        mask, below = context[:, 0], context[:, 1]
        variance = (self.tau**2 + self.sigma(context) ** 2)[:, None, None]
        has = below.abs().amax(dim=(1, 2), keepdim=True) > 0
        expected = torch.where(has, self.level + self.link * (below - self.level), self.level)
        variance = torch.where(has, variance * (1 - self.link**2), variance)
        normal = (x[:, 0] - expected) ** 2 / variance + (2 * math.pi * variance).log()
        return -0.5 * (normal * mask).sum(dim=(1, 2))


def denoiser(flow, mask, batch=3, mean=None):
    box = SliceBox(mask, flow.config.side_multiple)

    def stack(v):
        return torch.from_numpy(box.extract(np.asarray(v, dtype=float)))

    mean = np.where(mask, 0.5, 0) if mean is None else mean
    return FlowDenoiser(flow, box, stack(mask), stack(mean), batch), box, stack


@pytest.fixture
def noisy():
    """A volume about 0.5 in a block of 12 slices of 16 x 20 voxels, and its mask."""
    mask = np.zeros((24, 28, 14), bool)
    mask[4:20, 4:24, 1:13] = True
    volume = 0.5 + 0.05 * np.random.default_rng(0).normal(size=mask.shape)
    return np.where(mask, volume, 0), mask


def test_passes_backward_are_repeatable_and_exact(noisy, monkeypatch):
    """On CUDA gradients would else be of 10 bits, and of algorithms that add in any order."""
    # What a process begins with; a training may have changed it.
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    seen = []

    class Watched(WhiteFlow):
        def log_prob(self, x, context):
            found = super().log_prob(x, context)
            found.register_hook(lambda gradient: seen.append(cudnn()))
            return found

    def cudnn():
        return torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic

    volume, mask = noisy
    before = cudnn()
    clean, _, stack = denoiser(Watched(), mask)
    clean.clean(stack(volume), 0.02)
    assert set(seen) == {(False, True)} and cudnn() == before == (True, False)


def test_the_gradient_is_that_of_the_volumes_log_density(tools, random_flow):
    """By central differences of the sum over slices, each of which also sees the one below."""
    volume, mask = tools.volume()
    volume, mask = volume[8:24, 12:28, 3:9], mask[8:24, 12:28, 3:9]
    mean = tools.volume(seed=3)[0][8:24, 12:28, 3:9]
    flow, sigma = random_flow(), 0.004
    clean, box, stack = denoiser(flow, mask, batch=4, mean=mean)
    x, inside = stack(np.where(mask, volume, 0)), stack(mask)
    others = [inside, stack(mean)]
    code = torch.full_like(x, flow.config.noise_code(sigma))

    def log_prob(x, follow=None):
        """Written out: slice 0 has none below it."""
        source = x if follow is None else follow
        below = torch.cat([torch.zeros_like(x[:1]), source[:-1]])
        context = torch.stack([others[0], below, others[1], code], dim=1)
        # The six slices are shown to the flow where one of them has brain.
        rows, columns = box.content(inside.bool().any(dim=0).numpy())
        return float(flow.log_prob(x[:, None, rows, columns], context[:, :, rows, columns]).sum())

    found, kept = clean.clean(x, sigma)
    gradient = (found - x) / sigma**2
    assert kept == 0 and float((found - x).abs().max()) < 2.9 * sigma
    rng, h = torch.Generator().manual_seed(0), 1e-5
    seen = []
    for _ in range(6):
        v = torch.randn(x.shape, generator=rng, dtype=x.dtype) * inside
        numeric = (log_prob(x + h * v) - log_prob(x - h * v)) / (2 * h)
        assert float((gradient * v).sum()) == pytest.approx(numeric, rel=1e-5, abs=1e-3)
        alone = (log_prob(x + h * v, x) - log_prob(x - h * v, x)) / (2 * h)
        seen.append(abs(alone - numeric))
    # The part that comes through the slice above is no small matter.
    assert max(seen) > 0.5


@pytest.mark.parametrize("conditions", [ALL, ("mask", "noise")])
def test_batches_do_not_matter(tools, conditions, random_flow):
    volume, mask = tools.volume()
    flow = random_flow(conditions)
    found = []
    for batch in (1, 5, 100):
        clean, _, stack = denoiser(flow, mask, batch)
        x = stack(np.where(mask, volume, 0))
        found.append(clean.clean(x, 0.01)[0])
        assert clean.noise_level(x) == denoiser(flow, mask)[0].noise_level(x)
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=1e-12)


def test_a_flow_without_couplings_is_a_gaussian_and_the_step_its_posterior_mean(gaussian_flow):
    """z = A x + b: precision A'A; the clean volume expected is x - s^2 A'A (x - mean)."""
    flow, sigma, side = gaussian_flow, 0.006, 8
    mask = np.ones((side, side, 5), bool)
    rng = np.random.default_rng(1)
    volume = 0.5 + 0.05 * rng.normal(size=mask.shape)
    clean, box, stack = denoiser(flow, mask, batch=2)
    x = stack(volume)

    context = torch.zeros(1, 4, side, side, dtype=torch.float64)
    context[:, 0] = 1

    def latent(v):
        return flow(v.reshape(1, 1, side, side), context)[0][0]

    zero = torch.zeros(side * side, dtype=torch.float64)
    matrix = torch.autograd.functional.jacobian(latent, zero).numpy()
    mean = np.linalg.solve(matrix, -latent(zero).numpy())
    precision = matrix.T @ matrix
    for k in range(2):
        slab = volume[:, :, k]
        expected = multivariate_normal(mean, np.linalg.inv(precision)).logpdf(slab.ravel())
        found = flow.log_prob(torch.from_numpy(slab)[None, None].contiguous(), context)
        assert float(found) == pytest.approx(expected, rel=1e-8)

    found, kept = clean.clean(x, sigma)
    found = box.insert(found.numpy())
    step = sigma**2 * np.einsum("ij,jk->ik", precision, volume.reshape(-1, 5) - mean[:, None])
    step = np.clip(step, -3 * sigma, 3 * sigma).reshape(volume.shape)
    assert kept == 0
    np.testing.assert_allclose(found, volume - step, atol=1e-10)


@pytest.mark.parametrize("link", [0.0, 0.7])
def test_a_chain_of_slices_gives_the_posterior_mean_of_its_joint_gaussian(noisy, link):
    volume, mask = noisy
    flow, sigma = WhiteFlow(tau=0.06, link=link), 0.02
    clean, box, stack = denoiser(flow, mask, batch=5)
    found = box.insert(clean.clean(stack(volume), sigma)[0].numpy())
    column = volume[10, 11, 1:13]
    steps = np.abs(np.subtract.outer(np.arange(12), np.arange(12)))
    covariance = (flow.tau**2 + sigma**2) * link**steps
    step = np.clip(-(sigma**2) * np.linalg.solve(covariance, column - flow.level), -0.06, 0.06)
    np.testing.assert_allclose(found[10, 11, 1:13], column + step, atol=1e-10)
    assert not found[~mask].any()


def test_the_step_halves_the_error_as_the_closed_form_says(noisy):
    _, mask = noisy
    rng, tau, sigma = np.random.default_rng(2), 0.02, 0.026
    truth = np.where(mask, 0.5 + tau * rng.normal(size=mask.shape), 0)
    noisy = np.where(mask, truth + sigma * rng.normal(size=mask.shape), 0)
    clean, box, stack = denoiser(WhiteFlow(tau), mask)
    found = box.insert(clean.clean(stack(noisy), sigma)[0].numpy())
    error = np.square(found - truth)[mask].mean()
    assert error == pytest.approx(tau**2 * sigma**2 / (tau**2 + sigma**2), rel=0.05)


@pytest.mark.parametrize("sigma", CANDIDATES)
def test_the_level_of_noise_that_was_added_is_found(noisy, sigma):
    _, mask = noisy
    rng, tau = np.random.default_rng(3), 0.01
    spread = math.hypot(tau, sigma)
    volume = np.where(mask, 0.5 + spread * rng.normal(size=mask.shape), 0)
    asked = set()

    class Remembers(WhiteFlow):
        def log_prob(self, x, context):
            asked.add(float(self.sigma(context)[0]))
            return super().log_prob(x, context)

    clean, _, stack = denoiser(Remembers(tau), mask)
    assert clean.noise_level(stack(volume)) == sigma
    # Not all of them are tried.
    assert 5 <= len(asked) <= 6


def test_only_noise_that_the_flow_was_trained_with_is_considered(noisy):
    volume, mask = noisy
    flow = WhiteFlow(0.01)
    object.__setattr__(flow.config, "noise_range", (0.01, 0.02))
    assert denoiser(flow, mask)[0].noise_level(denoiser(flow, mask)[2](volume)) == 0.02
    object.__setattr__(flow.config, "noise_range", (0.06, 0.1))
    assert denoiser(flow, mask)[0].noise_level(denoiser(flow, mask)[2](volume)) == 0.06


class FailsOn(WhiteFlow):
    """Gives NaN for slices about another level."""

    def log_prob(self, x, context):
        bad = x.amax(dim=(1, 2, 3)) > 2
        total = super().log_prob(x, context)
        # Not torch.where: its gradient would be NaN for all.
        return torch.stack([t * torch.nan if b else t for t, b in zip(total, bad, strict=True)])


def test_slices_that_fail_keep_their_values_and_have_no_say(noisy):
    volume, mask = noisy
    volume = np.where(mask, 0.5 + (volume - 0.5) * 0.4, 0)  # noise of 0.02
    broken = volume.copy()
    broken[10, 10, 6] = 3.0
    clean, box, stack = denoiser(FailsOn(tau=0.001), mask, batch=4)
    found, kept = clean.clean(stack(broken), 0.02)
    found = box.insert(found.numpy())
    # With the one below, of whose density it is a part.
    assert kept == 2
    np.testing.assert_array_equal(found[:, :, 5:7], broken[:, :, 5:7])
    sound, _ = clean.clean(stack(volume), 0.02)
    np.testing.assert_array_equal(found[:, :, 8], box.insert(sound.numpy())[:, :, 8])
    assert clean.noise_level(stack(broken)) == clean.noise_level(stack(volume)) == 0.02
    every = np.where(mask, volume + 3, 0)
    assert clean.noise_level(stack(every)) == CANDIDATES[0]


def test_no_voxel_moves_by_more_than_three_deviations_or_below_zero(noisy):
    _, mask = noisy
    rng = np.random.default_rng(5)
    volume = np.where(mask, rng.uniform(0, 1, mask.shape), 0)
    sigma = 0.02
    clean, box, stack = denoiser(WhiteFlow(tau=0.001), mask)
    found = box.insert(clean.clean(stack(volume), sigma)[0].numpy())
    assert np.abs(found - volume).max() <= 3 * sigma + 1e-12
    assert (found >= 0).all() and not found[~mask].any()
    dark = np.where(mask, 0.01, 0)
    clean, box, stack = denoiser(WhiteFlow(tau=0.001, level=-0.5), mask)
    assert not clean.clean(stack(dark), sigma)[0].any()


def test_progress_is_told_and_memory_bounded(noisy):
    volume, mask = noisy

    class Counts(WhiteFlow):
        most = 0

        def log_prob(self, x, context):
            self.most = max(self.most, len(x))
            return super().log_prob(x, context)

    flow, told = Counts(), []
    clean, _, stack = denoiser(flow, mask, batch=5)
    clean.clean(stack(volume), 0.02, lambda done, of: told.append((done, of)))
    # Eight slices are cropped alike: no batch reaches across.
    assert told == [(5, 12), (8, 12), (12, 12)]
    clean.noise_level(stack(volume))
    assert flow.most == 5 < SLICES


def test_threads_change_nothing(tools, set_threads, random_flow):
    """But for the rounding of other batches."""
    volume, mask = tools.volume()
    flow, found = random_flow(), []
    for threads in (1, 2, 3):
        set_threads(threads)
        clean, _, stack = denoiser(flow, mask, batch=6)
        x = stack(np.where(mask, volume, 0))
        found.append((clean.clean(x, 0.02)[0], clean.noise_level(x)))
    for cleaned, level in found[1:]:
        torch.testing.assert_close(cleaned, found[0][0], rtol=0, atol=1e-10)
        assert level == found[0][1]
