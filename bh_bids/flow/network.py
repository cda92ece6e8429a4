"""The target-domain density: a multi-scale neural spline flow on axial slices.

Durkan et al., Neural Spline Flows, NeurIPS 2019; multi-scale as in Dinh et al., Real NVP, ICLR
2017; as the prior of BlindHarmony (Jeong et al., ICCV 2023). The module tree and the state dict's
keys are those of nflows' ``MultiscaleCompositeTransform`` of ``CompositeTransform`` levels.
"""

import math

import torch
from nflows.transforms import CompositeTransform, SqueezeTransform
from torch import nn

from ..errors import InputError
from .layers import FlooredActNorm, InvertibleConvolution, SplineCoupling

# Target units lie in about [0, 1]; the flow works around 0.
CENTRE = 0.5


class TargetFlow(nn.Module):
    """Invertible map between axial slices in target units and standard normal latents.

    Parameters
    ----------
    config : FlowConfig
        Sizes. The slices given may be of any size whose sides are multiples of
        ``config.side_multiple``: the network is convolutional.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        self._transforms = nn.ModuleList()
        channels = 1
        for level in range(config.levels):
            channels *= 4
            self._transforms.append(_level(channels, config))
            if level < config.levels - 1:
                channels //= 2
        # Only four-dimensional parameters change their layout: the convolutions' weights.
        self.to(memory_format=torch.channels_last)

    def forward(self, x):
        """Latents of slices.

        Parameters
        ----------
        x : torch.Tensor, shape (n, 1, h, w)
            Slices in target units; h and w multiples of ``config.side_multiple``.

        Returns
        -------
        z : torch.Tensor, shape (n, h * w)
            Latents; the finest level's come first, and each level's as (channel, x, y).
        logabsdet : torch.Tensor, shape (n,)
            Log absolute determinant of the Jacobian dz/dx.

        Raises
        ------
        InputError
            If the slices are of another shape.
        """
        self._check(x.shape)
        hidden = x - CENTRE
        latents = []
        total = x.new_zeros(x.shape[0])
        for level, transform in enumerate(self._transforms):
            hidden, logabsdet = transform(hidden)
            total = total + logabsdet
            if level < len(self._transforms) - 1:
                factored, hidden = hidden.chunk(2, dim=1)
                latents.append(factored.flatten(1))
        latents.append(hidden.flatten(1))
        return torch.cat(latents, dim=1), total

    def inverse(self, z, slice_shape):
        """Slices of latents.

        Parameters
        ----------
        z : torch.Tensor, shape (n, h * w)
            Latents as :meth:`forward` returns them.
        slice_shape : tuple of int
            (h, w).

        Returns
        -------
        torch.Tensor, shape (n, 1, h, w)
            Slices in target units.

        Raises
        ------
        InputError
            If the latents do not fit ``slice_shape``, or the flow that shape.
        """
        h, w = slice_shape
        self._check((z.shape[0], 1, h, w))
        if z.dim() != 2 or z.shape[1] != h * w:
            raise InputError(
                f"Latents of shape {tuple(z.shape)} do not belong to slices of {h} x {w} voxels."
            )
        shapes = self.latent_shapes(slice_shape)
        parts = z.split([math.prod(shape) for shape in shapes], dim=1)
        hidden = None
        for transform, part, shape in zip(
            reversed(self._transforms), reversed(parts), reversed(shapes), strict=True
        ):
            part = part.reshape(-1, *shape)
            hidden = part if hidden is None else torch.cat((part, hidden), dim=1)
            hidden, _ = transform.inverse(hidden)
        return hidden + CENTRE

    def latent_shapes(self, slice_shape):
        """Shape (channels, h, w) of each level's latents, in the order they are flattened."""
        h, w = slice_shape
        levels = self.config.levels
        shapes = [(2 ** (k + 1), h >> (k + 1), w >> (k + 1)) for k in range(levels)]
        channels, *sides = shapes[-1]
        return [*shapes[:-1], (2 * channels, *sides)]

    def log_prob(self, x):
        """Log density (nats, per slice, in target units) of slices (n, 1, h, w); shape (n,)."""
        z, logabsdet = self(x)
        return logabsdet - 0.5 * (z.square().sum(dim=1) + z.shape[1] * math.log(2 * math.pi))

    def bits_per_dim(self, x):
        """Bits per dimension of slices (n, 1, h, w), discretised at ``config.bits`` bits.

        The density times the step ``2**-bits`` is the probability of the discretised value, so
        averaged over :func:`dequantise`'s noise this bounds the bits a lossless code would spend.
        ``x`` is evaluated as given, without new noise.

        Returns
        -------
        torch.Tensor, shape (n,)
        """
        dimensions = x[0].numel()
        return self.config.bits - self.log_prob(x) / (dimensions * math.log(2))

    def _check(self, shape):
        multiple = self.config.side_multiple
        if len(shape) != 4 or shape[1] != 1 or shape[2] % multiple or shape[3] % multiple:
            raise InputError(
                f"The flow needs slices of shape (n, 1, x, y) with x and y multiples of "
                f"{multiple}, not {tuple(shape)}."
            )


def dequantise(x, bits, noise):
    """Discretise target units in steps of ``2**-bits`` and spread each value over its step.

    The step of level k is centred on ``k * 2**-bits``: background is 0 without noise, and an image
    given to the flow without noise lies in the middle of its steps.

    Parameters
    ----------
    x : torch.Tensor
        Target units.
    bits : int
        The step is ``2**-bits``.
    noise : torch.Tensor, of x's shape
        Uniform in [0, 1).

    Returns
    -------
    torch.Tensor
        ``(round(x * 2**bits) + noise - 0.5) * 2**-bits``.
    """
    levels = 2**bits
    return ((x * levels).round() + noise - 0.5) / levels


def _level(channels, config):
    """One level: squeeze, the steps, and a last 1x1 convolution."""
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
    return CompositeTransform([SqueezeTransform(), *steps, InvertibleConvolution(channels)])
