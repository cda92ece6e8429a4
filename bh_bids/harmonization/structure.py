"""Whether a harmonized brain still shows what its source showed, and nothing that it did not.

The harmonized brain is first given the source's histogram back, so that a change of contrast, which
is what harmonization is for, counts for nothing; what is left of a difference is one of structure.
Edges are the strongest fifth of the gradients of a slightly smoothed brain. An edge of the source
is kept where the harmonized brain's gradient has at least a third of it in its direction; an edge
of the harmonized brain is invented where the source has less than a third of it. Where structure is
weak there are no edges: there the local correlation tells, and how much of the result it leaves
unexplained. It forgives a gain that changes smoothly, which a bias field may have been.
"""

from functools import partial

import numpy as np

from ..anatomy.resampling import content_box
from ..evaluation.harm import local_ncc_map, stripes
from ..mapping.intensity import brain_quantiles, map_between
from ..threads import at_once

SMOOTHING = 1.0
"""Voxels; standard deviation of the Gaussian that noise is kept out of the edges with."""
STRONG = 0.8
PART = 1 / 3
WINDOW = 15
"""Voxels; side of the cubes of which the worst counts."""
NEIGHBOURS = 9
"""Voxels; side of the window of a local correlation."""
BRIGHT = 0.995
"""Share of the brain that is darker than what counts as a vessel."""
FEWEST = 150
"""Edges that a cube must hold to count."""
# Measured by benchmarks/guards.py: see docs/robustness.md.
EDGES_LOST_ABOVE = 0.3
EDGES_INVENTED_ABOVE = 0.3
LOCAL_NCC_BELOW = 0.6
DIFFERENCE_ABOVE = 0.25
STRIPES_ABOVE = 0.03
FIGURES = ("EdgesLost", "EdgesInvented", "LocalNCC", "Difference", "Stripes")


def structure_figures(source, harmonized, mask):
    """Figures on what became of a brain's structure.

    Parameters
    ----------
    source, harmonized : numpy.ndarray, shape (x, y, z)
        Before and after on one grid, any units.
    mask : numpy.ndarray of bool, shape (x, y, z)
        Brain mask.

    Returns
    -------
    dict of str to float or None
        ``EdgesLost`` and ``EdgesInvented``: share, in [0, 1], in the worst cube of 15 voxels;
        ``LocalNCC``: the correlation that one in a hundred of all places with structure stays
        below; ``Difference``: root mean square, in the worst cube, of what of the result no local
        gain and offset of the source explain, over the brain's standard deviation;
        ``Stripes``: relative size of the steps of gain between axial slices. None where the brain
        is too small or flat to tell.
    """
    from scipy.ndimage import binary_erosion

    box = content_box(mask, margin=3)
    if box is None:
        return dict.fromkeys(FIGURES)
    inside = np.asarray(mask, dtype=bool)[box]
    before = np.where(inside, source[box], 0).astype(np.float32)
    after = np.where(inside, harmonized[box], 0).astype(np.float32)
    core, own, given = at_once(
        [
            partial(binary_erosion, inside),
            *(partial(brain_quantiles, v[inside]) for v in (after, before)),
        ]
    )
    if not core.any():
        return dict.fromkeys(FIGURES)
    after[inside] = map_between(own, given)(after[inside])
    brains = before, after
    smoothed = [partial(_smoothed, brain, inside, SMOOTHING) for brain in brains]
    before, after = at_once(smoothed)
    both, *lengths = at_once(
        [partial(_gradient_product, *pair) for pair in ((before, after), (before,), (after,))]
    )

    found = local_ncc_map(before, after, inside, NEIGHBOURS)
    difference, lost, invented, agreement, steps = at_once(
        [
            partial(_worst_difference, before, after, found),
            *(partial(_worst_share, both, square, core) for square in lengths),
            partial(_low_correlation, found, core, lengths[0]),
            partial(stripes, *brains, inside),
        ]
    )
    return {
        "EdgesLost": lost,
        "EdgesInvented": invented,
        "LocalNCC": agreement,
        "Difference": difference,
        "Stripes": float(steps) if np.isfinite(steps) else None,
    }


