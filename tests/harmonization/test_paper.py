"""The alternation against results known in closed form."""

from functools import partial

import numpy as np
import pytest
import torch

from bh_bids.errors import InputError
from bh_bids.harmonization import harmonize as harmonize_by
from bh_bids.harmonization.latent import LatentStep
from bh_bids.harmonization.slices import SliceBox
from bh_bids.harmonization.starts import STARTS

harmonize = partial(harmonize_by, method="paper")
# No edge term and no early stop: the closed forms below know neither.
PLAIN = {"edge_weight": 0.0, "tolerance": 0.0, "device": "cpu"}


def inside(result, mask):
    return (result.volume / result.target_scale)[mask].astype(np.float64)


def test_identity_flow_from_a_gain_only_shrinks_the_source(brain, tools):
    """The source is its own optimum: what is left is its gain and (1 - a)^N."""
    volume, mask = brain
    model = tools.model(tools.linear(), volume)
    result = harmonize(volume, mask, model, start="gain", shrink=0.01, iterations=7, **PLAIN)
    start = STARTS["gain"](result.scaled_source, mask, model)
    assert np.allclose(inside(result, mask), 0.99**7 * start[mask], rtol=1e-4)
    assert not result.volume[~mask].any()


@pytest.mark.parametrize("step", [0.3, 1.0, 1.7])
def test_identity_flow_turns_the_mean_to_the_source_in_their_plane(brain, tools, step):
    """u' ~ (1 - s c) u + s |u| v: a turn in the plane of mean and source, at constant contrast."""
    volume, mask = brain
    mean = np.clip(volume + 0.4 * tools.volume(seed=1)[0] * mask - 0.2 * mask, 0.2, None) * mask
    model = tools.model(tools.linear(), mean, quantiles=np.linspace(0.4, 0.8, 257))
    n, a = 5, 1e-3
    result = harmonize(
        volume, mask, model, start="mean", step=step, shrink=a, iterations=n, **PLAIN
    )
    source = result.scaled_source[mask].astype(np.float64)
    start = STARTS["mean"](result.scaled_source, mask, model)[mask].astype(np.float64)
    v = source - source.mean()
    v /= np.linalg.norm(v)
    u = start - start.mean()
    along, across = u @ v, np.linalg.norm(u - (u @ v) * v)
    w = (u - along * v) / across
    for _ in range(n):
        along, across = (1 - a) * along, (1 - a) * across
        norm = np.hypot(along, across)
        turn = 1 - step * along / norm
        along, across = turn * along + step * norm, turn * across
        grown = np.hypot(along, across)
        along, across = along * norm / grown, across * norm / grown
    expected = (1 - a) ** n * start.mean() + along * v + across * w
    assert np.allclose(inside(result, mask), expected, atol=2e-4)
    assert result.trace[-1]["ncc"] == pytest.approx(along / np.hypot(along, across), abs=1e-5)


def test_gaussian_target_pulls_to_its_mean_geometrically(brain, tools):
    """z = (x - m)/s: x_N = m + (1 - a)^N (x_0 - m), whatever s; contrast and level both go."""
    volume, mask = brain
    model = tools.model(tools.linear(gain=5.0, shift=-3.0), volume)  # m = 0.6
    result = harmonize(volume, mask, model, start="gain", shrink=0.05, iterations=6, **PLAIN)
    start = STARTS["gain"](result.scaled_source, mask, model)[mask]
    assert np.allclose(inside(result, mask), 0.6 + 0.95**6 * (start - 0.6), atol=1e-4)


class GaussianFieldFlow:
    """z = x - m for a spatial mean m (slice by slice in the order seen): unit variance."""

    def __init__(self, mean):
        self.mean = mean  # (n, h, w), all occupied slices in one batch

    def __call__(self, x):
        return (x[:, 0] - self.mean).flatten(1), x.new_zeros(len(x))

    def inverse(self, z, slice_shape):
        return (z.reshape(-1, *slice_shape) + self.mean)[:, None]


def test_fixed_point_is_stationary_for_equation_2(tools):
    """Where the alternation rests, the gradient of D + alpha |f(x)|^2 vanishes with the step."""
    shape = (16, 16, 6)
    volume, mask = tools.volume(0, shape)
    mean = np.where(mask, 0.5 + 0.8 * (tools.volume(2, shape)[0] - 0.55), 0).astype(np.float32)
    box = SliceBox(mask, 8)
    flow = GaussianFieldFlow(torch.from_numpy(box.extract(mean))[box.occupied])
    model = tools.model(flow, volume, shape, quantiles=np.linspace(0.4, 0.8, 257))

    def slopes(step, a):
        result = harmonize(
            volume, mask, model, start="gain", shrink=a, step=step, iterations=int(6 / a),
            tolerance=0.0, edge_weight=0.0, batch_slices=1000, device="cpu",
        )  # fmt: skip
        x, m = inside(result, mask), mean[mask].astype(np.float64)
        source = result.scaled_source[mask].astype(np.float64)
        power = x.size * x.var()
        alpha = a / (2 * step * power)

        def objective(x):
            return 1 - np.corrcoef(x, source)[0, 1] + alpha * np.sum((x - m) ** 2)

        h, found = 1e-4, []
        for along in (source - source.mean(), m - x, x - x.mean()):
            along = along / np.linalg.norm(along)
            found.append((objective(x + h * along) - objective(x - h * along)) / (2 * h))
        # Relative to the size of either term's gradient.
        return np.abs(found) * step * np.sqrt(power) / a

    coarse, fine = slopes(0.2, 0.016), slopes(0.05, 0.004)
    assert (fine < 0.35 * coarse).all()
    assert (fine < 0.25).all()


