"""Bits per dimension of the fixed crops of held-out participants."""

import math
from functools import partial

import torch


class FixedCrops:
    """Crops that never change, at fixed levels of noise, to compare weights by.

    Parameters
    ----------
    sampler : CropSampler
        Of the held-out participants.
    config : FlowConfig
    settings : TrainingSettings
        Gives their number and the size of a batch.
    group : bh_bids.flow.distributed.Group
        Each of its processes measures a part of them.

    Attributes
    ----------
    by_noise : bool
        Whether the flow is conditioned on noise, and so measured at two levels: the lower end of
        the configuration's range, and its geometric middle.
    lowest : float or None
        The lower of the two.
    """

    def __init__(self, sampler, config, settings, group):
        low, high = config.noise_range
        self.by_noise = "noise" in config.conditions
        self._sigmas = (low, math.sqrt(low * high)) if self.by_noise else (None,)
        self.lowest = self._sigmas[0]
        self._group = group
        self._size = max(1, settings.batch_size // group.size)
        draw = partial(sampler.batch, 0, settings.validation_crops, augment=False, part=group.part)
        self._crops = [draw(sigma=sigma) for sigma in self._sigmas]

    @torch.inference_mode()
    def bits(self, flow):
        """Bits per dimension of a flow in evaluation mode, at each level of noise; list."""
        return [self._bits_of_crops(flow, crops) for crops in self._crops]

    def named(self, bits, digits):
        """Rounded bits, keyed by the standard deviation of the noise (target units)."""
        return {f"{s:.4g}": round(b, digits) for s, b in zip(self._sigmas, bits, strict=True)}

    def _bits_of_crops(self, flow, crops):
        log_prob = counted = 0.0
        for start in range(0, len(crops.x), self._size):
            part = (a if a is None else a[start : start + self._size] for a in crops)
            x, context = on_device(part, self._group.device)
            log_prob += flow.log_prob(x, context).double().sum().item()
            counted += flow.dimensions(x, context).double().sum().item()
        return bits_of(*self._group.sums(log_prob, counted), flow.config)


def bits_of(log_prob, counted, config):
    """Bits per dimension of a summed log density and the number of voxels it counts."""
    return config.bits - log_prob / (math.log(2) * counted)


def on_device(crops, device):
    """Crops and context as tensors on a device."""
    return tuple(None if a is None else torch.from_numpy(a).to(device) for a in crops)
