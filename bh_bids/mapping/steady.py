"""Places where the target's participants agree: what a matched brain shows there is the match's.

Deep white matter or the thalamus are as bright in one participant as in another. Where a scan, once
its histogram is matched to the target's, is darker or brighter than usual at such places, the match
has made it so: this brain has more or less of what is darker than the target's usually have.

Nobody's own scan may help to say where participants agree: a training scan is compared with the
others' places and mean, like a new one.
"""

import numpy as np

from .texture import CORE_SIDE

GROUPS = 10
# Brightnesses (target units) between which the groups of places lie.
BRIGHTNESS = np.linspace(0.15, 1.0, GROUPS + 1)
SHARE = 0.2
"""Of a group's places, those at which participants agree best."""
# Places count where so many of the participants have brain.
PRESENT = 0.9
# Voxels; side of the cubes that noise is averaged over.
SIDE = 3
FEWEST = 20
"""Places of which a group's median is taken at least."""


def samples(volume, mask, lattice):
    """A brain's local means at the lattice's voxels; 0 where they are not well inside the brain.

    Parameters
    ----------
    volume : numpy.ndarray, shape (x, y, z)
        Target units.
    mask : numpy.ndarray of bool, shape (x, y, z)
    lattice : bh_bids.mapping.field.Lattice

    Returns
    -------
    numpy.ndarray of float32, shape (i, j, k)
    """
    from scipy.ndimage import uniform_filter

    from ..anatomy.resampling import content_box

    seen, box = np.zeros(mask.shape, np.float32), content_box(mask, margin=CORE_SIDE)
    inside = mask[box].astype(np.float32)
    mean = uniform_filter(np.where(mask[box], volume[box], 0).astype(np.float32), SIDE)
    seen[box] = np.where(uniform_filter(inside, CORE_SIDE) > 0.999, mean, 0)
    return lattice(seen)


class Agreement:
    """Where scans agree, from running sums: they need not be in memory together."""

    def __init__(self, scans):
        self._count = self._total = self._square = 0
        for seen in scans:
            self._add(seen.astype(np.float64), 1)

    def _add(self, seen, sign):
        self._count = self._count + sign * (seen > 0)
        self._total = self._total + sign * seen
        self._square = self._square + sign * seen**2

    def places(self, without=None):
        """Steady places of all scans, or of all but one.

        Parameters
        ----------
        without : numpy.ndarray, shape (i, j, k), optional
            The samples of the one.

        Returns
        -------
        numpy.ndarray of float64, shape (3, n)
            Of each place the flat index on the lattice, the number of its group, and the mean.
        """
        scans = Agreement(())
        scans._count, scans._total, scans._square = self._count, self._total, self._square
        if without is not None:
            scans._add(without.astype(np.float64), -1)
        count = np.maximum(scans._count, 1)
        mean = scans._total / count
        spread = np.sqrt(np.maximum(scans._square / count - mean**2, 0)).ravel()
        inside = (scans._count >= PRESENT * scans._count.max()) & (scans._count > 0)
        group = np.where(inside, np.digitize(mean, BRIGHTNESS) - 1, -1).ravel()
        found = []
        for g in range(GROUPS):
            of = np.flatnonzero(group == g)
            kept = of[np.argsort(spread[of], kind="stable")[: int(np.ceil(SHARE * of.size))]]
            found.append(np.stack([kept, np.full(kept.size, g), mean.ravel()[kept]]))
        return np.concatenate(found, axis=1)


def steady_profile(seen, places):
    """How much brighter a matched brain is at steady places than the target's usually are.

    Parameters
    ----------
    seen : numpy.ndarray, shape (i, j, k)
        :func:`samples` of the brain.
    places : numpy.ndarray, shape (3, n)
        Of :meth:`Agreement.places`.

    Returns
    -------
    numpy.ndarray of float64, shape (GROUPS,)
        Medians by group; NaN where less than ``FEWEST`` of its places were scanned.
    """
    index, group = places[:2].astype(int)
    values = seen.ravel()[index].astype(np.float64)
    profile = np.full(GROUPS, np.nan)
    for g in range(GROUPS):
        of = (group == g) & (values > 0)
        if of.sum() >= FEWEST:
            profile[g] = np.median(values[of] - places[2, of])
    return profile
