"""The bias field: what of a brain's brightness depends on the place and not on the tissue.

A scan, its histogram matched to the target's, is compared with what the target domain shows *at
that place*: local histograms of the target scans, in blocks of 20 mm, are the prior of each
voxel's true log-intensity; the field of the last step, still wrong by about ``s``, is the noise of
the observation. The expected difference is fitted by a smooth log-field, ``s`` is lowered, and so
on. N4 (Tustison et al., IEEE TMI 2010) sharpens a histogram likewise, but has to guess the sharp
one, and knows nothing of place.

What the procedure finds on target scans themselves, a property of templates and anatomy, is the
null field, learned once from the training scans (:mod:`bh_bids.mapping.null_field`).
"""

from functools import cached_property

import numpy as np

from ..threads import one_blas_thread
from .intensity import LEVELS, SHARES, brain_quantiles

ORDER = 3
# Spacing of the voxels looked at, and side of the blocks of the local histograms, mm.
SPACING, BLOCK = 3.0, 20.0
BINS = 64
LOW, HIGH = np.log(0.04), np.log(1.6)
CENTRES = LOW + (np.arange(BINS) + 0.5) / BINS * (HIGH - LOW)
# Standard deviations of the log-field's error that the steps assume.
ANNEALING = (0.2, 0.2, 0.2, 0.15, 0.15, 0.12, 0.1, 0.1, 0.08, 0.06, 0.05, 0.05, 0.05)
# Shares of the brain between which a scan's contrast is compared with the target's.
CONTRAST_SHARES = (0.05, 0.95)
STEEPEST = 4.0
# Times that the field is looked for, each time in what the last left of it.
LOOKS = 3
# A brain that covers this share of the target's mean brain, whose edge is soft, is a whole one
# (whole target scans: 0.84 to 0.89; the lowest quarter missing: 0.65 to 0.69).
WHOLE = 0.8
# Below this (target units) a voxel is background or the darkest fluid: no word on the field.
DARKEST = 0.04


