"""The tissue network: trained on target scans, it shows what a domain gap does downstream."""

from dataclasses import asdict, dataclass
from typing import ClassVar

import numpy as np

from ..anatomy.tissues import LABELS, atropos_labels
from ..comparators.base import check_fitted, silent
from ..comparators.cache import content_hashes, hash_arrays, recall
from ..comparators.networks import (
    apply_slices,
    load_weights,
    seeded,
    train_steps,
    unet,
    weights,
)
from ..comparators.patches import PatchSampler, collect_slices
from ..errors import InputError


@dataclass(eq=False)
class TissueNetwork:
    """2-D U-Net that labels cerebrospinal fluid, grey and white matter on axial slices.

    It sees target scans as they are and mirrored, and no other contrast: what it gets wrong on a
    scan from elsewhere, and no longer after harmonization, is the gap's effect downstream. With
    its intensities changed at training, as a network for use would be trained, it would forgive
    what is to be measured.

    Parameters
    ----------
    features : sequence of int
        Of the five levels, and of the last full-size one.
    steps, batch_size, crop : int
    learning_rate : float
        At the start; it falls to 0.
    max_scans : int
        Target scans to learn from, evenly spread over those given: without tissue labels, each
        takes Atropos about a minute.
    max_slices : int
        Slices to keep in memory.
    """

    name: ClassVar[str] = "tissues"
    title: ClassVar[str] = "Tissue network"
    recipe: ClassVar[int] = 1

    features: tuple = (16, 32, 64, 64, 64, 16)
    steps: int = 400
    batch_size: int = 8
    crop: int = 96
    learning_rate: float = 3e-3
    max_scans: int = 12
    max_slices: int = 3000

    def __post_init__(self):
        self._network = None
        self.device = "auto"

    def settings(self):
        """The settings, as JSON takes them."""
        return asdict(self)

    def fit(self, targets, labels=None, *, seed=0, device="auto", report=silent):
        """Learn the tissues of target scans.

        Parameters
        ----------
        targets : sequence of bh_bids.comparators.Scan
            Target units.
        labels : sequence of numpy.ndarray of int, shape (x, y, z), optional
            Of each scan, as :data:`bh_bids.anatomy.tissues.LABELS`; 0 is not learned from. May be
            read when asked for. Atropos' where not given.
        seed : int
            The same scans, settings and seed give the same network on the CPU.
        device : str or torch.device
            See :func:`bh_bids.harmonization.device.resolve_device`.
        report : callable
            Called with one sentence at a time.

        Returns
        -------
        TissueNetwork
            Itself.

        Raises
        ------
        InputError
            If there are no scans, or their labels do not fit them.
        DeviceError
            If the device is not there.
        """
        targets, labels = self._chosen(targets, labels)
        self.device = device
        share = max(self.max_slices // len(targets), 1)
        slices = collect_slices(_labelled(targets, labels, report), "axial", share)
        sampler = PatchSampler(slices, self.crop, seed, mirror=True)
        network = self._make(seed)
        _train(network, sampler, self, device, report)
        self._network = network
        return self

    def fit_cached(self, targets, labels=None, *, folder, seed=0, device="auto", report=silent):
        """As :meth:`fit`, unless an earlier run with the same scans and labels left its network.

        Parameters
        ----------
        folder : str or pathlib.Path
            See :func:`bh_bids.comparators.fit_cached`.
        targets, labels, seed, device, report
            See :meth:`fit`.

        Returns
        -------
        TissueNetwork
            Itself.
        """
        targets, labels = self._chosen(targets, labels)
        self.device = device

        def train():
            self.fit(targets, labels, seed=seed, device=device, report=report)
            return self.state()

        scans = [("target", found) for found in content_hashes(targets)]
        scans += [("labels", hash_arrays(part)) for part in labels or ()]
        recall(self, scans, train, folder, seed=seed, report=report)
        return self

    def predict(self, volume, mask):
        """Label the tissues of a scan.

        Parameters
        ----------
        volume : numpy.ndarray, shape (x, y, z)
            Target units. It is taken as it is: a scale that is wrong shows in the labels.
        mask : numpy.ndarray of bool, shape (x, y, z)
            Brain mask.

        Returns
        -------
        numpy.ndarray of int8, shape (x, y, z)
            1 cerebrospinal fluid, 2 grey matter, 3 white matter; 0 outside the mask.

        Raises
        ------
        InputError
            If shapes differ, the mask is empty, or the network was not fitted.
        """
        check_fitted(self, self._network)
        mask, volume = np.asarray(mask, dtype=bool), np.asarray(volume, dtype=np.float32)
        scores = apply_slices(self._network, volume, mask, "axial", self.device, len(LABELS))
        return np.where(mask, scores.argmax(axis=0) + 1, 0).astype(np.int8)

    def state(self):
        """What :meth:`fit` learned: a dict of str to numpy.ndarray."""
        check_fitted(self, self._network)
        return weights({"axial": self._network})

    def restore(self, state):
        """Take a state in place of a fit; returns itself."""
        network = self._make(0)
        load_weights({"axial": network}, state)
        self._network = network
        return self

    def _make(self, seed):
        with seeded(seed):
            return unet(self.features, outputs=len(LABELS), norm="batch")

    def _chosen(self, targets, labels):
        """The scans to learn from, read when asked for, and their labels."""
        if not len(targets):
            raise InputError("The tissue network needs scans of the target, and there are none.")
        if labels is not None and len(labels) != len(targets):
            raise InputError(f"{len(labels)} tissue maps were given for {len(targets)} scans.")
        if len(targets) <= self.max_scans:
            return targets, labels
        places = np.linspace(0, len(targets) - 1, self.max_scans).round().astype(int)
        return _Some(targets, places), None if labels is None else _Some(labels, places)


class _Some:
    """Some items of a sequence, read when asked for."""

    def __init__(self, items, places):
        self._items, self._places = items, places

    def __len__(self):
        return len(self._places)

    def __getitem__(self, index):
        return self._items[int(self._places[index])]


def _labelled(targets, labels, report):
    """Volume, labels and mask of what is learned from, a scan in memory at a time."""
    if labels is None:
        report(f"Segmenting {len(targets)} target scans.")
    for k in range(len(targets)):
        scan = targets[k]
        found = atropos_labels(scan.volume, scan.mask) if labels is None else labels[k]
        if found.shape != scan.mask.shape or not np.isin(found, (0, *LABELS.values())).all():
            raise InputError(
                f"The tissue labels of participant {scan.participant!r} are not on the scan's "
                f"grid, or are none of {LABELS}."
            )
        yield scan.volume, found, scan.mask


def _train(network, sampler, settings, device, report):
    import torch

    from ..harmonization.device import resolve_device

    device = resolve_device(device)
    network.to(device).train()
    optimizer = torch.optim.Adam(network.parameters())
    # Voxels without a label (0, here -1) do not count.
    cross_entropy = torch.nn.CrossEntropyLoss(ignore_index=-1)

    def one_step(k):
        batch = sampler.batch(k, settings.batch_size).to(device)
        loss = cross_entropy(network(batch[:, :1]), batch[:, 1].long() - 1)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.item()

    train_steps(settings.title, one_step, [optimizer], settings, report)
