"""The published method: an image step and a latent step by turns.

Jeong et al., BlindHarmony, ICCV 2023, Eq. 1-2: find ``argmin_x D(x, x_s) + alpha |f(x)|^2`` by
descending D in image space and shrinking ``z = f(x)`` in latent space alternately. Written from
the equations. What differs from the published implementation, and why:

- correlation, edge mask and scale are the volume's, not a slice's: no stripes between slices;
- the image step is relative to the image's own contrast, so it is stable by construction, and
  keeps that contrast, which the correlation does not know of;
- no re-quantisation: the flow sees the image as it is;
- it stops when neither image nor objective move;
- a slice whose flow pass fails keeps its values, the others go on;
- a flow with conditions is told of the iterate's neighbouring slices, of mask and mean, and of the
  least noise it was trained with.
"""

from dataclasses import dataclass

import numpy as np
import torch

from ..errors import InputError
from ..flow.context import slice_context
from .distance import Correlation, EdgeTerm
from .latent import LatentStep
from .slices import SliceBox
from .solvers import Solution, check_number
from .starts import STARTS


@dataclass(frozen=True)
class PaperParameters:
    """Parameters of the published alternation.

    Parameters
    ----------
    iterations : int
        At most so many; the published number is 10.
    start : {"mean", "gain", "histogram"}
        First guess: the target's mean volume (published) with an individual's level and contrast,
        the source times a gain, or the source with its histogram matched; see
        :mod:`bh_bids.harmonization.starts`. The correlation pulls every start to a linear map of
        the source, and only the start's level and contrast last: from "mean" and "histogram" the
        results differ by tenths of a decibel; "gain" keeps the source's contrast and loses 6 to
        9 dB on simulated contrast gaps.
    step : float
        Image step on ``1 - NCC``, in units of ``||x_c||^2``; below 2 it is stable.
    edge_weight : float
        Weight of the edge term relative to the correlation's: how far, in target units, one image
        step of 1 moves a voxel for each non-edge neighbour on its other side (published: 1e-3).
    edge_percentile : float
        Differences of the source at or below this percentile are no edges (published: 30).
    shrink : float
        The latent step is ``z <- (1 - shrink) z`` (published: 1e-3); 0 leaves the flow out of the
        image, though not of the trace.
    tolerance : float
        Converged when one iteration changes the image by less than this share of its contrast,
        root mean square in the brain, and the objective, whose scale is that of ``1 - NCC``, by
        less than this. 0 never stops early.
    batch_slices : int
        Slices that go through the flow at once: bounds the memory.

    Raises
    ------
    InputError
        If a value is out of range.
    """

    iterations: int = 10
    start: str = "mean"
    step: float = 1.0
    edge_weight: float = 1e-3
    edge_percentile: float = 30.0
    shrink: float = 1e-3
    tolerance: float = 5e-3
    batch_slices: int = 8

    def __post_init__(self):
        check_number("iterations", self.iterations, 1, 10_000, integer=True)
        check_number("step", self.step, 0, 2, open_low=True, open_high=True)
        check_number("edge_weight", self.edge_weight, 0, 0.1)
        check_number("edge_percentile", self.edge_percentile, 0, 100, open_low=True)
        check_number("shrink", self.shrink, 0, 1, open_high=True)
        check_number("tolerance", self.tolerance, 0, 1)
        check_number("batch_slices", self.batch_slices, 1, 10_000, integer=True)
        if self.start not in STARTS:
            raise InputError(
                f"The parameter start must be one of {', '.join(STARTS)}, not {self.start!r}."
            )

    @property
    def smoothing(self):
        """Smoothing of |t| in the edge term that keeps its descent stable, target units.

        A voxel has six neighbours, so the term's curvature is at most 12/delta.
        """
        return max(0.005, 6 * self.step * self.edge_weight)


class PaperSolver:
    """The published alternation with its numerical weaknesses removed; see the module."""

    Parameters = PaperParameters

    def solve(self, problems, parameters):
        """Harmonize volumes, each for itself: the method has no mapping that they could share.

        Parameters
        ----------
        problems : sequence of Problem
        parameters : PaperParameters

        Returns
        -------
        list of Solution
        """
        return [self._solve_one(problem, parameters) for problem in problems]

    def _solve_one(self, problem, parameters):
        """Harmonize one volume.

        The iterate of the trace's record k is ``x_k``; ``x_(k+1)`` is the image step of
        ``f^-1((1 - shrink) f(x_k))``, so each record holds the flow's verdict on its own iterate
        and no pass is spent on it alone, but for the last.

        Parameters
        ----------
        problem : Problem
        parameters : PaperParameters

        Returns
        -------
        Solution
        """
        run = _Run(problem, parameters)
        converged, x = False, run.start()
        for k in range(parameters.iterations):
            record = run.record(k, x)
            problem.report(k, parameters.iterations, record)
            if run.converged(x):
                converged = True
                break
            run.previous = x
            x = run.image_step(run.shrink(x))
        else:
            record = run.record(parameters.iterations, x)
            problem.report(parameters.iterations, parameters.iterations, record)
            converged = run.converged(x)
        return Solution(
            volume=run.box.insert(x.clamp_min(0).cpu().numpy()),
            trace=run.trace,
            converged=converged,
            iterations=run.trace[-1]["iteration"],
            guards=run.guards(),
        )