class Lattice:
    """The voxels of a grid that are looked at, their blocks, and the field's basis on them.

    Parameters
    ----------
    shape : tuple of int
        Of the grid.
    voxel_size : tuple of float
        Millimetres.
    """

    def __init__(self, shape, voxel_size):
        self.shape = tuple(shape)
        steps = [max(1, round(SPACING / v)) for v in voxel_size]
        self._indices = [
            np.arange(min(step // 2, n - 1), n, step)
            for n, step in zip(self.shape, steps, strict=True)
        ]
        sides = [max(1, round(BLOCK / (v * s))) for v, s in zip(voxel_size, steps, strict=True)]
        numbers = [np.arange(len(i)) // side for i, side in zip(self._indices, sides, strict=True)]
        self.blocks_shape = tuple(int(n[-1]) + 1 for n in numbers)
        self.blocks = np.ravel_multi_index(np.meshgrid(*numbers, indexing="ij"), self.blocks_shape)

    def __call__(self, volume):
        """The looked-at voxels of a volume on the grid."""
        return volume[np.ix_(*self._indices)]

    @cached_property
    def basis(self):
        """The field's basis on the looked-at voxels; float32, shape (functions, i, j, k)."""
        waves = [_waves(i, n) for i, n in zip(self._indices, self.shape, strict=True)]
        return np.stack(
            [np.einsum("x,y,z->xyz", *(w[k] for w, k in zip(waves, o, strict=True)))
             for o in orders()]
        ).astype(np.float32)  # fmt: skip


def orders():
    """Orders (along x, y, z) of the basis' cosines, the constant left out."""
    span = range(ORDER + 1)
    return [(i, j, k) for i in span for j in span for k in span if 0 < i + j + k <= ORDER]


def log_field(coefficients, shape):
    """The logarithm of a field on a whole grid.

    Parameters
    ----------
    coefficients : array_like, shape (functions,)
        Of the products of cosines that :func:`orders` names.
    shape : tuple of int

    Returns
    -------
    numpy.ndarray of float32, shape ``shape``
    """
    table = np.zeros((ORDER + 1,) * 3)
    for order, value in zip(orders(), coefficients, strict=True):
        table[order] = value
    waves = [_waves(np.arange(n), n) for n in shape]
    return np.einsum("abc,ax,by,cz->xyz", table, *waves, optimize=True).astype(np.float32)


def local_histograms(volumes, lattice):
    """Histograms of log-intensity in each block, over all target scans.

    Parameters
    ----------
    volumes : iterable of numpy.ndarray, shape (x, y, z)
        Target scans in target units, 0 outside the brain.
    lattice : Lattice

    Returns
    -------
    numpy.ndarray of float64, shape (blocks, BINS)
        Counts, smoothed over neighbouring blocks and bins.
    """
    from scipy.ndimage import gaussian_filter

    counts = np.zeros(int(np.prod(lattice.blocks_shape)) * BINS)
    for volume in volumes:
        values = lattice(volume)
        inside = values > DARKEST
        place = lattice.blocks[inside] * BINS + _bin(np.log(values[inside]))
        counts += np.bincount(place, minlength=counts.size)
    counts = counts.reshape(*lattice.blocks_shape, BINS)
    return gaussian_filter(counts, (0.7, 0.7, 0.7, 0.8)).reshape(-1, BINS)


def regional_shift(inside, lattice, histograms, scans):
    """How the target's brain quantiles change where only a part of the brain was scanned.

    Parameters
    ----------
    inside : numpy.ndarray of bool, shape (i, j, k)
        The voxels on the lattice of which the brain's quantiles are.
    lattice : Lattice
    histograms : numpy.ndarray, shape (blocks, BINS)
        See :func:`local_histograms`.
    scans : int
        Number of the scans the histograms were made of.

    Returns
    -------
    shift : numpy.ndarray of float64, shape (LEVELS,)
        To be added to the target's quantiles; zeros where the brain is as whole as the target's.
    coverage : float
        Share of the target's mean brain that these voxels are.
    """
    usual = histograms.sum(axis=1) / max(scans, 1)
    found = np.bincount(lattice.blocks[inside], minlength=len(usual))
    coverage = float(np.minimum(found, usual).sum() / max(usual.sum(), 1e-9))
    share = np.clip(found / np.maximum(usual, 1e-9), 0, 1)
    counts = (share[:, None] * histograms).sum(axis=0)
    if coverage >= WHOLE or not counts.any():
        return np.zeros(LEVELS), coverage
    part = _quantiles_of(counts)
    return part - _quantiles_of(histograms.sum(axis=0)), coverage


def _quantiles_of(counts):
    """Quantiles at ``SHARES`` of a histogram of log-intensity."""
    cumulated = np.concatenate([[0.0], np.cumsum(counts)]) / max(counts.sum(), 1e-9)
    edges = np.linspace(LOW, HIGH, BINS + 1)
    return np.exp(np.interp(SHARES, cumulated, edges))


def contrast_power(quantiles_in, quantiles_out):
    """The power that best turns one brain's quantiles into another's, whatever the gain.

    Parameters
    ----------
    quantiles_in, quantiles_out : numpy.ndarray, shape (LEVELS,)

    Returns
    -------
    float
        Slope of the second's logarithm against the first's over the middle of the brain, by the
        ratio of their standard deviations; within a factor of STEEPEST of 1.
    """
    middle = (SHARES >= CONTRAST_SHARES[0]) & (SHARES <= CONTRAST_SHARES[1])
    spreads = [
        np.log(np.maximum(np.asarray(q, dtype=np.float64)[middle], 1e-6)).std()
        for q in (quantiles_in, quantiles_out)
    ]
    return float(np.clip(spreads[1] / max(spreads[0], 1e-6), 1 / STEEPEST, STEEPEST))


def standard_field(values, lattice, histograms, quantiles):
    """The log-field of a brain that was brought to about the target's contrast by a power.

    A field's size, and what of it anatomy feigns, depend on the contrast of the scan it is looked
    for in; so scans of all contrasts, and the target's own, are compared at the same one.

    Parameters
    ----------
    values, lattice, histograms, quantiles
        See :func:`estimate_field`.

    Returns
    -------
    coefficients : numpy.ndarray of float64, shape (functions,)
        At the target's contrast. The field of the scan itself is ``coefficients / power``.
    power : float
        See :func:`contrast_power`.
    """
    inside = values > 0
    if not inside.any():
        return np.zeros(len(orders())), 1.0
    scale = np.quantile(values[inside], 0.99)
    power = contrast_power(brain_quantiles(values[inside] / scale), quantiles)
    standard = np.where(inside, np.maximum(values, 0) / scale, 0) ** power
    return estimate_field(standard, lattice, histograms, quantiles), power


def find_field(values, lattice, histograms, quantiles, null_field):
    """The log-field of a brain, looked for again in what was left of it.

    The steps of :func:`estimate_field` leave about a fifth of a field.

    Parameters
    ----------
    values, lattice, histograms, quantiles
        See :func:`estimate_field`.
    null_field : numpy.ndarray, shape (functions,)
        What is found on target scans at first sight, at the target's contrast.

    Returns
    -------
    coefficients : numpy.ndarray of float64, shape (functions,)
        At the target's contrast, the null field taken away from what each look found. The field of
        the scan itself is ``coefficients / power``.
    power : float
        See :func:`contrast_power`.
    """
    coefficients = np.zeros(len(orders()))
    if not _enough(values > 0):
        return coefficients, 1.0
    first = None
    for _ in range(LOOKS):
        flat = values * np.exp(-np.tensordot(coefficients, lattice.basis, 1))
        found, power = standard_field(flat, lattice, histograms, quantiles)
        coefficients += (found - null_field) / power
        first = first or power
    return coefficients * first, first


def estimate_field(values, lattice, histograms, quantiles):
    """Coefficients of the log-field that makes a brain look like the target's at every place.

    Parameters
    ----------
    values : numpy.ndarray, shape (i, j, k)
        A brain on the lattice, in any units, 0 outside.
    lattice : Lattice
    histograms : numpy.ndarray, shape (blocks, BINS)
        See :func:`local_histograms`.
    quantiles : numpy.ndarray, shape (LEVELS,)
        The target's brain quantiles.

    Returns
    -------
    numpy.ndarray of float64, shape (functions,)
        The null field not yet subtracted; zeros where there is too little brain.
    """
    coefficients = np.zeros(len(orders()))
    inside = values > 0
    if not _enough(inside):
        return coefficients
    inside &= values > DARKEST * np.quantile(values[inside], 0.99)
    design = lattice.basis[:, inside].T.astype(np.float64)
    observed, block = np.log(values[inside].astype(np.float64)), lattice.blocks[inside]
    # A little of the whole brain's histogram everywhere: no tissue is impossible anywhere.
    prior = histograms + 1e-3 * histograms.sum(axis=0) / max(histograms.sum(), 1e-9) + 1e-9
    with one_blas_thread():
        for s in ANNEALING:
            corrected = observed - design @ coefficients
            matched = np.interp(corrected, brain_quantiles(corrected), np.log(quantiles))
            expected, variance = _posterior(prior, s)
            place = _bin(matched)
            weight = 1 / (variance[block, place] + 0.3 * s * s)
            weighted = (design * weight[:, None]).T
            normal = weighted @ design
            normal[np.diag_indices_from(normal)] += 1e-6 * weight.sum()
            coefficients += np.linalg.solve(normal, weighted @ (matched - expected[block, place]))
    return coefficients


def field_spread(coefficients, lattice, inside):
    """Standard deviation of a log-field over the lattice's voxels inside a brain."""
    return float(np.tensordot(coefficients, lattice.basis[:, inside], 1).std())


def _enough(inside):
    """Whether there is brain enough to look for a field in."""
    return np.count_nonzero(inside) >= 10 * len(orders())


def _posterior(prior, s):
    """Mean and variance of the true log-intensity, by block and observed bin."""
    likelihood = np.exp(-0.5 * ((CENTRES[:, None] - CENTRES) / s) ** 2)
    total = prior @ likelihood.T
    mean = prior @ (likelihood * CENTRES).T / total
    square = prior @ (likelihood * CENTRES**2).T / total
    return mean, np.maximum(square - mean**2, 1e-5)


def _bin(logarithm):
    return np.clip(((logarithm - LOW) / (HIGH - LOW) * BINS).astype(int), 0, BINS - 1)


def _waves(indices, n):
    return np.cos(np.pi * np.arange(ORDER + 1)[:, None] * (np.asarray(indices) + 0.5) / n)
