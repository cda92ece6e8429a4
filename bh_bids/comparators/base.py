"""What every comparator is: fitted to scans of the target (and of a source), applied to a scan."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar

import numpy as np

from ..errors import InputError


@dataclass(frozen=True)
class Scan:
    """One scan on the model's grid.

    Attributes
    ----------
    volume : numpy.ndarray of float32, shape (x, y, z)
        RAS, target units (:mod:`bh_bids.intensity`); 0 outside the mask.
    mask : numpy.ndarray of bool, shape (x, y, z)
        Brain mask.
    participant : str
        Label, without "sub-"; only needed where a scan is chosen by its participant.
    """

    volume: np.ndarray
    mask: np.ndarray
    participant: str = ""


class LazyScans(Sequence):
    """Scans that are read when they are asked for, and not kept: 200 need no more memory than one.

    Whatever takes scans takes a list of :class:`Scan` as well.

    Parameters
    ----------
    readers : iterable of callable
        Each takes no argument and gives a :class:`Scan`, the same one at every call.
    """

    def __init__(self, readers):
        self._readers = tuple(readers)

    def __len__(self):
        return len(self._readers)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return LazyScans(self._readers[index])
        return self._readers[index]()


def silent(sentence):
    """A report that nobody reads."""


class Comparator(ABC):
    """A method to set beside the harmonization.

    A subclass is a dataclass whose fields are its settings. An instance is fitted to one target
    and, where it trains, to one source site: make a new one for each.

    Attributes
    ----------
    name : str
        As ``--comparators`` takes it.
    title : str
        As tables and figures show it.
    trains : bool
        Whether :meth:`fit` trains a network from scans of the source site as well; the others
        look at the target's scans alone, so that one fit serves all sites.
    needs_pairs : bool
        Whether ``sources[i]`` and ``targets[i]`` must show the same participant, registered.
    recipe : int
        Changes whenever the same scans, settings and seed would give another fit.
    device : str or torch.device
        Where networks are applied; :meth:`fit` sets it.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    trains: ClassVar[bool] = False
    needs_pairs: ClassVar[bool] = False
    recipe: ClassVar[int] = 1
    device: ClassVar = "auto"

    def settings(self):
        """The settings, as JSON takes them.

        Returns
        -------
        dict
        """
        return asdict(self)

    def fit(self, sources, targets, *, seed=0, device="auto", report=silent):
        """Learn from scans.

        Parameters
        ----------
        sources : sequence of Scan
            Of one source site; may be empty unless the comparator trains. See
            :class:`LazyScans` for many.
        targets : sequence of Scan
            Of the target, all on one grid, which is the sources' too.
        seed : int
            The same scans, settings and seed give the same fit on the CPU.
        device : str or torch.device
            See :func:`bh_bids.harmonization.device.resolve_device`; without meaning where
            nothing trains.
        report : callable
            Called with one sentence at a time.

        Returns
        -------
        Comparator
            Itself.

        Raises
        ------
        InputError
            If there are too few scans, they are not on one grid, or they are no pairs where
            pairs are needed.
        DeviceError
            If the device is not there.
        """
        _check_scans(self, sources, targets)
        self.device = device
        self._fit(sources, targets, seed=seed, device=device, report=report)
        return self

    @abstractmethod
    def _fit(self, sources, targets, *, seed, device, report):
        """Learn from scans whose number is right."""

    @abstractmethod
    def apply(self, volume, mask):
        """Bring a source scan to the target's look.

        Parameters
        ----------
        volume : numpy.ndarray, shape (x, y, z)
            On the grid it was fitted to, any units.
        mask : numpy.ndarray of bool, shape (x, y, z)
            Brain mask.

        Returns
        -------
        numpy.ndarray of float32, shape (x, y, z)
            Target units, 0 outside the mask.

        Raises
        ------
        InputError
            If shapes differ, the mask is empty, or the comparator was not fitted.
        """

    @abstractmethod
    def state(self):
        """What :meth:`fit` learned.

        Returns
        -------
        dict of str to numpy.ndarray
        """

    @abstractmethod
    def restore(self, state):
        """Take a state in place of a fit.

        Parameters
        ----------
        state : dict of str to numpy.ndarray
            Of :meth:`state`, of a comparator with the same settings.

        Returns
        -------
        Comparator
            Itself.

        Raises
        ------
        InputError
            If the state is of another comparator or of other settings.
        """


def _check_scans(comparator, sources, targets):
    title = comparator.title
    if not len(targets):
        raise InputError(f"{title} needs scans of the target, and there are none.")
    if comparator.trains and not len(sources):
        raise InputError(f"{title} is trained on scans of the source site, and there are none.")
    if comparator.needs_pairs and len(sources) != len(targets):
        raise InputError(
            f"{title} is trained on pairs: {len(sources)} source scans and {len(targets)} target "
            "scans are none."
        )


def check_fitted(comparator, learned):
    """Refuse to apply what was never fitted.

    Parameters
    ----------
    comparator : Comparator
    learned : object or None
        What :meth:`Comparator.fit` leaves behind.

    Raises
    ------
    InputError
    """
    if learned is None:
        raise InputError(f"{comparator.title} was not fitted yet.")
