"""The flow's invertible layers: nflows' parameters and keys, our arithmetic.

Each class derives from its nflows 0.14 counterpart, so that a state dict of one loads into the
other, and replaces what fails or is slow there: the initialisation of ActNorm on constant channels
(skull-stripped background), the deprecated triangular solves, the boolean-mask spline.
"""

import math

import numpy as np
import torch
from nflows.nn.nets import ConvResidualNet
from nflows.transforms import (
    ActNorm,
    CompositeTransform,
    OneByOneConvolution,
    PiecewiseRationalQuadraticCouplingTransform,
    SqueezeTransform,
)
from nflows.utils import create_mid_split_binary_mask
from torch.nn import functional as F

from .spline import rational_quadratic_spline

# A channel that is flatter than this in the first batch is scaled as if it were this wide.
STD_FLOOR = 1e-2


class FlooredActNorm(ActNorm):
    """ActNorm whose data-dependent initialisation stays finite on constant channels."""

    _known_initialized = False

    def _initialize(self, inputs):
        with torch.no_grad():
            dims = [d for d in range(inputs.dim()) if d != 1]
            std = inputs.std(dim=dims, correction=0).clamp_min(STD_FLOOR)
            # In place: the tensors keep their device, and an optimiser its parameters.
            self.log_scale.copy_(-std.log())
            self.shift.copy_(-inputs.mean(dim=dims) / std)
            self.initialized.fill_(True)

    def _load_from_state_dict(self, *args, **options):
        super()._load_from_state_dict(*args, **options)
        self._known_initialized = False

    def forward(self, inputs, context=None):
        """Scale and shift channels; returns outputs (n, c, h, w) and the log-determinant ()."""
        # A GPU's truth values are looked at once: each look waits for all its work.
        if self.training and not self._known_initialized:
            if not self.initialized:
                self._initialize(inputs)
            self._known_initialized = True
        scale, shift = self._broadcastable_scale_shift(inputs)
        return scale * inputs + shift, self.log_scale.sum()

    def inverse(self, inputs, context=None):
        """Undo :meth:`forward`; returns outputs (n, c, h, w) and the log-determinant ()."""
        scale, shift = self._broadcastable_scale_shift(inputs)
        return (inputs - shift) / scale, -self.log_scale.sum()


class InvertibleConvolution(OneByOneConvolution):
    """1x1 convolution with an LU-decomposed weight behind a fixed permutation of channels.

    The permutation and both factors are multiplied into one matrix, in float64, and the inverse
    is that matrix's inverse.
    """

    def __init__(self, num_channels):
        super().__init__(num_channels, using_cache=False, identity_init=True)
        # Where the parameters lie is known on their device, too, but is no part of a model's files.
        for name, indices in (("_below", self.lower_indices), ("_above", self.upper_indices)):
            self.register_buffer(name, torch.as_tensor(np.stack(indices)), persistent=False)

    def matrix(self):
        """Weight W, float64, such that channels map by ``W x + bias``; shape (c, c)."""
        n = self.features
        lower = torch.eye(n, dtype=torch.float64, device=self.bias.device)
        lower = lower.index_put(tuple(self._below), self.lower_entries.double())
        upper = torch.diag(self.upper_diag.double())
        upper = upper.index_put(tuple(self._above), self.upper_entries.double())
        product = lower @ upper
        return torch.zeros_like(product).index_copy(1, self.permutation._permutation, product)

    def forward(self, inputs, context=None):
        """Map channels; returns outputs (n, c, h, w) and the log-determinant ()."""
        weight = self.matrix().to(inputs.dtype)
        outputs = F.conv2d(inputs, weight[:, :, None, None], self.bias)
        return outputs, self.logabsdet()

    def inverse(self, inputs, context=None):
        """Map channels back; returns outputs (n, c, h, w) and the log-determinant ()."""
        weight = torch.linalg.inv(self.matrix())
        bias = -(weight @ self.bias.double())
        weight, bias = weight.to(inputs.dtype), bias.to(inputs.dtype)
        outputs = F.conv2d(inputs, weight[:, :, None, None], bias)
        return outputs, -self.logabsdet()


