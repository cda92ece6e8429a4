"""Fast inference of a target-domain flow.

The same function as :class:`bh_bids.flow.network.TargetFlow` with the same weights, to rounding,
reduced to what inference needs: folded weights (:mod:`bh_bids.flow.fold`), channels as rows so that
a step's affine map is one matrix product, convolutions by minimal filtering where that pays
(:mod:`bh_bids.flow.winograd`), a branch-free spline (:mod:`bh_bids.flow.planar`), the
log-determinant only where asked for, and as many slices at once as fit the cache.
"""

import math

import torch

from ..errors import InputError
from .fold import fold
from .graphs import GraphCache
from .network import CENTRE, TargetFlow, level_context
from .precision import repeatable_convolutions
from .stages import Stage, Tools

# From this width on the products saved outweigh the transforms of tiles (CPU only).
WINOGRAD_CHANNELS = 48
# Values of the hidden channels that one chunk of slices may hold on a CPU: what its cache keeps.
CHUNK_VALUES = 2**19


class FlowEngine:
    """Inference of a flow with fixed weights; it never trains and never follows later changes.

    Build it with :meth:`from_flow` or :meth:`from_state_dict`, again after every load.

    Parameters
    ----------
    levels : list of bh_bids.flow.fold.FoldedLevel
    config : FlowConfig
    device : torch.device
    dtype : torch.dtype
        Of the weights and of the slices it takes.
    winograd : bool or None
        Convolutions by minimal filtering; None decides by device and width.
    compile : bool
        Compile spline and convolutions with ``torch.compile``; where that fails they run as they
        are. The first pass of each kind then takes a minute.
    tf32 : bool
        On CUDA, let convolutions round their factors to TF32 (10 bits).
    graphs : bool
        On CUDA, record passes whose shapes come again, and replay them.
    """

    def __init__(
        self,
        levels,
        config,
        *,
        device,
        dtype,
        winograd=None,
        compile=False,
        tf32=True,
        graphs=True,
    ):
        self.config, self.device, self.dtype = config, torch.device(device), dtype
        on_cpu = self.device.type == "cpu"
        if winograd is None:
            winograd = on_cpu and config.hidden_channels >= WINOGRAD_CHANNELS
        self._tf32 = tf32
        self._chunk = CHUNK_VALUES // config.hidden_channels if on_cpu else None
        self._graphs = GraphCache() if graphs and self.device.type == "cuda" else None
        # Weights made in inference mode could not be differentiated through later.
        with torch.inference_mode(False), torch.no_grad():
            tools = Tools(config, self.device, dtype, winograd=winograd, compile=compile)
            self._stages = [Stage(level, tools) for level in levels]

    @classmethod
    def from_flow(cls, flow, **options):
        """Engine of a TargetFlow's weights as they are now, on its device and of its type.

        Parameters
        ----------
        flow : TargetFlow
            In evaluation mode: batch norm uses its running statistics.
        **options
            See the class: ``winograd``, ``compile``, ``tf32``, ``graphs``.
        """
        weight = next(flow.parameters())
        return cls.from_state_dict(
            flow.state_dict(), flow.config, device=weight.device, dtype=weight.dtype, **options
        )

    @classmethod
    def from_state_dict(cls, state, config, *, device="cpu", dtype=torch.float32, **options):
        """Engine of a state dict.

        Parameters
        ----------
        state : dict of str to torch.Tensor
            Of a TargetFlow, or of the same architecture in plain nflows.
        config : FlowConfig
        device : str or torch.device
        dtype : torch.dtype
        **options
            See the class.

        Raises
        ------
        ModelError
            If the tensors are not those that ``config`` asks for.
        """
        with torch.inference_mode(False), torch.no_grad():
            levels = fold(state, config)
        return cls(levels, config, device=device, dtype=dtype, **options)

    def __call__(self, x, context=None, logabsdet=True):
        """Latents of slices.

        Parameters
        ----------
        x : torch.Tensor, shape (n, 1, h, w)
            Slices in target units; h and w multiples of ``config.side_multiple``. Where it
            requires its gradient, the pass is differentiable; go back in the block of
            :func:`bh_bids.flow.precision.repeatable_convolutions`.
        context : torch.Tensor, shape (n, len(config.conditions), h, w), optional
            See :class:`bh_bids.flow.network.TargetFlow`.
        logabsdet : bool
            Give the log-determinant as well.

        Returns
        -------
        z : torch.Tensor, shape (n, h * w)
            Latents, ordered as TargetFlow's.
        logabsdet : torch.Tensor, shape (n,), or None
            Log absolute determinant of the Jacobian dz/dx.

        Raises
        ------
        InputError
            If the slices or the context are of another shape.
        """
        passed = self._levels(x, context, logabsdet)
        z = torch.cat([latent.flatten(1) for latent, _ in passed], dim=1)
        return z, sum(part.sum(dim=(1, 2)) for _, part in passed) if logabsdet else None

    def evaluate(self, x, context=None):
        """Latents and log density of slices in one pass.

        Returns
        -------
        z : torch.Tensor, shape (n, h * w)
        log_prob : torch.Tensor, shape (n,)
            Nats, target units; of the brain alone where the flow has the condition "mask", as
            :meth:`TargetFlow.log_prob <bh_bids.flow.network.TargetFlow.log_prob>` defines it.
        """
        levels = self._levels(x, context, True)
        latents = [latent.flatten(1) for latent, _ in levels]
        return torch.cat(latents, dim=1), self.density(levels, context)

    def log_prob(self, x, context=None):
        """Log density (nats, target units) of slices; shape (n,). See :meth:`evaluate`."""
        return self.evaluate(x, context)[1]

    # These follow from the configuration and :meth:`log_prob` alone.
    density = TargetFlow.density
    dimensions = TargetFlow.dimensions
    bits_per_dim = TargetFlow.bits_per_dim
    latent_shapes = TargetFlow.latent_shapes
    _check = TargetFlow._check

    def inverse(self, z, slice_shape, context=None):
        """Slices of latents.

        Parameters
        ----------
        z : torch.Tensor, shape (n, h * w)
            Latents as the engine returns them.
        slice_shape : tuple of int
            (h, w).
        context : torch.Tensor, shape (n, len(config.conditions), h, w), optional

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

        def undo(z, *contexts):
            return [self._undo_levels(z, self.latent_shapes(slice_shape), contexts)]

        return self._run(("inverse", h, w), undo, z, *self._contexts(context))[0]

    def _levels(self, x, context, logabsdet):
        """Each level's latents (n, c, h, w) and log-determinant (n, h, w) or None."""
        self._check(x.shape, context)

        def do(x, *contexts):
            return self._do_levels(x, contexts, logabsdet)

        flat = self._run(("forward", logabsdet), do, x, *self._contexts(context))
        return list(zip(flat[::2], flat[1::2], strict=True))

    def _do_levels(self, x, contexts, logabsdet):
        """Latents and log-determinant of each level, one after the other in a flat list."""
        hidden, found = (x - CENTRE).transpose(0, 1), []
        for stage, context in zip(self._stages, contexts, strict=True):
            hidden, change = self._chunked(stage.forward, _squeeze(hidden), context, logabsdet)
            latent = hidden
            if stage is not self._stages[-1]:
                latent, hidden = hidden.chunk(2, dim=0)
            found += [latent.transpose(0, 1), change]
        return found

    def _undo_levels(self, z, shapes, contexts):
        parts = z.split([math.prod(shape) for shape in shapes], dim=1)
        hidden = None
        for level in reversed(range(len(self._stages))):
            part = parts[level].reshape(-1, *shapes[level]).transpose(0, 1)
            hidden = part if hidden is None else torch.cat((part, hidden))
            hidden = self._chunked(self._stages[level].inverse, hidden, contexts[level])
            hidden = _unsqueeze(hidden)
        return hidden.transpose(0, 1) + CENTRE

    def _chunked(self, function, hidden, context, *options):
        """Run a stage on as many slices at once as fit the cache; hidden is (c, n, h, w)."""
        n, h, w = hidden.shape[1:]
        step = n if self._chunk is None else max(1, self._chunk // (h * w))
        if step >= n:
            return function(hidden, context, *options)
        parts = hidden.split(step, dim=1)
        contexts = [None] * len(parts) if context is None else context.split(step, dim=1)
        found = [function(*part, *options) for part in zip(parts, contexts, strict=True)]
        if torch.is_tensor(found[0]):
            return torch.cat(found, dim=1)
        hidden, changes = zip(*found, strict=True)
        return torch.cat(hidden, dim=1), None if changes[0] is None else torch.cat(changes)

    def _contexts(self, context):
        """What each level's conditioners see: (channels, n, h, w), or None."""
        levels = range(len(self._stages))
        if context is None:
            return [None for _ in levels]
        return [level_context(context, self.config, k).transpose(0, 1) for k in levels]

    def _run(self, name, function, *tensors):
        if self.device.type != "cuda":
            return function(*tensors)
        with repeatable_convolutions(self._tf32):
            if self._graphs is None:
                return function(*tensors)
            return self._graphs.run(name, function, *tensors)


def _squeeze(hidden):
    """Halve both sides: (c, n, h, w) to (4 c, n, h / 2, w / 2), ordered as nflows does."""
    c, n, h, w = hidden.shape
    corners = hidden.reshape(c, n, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4)
    return corners.reshape(4 * c, n, h // 2, w // 2)


def _unsqueeze(hidden):
    """Undo :func:`_squeeze`."""
    c, n, h, w = hidden.shape
    corners = hidden.reshape(c // 4, 2, 2, n, h, w).permute(0, 3, 4, 1, 5, 2)
    return corners.reshape(c // 4, n, 2 * h, 2 * w)
