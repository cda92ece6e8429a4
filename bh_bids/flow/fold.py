"""A flow's state dict, reduced to what inference multiplies by.

Everything linear that follows something linear is multiplied out once, in float64: ActNorm and 1x1
convolution become one channel matrix with its inverse, batch norm behind a convolution becomes part
of it, the softening of the spline's logits part of the conditioner's last layer.
"""

import math
from dataclasses import dataclass, field

import torch
from torch.nn import functional as F

from ..errors import ModelError
from .spline import MIN_DERIVATIVE

# nflows' constants, which are in no state dict.
BATCH_NORM_EPS = 1e-3
DIAGONAL_EPS = 1e-3


@dataclass
class Affine:
    """``y = weight x + bias`` on channels, its inverse, and log |det weight| of one position."""

    weight: torch.Tensor
    bias: torch.Tensor
    logabsdet: float
    inverse_weight: torch.Tensor = None
    inverse_bias: torch.Tensor = None

    def __post_init__(self):
        self.inverse_weight = torch.linalg.inv(self.weight)
        self.inverse_bias = -self.inverse_weight @ self.bias


@dataclass
class Block:
    """A residual block: ``h + conv2(relu(conv1(relu(scale h + shift))))``, both 3 x 3.

    ``scale`` and ``shift`` are None without batch norm. Weights are (out, in, 3, 3).
    """

    first: torch.Tensor
    first_bias: torch.Tensor
    second: torch.Tensor
    second_bias: torch.Tensor
    scale: torch.Tensor = None
    shift: torch.Tensor = None


@dataclass
class Step:
    """An affine map of the channels, then a spline coupling and its conditioner.

    The stem maps the kept channels and, with ``context_stem``, those of the context to the hidden
    ones: (in, hidden). The head gives the spline's parameters in the order and form
    :func:`bh_bids.flow.planar.planar_spline` takes: (rows, hidden).
    """

    affine: Affine
    stem: torch.Tensor
    context_stem: torch.Tensor
    stem_bias: torch.Tensor
    blocks: list
    head: torch.Tensor
    head_bias: torch.Tensor


@dataclass
class FoldedLevel:
    """The steps of a level and the affine map that ends it."""

    steps: list
    last: Affine
    channels: int = field(init=False)

    def __post_init__(self):
        self.channels = len(self.last.bias)


def fold(state, config):
    """Fold a state dict.

    Parameters
    ----------
    state : dict of str to torch.Tensor
        Of :class:`bh_bids.flow.network.TargetFlow`, or of the same architecture in plain nflows.
    config : FlowConfig

    Returns
    -------
    list of FoldedLevel
        float64, on the CPU, the finest level first.

    Raises
    ------
    ModelError
        If a tensor is missing, or has not the shape that ``config`` asks for.
    """
    tensors = {k: v.detach().to("cpu", torch.float64) for k, v in state.items()}
    try:
        return [_level(tensors, k, config) for k in range(config.levels)]
    except (KeyError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"The weights are not those of the model's Config: {reason}.") from None


def _level(tensors, level, config):
    prefix = f"_transforms.{level}._transforms"
    steps = [_step(tensors, f"{prefix}.{k + 1}._transforms", config) for k in range(config.steps)]
    return FoldedLevel(steps, _convolution(tensors, f"{prefix}.{config.steps + 1}"))


def _step(tensors, prefix, config):
    convolution = _convolution(tensors, f"{prefix}.1")
    log_scale, shift = tensors[f"{prefix}.0.log_scale"], tensors[f"{prefix}.0.shift"]
    affine = Affine(
        convolution.weight * log_scale.exp(),
        convolution.weight @ shift + convolution.bias,
        convolution.logabsdet + float(log_scale.sum()),
    )
    net = f"{prefix}.2.transform_net"
    moved = len(affine.bias) // 2
    stem = tensors[f"{net}.initial_layer.weight"].flatten(1).T
    stem, context_stem = stem.split((len(stem) - config.context_channels, config.context_channels))
    head, head_bias = _head(tensors, f"{net}.final_layer", moved, config)
    return Step(
        affine=affine,
        stem=stem,
        context_stem=context_stem if config.conditions else None,
        stem_bias=tensors[f"{net}.initial_layer.bias"],
        blocks=[_block(tensors, f"{net}.blocks.{k}", config) for k in range(config.blocks)],
        head=head,
        head_bias=head_bias,
    )


def _convolution(tensors, prefix):
    """LU-decomposed 1x1 convolution behind a permutation."""
    bias = tensors[f"{prefix}.bias"]
    n = len(bias)
    diagonal = F.softplus(tensors[f"{prefix}.unconstrained_upper_diag"]) + DIAGONAL_EPS
    lower, upper = torch.eye(n, dtype=bias.dtype), torch.diag(diagonal)
    below, above = torch.tril_indices(n, n, -1), torch.triu_indices(n, n, 1)
    lower[below[0], below[1]] = tensors[f"{prefix}.lower_entries"]
    upper[above[0], above[1]] = tensors[f"{prefix}.upper_entries"]
    weight = torch.empty_like(lower)
    weight[:, tensors[f"{prefix}.permutation._permutation"].long()] = lower @ upper
    return Affine(weight, bias, float(diagonal.log().sum()))


def _block(tensors, prefix, config):
    convolutions = [
        [tensors[f"{prefix}.conv_layers.{k}.{name}"] for name in ("weight", "bias")] for k in (0, 1)
    ]
    (first, first_bias), (second, second_bias) = convolutions
    if not config.batch_norm:
        return Block(first, first_bias, second, second_bias)
    scale, shift = _batch_norm(tensors, f"{prefix}.batch_norm_layers.0")
    inner, offset = _batch_norm(tensors, f"{prefix}.batch_norm_layers.1")
    return Block(
        first * inner[:, None, None, None],
        first_bias * inner + offset,
        second,
        second_bias,
        scale,
        shift,
    )


def _batch_norm(tensors, prefix):
    scale = tensors[f"{prefix}.weight"]
    scale = scale / (tensors[f"{prefix}.running_var"] + BATCH_NORM_EPS).sqrt()
    return scale, tensors[f"{prefix}.bias"] - scale * tensors[f"{prefix}.running_mean"]


def _head(tensors, prefix, moved, config):
    """The last layer, its rows ordered (parameter, channel), with the outer derivatives' rows."""
    bins, hidden = config.bins, config.hidden_channels
    weight = tensors[f"{prefix}.weight"].view(moved, 3 * bins - 1, hidden).transpose(0, 1).clone()
    bias = tensors[f"{prefix}.bias"].view(moved, 3 * bins - 1).T.clone()
    weight[: 2 * bins] /= math.sqrt(hidden)
    bias[: 2 * bins] /= math.sqrt(hidden)
    # Derivatives of 1 at the two outer knots join the linear tails smoothly.
    outer = bias.new_full((1, moved), math.log(math.expm1(1 - MIN_DERIVATIVE)))
    none = weight.new_zeros(1, moved, hidden)
    weight = torch.cat((weight[: 2 * bins], none, weight[2 * bins :], none))
    bias = torch.cat((bias[: 2 * bins], outer, bias[2 * bins :], outer))
    return weight.reshape(-1, hidden).contiguous(), bias.reshape(-1, 1).contiguous()
