"""The networks (MONAI's), how they are trained, and how they are applied to a volume."""

import math
import time
from contextlib import contextmanager

import numpy as np

from ..errors import InputError, ModelError
from .patches import PLANES

# Sides of a slice are padded to a multiple of this: the networks halve them four times.
MULTIPLE = 16
# Slices that go through a network together.
BATCH = 16
REPORTS = 5


def unet(features, *, inputs=1, outputs=1, norm=None):
    """MONAI's 2-D BasicUNet, whose output is 0 before it is trained.

    What it gives is added to the image, so that its training starts from the image as it is.

    Parameters
    ----------
    features : sequence of int
        Of the five levels, and of the last full-size one.
    inputs, outputs : int
        Channels.
    norm : str, tuple or None
        As MONAI takes it.

    Returns
    -------
    torch.nn.Module
    """
    # It takes seconds to import, and most runs need no network.
    import torch
    from monai.networks.nets import BasicUNet
    from torch import nn

    network = BasicUNet(2, inputs, outputs, tuple(features), norm=norm, upsample="nontrainable")
    for parameter in network.final_conv.parameters():
        nn.init.zeros_(parameter)
    # A third faster on the CPU.
    return network.to(memory_format=torch.channels_last)


def masked_l1(image, other, mask):
    """Mean absolute difference inside a mask.

    Parameters
    ----------
    image, other, mask : torch.Tensor, shape (n, 1, h, w)

    Returns
    -------
    torch.Tensor, shape ()
    """
    return ((image - other).abs() * mask).sum() / mask.sum()


@contextmanager
def seeded(seed):
    """Draw torch's random numbers from a seed, and leave its generator as it was."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def train_steps(title, one_step, optimizers, settings, report):
    """Run a training: learning rate by a half cosine to 0, progress in a few sentences.

    Parameters
    ----------
    title : str
        Of what is trained, for the sentences.
    one_step : callable
        ``one_step(k)`` makes the k-th step and gives its loss, a float.
    optimizers : sequence of torch.optim.Optimizer
    settings : object
        With ``steps`` and ``learning_rate``.
    report : callable

    Returns
    -------
    list of float
        The loss of every step.

    Raises
    ------
    ModelError
        If a loss is not finite.
    """
    began, losses = time.monotonic(), []
    interval = max(settings.steps // REPORTS, 1)
    for k in range(settings.steps):
        rate = settings.learning_rate * 0.5 * (1 + math.cos(math.pi * k / settings.steps))
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        losses.append(one_step(k))
        if not math.isfinite(losses[-1]):
            raise ModelError(
                f"{title}: the training diverged at step {k}. Lower the learning rate."
            )
        if (k + 1) % interval == 0:
            recent = float(np.mean(losses[-interval:]))
            minutes = (time.monotonic() - began) / 60
            report(
                f"{title}: step {k + 1} of {settings.steps}, loss {recent:.4f}, {minutes:.2f} min."
            )
    return losses


def apply_slices(network, volume, mask, plane, device, channels=1):
    """Send a volume's slices through a network.

    Parameters
    ----------
    network : torch.nn.Module
        From (n, 1, h, w) to (n, channels, h, w).
    volume : numpy.ndarray of float32, shape (x, y, z)
    mask : numpy.ndarray of bool, shape (x, y, z)
        Only the smallest box that holds it is looked at.
    plane : str
        Key of :data:`bh_bids.comparators.patches.PLANES`.
    device : str or torch.device
        See :func:`bh_bids.harmonization.device.resolve_device`.
    channels : int

    Returns
    -------
    numpy.ndarray of float32, shape (channels, x, y, z)
        0 outside the mask's box.

    Raises
    ------
    InputError
        If shapes differ or the mask is empty.
    """
    import torch

    from ..harmonization.device import resolve_device

    if volume.shape != mask.shape or not mask.any():
        raise InputError(
            f"A network needs a volume and its brain mask, not {volume.shape} and {mask.shape} "
            f"with {np.count_nonzero(mask)} brain voxels."
        )
    device = resolve_device(device)
    network.to(device).eval()
    box = tuple(slice(p.min(), p.max() + 1) for p in np.nonzero(mask))
    axis = PLANES[plane]
    stack = np.moveaxis(np.where(mask, volume, 0)[box], axis, 0).astype(np.float32)
    height, width = stack.shape[1:]
    padded = np.pad(stack, [(0, 0), *((0, -side % MULTIPLE) for side in (height, width))])
    parts = []
    with torch.inference_mode():
        for first in range(0, len(padded), BATCH):
            made = network(torch.from_numpy(padded[first : first + BATCH, None]).to(device))
            parts.append(made[:, :, :height, :width].cpu().numpy())
    result = np.zeros((channels, *volume.shape), np.float32)
    inside = (slice(None), *box)
    result[inside] = np.moveaxis(np.concatenate(parts).swapaxes(0, 1), 1, axis + 1)
    return result


def weights(networks):
    """Parameters and buffers of named networks.

    Parameters
    ----------
    networks : dict of str to torch.nn.Module

    Returns
    -------
    dict of str to numpy.ndarray
        Keys "network/parameter".
    """
    return {
        f"{name}/{key}": value.detach().cpu().numpy().copy()
        for name, network in networks.items()
        for key, value in network.state_dict().items()
    }


def load_weights(networks, state):
    """Put weights in their networks.

    Parameters
    ----------
    networks : dict of str to torch.nn.Module
    state : dict of str to numpy.ndarray
        Of :func:`weights`.

    Raises
    ------
    InputError
        If they do not fit.
    """
    import torch

    try:
        for name, network in networks.items():
            own = {
                key.removeprefix(f"{name}/"): torch.from_numpy(np.array(value))
                for key, value in state.items()
                if key.startswith(f"{name}/")
            }
            network.load_state_dict(own)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"These are the weights of another network: {reason}") from None
