"""U-Nets trained on registered pairs: what a method can reach that is given the answers."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..errors import InputError
from ..intensity import to_target_units
from .base import Comparator, check_fitted
from .networks import (
    apply_slices,
    load_weights,
    masked_l1,
    seeded,
    train_steps,
    unet,
    weights,
)
from .patches import PLANES, PatchSampler, collect_slices


@dataclass(eq=False)
class PairedUNet(Comparator):
    """2-D U-Net from axial source slices to those of the same participant in the target.

    It predicts the difference to be added to the source. The loss is the mean absolute error
    inside the brain: where a pair's registration is off by a voxel, the median of what is
    plausible is a sharp image, and the mean a blurred one.

    Parameters
    ----------
    features : sequence of int
        Of the five levels, and of the last full-size one.
    steps, batch_size, crop : int
        The default takes minutes on one core. On a GPU, ``features=(32, 64, 128, 256, 256, 32)``,
        ``steps=10000`` and ``batch_size=32`` are no loss of time.
    learning_rate : float
        At the start; it falls to 0.
    max_slices : int
        Slices to keep in memory.
    """

    name, title, trains, needs_pairs = "unet", "U-Net", True, True
    planes: ClassVar[tuple] = ("axial",)

    features: tuple = (16, 16, 32, 64, 64, 16)
    steps: int = 1500
    batch_size: int = 8
    crop: int = 96
    learning_rate: float = 2e-3
    max_slices: int = 3000

    def __post_init__(self):
        self._networks = None

    def _fit(self, sources, targets, *, seed, device, report):
        networks = self._make(seed)
        share = max(self.max_slices // len(sources), 1)
        for number, (plane, network) in enumerate(networks.items()):
            slices = collect_slices(_pairs(sources, targets), plane, share)
            sampler = PatchSampler(slices, self.crop, (seed, number), mirror=plane != "sagittal")
            title = f"{self.title}, {plane}" if len(networks) > 1 else self.title
            _train(network, sampler, self, device, title, report)
        self._networks = networks

    def apply(self, volume, mask):
        """See :meth:`Comparator.apply`."""
        check_fitted(self, self._networks)
        scaled, _ = to_target_units(volume, mask)
        changes = [
            apply_slices(network, scaled, mask, plane, self.device)[0]
            for plane, network in self._networks.items()
        ]
        made = scaled + np.median(changes, axis=0)
        return np.where(mask, np.maximum(made, 0), 0).astype(np.float32)

    def state(self):
        """See :meth:`Comparator.state`."""
        check_fitted(self, self._networks)
        return weights(self._networks)

    def restore(self, state):
        """See :meth:`Comparator.restore`."""
        networks = self._make(0)
        load_weights(networks, state)
        self._networks = networks
        return self

    def _make(self, seed):
        with seeded(seed):
            return {plane: unet(self.features) for plane in self.planes}


@dataclass(eq=False)
class ThreePlaneUNet(PairedUNet):
    """DeepHarmony's way: a 2-D U-Net for each orientation, and the median of their results.

    Dewey et al., DeepHarmony, Magn. Reson. Imaging 64 (2019). ``steps`` are those of each.
    """

    name, title = "unet-3plane", "U-Net, three planes"
    planes = tuple(PLANES)

    steps: int = 800


def _train(network, sampler, settings, device, title, report):
    import torch

    from ..harmonization.device import resolve_device

    device = resolve_device(device)
    network.to(device).train()
    optimizer = torch.optim.Adam(network.parameters())

    def one_step(k):
        batch = sampler.batch(k, settings.batch_size).to(device)
        source, target, mask = batch.split(1, dim=1)
        loss = masked_l1(source + network(source), target, mask)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.item()

    train_steps(title, one_step, [optimizer], settings, report)


def _pairs(sources, targets):
    """Source, target and the brain they share, a pair in memory at a time."""
    for source, target in zip(sources, targets, strict=True):
        if source.participant != target.participant:
            raise InputError(
                f"Participants {source.participant!r} and {target.participant!r} are no pair."
            )
        if source.mask.shape != target.mask.shape:
            raise InputError(
                f"The scans of participant {source.participant!r} are no pair: they are not on "
                f"one grid, but on {source.mask.shape} and {target.mask.shape}."
            )
        yield source.volume, target.volume, source.mask & target.mask
