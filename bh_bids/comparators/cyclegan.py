"""CycleGAN: unpaired translation between a source site and the target."""

from dataclasses import dataclass
from itertools import chain
from typing import ClassVar

import numpy as np

from ..intensity import to_target_units
from .base import Comparator, check_fitted
from .networks import apply_slices, load_weights, masked_l1, seeded, train_steps, unet, weights
from .patches import PatchSampler, collect_slices

FORTH, BACK = "forth", "back"


@dataclass(eq=False)
class CycleGAN(Comparator):
    """Zhu et al., ICCV 2017, on axial slices of two sites whose participants need not be the same.

    Least-squares adversarial loss, L1 cycle and identity losses. Generators are small U-Nets that
    predict the difference to their input; discriminators judge patches (PatchGAN). Neither has
    norm layers: instance norm takes away the intensities that are to be judged, and sees other
    means in the crops of the training than in whole slices. There is no buffer of earlier fakes.
    Outside the brain all images are 0.

    Parameters
    ----------
    features : sequence of int
        Of the generators' five levels, and of the last full-size one.
    discriminator : int
        Features of the discriminators' first layer.
    cycle, identity : float
        Weights of the two losses beside the adversarial one. They are a tenth and less of the
        published ones: generators start as the identity, where both losses are 0, and with
        weights of 10 and 1 they stayed there in every trial.
    steps, batch_size, crop : int
    learning_rate : float
        At the start; it falls to 0.
    max_slices : int
        Slices of each site to keep in memory.
    """

    name, title, trains = "cyclegan", "CycleGAN", True
    recipe: ClassVar[int] = 2

    features: tuple = (8, 16, 32, 32, 32, 8)
    discriminator: int = 16
    cycle: float = 1.0
    identity: float = 0.1
    steps: int = 600
    batch_size: int = 4
    crop: int = 96
    learning_rate: float = 3e-3
    max_slices: int = 3000

    def __post_init__(self):
        self._generators = None
        self.losses = {}

    def _fit(self, sources, targets, *, seed, device, report):
        samplers = []
        for number, scans in enumerate((sources, targets)):
            channels = ((scan.volume, scan.mask) for scan in scans)
            slices = collect_slices(channels, "axial", max(self.max_slices // len(scans), 1))
            samplers.append(PatchSampler(slices, self.crop, (seed, number), mirror=True))
        generators = self._make(seed)
        training = _Training(generators, self._judges(seed), samplers, self, device)
        training.run(report)
        self.losses = training.losses
        self._generators = generators

    def apply(self, volume, mask):
        """See :meth:`Comparator.apply`."""
        check_fitted(self, self._generators)
        scaled, _ = to_target_units(volume, mask)
        generator = self._generators[FORTH]
        made = scaled + apply_slices(generator, scaled, mask, "axial", self.device)[0]
        return np.where(mask, np.maximum(made, 0), 0).astype(np.float32)

    def state(self):
        """See :meth:`Comparator.state`."""
        check_fitted(self, self._generators)
        return weights(self._generators)

    def restore(self, state):
        """See :meth:`Comparator.restore`."""
        generators = self._make(0)
        load_weights(generators, state)
        self._generators = generators
        return self

    def _make(self, seed):
        with seeded(seed):
            return {name: unet(self.features) for name in (FORTH, BACK)}

    def _judges(self, seed):
        import torch
        from monai.networks.nets import PatchDiscriminator

        with seeded(seed + 1):
            judges = [
                PatchDiscriminator(2, self.discriminator, 1, num_layers_d=3, norm=None)
                for _ in range(2)
            ]
            # MONAI's small initial weights are meant for networks with norm layers: without,
            # nothing of the image would reach the verdict.
            for layer in chain(*(judge.modules() for judge in judges)):
                if isinstance(layer, torch.nn.Conv2d):
                    torch.nn.init.kaiming_normal_(layer.weight, a=0.2)
        return judges


class _Training:
    """One training: its networks, its optimizers, and the losses of every step."""

    def __init__(self, generators, judges, samplers, settings, device):
        import torch

        from ..harmonization.device import resolve_device

        self._device = resolve_device(device)
        for network in (*generators.values(), *judges):
            network.to(self._device).train()
        self._forth, self._back = generators[FORTH], generators[BACK]
        self._judges, self._samplers, self._settings = judges, samplers, settings
        made = [list(chain(*(n.parameters() for n in group)))
                for group in (generators.values(), judges)]  # fmt: skip
        self._makers, self._judging = (torch.optim.Adam(p, betas=(0.5, 0.999)) for p in made)
        self.losses = {"cycle": [], "identity": [], "adversarial": [], "judges": []}

    def run(self, report):
        """Train to the last step."""
        optimizers = [self._makers, self._judging]
        train_steps(self._settings.title, self._step, optimizers, self._settings, report)

    def _step(self, k):
        size = self._settings.batch_size
        batches = [s.batch(k, size).to(self._device).split(1, dim=1) for s in self._samplers]
        fakes, total = self._improve_makers(batches)
        self._improve_judges(batches, fakes)
        return total

    def _improve_makers(self, batches):
        """Losses: fakes pass for real, there and back is where one was, one's own stays."""
        (source, source_mask), (target, target_mask) = batches
        to_target = _translate(self._forth, source, source_mask)
        to_source = _translate(self._back, target, target_mask)
        for judge in self._judges:
            judge.requires_grad_(False)
        adversarial = _unlike(self._judges[0], to_target, 1) + _unlike(
            self._judges[1], to_source, 1
        )
        cycle = masked_l1(
            _translate(self._back, to_target, source_mask), source, source_mask
        ) + masked_l1(_translate(self._forth, to_source, target_mask), target, target_mask)
        identity = masked_l1(
            _translate(self._forth, target, target_mask), target, target_mask
        ) + masked_l1(_translate(self._back, source, source_mask), source, source_mask)
        settings = self._settings
        total = adversarial + settings.cycle * cycle + settings.identity * identity
        self._makers.zero_grad(set_to_none=True)
        total.backward()
        self._makers.step()
        for name, loss in (("cycle", cycle), ("identity", identity), ("adversarial", adversarial)):
            self.losses[name].append(loss.item())
        return (to_target.detach(), to_source.detach()), total.item()

    def _improve_judges(self, batches, fakes):
        (source, _), (target, _) = batches
        loss = 0
        for judge, real, fake in zip(self._judges, (target, source), fakes, strict=True):
            judge.requires_grad_(True)
            loss = loss + 0.5 * (_unlike(judge, real, 1) + _unlike(judge, fake, 0))
        self._judging.zero_grad(set_to_none=True)
        loss.backward()
        self._judging.step()
        self.losses["judges"].append(loss.item())


def _translate(generator, image, mask):
    """Image of the other site: 0 outside the mask."""
    return (image + generator(image)) * mask


def _unlike(judge, image, verdict):
    # Centred, so that the first layer sees differences of brightness, not brightness.
    return ((judge(image - 0.5)[-1] - verdict) ** 2).mean()
