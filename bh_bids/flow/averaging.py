"""Exponential moving average of a flow's weights: what is validated, kept and used."""

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

from .network import TargetFlow


class WeightAverage:
    """Exponential moving average of the weights; other buffers are copied.

    Polyak & Juditsky, SIAM J. Control Optim. 1992, with the moving window usual since.

    Parameters
    ----------
    flow : TargetFlow
        Whose weights the average starts from.
    decay : float
        Share of the average that each step keeps, in [0, 1); the first steps keep less,
        ``(1 + step) / (10 + step)``, so that the start is forgotten. 0 follows the flow itself.

    Attributes
    ----------
    flow : TargetFlow
        Holds the average; in evaluation mode.
    """

    def __init__(self, flow, decay):
        self._decay = decay
        device = next(flow.parameters()).device
        self.flow = TargetFlow(flow.config).to(device).eval().requires_grad_(False)
        self.restart(flow)

    def restart(self, flow):
        """Forget the average: begin again from a flow's weights."""
        self.flow.load_state_dict(flow.state_dict())

    @torch.no_grad()
    def update(self, flow, step):
        """Take in the weights of a step (from 0)."""
        decay = min(self._decay, (1 + step) / (10 + step))
        get_ema_multi_avg_fn(decay)(list(self.flow.parameters()), list(flow.parameters()), None)
        for kept, new in zip(self.flow.buffers(), flow.buffers(), strict=True):
            kept.copy_(new)
