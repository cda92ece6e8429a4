"""One level of the inference engine: its steps and their conditioners.

Slices are held as (channels, n * h * w), one row per channel, so that affine maps of channels are
matrix products; hidden channels as (n, h, w, channels), so that layers of 1 x 1 are, too.
"""

from dataclasses import fields, replace

import torch
from torch.nn import functional as F

from .compiled import Compiled
from .planar import planar_spline, running_sums
from .winograd import WinogradBlocks


class Tools:
    """What all stages share: where and how they compute.

    Parameters
    ----------
    config : FlowConfig
    device : torch.device
    dtype : torch.dtype
    winograd : bool
        Convolutions by minimal filtering.
    compile : bool
        Compile the spline and the convolutions.
    """

    def __init__(self, config, device, dtype, *, winograd=False, compile=False):
        self.device, self.dtype, self.winograd = device, dtype, winograd
        self.tail_bound = config.tail_bound
        self.sums = self.cast(running_sums(config.bins))
        self.spline = Compiled(planar_spline) if compile else planar_spline
        self.residual = Compiled(residual_blocks) if compile else residual_blocks

    def cast(self, tensor):
        """A folded tensor where and as it is used; None stays None."""
        return None if tensor is None else tensor.to(self.device, self.dtype).contiguous()


class Stage:
    """A level's steps and its last affine map.

    Parameters
    ----------
    level : bh_bids.flow.fold.FoldedLevel
    tools : Tools
    """

    def __init__(self, level, tools):
        self._tools, cast = tools, tools.cast
        affines = [step.affine for step in level.steps] + [level.last]
        self._ways = [(cast(a.weight), cast(a.bias[:, None])) for a in affines]
        self._ways_back = [(cast(a.inverse_weight), cast(a.inverse_bias[:, None])) for a in affines]
        self._constant = sum(a.logabsdet for a in affines)
        self._conditioners = [Conditioner(step, tools) for step in level.steps]
        self._moved = level.channels // 2

    def forward(self, hidden, context, logabsdet):
        """Transform; returns outputs (c, n, h, w) and the log-determinant (n, h, w) or None."""
        shape = hidden.shape
        hidden = hidden.reshape(shape[0], -1)
        change = hidden.new_full(hidden.shape[1:], self._constant) if logabsdet else None
        for (weight, bias), conditioner in zip(self._ways[:-1], self._conditioners, strict=True):
            hidden = torch.addmm(bias, weight, hidden)
            hidden, share = self._couple(hidden, conditioner, context, shape, False, logabsdet)
            if logabsdet:
                change = change + share
        weight, bias = self._ways[-1]
        hidden = torch.addmm(bias, weight, hidden).view(shape)
        return hidden, change.view(shape[1:]) if logabsdet else None

    def inverse(self, hidden, context):
        """Transform back; returns outputs (c, n, h, w)."""
        shape = hidden.shape
        hidden = hidden.reshape(shape[0], -1)
        weight, bias = self._ways_back[-1]
        hidden = torch.addmm(bias, weight, hidden)
        for k in reversed(range(len(self._conditioners))):
            hidden, _ = self._couple(hidden, self._conditioners[k], context, shape, True, False)
            weight, bias = self._ways_back[k]
            hidden = torch.addmm(bias, weight, hidden)
        return hidden.view(shape)

    def _couple(self, hidden, conditioner, context, shape, inverse, logabsdet):
        moved, kept = hidden.split((self._moved, shape[0] - self._moved))
        parameters = conditioner(kept, context, shape[1:])
        found, change = self._tools.spline(
            moved.reshape(1, -1),
            parameters.view(-1, moved.numel()),
            self._tools.sums,
            self._tools.tail_bound,
            inverse,
            logabsdet,
        )
        hidden = torch.cat((found.view(moved.shape), kept))
        return hidden, change.view(moved.shape).sum(dim=0) if logabsdet else None


class Conditioner:
    """From the kept channels and the context to the splines' parameters.

    Parameters
    ----------
    step : bh_bids.flow.fold.Step
    tools : Tools
    """

    def __init__(self, step, tools):
        cast = tools.cast
        self._stem, self._stem_bias = cast(step.stem), cast(step.stem_bias)
        self._context_stem = cast(step.context_stem)
        self._head, self._head_bias = cast(step.head), cast(step.head_bias)
        self._residual, self._blocks = tools.residual, [_direct(b, cast) for b in step.blocks]
        self._fast = WinogradBlocks(step.blocks, tools.dtype) if tools.winograd else None

    def __call__(self, kept, context, sides):
        """Parameters (rows, n * h * w) of kept channels (c, n * h * w); ``sides`` are (n, h, w)."""
        stream = torch.addmm(self._stem_bias, kept.T, self._stem)
        if context is not None:
            stream = torch.addmm(stream, context.reshape(len(context), -1).T, self._context_stem)
        stream = stream.view(*sides, -1)
        # Minimal filtering works in place, which gradients cannot pass.
        differentiable = torch.is_grad_enabled() and stream.requires_grad
        if self._fast is None or differentiable:
            stream = self._residual(stream, self._blocks)
        else:
            stream = self._fast(stream)
        return torch.addmm(self._head_bias, self._head, stream.reshape(-1, stream.shape[3]).T)


def residual_blocks(stream, blocks):
    """Residual blocks by direct convolution.

    Parameters
    ----------
    stream : torch.Tensor, shape (n, h, w, channels)
    blocks : list of bh_bids.flow.fold.Block
        ``scale`` and ``shift`` of shape (channels, 1, 1), if any.

    Returns
    -------
    torch.Tensor, shape (n, h, w, channels)
    """
    stream = stream.permute(0, 3, 1, 2)
    for block in blocks:
        scaled = stream
        if block.scale is not None:
            scaled = torch.addcmul(block.shift, stream, block.scale)
        inner = F.conv2d(F.relu(scaled), block.first, block.first_bias, padding=1).relu_()
        stream = F.conv2d(inner, block.second, block.second_bias, padding=1).add_(stream)
    return stream.permute(0, 2, 3, 1)


def _direct(block, cast):
    cast_all = {f.name: cast(getattr(block, f.name)) for f in fields(block)}
    for name in ("first", "second"):
        cast_all[name] = cast_all[name].contiguous(memory_format=torch.channels_last)
    if block.scale is not None:
        cast_all |= {name: cast_all[name][:, None, None] for name in ("scale", "shift")}
    return replace(block, **cast_all)
