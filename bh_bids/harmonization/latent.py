"""The latent half of the alternation: z = f(x), shrink z, x = f^-1(z), slice by slice."""

import math
from dataclasses import dataclass

import torch

from ..flow.engine import FlowEngine
from ..flow.network import TargetFlow
from ..threads import in_parts, results, workers

# Beyond this (target units, where 1 is white matter's upper end) and far beyond what was given an
# inverse pass has diverged, as a spline's may in single precision.
DIVERGED = 4.0


@dataclass
class LatentReport:
    """What a forward pass of all occupied slices through the flow gave.

    Attributes
    ----------
    latent : float
        Mean |z|^2/d over the slices; 1 for a standard normal latent.
    square : float
        Sum of |z|^2 over the slices.
    bits_per_dim : float
        Mean bits per dimension of the slices.
    """

    latent: float = math.nan
    square: float = math.nan
    bits_per_dim: float = math.nan


class LatentStep:
    """Sends the occupied slices of a stack through the flow in batches, one to each thread.

    Parameters
    ----------
    flow : TargetFlow or FlowEngine
        A TargetFlow's weights, as they are now, are made into an engine. Anything else with
        ``flow(x) -> (z, logabsdet)`` and ``flow.inverse(z, slice_shape)`` serves as well.
    occupied : sequence of int
        Positions of the slices that hold brain.
    bits : int
        Bits of the discretised image "bits per dimension" speaks of.
    batch_slices : int
        Slices that go through the flow at once, on all threads together: bounds the memory.
    context : callable, optional
        ``context(stack, positions)`` gives the context of slices for a flow with conditions; see
        :func:`bh_bids.flow.context.slice_context`.
    """

    def __init__(self, flow, occupied, bits=8, batch_slices=8, context=None):
        self._flow = FlowEngine.from_flow(flow) if isinstance(flow, TargetFlow) else flow
        self._bits, self._context = bits, context
        self._occupied, self._batch_slices = [int(k) for k in occupied], batch_slices
        self._measured, self._workers = [], 1

    @torch.inference_mode()
    def __call__(self, stack):
        """What the flow says of a stack.

        Parameters
        ----------
        stack : torch.Tensor, shape (n, h, w)
            Slices in target units.

        Returns
        -------
        LatentReport
        """
        self._workers = min(workers(stack.device), self._batch_slices)

        @torch.inference_mode()  # a thread's own
        def measured(batch):
            x = stack[batch][:, None]
            # An empty tuple of arguments for flows that know of no context.
            context = () if self._context is None else (self._context(stack, batch),)
            z, log_prob, counted = self._verdict(x, context)
            bits = self._bits - log_prob.double() / (counted * math.log(2))
            return (batch, x, z, context), z.double().square().sum(dim=1), bits

        batches = in_parts(self._occupied, self._batch_slices // self._workers)
        found = results(measured, batches, self._workers)
        self._measured, squares, bits = zip(*found, strict=True)
        squares, bits = torch.cat(squares), torch.cat(bits)
        fine = squares.isfinite() & bits.isfinite()
        if not fine.any():
            return LatentReport()
        square, mean = float(squares[fine].sum()), float(squares[fine].mean())
        dimensions = self._measured[0][2].shape[1]
        return LatentReport(mean / dimensions, square, float(bits[fine].mean()))

    @torch.inference_mode()
    def shrink(self, stack, amount):
        """Take the step ``z <- (1 - amount) z`` from the stack measured last.

        Parameters
        ----------
        stack : torch.Tensor, shape (n, h, w)
            Its occupied slices are overwritten, but for those whose inverse pass failed.
        amount : float

        Returns
        -------
        list of int
            Positions of the slices that kept their values.
        """

        @torch.inference_mode()  # a thread's own
        def undone(measured):
            _, x, z, context = measured
            return self._flow.inverse(z * (1 - amount), tuple(x.shape[2:]), *context)

        kept = []
        inverses = results(undone, self._measured, self._workers)
        for (batch, x, *_), moved in zip(self._measured, inverses, strict=True):
            good = _sound(moved, x)
            index = torch.tensor(batch, device=stack.device)
            stack[index[good]] = moved[good, 0].to(stack.dtype)
            kept += [k for k, fine in zip(batch, good.tolist(), strict=True) if not fine]
        return kept

    def _verdict(self, x, context):
        """Latents, log density and number of voxels it counts, of slices (n, 1, h, w)."""
        if isinstance(self._flow, FlowEngine):
            return (*self._flow.evaluate(x, *context), self._flow.dimensions(x, *context))
        z, logabsdet = self._flow(x, *context)
        normal = z.double().square().sum(dim=1) + z.shape[1] * math.log(2 * math.pi)
        return z, logabsdet.double() - 0.5 * normal, z.shape[1]


def _sound(moved, before):
    """Which slices came back finite and in range."""
    moved, before = moved.flatten(1), before.flatten(1)
    limit = (2 * before.abs().amax(dim=1)).clamp_min(DIVERGED)
    return moved.isfinite().all(dim=1) & (moved.abs().amax(dim=1) <= limit)