class _Run:
    """The state of one volume's alternation: tensors of the cropped stack (n, h, w)."""

    def __init__(self, problem, parameters):
        self.problem, self.parameters = problem, parameters
        model = problem.model
        self.box = SliceBox(problem.mask, model.config.side_multiple)
        source, self.mask = self._tensor(problem.source), self._tensor(problem.mask)
        self.correlation = Correlation(source, self.mask)
        self.edges = EdgeTerm(
            source, self.mask, parameters.edge_percentile, delta=parameters.smoothing
        )
        self._mean = self._tensor(model.mean) if model.config.conditions else None
        self._latent = LatentStep(
            model.flow,
            self.box.occupied,
            model.config.bits,
            parameters.batch_slices,
            context=self._context if model.config.conditions else None,
        )
        self.kept, self.failures = set(), 0
        self.trace, self.previous, self.power = [], None, None

    def start(self):
        """The first iterate."""
        problem = self.problem
        start = STARTS[self.parameters.start](problem.source, problem.mask, problem.model)
        x = self._tensor(start)
        # The objective's weights are fixed at the start's contrast, so that values compare.
        self.power = max(self.correlation(x)[1], torch.finfo(torch.float32).tiny)
        return x

    def shrink(self, x):
        """The latent step from the iterate recorded last; the background stays 0."""
        shrunk = x.clone()
        if self.parameters.shrink:
            kept = self._latent.shrink(shrunk, self.parameters.shrink)
            self.kept.update(kept)
            self.failures += len(kept)
        shrunk *= self.mask
        return shrunk

    def image_step(self, x):
        """One descent step on Eq. 1.

        Iterates may fall below 0 in the darkest CSF; cut there at every step they would drift,
        for what is cut lowers the correlation, and the next step moves the whole image for it.
        """
        p = self.parameters
        moved = self.correlation.descend(x, p.step)
        if p.edge_weight:
            moved -= p.step * p.edge_weight * self.edges.gradient(x)
        return moved * self.mask

    def record(self, iteration, x):
        """Append an iterate to the trace: Eq. 2 with beta_1 = 1 and its terms.

        The weights are those whose descent the steps are: beta_2 = edge_weight/|x_c|^2 and
        alpha = shrink/(2 step |x_c|^2), at the start's contrast.
        """
        p, ncc, edge = self.parameters, self.correlation(x)[0], self.edges(x)
        report = self._latent(x)
        latent = p.shrink * report.square / (2 * p.step) if p.shrink else 0.0
        self.trace.append(
            {
                "iteration": iteration,
                "objective": (1 - ncc) + (p.edge_weight * edge + latent) / self.power,
                "ncc": ncc,
                "edge": edge / self.edges.pairs,
                "latent": report.latent,
                "bits_per_dim": report.bits_per_dim,
            }
        )
        return self.trace[-1]

    def converged(self, x):
        """Whether the last iteration moved neither the image nor the objective."""
        tolerance = self.parameters.tolerance
        if self.previous is None or not tolerance:
            return False
        moved = float((x - self.previous).double().norm())
        before, now = (r["objective"] for r in self.trace[-2:])
        contrast = self.correlation(x)[1] ** 0.5
        return moved <= tolerance * contrast and abs(now - before) <= tolerance

    def guards(self):
        """Sentences on the lesion, and on slices the flow could not pass."""
        said = []
        if self.problem.left_out is not None:
            said.append("The method paper leaves no lesion out: its mask was not used.")
        if not self.kept:
            return said
        indices = sorted(int(k) for k in self.box.grid_index(sorted(self.kept)))
        shown = ", ".join(map(str, indices[:20])) + (", ..." if len(indices) > 20 else "")
        return [
            *said,
            f"In {self.failures} passes of a slice the flow gave no usable values, and the slice "
            f"kept those it had; slices concerned ({len(indices)}): k = {shown}.",
        ]

    def _context(self, stack, positions):
        config = self.problem.model.config
        return slice_context(config, stack, positions, mask=self.mask, mean=self._mean)

    def _tensor(self, volume):
        array = np.ascontiguousarray(self.box.extract(volume))
        return torch.from_numpy(array).to(self.problem.device)