def test_trace_describes_every_iterate(brain, tools):
    volume, mask = brain
    model = tools.model(
        tools.linear(gain=2.0, shift=-1.0), volume, quantiles=np.linspace(0.4, 0.8, 257)
    )
    seen = []
    result = harmonize(
        volume, mask, model, start="histogram", iterations=4, tolerance=0, device="cpu",
        progress=lambda k, n, record: seen.append((k, n, record["ncc"])),
    )  # fmt: skip
    assert [r["iteration"] for r in result.trace] == [0, 1, 2, 3, 4]
    assert [s[:2] for s in seen] == [(k, 4) for k in range(5)]
    assert [s[2] for s in seen] == [r["ncc"] for r in result.trace]
    assert result.iterations == 4 and not result.converged
    start = STARTS["histogram"](result.scaled_source, mask, model)
    first, last = result.trace[0], result.trace[-1]
    source = result.scaled_source[mask]
    assert first["ncc"] == pytest.approx(np.corrcoef(start[mask], source)[0, 1], abs=1e-6)
    for record, x in ((first, start), (last, result.volume / result.target_scale)):
        # |z|^2/d of the flow over the cropped, occupied slices; zero background gives z = -1.
        z = 2 * x[mask] - 1
        box = SliceBox(mask, 8)
        box_voxels = np.prod(box.slice_shape) * len(box.occupied)
        latent = ((z**2).sum() + box_voxels - mask.sum()) / box_voxels
        assert record["latent"] == pytest.approx(latent, rel=1e-5)
        bits = 8 - 1 + 0.5 * (latent + np.log(2 * np.pi)) / np.log(2)
        assert record["bits_per_dim"] == pytest.approx(bits, rel=1e-5)


def test_objective_is_the_weighted_sum_of_its_terms(brain, tools):
    volume, mask = brain
    model = tools.model(tools.linear(), volume)
    result = harmonize(volume, mask, model, start="gain", iterations=2, tolerance=0, device="cpu")
    p, record = result.parameters, result.trace[0]
    start = STARTS["gain"](result.scaled_source, mask, model)[mask].astype(np.float64)
    power = start.size * start.var()
    latent = p["shrink"] / (2 * p["step"]) * (start**2).sum() / power
    rest = record["objective"] - (1 - record["ncc"]) - latent
    assert 0 < rest < p["edge_weight"] * record["edge"] * 3 * mask.sum() / power


def test_it_stops_when_nothing_moves(brain, tools):
    volume, mask = brain
    model = tools.model(tools.linear(), volume)
    result = harmonize(
        volume, mask, model, start="gain", shrink=0.0, edge_weight=0.0, iterations=50, device="cpu"
    )
    assert result.converged and result.iterations == 1


def test_edge_weight_smooths_what_is_no_edge(brain, tools):
    volume, mask = brain
    model = tools.model(tools.linear(), volume)
    rough, smooth = (
        harmonize(
            volume, mask, model, start="gain", edge_weight=w, step=0.5, iterations=20,
            tolerance=0, device="cpu",
        )
        for w in (0.0, 0.01)
    )  # fmt: skip
    assert smooth.trace[-1]["edge"] < 0.7 * rough.trace[-1]["edge"]
    assert smooth.trace[-1]["ncc"] > 0.98


