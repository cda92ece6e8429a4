"""How well a model's flow knows the target's brains, against two references, in one run.

    python benchmarks/flow_quality.py DERIVATIVES [--model default] [--train-minutes 20]
                                      [--sigmas 0.004 0.02] [--slices N] [--output DIR]

Bits per dimension (8-bit steps, brain voxels alone) of the model's validation participants with
Gaussian noise of known level, under: the model; a Gaussian with the training slices' mean at each
position and their low-rank covariance; the same Gaussian given the slice below; and, with
--train-minutes, the published configuration (4 levels x 7 steps, 96 channels, 3 blocks, batch
normalisation, no conditions) and the model's own, each trained for so many minutes of CPU. All
see the same slices with the same noise. It asserts nothing.
"""

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from bh_bids import load_model
from bh_bids.errors import BHError
from bh_bids.flow.config import FlowConfig
from bh_bids.flow.context import slice_context
from bh_bids.flow.network import TargetFlow
from bh_bids.flow.slices import find_scans, read_volume

RANK = 128
CROP = 64
PUBLISHED = FlowConfig(levels=4, steps=7, hidden_channels=96, blocks=3, batch_norm=True)


def read_group(derivatives, model, group):
    """Volumes (x, y, z), target units, of a model's participants."""
    labels = set(model.metadata[f"{group}Participants"])
    scans = [s for s in find_scans(derivatives, model.space) if s.participant in labels]
    return [read_volume(scan, model.config).in_target_units() for scan in scans]


def pairs_of(volumes, least=400):
    """(volume, k) of all slices with enough brain, the slice below in the volume too."""
    return [
        (v, k)
        for v, volume in enumerate(volumes)
        for k in range(1, volume.shape[2])
        if np.count_nonzero(volume[:, :, k]) >= least
    ]


