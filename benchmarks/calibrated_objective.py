"""The map of intensities that the calibrated density asks for, beside a histogram match.

    python benchmarks/calibrated_objective.py DERIVATIVES [--split tune|test|both]
        [--participants ...] [--slices N] [--steps N] [--device DEVICE] [--model NAME]

docs/method.md derives an objective for a monotone map T of the brain's intensities, which is not
part of the program:

    J(T) = mean log p(T(x) + sigma eps) + weight * mean log T'(x) - mean Phi(T(x)).

The weight makes the target's scans ask for no gain about their mean, and the potential Phi for no
change of the map at all, on average. This measures what that is worth with a model's own flow.

The scan of each participant, its histogram matched to the target's, is where all maps start. (A
match leaves nothing of a monotone gap: whatever the gap, the figures are these, but for ties.) J
is maximised over maps of KNOTS slopes; so is J without the potential, with a weight of 1, and the
density alone. Weight and potential are learned from all other participants of the split "tune",
which the flow knows. The last column is the best such map, which knows the truth.

Opening the split "test" is written down in benchmarks/test_openings.jsonl.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from bh_bids.flow.slopes import KNOTS, SEED, SHARES, SIGMA, log_density, ramps

sys.path.insert(0, str(Path(__file__).resolve().parent))

RATE, SLICES, STEPS = 0.03, 12, 60
# Of each objective: whether the weight is the calibrated one (None: 1, 0: no such term), and
# whether the potential is taken away.
OBJECTIVES = {
    "density": (0.0, False),
    "density, determinant": (1.0, False),
    "weighted": (None, False),
    "weighted, potential": (None, True),
}


def main(arguments=None):
    """Measure and print."""
    from gapbench import participants

    from bh_bids import load_model
    from bh_bids.comparators.histogram import histogram_match
    from bh_bids.flow.engine import FlowEngine
    from bh_bids.harmonization.device import resolve_device

    args = _parser().parse_args(arguments)
    model, device = load_model(args.model), resolve_device(args.device)
    model = model.to(device)
    splits = ("tune", "test") if args.split == "both" else (args.split,)
    scans = participants.find_scans(args.derivatives, model, splits, args.participants)
    known = participants.find_scans(args.derivatives, model, ("tune",))
    if "test" in splits:
        opening = participants.OPENINGS
        participants.log_opening(
            opening, model, scans, ["calibrated-objective"], ["none"], [SEED], 4
        )
    quantiles = model.intensity["Quantiles"]
    knots = np.interp(SHARES, np.linspace(0, 1, len(quantiles)), quantiles)
    flow = FlowEngine.from_flow(model.flow, tf32=False)
    found = {}
    for scan in known:
        volume, mask = participants.read_truth(scan)
        found[scan] = View(flow, model.mean, volume, mask, knots, args.slices, device).moments()
        print(f"sub-{scan.participant}: asks for {_numbers(found[scan])}", flush=True)
    constants = calibrate(list(found.values()))
    print(f"weight {constants.weight:.3f}; potential's slope {_row(constants.potential)}")
    titles = ["histogram match", *OBJECTIVES, "best such map"]
    print(f"\n| participant | {' | '.join(titles)} |\n{'|---' * (len(titles) + 1)}|", flush=True)
    rows = []
    for scan in scans:
        constants = calibrate([m for other, m in found.items() if other != scan])
        volume, mask = participants.read_truth(scan)
        matched = histogram_match(volume, mask, quantiles)
        view = View(flow, model.mean, matched, mask, knots, args.slices, device)
        rows.append(_scores(view, constants, volume, mask, matched, args.steps))
        print(f"| {scan.participant} ({scan.split}) | {_row(rows[-1])} |", flush=True)
    rows = np.array(rows)
    for name, part in (("mean", rows.mean(axis=0)), ("worst", rows.min(axis=0))):
        print(f"| {name} | {_row(part)} |")
    gains = rows[:, 1:-1] - rows[:, :1]
    print(f"less the match, mean {_row(gains.mean(0))}; worst {_row(gains.min(0))}")


def _parser():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("derivatives", type=Path)
    parser.add_argument("--model", default="default")
    parser.add_argument("--split", choices=("tune", "test", "both"), default="tune")
    parser.add_argument("--participants", nargs="+", help="fewer participants of the split")
    parser.add_argument("--slices", type=int, default=SLICES, help="slices that are asked")
    parser.add_argument("--steps", type=int, default=STEPS, help="steps of the ascent")
    parser.add_argument("--device", default="auto")
    return parser


@dataclass(frozen=True)
class Moments:
    """What one target scan asks for, per brain voxel of the slices that are asked.

    Attributes
    ----------
    gain : float
        Slope of the log density with the logarithm of a gain about the brain's mean.
    slopes : numpy.ndarray, shape (KNOTS,)
        Of the log density with the logarithms of the map's slopes.
    shares : numpy.ndarray, shape (KNOTS,)
        Shares of the voxels between two knots: the slopes of mean log T'.
    mixing : numpy.ndarray, shape (KNOTS, KNOTS)
        What the potential's slope at each knot takes from each slope.
    """

    gain: float
    slopes: np.ndarray
    shares: np.ndarray
    mixing: np.ndarray


@dataclass(frozen=True)
class Constants:
    """Weight of the log-determinant, and slope of the potential at the knots, (KNOTS,)."""

    weight: float
    potential: np.ndarray


def calibrate(moments):
    """The constants with which scans, on average, ask for no change.

    Parameters
    ----------
    moments : sequence of Moments

    Returns
    -------
    Constants
    """
    weight = -float(np.mean([m.gain for m in moments]))
    slopes, shares, mixing = (
        np.mean([getattr(m, name) for m in moments], axis=0)
        for name in ("slopes", "shares", "mixing")
    )
    return Constants(weight, np.linalg.solve(mixing, slopes + weight * shares))


class View:
    """Some slices of a scan, as a flow sees them through maps of its intensities.

    Parameters
    ----------
    flow : object
        With ``config`` and ``log_prob(x, context)``.
    mean : numpy.ndarray, shape (x, y, z)
        The target's mean volume, target units.
    volume : numpy.ndarray of float32, shape (x, y, z)
        Target units.
    mask : numpy.ndarray of bool, shape (x, y, z)
    knots : numpy.ndarray, shape (KNOTS,)
        Growing, target units. The first slope holds from 0 to the first knot, the last from the
        last knot but one on.
    count : int
        Slices that are asked, evenly spread over the middle of the brain.
    device : torch.device
    """

    def __init__(self, flow, mean, volume, mask, knots, count, device):
        from bh_bids.harmonization.slices import SliceBox

        box = SliceBox(mask, flow.config.side_multiple)
        self._flow = flow
        middle = len(box.occupied) // 4, 3 * len(box.occupied) // 4
        asked = box.occupied[np.unique(np.linspace(*middle, count).round().astype(int))]
        # A slice may be told the one below.
        kept = np.unique([*np.maximum(asked - 1, 0), *asked])
        self._asked = np.searchsorted(kept, asked)
        noise = SIGMA * np.random.default_rng(SEED).standard_normal(mask.shape).astype(np.float32)

        def stack(array):
            return torch.from_numpy(box.extract(array.astype(np.float32))[kept]).to(device)

        self._mask, self._mean, self._noise = stack(mask), stack(mean), stack(noise)
        values = stack(volume)
        self.knots = torch.as_tensor(knots, dtype=torch.float32, device=device)
        self._ramps = ramps(values, self.knots)
        own = self._mask[self._asked].bool()
        self._voxels, self._inner = int(own.sum()), self._ramps[self._asked][own]
        centre = values[self._asked][own].mean()
        self._about = (values - centre) * self._mask
        self.shares = slope_shares(values[self._asked][own], self.knots)

    def density(self, image):
        """Mean log density, per voxel, of the slices that are asked of a stack."""
        found = log_density(self._flow, image, self._noise, self._asked, self._mask, self._mean)
        return found / self._voxels

    def mapped(self, logs):
        """The stack through the map whose slopes have these logarithms, (KNOTS,)."""
        return self._ramps @ logs.exp()

    def objective(self, logs, weight=0.0, potential=None):
        """J of the map whose slopes have these logarithms.

        Parameters
        ----------
        logs : torch.Tensor, shape (KNOTS,)
        weight : float
        potential : numpy.ndarray, shape (KNOTS,), optional
            Its slope at the knots.

        Returns
        -------
        torch.Tensor, shape ()
        """
        value = self.density(self.mapped(logs)) + weight * (self.shares * logs).sum()
        if potential is not None:
            slopes = torch.as_tensor(potential, dtype=logs.dtype, device=logs.device)
            value = value - integral(self._inner @ logs.exp(), self.knots, slopes).mean()
        return value

    def moments(self):
        """What the scan, as it is, asks for.

        Returns
        -------
        Moments
        """
        logs = torch.zeros_like(self.knots).requires_grad_(True)
        gain = torch.zeros_like(self.knots[0]).requires_grad_(True)
        image = self.mapped(logs) + (gain.exp() - 1) * self._about
        slopes, of_gain = torch.autograd.grad(self.density(image), (logs, gain))
        bumps = hats(self._inner.sum(dim=-1), self.knots)
        mixing = self._inner.T.double() @ bumps.double() / self._voxels
        return Moments(
            float(of_gain), *(t.double().cpu().numpy() for t in (slopes, self.shares, mixing))
        )

    def ascend(self, weight, potential, steps):
        """Logarithms of the slopes that maximise J from the identity on, (KNOTS,)."""
        logs = torch.zeros_like(self.knots).requires_grad_(True)
        optimizer = torch.optim.Adam([logs], lr=RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            optimizer.zero_grad()
            (-self.objective(logs, weight, potential)).backward()
            optimizer.step()
            schedule.step()
        return logs.detach()


def slope_shares(values, knots):
    """Shares of values (n,) to which each slope of a map applies, (KNOTS,)."""
    place = torch.searchsorted(knots[:-1].contiguous(), values.contiguous(), right=True)
    return torch.bincount(place, minlength=len(knots)).to(knots.dtype) / len(values)


def hats(values, knots):
    """Weights (n, KNOTS) of the knots in what is linear between them and constant beyond."""
    place, share = _between(values, knots)
    weights = values.new_zeros(len(values), len(knots))
    weights.scatter_(1, place[:, None], (1 - share)[:, None])
    return weights.scatter_add_(1, place[:, None] + 1, share[:, None])


def integral(values, knots, slopes):
    """From 0 to values (n,), of what is linear between knots and constant beyond."""
    widths = knots.diff()
    steps = torch.cat([knots[:1] * slopes[:1], widths * (slopes[:-1] + slopes[1:]) / 2])
    start = steps.cumsum(0)
    place, share = _between(values, knots)
    inside = share * widths[place]
    found = start[place] + inside * (
        slopes[place] + share * (slopes[place + 1] - slopes[place]) / 2
    )
    below = (values - knots[0]).clamp_max(0) * slopes[0]
    return found + below + (values - knots[-1]).clamp_min(0) * slopes[-1]


def _between(values, knots):
    """The knot below each value, and how far it is on the way to the next, both bounded."""
    inner = knots[1:-1].contiguous()
    place = torch.searchsorted(inner, values.detach().contiguous(), right=True)
    share = (values - knots[place]) / (knots[place + 1] - knots[place])
    return place, share.clamp(0, 1)


def _scores(view, constants, truth, mask, matched, steps):
    """PSNR after the match, after each objective's map, and after the best such map."""
    from scipy.optimize import nnls

    from bh_bids.evaluation.similarity import psnr

    knots = view.knots.cpu()
    whole = ramps(torch.from_numpy(matched[:, :, ::4]), knots).numpy()
    inside, wanted = mask[:, :, ::4], truth[:, :, ::4]
    found = [np.ones(KNOTS)]
    for weight, bent in OBJECTIVES.values():
        weight = constants.weight if weight is None else weight
        potential = constants.potential if bent else None
        found.append(view.ascend(weight, potential, steps).exp().cpu().numpy())
    found.append(nnls(whole[inside].astype(np.float64), wanted[inside].astype(np.float64))[0])
    return [psnr(wanted, np.where(inside, whole @ s.astype(np.float32), 0), inside) for s in found]


def _numbers(moments):
    return f"gain {moments.gain:.3f}, slopes {_row(moments.slopes, 3)}"


def _row(values, digits=1):
    return " | ".join(f"{v:.{digits}f}" for v in values)


if __name__ == "__main__":
    main()