class BrokenFlow:
    """An identity that fails on slices brighter than a limit, in the way asked for."""

    def __init__(self, limit, value):
        self.limit, self.value = limit, value

    def __call__(self, x):
        return x.flatten(1), x.new_zeros(len(x))

    def inverse(self, z, slice_shape):
        x = z.reshape(-1, 1, *slice_shape).clone()
        x[x.amax(dim=(1, 2, 3)) > self.limit] = self.value
        return x


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -50.0])
def test_a_failing_slice_keeps_its_values_and_is_reported(brain, tools, value):
    volume, mask = brain
    volume = volume.copy()
    volume[16, 20, 5] = 2.0
    flow = BrokenFlow(limit=1.15, value=value)
    model = tools.model(flow, volume, quantiles=np.sort(volume[mask])[:: mask.sum() // 300][:257])
    result = harmonize(
        volume, mask, model, start="gain", shrink=0.1, step=0.001, iterations=1, **PLAIN
    )
    assert np.isfinite(result.volume).all()
    # A slice that keeps its values while all others change is a stripe, and is told as one.
    failing, stripes = result.guards
    assert "In 1 passes" in failing and "k = 5." in failing
    assert "from slice to slice" in stripes
    start = STARTS["gain"](result.scaled_source, mask, model)
    level = result.volume / result.target_scale
    for k in np.flatnonzero(mask.any(axis=(0, 1))):
        shrunk = 1.0 if k == 5 else 0.9
        assert np.allclose(level[:, :, k], shrunk * start[:, :, k], atol=1e-3)


def test_a_flow_that_always_fails_leaves_the_image_step(brain, tools):
    volume, mask = brain
    model = tools.model(BrokenFlow(-1.0, float("nan")), volume)
    result = harmonize(volume, mask, model, start="gain", iterations=2, **PLAIN)
    assert np.isfinite(result.volume).all() and result.guards


class BlockFlow:
    """A per-slice flow that is not voxel-wise: it mixes neighbours along x."""

    def __call__(self, x):
        return (x + 0.3 * x.roll(1, dims=2)).flatten(1), x.new_zeros(len(x))

    def inverse(self, z, slice_shape):
        y = torch.fft.fft(z.reshape(-1, 1, *slice_shape).double(), dim=2)
        k = torch.arange(slice_shape[0], dtype=torch.float64) / slice_shape[0]
        kernel = 1 + 0.3 * torch.exp(-2j * torch.pi * k)
        return torch.fft.ifft(y / kernel[:, None], dim=2).real.float()


def test_the_order_of_slices_does_not_matter(brain, tools):
    """Without the edge term (which has a third axis) a permuted volume gives a permuted result."""
    volume, mask = brain
    order = np.random.default_rng(0).permutation(volume.shape[2])
    options = {"start": "mean", "iterations": 3, "shrink": 0.05, "batch_slices": 5, **PLAIN}
    straight, mixed = (
        harmonize(volume[:, :, o], mask[:, :, o], tools.model(BlockFlow(), volume[:, :, o]),
                  **options)
        for o in (np.arange(volume.shape[2]), order)
    )  # fmt: skip
    assert np.allclose(straight.volume[:, :, order], mixed.volume, atol=1e-3)
    assert np.abs(straight.volume - mixed.volume).max() > 1


def test_batches_do_not_matter_and_empty_slices_are_skipped(brain, tools):
    volume, mask = brain
    mask = mask.copy()
    mask[:, :, 4] = False
    results, flows = [], []
    for batch in (1, 3, 100):
        flows.append(tools.linear(gain=3.0, shift=-1.0))
        model = tools.model(flows[-1], volume)
        results.append(
            harmonize(volume, mask, model, iterations=3, tolerance=0, batch_slices=batch,
                      device="cpu")
        )  # fmt: skip
    assert np.array_equal(results[0].volume, results[1].volume)
    assert np.array_equal(results[0].volume, results[2].volume)
    assert not results[0].volume[:, :, 4].any()
    occupied = int(mask.any(axis=(0, 1)).sum())
    assert [f.slices_seen for f in flows] == [4 * occupied] * 3


def test_measuring_alone_changes_nothing(tools):
    stack = torch.rand(5, 8, 16)
    before = stack.clone()
    report = LatentStep(tools.linear(), range(5))(stack)
    assert torch.equal(stack, before)
    assert report.latent == pytest.approx(float(before.square().mean()), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("iterations", 0), ("iterations", 2.5), ("iterations", True), ("step", 2.0), ("step", 0),
        ("shrink", 1.0), ("shrink", -1e-3), ("shrink", float("nan")), ("edge_weight", -1),
        ("edge_percentile", 101), ("tolerance", "small"), ("batch_slices", 0), ("start", "noise"),
    ],
)  # fmt: skip
def test_parameters_out_of_range_are_refused_by_name(brain, tools, name, value):
    volume, mask = brain
    with pytest.raises(InputError, match=f"parameter {name} must"):
        harmonize(volume, mask, tools.model(tools.linear(), volume), **{name: value})


def test_a_linear_map_that_leaves_the_range_does_not_drift(brain, tools):
    """Dark voxels mapped below 0 are cut once, at the end: the rest keeps its linear map."""
    volume, mask = brain
    model = tools.model(tools.linear(), volume, quantiles=np.linspace(0.0, 0.8, 257))
    result = harmonize(volume, mask, model, start="mean", shrink=0.0, iterations=30, **PLAIN)
    found, source = inside(result, mask), result.scaled_source[mask].astype(np.float64)
    assert 0.001 < np.mean(found == 0) < 0.2
    positive = found > 0
    slope, level = np.polyfit(source[positive], found[positive], 1)
    assert np.allclose(found, np.maximum(slope * source + level, 0), atol=1e-4)
    assert slope == pytest.approx(np.linspace(0.0, 0.8, 257).std() / source.std(), rel=0.02)
