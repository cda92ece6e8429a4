"""The target-domain density: a multi-scale neural spline flow on axial slices.

Durkan et al., Neural Spline Flows, NeurIPS 2019; multi-scale as in Dinh et al., Real NVP, ICLR
2017; as the prior of BlindHarmony (Jeong et al., ICCV 2023). Without conditions the module tree
and the state dict's keys are those of nflows' ``MultiscaleCompositeTransform`` of
``CompositeTransform`` levels. With conditions it is a density of slices given what is known of
them: where the brain is, the slice below, the target's mean there, the noise.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from ..errors import InputError
from .layers import Level

# Target units lie in about [0, 1]; the flow works around 0.
CENTRE = 0.5


class TargetFlow(nn.Module):
    """Invertible map between axial slices in target units and standard normal latents.

    Parameters
    ----------
    config : FlowConfig
        Sizes. The slices given may be of any size whose sides are multiples of
        ``config.side_multiple``: the network is convolutional.

    Notes
    -----
    ``context``, shape (n, len(config.conditions), h, w), holds one map for each of the
    configuration's conditions, in their order: the brain mask as 0 and 1; the next lower slice in
    target units, 0 where there is none; the target's mean volume at the slice, target units; and
    ``config.noise_code`` of the slice's noise, everywhere the same. It is None where the
    configuration has no conditions.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        self._transforms = nn.ModuleList()
        channels = 1
        for level in range(config.levels):
            channels *= 4
            self._transforms.append(Level(channels, config))
            if level < config.levels - 1:
                channels //= 2
        # Only four-dimensional parameters change their layout: the convolutions' weights.
        self.to(memory_format=torch.channels_last)

    def forward(self, x, context=None):
        """Latents of slices.

        Parameters
        ----------
        x : torch.Tensor, shape (n, 1, h, w)
            Slices in target units; h and w multiples of ``config.side_multiple``.
        context : torch.Tensor, shape (n, len(config.conditions), h, w), optional
            See the class.

        Returns
        -------
        z : torch.Tensor, shape (n, h * w)
            Latents; the finest level's come first, and each level's as (channel, x, y).
        logabsdet : torch.Tensor, shape (n,)
            Log absolute determinant of the Jacobian dz/dx.

        Raises
        ------
        InputError
            If the slices or the context are of another shape.
        """
        levels = list(self._levels(x, context))
        z = torch.cat([latent.flatten(1) for latent, _ in levels], dim=1)
        return z, sum(logabsdet.sum(dim=(1, 2)) for _, logabsdet in levels)

    def _levels(self, x, context):
        """Yield each level's latents (n, c, h, w) and log-determinant (n, h, w)."""
        self._check(x.shape, context)
        hidden = x - CENTRE
        for level, transform in enumerate(self._transforms):
            hidden, logabsdet = transform(hidden, level_context(context, self.config, level))
            if level < len(self._transforms) - 1:
                factored, hidden = hidden.chunk(2, dim=1)
                yield factored, logabsdet
            else:
                yield hidden, logabsdet

    def inverse(self, z, slice_shape, context=None):
        """Slices of latents.

        Parameters
        ----------
        z : torch.Tensor, shape (n, h * w)
            Latents as :meth:`forward` returns them.
        slice_shape : tuple of int
            (h, w).
        context : torch.Tensor, shape (n, len(config.conditions), h, w), optional
            See the class.

        Returns
        -------
        torch.Tensor, shape (n, 1, h, w)
            Slices in target units.

        Raises
        ------
        InputError
            If the latents do not fit ``slice_shape``, or the flow that shape or context.
        """
        h, w = slice_shape
        self._check((z.shape[0], 1, h, w), context)
        if z.dim() != 2 or z.shape[1] != h * w:
            raise InputError(
                f"Latents of shape {tuple(z.shape)} do not belong to slices of {h} x {w} voxels."
            )
        shapes = self.latent_shapes(slice_shape)
        parts = z.split([math.prod(shape) for shape in shapes], dim=1)
        hidden = None
        for level in reversed(range(self.config.levels)):
            part = parts[level].reshape(-1, *shapes[level])
            hidden = part if hidden is None else torch.cat((part, hidden), dim=1)
            inner = level_context(context, self.config, level)
            hidden = self._transforms[level].inverse(hidden, inner)
        return hidden + CENTRE

    def latent_shapes(self, slice_shape):
        """Shape (channels, h, w) of each level's latents, in the order they are flattened."""
        h, w = slice_shape
        levels = self.config.levels
        shapes = [(2 ** (k + 1), h >> (k + 1), w >> (k + 1)) for k in range(levels)]
        channels, *sides = shapes[-1]
        return [*shapes[:-1], (2 * channels, *sides)]

    def log_prob(self, x, context=None):
        """Log density (nats, target units) of slices; shape (n,).

        With the condition "mask" only the brain counts: a position's share, its latents' log
        density and its log-determinant, is weighted by the part of it that is brain.

        Parameters
        ----------
        x, context
            See :meth:`forward`.
        """
        return self.density(self._levels(x, context), context)

    def density(self, levels, context):
        """Log density of slices from what their levels gave.

        Parameters
        ----------
        levels : iterable of tuple of torch.Tensor
            Each level's latents (n, c, h, w) and log-determinant (n, h, w).
        context : torch.Tensor or None
            See the class.

        Returns
        -------
        torch.Tensor, shape (n,)
            Nats; see :meth:`log_prob`.
        """
        total = 0.0
        for level, (latent, logabsdet) in enumerate(levels):
            normal = -0.5 * (latent.square() + math.log(2 * math.pi)).sum(dim=1)
            share = normal + logabsdet
            if "mask" in self.config.conditions:
                mask = context[:, self.config.conditions.index("mask")]
                share = share * F.avg_pool2d(mask, 2 ** (level + 1))
            total = total + share.sum(dim=(1, 2))
        return total

    def dimensions(self, x, context=None):
        """Number of voxels of each slice that :meth:`log_prob` counts; shape (n,)."""
        if "mask" in self.config.conditions:
            return context[:, self.config.conditions.index("mask")].sum(dim=(1, 2))
        return x.new_full((x.shape[0],), x[0].numel())

    def bits_per_dim(self, x, context=None):
        """Bits per dimension of slices (n, 1, h, w), discretised at ``config.bits`` bits.

        The density times the step ``2**-bits`` is the probability of the discretised value, so
        averaged over :func:`dequantise`'s noise this bounds the bits a lossless code would spend.
        ``x`` is evaluated as given, without new noise. A slice without brain has none (NaN) where
        only the brain counts.

        Returns
        -------
        torch.Tensor, shape (n,)
        """
        dimensions = self.dimensions(x, context)
        return self.config.bits - self.log_prob(x, context) / (dimensions * math.log(2))

    def _check(self, shape, context):
        multiple = self.config.side_multiple
        if len(shape) != 4 or shape[1] != 1 or shape[2] % multiple or shape[3] % multiple:
            raise InputError(
                f"The flow needs slices of shape (n, 1, x, y) with x and y multiples of "
                f"{multiple}, not {tuple(shape)}."
            )
        conditions = self.config.conditions
        expected = (shape[0], len(conditions), *shape[2:]) if conditions else None
        if (None if context is None else tuple(context.shape)) != expected:
            raise InputError(
                f"The flow needs a context of shape {expected}, one map each for "
                f"{', '.join(conditions)}."
                if conditions
                else "The flow has no conditions: it takes no context."
            )


def level_context(context, config, level):
    """What a level's conditioners see of the context.

    Maps are averaged down to the level's input and squeezed as the slice is, four channels each;
    the noise is one channel.

    Parameters
    ----------
    context : torch.Tensor, shape (n, len(config.conditions), h, w), or None
        See :class:`TargetFlow`.
    config : FlowConfig
    level : int
        0 is the finest.

    Returns
    -------
    torch.Tensor, shape (n, config.context_channels, h >> (level + 1), w >> (level + 1)), or None
    """
    if context is None:
        return None
    images, parts = context, []
    if "noise" in config.conditions:
        side = 2 ** (level + 1)
        images, parts = context[:, :-1], [context[:, -1:, ::side, ::side]]
    if images.shape[1]:
        pooled = F.avg_pool2d(images, 2**level) if level else images
        parts.insert(0, F.pixel_unshuffle(pooled, 2))
    small = torch.cat(parts, dim=1)
    return small.contiguous(memory_format=torch.channels_last)


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
