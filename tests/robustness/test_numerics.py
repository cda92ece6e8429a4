"""Numbers that go wrong, and numbers that must not depend on how they are computed."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bh_bids import harmonize, load_model
from bh_bids.errors import InputError
from bh_bids.harmonization import solvers
from bh_bids.harmonization.solvers import Solution
from bh_bids.mapping.intensity import IntensityMap
from bh_bids.mapping.mapping import Mapping

TOLERANCE = 1e-4
"""Target units; results in other batches, on more threads, or on a GPU agree to this."""


@pytest.fixture(scope="module")
def model(small_model):
    return load_model(small_model)


@pytest.fixture(scope="module")
def brain(model):
    """The target's mean in another contrast, with a field and noise, and its mask."""
    mask = model.mean > 0.05
    field = np.exp(np.linspace(0.4, -0.4, model.mean.shape[1]))[:, None]
    noise = 0.03 * np.random.default_rng(0).standard_normal(model.mean.shape)
    volume = 500 * (field * np.where(mask, model.mean, 0) ** 0.7 + noise)
    return np.where(mask, np.maximum(volume, 1), 0).astype(np.float32), mask


class Fixed:
    """A solver that gives what it is told to."""

    Parameters = solvers.get_solver("paper").Parameters

    def __init__(self, change, mapping):
        self.change, self.mapping = change, mapping

    def solve(self, problems, parameters):
        (problem,) = problems
        volume = self.change(problem.source.copy())
        return [Solution(volume, [], True, 0, mapping=self.mapping and self.mapping(problem))]


def doubled(problem):
    return Mapping(IntensityMap(np.array([0.0, 2.0]), np.array([0.0, 4.0])), None,
                   problem.source.shape)  # fmt: skip