class Gaussian:
    """Mean at each position plus a low-rank and diagonal covariance of slices.

    Parameters
    ----------
    volumes : list of numpy.ndarray
        Training volumes.
    mean : numpy.ndarray, shape (x, y, z)
    sigma : float
        Of the noise that the evaluated slices will hold.
    below : bool
        Predict a slice from the one below first (3 x 3 neighbourhood of it and of the mean).
    """

    def __init__(self, volumes, mean, sigma, below):
        self.mean, self.sigma, self.below = mean, sigma, below
        pairs = pairs_of(volumes)
        rng = np.random.default_rng(0)
        self.coefficients = None
        if below:
            rows, values = [], []
            for v, k in pairs[:: max(1, len(pairs) // 300)]:
                x, low = (noisy(volumes[v][:, :, j], sigma, rng) for j in (k, k - 1))
                inside = np.flatnonzero(x)[::7]
                rows.append(_features(low, mean, k)[inside])
                values.append((x - mean[:, :, k]).ravel()[inside])
            self.coefficients = np.linalg.lstsq(
                np.concatenate(rows), np.concatenate(values), rcond=None
            )[0]
        used = pairs[:: max(1, len(pairs) // 1500)]
        residuals = np.stack(
            [self._residual(volumes[v], k, np.random.default_rng([1, v, k])) for v, k in used]
        )
        weights = np.maximum((residuals != 0).sum(axis=0), 1)
        gram = residuals @ residuals.T / len(used)
        size, vectors = np.linalg.eigh(gram)
        size, vectors = size[-RANK:], vectors[:, -RANK:]
        factors = (residuals.T @ vectors) / math.sqrt(len(used))
        # Pixels outside many brains have seen fewer residuals than slices.
        factors *= np.sqrt(len(used) / np.maximum(weights, len(used) / 20))[:, None]
        square = np.square(residuals).sum(axis=0)
        # A pixel that was in few brains, or none, is given something of the average variance.
        variance = (square + 20 * square.sum() / weights.sum()) / (weights + 20)
        self.factors = factors.astype(np.float64)
        rest = variance - np.square(self.factors).sum(axis=1)
        self.diagonal = np.maximum(rest, 0.2 * variance) + 1e-6

    def _residual(self, volume, k, rng, noise=None):
        x = noisy(volume[:, :, k], self.sigma, rng)
        residual = x - self.mean[:, :, k]
        if self.below:
            low = noisy(volume[:, :, k - 1], self.sigma, rng)
            residual = residual - (_features(low, self.mean, k) @ self.coefficients).reshape(
                residual.shape
            )
        return np.where(volume[:, :, k] > 0, residual, 0).ravel()

    def nats(self, volume, k, rng):
        """Log density of one noisy slice's brain, and its number of voxels."""
        residual = self._residual(volume, k, rng)
        inside = np.flatnonzero(volume[:, :, k].ravel())
        r, w, d = residual[inside], self.factors[inside], self.diagonal[inside]
        scaled = w / d[:, None]
        inner = np.eye(w.shape[1]) + w.T @ scaled
        project = scaled.T @ r
        square = (r * r / d).sum() - project @ np.linalg.solve(inner, project)
        log_det = np.linalg.slogdet(inner)[1] + np.log(d).sum()
        return -0.5 * (square + log_det + len(r) * math.log(2 * math.pi)), len(r)


def _features(low, mean, k):
    """Neighbourhood of the slice below and of the mean, less the mean's; (pixels, 19)."""
    difference = low - mean[:, :, k - 1] * (low > 0)
    stack = [np.roll(m, (i, j), (0, 1)).ravel() for m in (difference, mean[:, :, k])
             for i in (-1, 0, 1) for j in (-1, 0, 1)]  # fmt: skip
    return np.stack([*stack, np.ones(low.size)], axis=1)


def noisy(image, sigma, rng):
    """The slice with noise inside the brain; ``sigma`` None is uniform dequantisation at 8 bits."""
    if sigma is None:
        spread = np.rint(image * 256) + rng.random(image.shape) - 0.5
        return np.where(image > 0, spread / 256, 0).astype(np.float32)
    noise = rng.standard_normal(image.shape)
    return np.where(image > 0, image + sigma * noise, 0).astype(np.float32)


def flow_nats(flow, mean, volume, k, sigma, rng, everywhere=False):
    """Log density of one noisy slice's brain under a flow, and its number of voxels.

    ``everywhere`` adds noise to the background too, which an unconditional flow was trained with;
    only the brain's positions are counted.
    """
    stack, masks, context = _slices_and_context(flow, mean, volume, k, sigma, rng, everywhere)
    inside = masks[1:, None].float()
    total = 0.0
    with torch.inference_mode():
        for level, (latent, logabsdet) in enumerate(flow._levels(stack[1:, None], context)):
            normal = -0.5 * (latent.square() + math.log(2 * math.pi)).sum(dim=1)
            weight = F.avg_pool2d(inside, 2 ** (level + 1))[:, 0]
            total += float(((normal + logabsdet) * weight).double().sum())
    return total, int(masks[1].sum())


def _slices_and_context(flow, mean, volume, k, sigma, rng, everywhere=False):
    """Slices k - 1 and k with noise, their masks, and what the flow is told of slice k."""
    x = noisy(volume[:, :, k], sigma, rng)
    low = noisy(volume[:, :, k - 1], sigma, rng)
    mask = volume[:, :, k - 1 : k + 1] > 0
    if everywhere:
        x = np.where(mask[:, :, 1], x, sigma * rng.standard_normal(x.shape)).astype(np.float32)
    stack = torch.from_numpy(np.stack([low, x]))
    masks = torch.from_numpy(np.ascontiguousarray(mask.transpose(2, 0, 1)))
    means = torch.from_numpy(np.ascontiguousarray(mean[:, :, k - 1 : k + 1].transpose(2, 0, 1)))
    context = slice_context(flow.config, stack, [1], mask=masks, mean=means, sigma=sigma)
    return stack, masks, context


def train(config, rate, volumes, mean, minutes, sigma, batch):
    """A flow trained on ``batch`` crops a step of training slices for so many minutes of CPU.

    With the condition "noise" its level is drawn anew for every crop, as ``bh-model train`` does;
    without, it is ``sigma``, and outside the brain too where the flow is not told of the mask.
    """
    torch.manual_seed(0)
    flow, rng, pairs = TargetFlow(config), np.random.default_rng(0), pairs_of(volumes)
    low, high = np.log(config.noise_range)
    optimizer = torch.optim.Adam(flow.parameters(), lr=rate)
    began, steps = time.process_time(), 0
    while (spent := (time.process_time() - began) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, (steps + 1) / 100) * 0.5 * (1 + math.cos(math.pi * spent))
        crops, contexts = [], []
        for index in rng.integers(len(pairs), size=batch):
            volume, k = volumes[pairs[index][0]], pairs[index][1]
            spot = rng.choice(np.flatnonzero(volume[:, :, k]))
            corner = (
                int(np.clip(c - CROP // 2, 0, side - CROP))
                for c, side in zip(np.unravel_index(spot, volume.shape[:2]), volume.shape[:2],
                                   strict=True)
            )  # fmt: skip
            crop = tuple(slice(c, c + CROP) for c in corner)
            level = math.exp(rng.uniform(low, high)) if "noise" in config.conditions else sigma
            stack, _, context = _slices_and_context(
                flow, mean[crop], volume[crop], k, level, rng, everywhere=not config.conditions
            )
            crops.append(stack[1:])
            contexts.append(context)
        x = torch.stack(crops)
        context = torch.cat(contexts) if config.conditions else None
        loss = -flow.log_prob(x, context).sum() / flow.dimensions(x, context).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 1.0)
        optimizer.step()
        steps += 1
    return flow.eval().requires_grad_(False), steps


def measure(methods, volumes, number):
    """Mean bits per dimension of evenly chosen slices, by method; the same noise for all."""
    pairs = pairs_of(volumes)
    chosen = [pairs[i] for i in np.linspace(0, len(pairs) - 1, number).round().astype(int)]
    found = {}
    for name, nats in methods.items():
        results = [nats(volumes[v], k, np.random.default_rng([7, v, k])) for v, k in chosen]
        total, voxels = np.sum(results, axis=0)
        found[name] = 8 - total / voxels / math.log(2)
    return found


def plot_latents(model, volumes, sigma, path, number=24):
    """Histograms of each level's latents inside held-out brains against the standard normal."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    flow, levels = model.flow, model.config.levels
    found = [[] for _ in range(levels)]
    pairs = pairs_of(volumes)
    for index in np.linspace(0, len(pairs) - 1, number).round().astype(int):
        v, k = pairs[index]
        stack, masks, context = _slices_and_context(
            flow, model.mean, volumes[v], k, sigma, np.random.default_rng([7, v, k])
        )
        with torch.inference_mode():
            for level, (latent, _) in enumerate(flow._levels(stack[1:, None], context)):
                inside = F.avg_pool2d(masks[1:, None].float(), 2 ** (level + 1))[0, 0] == 1
                found[level].append(latent[0][:, inside].ravel().numpy())
    figure = Figure(figsize=(3.2 * levels, 2.8), layout="constrained")
    FigureCanvasAgg(figure)
    grid = np.linspace(-5, 5, 101)
    for level, parts in enumerate(found):
        z = np.concatenate(parts)
        axes = figure.add_subplot(1, levels, level + 1)
        axes.hist(z, grid, density=True, color="#8fb3d9")
        axes.plot(grid, np.exp(-(grid**2) / 2) / math.sqrt(2 * math.pi), color="#333333", lw=1)
        axes.set_title(f"level {level + 1}: mean {z.mean():.2f}, sd {z.std():.2f}", fontsize=9)
        axes.set_yticks([])
    figure.savefig(path, dpi=110)


def main():
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("derivatives", type=Path)
    parser.add_argument("--model", default="default")
    parser.add_argument("--train-minutes", type=float, default=0, help="train two flows as well")
    parser.add_argument("--sigmas", type=float, nargs="+", default=[0.004, 0.02])
    parser.add_argument("--slices", type=int, default=48)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    try:
        model = load_model(args.model)
        training = read_group(args.derivatives, model, "Training")
        held_out = read_group(args.derivatives, model, "Validation")
    except BHError as error:
        raise SystemExit(str(error)) from None
    rows, mean = {}, model.mean
    for sigma in args.sigmas:
        methods = {
            f"model {model.name} {model.version}": lambda v, k, rng, s=sigma: flow_nats(
                model.flow, mean, v, k, s, rng
            ),
            "Gaussian": Gaussian(training, mean, sigma, below=False).nats,
            "Gaussian, given the slice below": Gaussian(training, mean, sigma, below=True).nats,
        }
        if args.train_minutes and sigma == args.sigmas[0]:
            for title, config, rate, batch in (
                ("published configuration", PUBLISHED, 5e-4, 8),
                (f"configuration of {model.name}", model.config, 5e-3, 4),
            ):
                flow, steps = train(config, rate, training, mean, args.train_minutes, sigma, batch)
                name = f"{title}, {args.train_minutes:g} min ({steps} steps)"
                methods[name] = lambda v, k, rng, f=flow, s=sigma: flow_nats(
                    f, mean, v, k, s, rng, everywhere=not f.config.conditions
                )
        for name, bits in measure(methods, held_out, args.slices).items():
            rows.setdefault(name, {})[sigma] = bits
            print(f"sigma {sigma:g}  {bits:.3f}  {name}", flush=True)
    head = " | ".join(f"sigma {s:g}" for s in args.sigmas)
    lines = [f"| density | {head} |", "|---" * (len(args.sigmas) + 1) + "|"]
    for name, bits in rows.items():
        cells = " | ".join(f"{bits[s]:.3f}" if s in bits else "–" for s in args.sigmas)
        lines.append(f"| {name} | {cells} |")
    print("\n".join(lines))
    if args.output:
        args.output.mkdir(parents=True, exist_ok=True)
        plot_latents(model, held_out, args.sigmas[0], args.output / "latents.png")
        (args.output / "flow_quality.md").write_text("\n".join(lines) + "\n")
        (args.output / "flow_quality.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
