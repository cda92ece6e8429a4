"""The published procedure, from its description alone, on plain nflows modules.

What bh-bids is measured against. Jeong et al., BlindHarmony, ICCV 2023, as described by its paper
and its settings: every slice of the volume, empty or not, is brought to [0, 1] by its own extremes;
a forward pass whose latents nobody uses; ten times an image step with fixed step sizes, 12-bit
dequantisation, forward pass, shrink, inverse pass, clamp. No stopping rule, no cropping.
"""

import math
import warnings

import torch
from nflows import transforms
from nflows.nn.nets import ConvResidualNet
from nflows.utils import create_mid_split_binary_mask
from torch.nn import functional as F

CENTRE = 0.5
SOBEL = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])


def plain_flow(config, slice_shape):
    """A FlowConfig's architecture from nflows' own classes; keys as TargetFlow's.

    It takes slices less 1/2, of ``slice_shape`` only, and has no conditions.
    """
    flow = transforms.MultiscaleCompositeTransform(config.levels)
    shape = (1, *slice_shape)
    for _ in range(config.levels):
        squeeze = transforms.SqueezeTransform()
        channels, h, w = squeeze.get_output_shape(*shape)
        steps = [_step(channels, config) for _ in range(config.steps)]
        level = [squeeze, *steps, transforms.OneByOneConvolution(channels)]
        shape = flow.add_transform(transforms.CompositeTransform(level), (channels, h, w))
    return flow.eval()


def _step(channels, config):
    def conditioner(inputs, outputs):
        return ConvResidualNet(
            inputs,
            outputs,
            config.hidden_channels,
            num_blocks=config.blocks,
            use_batch_norm=config.batch_norm,
        )

    coupling = transforms.PiecewiseRationalQuadraticCouplingTransform(
        create_mid_split_binary_mask(channels),
        conditioner,
        num_bins=config.bins,
        tails="linear",
        tail_bound=config.tail_bound,
    )
    return transforms.CompositeTransform(
        [transforms.ActNorm(channels), transforms.OneByOneConvolution(channels), coupling]
    )


def randomise(flow, slices):
    """Give a TargetFlow weights as training leaves them: they cost what trained ones cost.

    Splines bend, channels mix, and one pass over ``slices`` sets ActNorm and batch norm.
    """
    config, rows = flow.config, 3 * flow.config.bins - 1
    flow.train()
    with torch.no_grad():
        for module in flow.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
            elif isinstance(module, transforms.OneByOneConvolution):
                module.lower_entries.normal_(0, 0.05)
                module.upper_entries.normal_(0, 0.05)
            elif isinstance(module, ConvResidualNet):
                for block in module.blocks:
                    torch.nn.init.kaiming_normal_(block.conv_layers[1].weight).mul_(0.05)
                root = math.sqrt(config.hidden_channels)
                weight = module.final_layer.weight.normal_(0, 0.3 / root)
                weight.view(-1, rows, config.hidden_channels)[:, : 2 * config.bins] *= root / 2
                module.final_layer.bias.normal_(0, 0.3)
        flow(slices)
    return flow.eval().requires_grad_(False)


@torch.no_grad()
def harmonize_as_published(flow, source, start, *, iterations=10, bits=12, batch=50, seed=0):
    """Harmonize slices.

    Parameters
    ----------
    flow : nflows transform
        :func:`plain_flow`.
    source : torch.Tensor, shape (n, 1, h, w)
        Source slices, any unit.
    start : torch.Tensor, shape (n, 1, h, w)
        Mean of the target's slices, [0, 1].

    Returns
    -------
    torch.Tensor, shape (n, 1, h, w)
        Harmonized slices, [0, 1].
    """
    generator = torch.Generator().manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nflows' triangular_solve is deprecated
        parts = zip(source.split(batch), start.split(batch), strict=True)
        return torch.cat([_harmonize(flow, s, x, iterations, bits, generator) for s, x in parts])


def _harmonize(flow, source, x, iterations, bits, generator):
    low, high = source.amin(dim=(1, 2, 3), keepdim=True), source.amax(dim=(1, 2, 3), keepdim=True)
    source = (source - low) / (high - low).clamp_min(1e-6)
    smooth = _smooth_regions(source)
    levels = 2**bits
    flow(x - CENTRE)
    for _ in range(iterations):
        with torch.enable_grad():
            moving = x.clone().requires_grad_(True)
            cosine = F.cosine_similarity(moving.flatten(1), source.flatten(1), eps=1e-6)
            edges = (smooth * _sobel(moving)).abs().sum()
            distance = 1e3 * (1 - cosine).sum() + 1e-3 * edges
            (gradient,) = torch.autograd.grad(distance, moving)
        x = (x - gradient).clamp(0, 1)
        noise = torch.rand(x.shape, generator=generator)
        x = ((x * (levels - 1)).floor() + noise) / levels
        z, _ = flow(x - CENTRE)
        x, _ = flow.inverse((1 - 1e-3) * z)
        x = (x + CENTRE).nan_to_num(0).clamp(0, 1)
    return x


def _sobel(x):
    kernels = torch.stack((SOBEL, SOBEL.T))[:, None].to(x)
    return F.conv2d(x, kernels, padding=1)


def _smooth_regions(source):
    """Where the source has no edges: 1 where |Sobel| is at most its slice's 30th percentile."""
    gradient = _sobel(source).abs()
    limits = gradient.flatten(2).quantile(0.3, dim=2)[:, :, None, None]
    return ((gradient <= limits) & (source > 0.05)).to(source.dtype)