@pytest.mark.parametrize("mapping", [None, doubled], ids=["without a mapping", "with a mapping"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_never_leaves(value, mapping, model, brain, monkeypatch):
    def change(volume):
        volume *= 3
        volume[20, 20, 17] = value
        volume[:, :, 21] = value
        return volume

    monkeypatch.setitem(solvers.SOLVERS, "fixed", lambda: Fixed(change, mapping))
    result = harmonize(*brain, model, method="fixed", device="cpu")
    assert np.isfinite(result.volume).all()
    (told,) = [guard for guard in result.guards if "no usable values" in guard]
    assert "In 2 slices" in told and told.endswith("k = 17, 21.")
    before = result.scaled_source * (2 if mapping else 1)
    for k in range(result.volume.shape[2]):
        expected = before[:, :, k] if k in (17, 21) else 3 * result.scaled_source[:, :, k]
        np.testing.assert_allclose(result.volume[:, :, k] / 700, expected, rtol=1e-5, atol=1e-6)


def test_what_is_cut_off_is_counted(model, brain, monkeypatch):
    def change(volume):
        volume[volume > 0.9] = 0
        return volume

    volume, mask = brain
    volume = volume.copy()
    dark = np.argwhere(mask)[:7]
    volume[tuple(dark.T)] = -5
    half = IntensityMap(np.array([0.0, 0.5]), np.array([0.0, 0.5]))
    monkeypatch.setitem(
        solvers.SOLVERS, "fixed",
        lambda: Fixed(change, lambda problem: Mapping(half, None, mask.shape)),
    )  # fmt: skip
    result = harmonize(volume, mask, model, method="fixed", device="cpu")
    source = result.scaled_source[mask]
    assert result.clipping == {
        "SourceNegative": 7,
        "ResultZero": int((source > 0.9).sum()),
        "BeyondMap": int((source > 0.5).sum()),
    }


def same(first, second):
    difference = np.abs(first.volume - second.volume).max() / first.target_scale
    assert difference <= TOLERANCE, difference
    assert [r.get("stage") for r in first.trace] == [r.get("stage") for r in second.trace]


@pytest.mark.parametrize("method", ["map", "paper"])
@pytest.mark.parametrize("size", [1, 32])
def test_batches_agree(method, size, model, brain):
    parameters = {"iterations": 2} if method == "paper" else {}
    first = harmonize(*brain, model, method=method, device="cpu", batch_slices=8, **parameters)
    assert method == "paper" or first.decisions["Noise"]["Applied"]
    same(first, harmonize(*brain, model, method=method, device="cpu", batch_slices=size,
                          **parameters))  # fmt: skip


@pytest.mark.parametrize("method", ["map", "paper"])
def test_threads_agree(method, model, brain, set_threads):
    parameters = {"iterations": 2} if method == "paper" else {}
    results = []
    for threads in (1, 2):
        set_threads(threads)
        results.append(harmonize(*brain, model, method=method, device="cpu", **parameters))
    same(*results)


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["map", "paper"])
def test_gpu_and_cpu_agree(method, model, brain):
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU that PyTorch can use")
    parameters = {"iterations": 2} if method == "paper" else {}
    results = [
        harmonize(*brain, model, method=method, device=device, **parameters)
        for device in ("cpu", "cuda")
    ]
    model.to("cpu")
    same(*results)


def noisy_target():
    """The packaged model, its target's mean with noise of 2 %, and its mask."""
    model = load_model()
    mask = model.mean > 0.05
    noise = 0.02 * np.random.default_rng(0).standard_normal(mask.shape).astype(np.float32)
    return model, np.where(mask, np.maximum(model.mean + noise, 1e-3), 0), mask


@pytest.mark.gpu
def test_gpu_and_cpu_remove_the_same_noise():
    """Factors of 10 bits move voxels by 2.5e-4 in the mean."""
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU that PyTorch can use")
    model, volume, mask = noisy_target()
    results = [harmonize(volume, mask, model, device=device) for device in ("cpu", "cuda")]
    assert all(r.decisions["Noise"]["Applied"] for r in results)
    difference = np.abs(results[0].volume - results[1].volume)[mask] / results[0].target_scale
    assert difference.mean() < 5e-5
    assert np.quantile(difference, 0.99) < 5e-4


@pytest.mark.gpu
def test_gpu_gives_the_same_bytes_again():
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU that PyTorch can use")
    model, volume, mask = noisy_target()
    first, second = (harmonize(volume, mask, model, device="cuda") for _ in range(2))
    assert first.decisions["Noise"]["Applied"]
    assert first.volume.tobytes() == second.volume.tobytes()


@st.composite
def odd_volumes(draw, shape):
    """A brain-like ellipsoid of any place, with values of any kind."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    axes = np.ogrid[tuple(slice(n) for n in shape)]
    centre = [draw(st.integers(0, n - 1)) for n in shape]
    radii = [draw(st.floats(0.3, n)) for n in shape]
    mask = sum(((a - c) / r) ** 2 for a, c, r in zip(axes, centre, radii, strict=True)) < 1
    scale = 10.0 ** draw(st.integers(-12, 12))
    kind = draw(st.sampled_from(("noise", "ramp", "two values", "spikes", "negative")))
    volume = {
        "noise": lambda: rng.standard_normal(shape),
        "ramp": lambda: np.broadcast_to(axes[0] + 0.1 * axes[2], shape).astype(float),
        "two values": lambda: rng.integers(1, 3, shape).astype(float),
        "spikes": lambda: 1 + 1e6 * (rng.random(shape) < 1e-3),
        "negative": lambda: -1 - rng.random(shape),
    }[kind]()
    volume = volume * scale
    share = draw(st.sampled_from((0, 0, 0.01, 0.2)))
    volume[rng.random(shape) < share] = draw(st.sampled_from((np.nan, np.inf, -np.inf)))
    return volume.astype(np.float32), mask


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_odd_volumes_are_refused_or_give_finite_brains(data, model):
    with np.errstate(over="ignore"):
        volume, mask = data.draw(odd_volumes(model.mean.shape))
    method = data.draw(st.sampled_from(("map", "map", "paper")))
    parameters = {"iterations": 1} if method == "paper" else {}
    try:
        result = harmonize(volume, mask, model, method=method, device="cpu", **parameters)
    except InputError as refusal:
        assert str(refusal).endswith(".")
        return
    assert np.isfinite(result.volume).all() and (result.volume >= 0).all()
    assert (result.volume[~mask] == 0).all()