class SplineCoupling(PiecewiseRationalQuadraticCouplingTransform):
    """Rational-quadratic coupling: one half of the channels sets the splines of the other.

    Parameters
    ----------
    channels : int
        Channels of the input; the first half (rounded up) is transformed.
    config : FlowConfig
        Sizes of the conditioner and of the splines, and what the conditioner sees.
    """

    def __init__(self, channels, config):
        def conditioner(in_channels, out_channels):
            return ConvResidualNet(
                in_channels=in_channels + config.context_channels,
                out_channels=out_channels,
                hidden_channels=config.hidden_channels,
                num_blocks=config.blocks,
                use_batch_norm=config.batch_norm,
            )

        super().__init__(
            mask=create_mid_split_binary_mask(channels),
            transform_net_create_fn=conditioner,
            num_bins=config.bins,
            tails="linear",
            tail_bound=config.tail_bound,
        )

    def forward(self, inputs, context=None):
        """Transform; returns outputs (n, c, h, w) and the log-determinant (n, h, w)."""
        return self._transform(inputs, context, inverse=False)

    def inverse(self, inputs, context=None):
        """Transform back; returns outputs (n, c, h, w) and the log-determinant (n, h, w)."""
        return self._transform(inputs, context, inverse=True)

    def _transform(self, inputs, context, inverse):
        moved, kept = inputs.split((self.num_transform_features, self.num_identity_features), 1)
        n, c, h, w = moved.shape
        known = kept if context is None else torch.cat((kept, context), dim=1)
        parameters = self.transform_net(known.contiguous(memory_format=torch.channels_last))
        parameters = parameters.contiguous().view(n, c, -1, h, w)
        sizes = (self.num_bins, self.num_bins, self.num_bins - 1)
        widths, heights, derivatives = parameters.split(sizes, dim=2)
        softening = 1 / math.sqrt(self.transform_net.hidden_channels)
        moved, logabsdet = rational_quadratic_spline(
            moved,
            widths * softening,
            heights * softening,
            derivatives,
            tail_bound=self.tail_bound,
            inverse=inverse,
        )
        return torch.cat((moved, kept), dim=1), logabsdet.sum(dim=1)


class Level(CompositeTransform):
    """One level: squeeze, the steps, and a last 1x1 convolution.

    Parameters
    ----------
    channels : int
        Channels after the squeeze.
    config : FlowConfig
        Number of steps, and sizes of their couplings.
    """

    def __init__(self, channels, config):
        steps = [
            CompositeTransform(
                [
                    FlooredActNorm(channels),
                    InvertibleConvolution(channels),
                    SplineCoupling(channels, config),
                ]
            )
            for _ in range(config.steps)
        ]
        super().__init__([SqueezeTransform(), *steps, InvertibleConvolution(channels)])

    def forward(self, inputs, context=None):
        """Transform; returns outputs (n, c, h, w) and the log-determinant (n, h, w)."""
        squeeze, *layers = self._flat()
        outputs, _ = squeeze(inputs)
        total = outputs.new_zeros(outputs.shape[0], *outputs.shape[2:])
        for layer in layers:
            outputs, logabsdet = layer(outputs, context)
            total = total + logabsdet
        return outputs, total

    def inverse(self, inputs, context=None):
        """Transform back; returns outputs (n, c / 4, 2 h, 2 w) alone."""
        squeeze, *layers = self._flat()
        for layer in reversed(layers):
            inputs, _ = layer.inverse(inputs, context)
        return squeeze.inverse(inputs)[0]

    def _flat(self):
        squeeze, *steps, last = self._transforms
        return [squeeze, *(layer for step in steps for layer in step._transforms), last]
