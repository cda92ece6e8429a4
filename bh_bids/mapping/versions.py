"""Versions of the training scans that the rulers are fitted to: how each looks after a match.

As scanners blur, sharpen and add noise, and as anatomies differ, one scan of each participant is
too few to learn from: each is also seen with other anatomies, disturbed and not.
"""

from typing import NamedTuple

import numpy as np

from .disturb import disturbed, other_anatomy
from .field import regional_shift
from .intensity import brain_quantiles, map_between
from .ruler import contrast_profile
from .steady import samples

# Each scan's texture is also seen disturbed, so many times; of many scans fewer times each.
DISTURBED, MOST_DISTURBED = 8, 200
# Of so many other anatomies of each scan, undisturbed, the flow's slopes are asked.
ANATOMIES = 4


class Version(NamedTuple):
    """One version of a scan, as it is seen after a match.

    Attributes
    ----------
    profile : numpy.ndarray, shape (COLUMNS,)
        Of :func:`bh_bids.mapping.ruler.contrast_profile`.
    deviation : numpy.ndarray, shape (LEVELS,)
        Of its true quantiles from the usual ones, at the target's quantiles.
    sharpness : float
    slopes : numpy.ndarray or None
        What the flow asks of its contrast; None where it was not asked.
    """

    profile: np.ndarray
    deviation: np.ndarray
    sharpness: float
    slopes: np.ndarray | None


class Usual:
    """What the target usually shows of a brain, or of a part of one.

    Parameters
    ----------
    quantiles : numpy.ndarray, shape (LEVELS,)
        Of the target's brains together.
    lattice : bh_bids.mapping.field.Lattice
    histograms : numpy.ndarray, shape (blocks, BINS)
        Local histograms of log-intensity.
    scans : int
        How many all of it was learned from.
    """

    def __init__(self, quantiles, lattice, histograms, scans):
        self.quantiles, self.lattice, self.scans = quantiles, lattice, scans
        self._histograms = histograms

    def look(self, truth, volume, mask, places, slopes=None):
        """What is seen of a volume that the target saw as ``truth``.

        Parameters
        ----------
        truth, volume : numpy.ndarray, shape (x, y, z)
            Target units, 0 outside the brain.
        mask : numpy.ndarray of bool, shape (x, y, z)
        places : numpy.ndarray, shape (3, n)
            Steady places.
        slopes : callable, optional
            ``slopes(matched, mask)``.

        Returns
        -------
        Version
        """
        inside = self.lattice(truth) > 0
        shift, _ = regional_shift(inside, self.lattice, self._histograms, self.scans)
        usual = np.maximum.accumulate(self.quantiles + shift)
        match = map_between(brain_quantiles(volume[mask]), usual)
        matched = np.where(mask, match(volume), 0)
        profile, sharpness = contrast_profile(matched, mask, self.quantiles, self.lattice, places)
        # By intensity: of a part of a brain, shares are others.
        deviation = np.interp(self.quantiles, usual, brain_quantiles(truth[mask]) - usual)
        return Version(profile, deviation, sharpness, slopes and slopes(matched, mask))


def versions_seen(volumes, usual, agreement, voxel_size, report, slopes=None):
    """What the versions of each scan look like after a match.

    Parameters
    ----------
    volumes : iterable of numpy.ndarray, shape (x, y, z)
        Target units, 0 outside the brain.
    usual : Usual
    agreement : bh_bids.mapping.steady.Agreement
        Of all of them; each scan is seen at the places of the others.
    voxel_size : tuple of float
        Millimetres.
    report : callable
        Called with one sentence for each scan.
    slopes : callable, optional
        ``slopes(matched, mask)``, the flow's.

    Returns
    -------
    list of tuple
        Of each scan two lists of :class:`Version`. The first: the scan itself, and disturbed
        versions. The second, empty where there are no slopes: the scan itself, and other
        anatomies, undisturbed.
    """
    disturbances = int(np.clip(MOST_DISTURBED // usual.scans, 1, DISTURBED))
    found = []
    for k, volume in enumerate(volumes):
        mask, rng = volume > 0, np.random.default_rng(k)
        places = agreement.places(without=samples(volume, mask, usual.lattice))
        itself = usual.look(volume, volume, mask, places, slopes)
        versions, clean = [itself], [itself] if slopes else []
        for number in range(disturbances):
            truth, part = other_anatomy(volume, mask, voxel_size, rng)
            versions.append(usual.look(truth, disturbed(truth, part, rng), part, places))
            if slopes and number < ANATOMIES:
                clean.append(usual.look(truth, truth, part, places, slopes))
        found.append((versions, clean))
        report(f"Scan {k + 1} of {usual.scans}, as it is and disturbed {disturbances} times.")
    return found
