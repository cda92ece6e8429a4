"""The gradient of a training step: on CUDA recorded once and replayed, one launch for thousands."""

import math

import torch

from . import graphs


class Gradient:
    """Leaves the clipped gradient of a batch's negative log density in a flow's parameters.

    Parameters
    ----------
    likelihood : torch.nn.Module
        Maps (x, context) to log densities, see :class:`bh_bids.flow.distributed.Likelihood`.
    clip : float
        Largest norm of the gradient.
    recorded : bool
        Record the kernels of a step as a CUDA graph, once libraries have chosen theirs in the
        first steps, and replay it from then on; where that fails, steps run as they are. All
        batches must have the same shape. Small networks spend most of a step on launches.
    """

    def __init__(self, likelihood, clip, *, recorded=False):
        self._likelihood, self._clip = likelihood, clip
        self._parameters = list(likelihood.parameters())
        self._left = graphs.WARM_UP if recorded else math.inf
        self._replay = None

    def __call__(self, x, context, divisor):
        """Compute the gradient of ``-log_prob.sum() / divisor``.

        Parameters
        ----------
        x, context
            See :class:`bh_bids.flow.network.TargetFlow`.
        divisor : torch.Tensor, shape ()

        Returns
        -------
        log_prob : torch.Tensor, shape ()
            Summed over the batch, nats. Valid until the next call.
        norm : torch.Tensor, shape ()
            Of the gradient before it was clipped. Valid until the next call.
        """
        if self._replay is None and self._left > 0:
            self._left -= 1
            return self._compute(x, context, divisor)
        if self._replay is None:
            tensors = (x, context, divisor)
            self._replay = graphs.record(self._compute, tensors) or self._compute
        return self._replay(x, context, divisor)

    def _compute(self, x, context, divisor):
        for parameter in self._parameters:
            parameter.grad = None
        log_prob = self._likelihood(x, context).sum()
        (-log_prob / divisor).backward()
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._clip)
        return log_prob.detach(), norm