def structure_guards(figures):
    """Sentences on figures that are beyond what harmonization does to a brain.

    Parameters
    ----------
    figures : dict
        Of :func:`structure_figures`.

    Returns
    -------
    list of str
    """
    guards = []
    lost, invented, agreement, difference, steps = (figures[name] for name in FIGURES)
    if lost is not None and lost > EDGES_LOST_ABOVE:
        guards.append(
            f"Structure may have been lost: in one place {lost:.0%} of the scan's edges are not in "
            "the result. Compare before and after in the viewer."
        )
    if invented is not None and invented > EDGES_INVENTED_ABOVE:
        guards.append(
            f"Structure may have been invented: in one place {invented:.0%} of the result's edges "
            "are not in the scan. Compare before and after in the viewer."
        )
    if agreement is not None and agreement < LOCAL_NCC_BELOW:
        guards.append(
            "Scan and result differ in detail: their local correlation is less than "
            f"{agreement:.2f} in one of a hundred places. Look at the map of local agreement."
        )
    if difference is not None and difference > DIFFERENCE_ABOVE:
        guards.append(
            f"Fine structure was changed: in one place by {difference:.0%} of the brain's standard "
            "deviation. Compare before and after in the viewer."
        )
    if steps is not None and steps > STRIPES_ABOVE:
        guards.append(
            f"The gain changes from slice to slice by {steps:.1%}: look for stripes in the "
            "sagittal and coronal planes."
        )
    return guards


def _smoothed(volume, inside, sigma):
    """Gaussian mean over the brain's voxels, continued a little beyond its border."""
    from scipy.ndimage import gaussian_filter

    weight = gaussian_filter(inside.astype(np.float32), sigma)
    return gaussian_filter(volume, sigma) / np.maximum(weight, 1e-3)


def _gradient_product(volume, other=None):
    """Product of the gradients of two volumes, or a gradient's squared length, per voxel."""
    total = np.zeros_like(volume)
    for axis in range(volume.ndim):
        slope = np.gradient(volume, axis=axis)
        slope *= slope if other is None else np.gradient(other, axis=axis)
        total += slope
    return total


def _worst_share(both, square, core):
    """Largest share, in any cube, of strong edges that the other brain has less than a part of."""
    from scipy.ndimage import uniform_filter

    if not square[core].max() > 0:
        return None
    strong = core & (square > np.quantile(square[core], STRONG))
    missing = strong & (both < PART * square)
    edges, gone = (uniform_filter(v.astype(np.float32), WINDOW, mode="constant")
                   for v in (strong, missing))  # fmt: skip
    counted = core & (edges * WINDOW**3 >= FEWEST)
    return float((gone[counted] / edges[counted]).max()) if counted.any() else None


def _low_correlation(found, core, square):
    """Correlation that 1 % of the places stay below, of those with more structure than most."""
    from scipy.ndimage import uniform_filter

    places = core & np.isfinite(found)
    if not places.any():
        return None
    energy = uniform_filter(np.where(core, square, 0), NEIGHBOURS, mode="constant")
    places &= energy >= np.median(energy[places])
    return float(np.quantile(found[places], 0.01))


def _worst_difference(before, after, correlation):
    """Largest root mean square, in any cube, of what no local gain and offset explain."""
    from scipy.ndimage import uniform_filter

    counted = np.isfinite(correlation)
    if counted.any():
        # Where vessels are, a map of intensities that is not straight explains the most.
        bright = before > np.quantile(before[counted], BRIGHT)
        counted &= uniform_filter(bright.astype(np.float32), NEIGHBOURS) < 1e-6
    spread = float(before[counted].std()) if counted.any() else 0.0
    if not spread > 0:
        return None
    mean = uniform_filter(after, NEIGHBOURS)
    variance = np.maximum(uniform_filter(after**2, NEIGHBOURS) - mean**2, 0)
    unexplained = np.where(counted, (1 - np.nan_to_num(correlation) ** 2) * variance, 0)
    power, share = (
        uniform_filter(v.astype(np.float32), WINDOW, mode="constant")
        for v in (unexplained, counted)
    )
    whole = share >= 0.5
    return float(np.sqrt((power[whole] / share[whole]).max()) / spread) if whole.any() else None
