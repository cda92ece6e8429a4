"""The report's charts, drawn with matplotlib's object interface (no pyplot, no global state)."""

import numpy as np

from .svg import GRID, INK, MUTED, PAPER

SOURCE, HARMONIZED, TARGET = "#2f80d0", "#d9691e", "#7a8794"
_TISSUES = ("CSF", "GM", "WM")
_TISSUE_NAMES = {
    "CSF": "Cerebrospinal fluid (CSF)",
    "GM": "Grey matter (GM)",
    "WM": "White matter (WM)",
}
_TRACE_PANELS = (
    ("objective", "Objective", "should fall and level off"),
    ("ncc", "Correlation with source", "should stay near 1"),
    ("edge", "Edge term", "new edges in flat regions"),
    ("latent", "Latent |z|²/d", "compare within one model"),
    ("bits_per_dim", "Bits per dimension", "lower: more like the target"),
)
_STAGE_PANELS = (
    ("bits_per_dim", "Bits per dimension", "lower: more like the target"),
    ("latent", "Latent |z|²/d", "compare within one model"),
    ("ncc", "Correlation with source", "how much was changed"),
)
# What an axis spans at least, so that what hardly changed looks so.
_SPANS = {"bits_per_dim": 1.0, "latent": 0.2, "ncc": 0.1}


def _figure(width, height, label):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor=PAPER, layout="constrained", label=label)
    FigureCanvasAgg(figure)
    return figure


def _style(axes):
    axes.set_facecolor(PAPER)
    axes.tick_params(colors=MUTED, labelsize=9, length=0)
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(GRID)


def quantile_density(quantiles, edges):
    """Density of a distribution that is given by evenly spaced quantiles.

    Parameters
    ----------
    quantiles : sequence of float
        From 0 to 100 %, evenly spaced in probability, not decreasing.
    edges : numpy.ndarray, shape (n + 1,)
        Edges of the bins.

    Returns
    -------
    numpy.ndarray, shape (n,)
        Mean density in each bin.

    Examples
    --------
    Quartiles of a uniform distribution from 0 to 1:

    >>> quantile_density([0, 0.25, 0.5, 0.75, 1], np.array([0, 0.5, 1, 1.5])).tolist()
    [1.0, 1.0, 0.0]
    """
    quantiles = np.asarray(quantiles, dtype=np.float64)
    probability = np.linspace(0, 1, quantiles.size)
    cumulative = np.interp(edges, quantiles, probability, left=0.0, right=1.0)
    return np.diff(cumulative) / np.diff(edges)


def plot_histograms(
    source, harmonized, mask, target_quantiles=None, modes=None, *, labels=None, bins=90
):
    """Intensities before and after, of the brain over the target domain's, and of each tissue.

    Parameters
    ----------
    source, harmonized : numpy.ndarray, shape (x, y, z)
        In target units.
    mask : numpy.ndarray of bool, shape (x, y, z)
    target_quantiles : sequence of float, optional
        The target's pooled brain quantiles in target units, evenly spaced from 0 to 100 %.
    modes : dict, optional
        ``{"source": {"CSF": .., "GM": .., "WM": ..}, "harmonized": {..}, "target": {..}}``, any of
        them missing or not finite; target units.
    labels : numpy.ndarray of int, shape (x, y, z), optional
        1 CSF, 2 grey matter, 3 white matter; without it the tissues are not drawn.
    bins : int

    Returns
    -------
    matplotlib.figure.Figure
    """
    mask = np.asarray(mask, dtype=bool)
    pair = [np.asarray(v, dtype=np.float64) for v in (source, harmonized)]
    values = [v[mask & np.isfinite(v)] for v in pair]
    tops = [np.percentile(v, 99.8) for v in values if v.size] + [1.05]
    if target_quantiles is not None and len(target_quantiles) > 1:
        tops.append(min(float(np.max(target_quantiles)), 1.3))
    edges = np.linspace(0.0, max(tops), bins + 1)
    centres = (edges[1:] + edges[:-1]) / 2

    figure = _figure(10.5, 3.6 if labels is None else 5.8, "Histograms of the brain's intensities")
    heights = (1,) if labels is None else (3.4, 2.2)
    rows = figure.add_gridspec(len(heights), 3, height_ratios=heights)
    axes = figure.add_subplot(rows[0, :])
    _style(axes)
    if target_quantiles is not None and len(target_quantiles) > 1:
        density = quantile_density(target_quantiles, edges)
        axes.fill_between(centres, density, color=TARGET, alpha=0.35, linewidth=0, label="Target")
    _draw_pair(axes, values, edges)
    _draw_modes(axes, modes or {})
    axes.set_ylim(0, 1.25 * axes.get_ylim()[1])  # head room for the marks
    axes.set_xlabel("Intensity (1 = the brain's 99th percentile)", color=MUTED, fontsize=9.5)
    axes.set_ylabel("Density", color=MUTED, fontsize=9.5)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(0, 1.05),  # above the marks and the tissues' names
            ncols=3,
            frameon=False,
            labelcolor=INK,
            fontsize=9.5,
        )
    for number, tissue in enumerate(_TISSUES if labels is not None else ()):
        axes = figure.add_subplot(rows[1, number])
        _style(axes)
        inside = mask & (labels == number + 1)
        _draw_pair(axes, [v[inside & np.isfinite(v)] for v in pair], edges)
        aim = ((modes or {}).get("target") or {}).get(tissue)
        if aim is not None and np.isfinite(aim):
            axes.axvline(aim, color=TARGET, lw=1.6, ls=(0, (3, 2)))
        axes.set_title(_TISSUE_NAMES[tissue], color=INK, fontsize=10, loc="left")
        axes.set_xlabel("dashed: the target's peak", color=MUTED, fontsize=8.5)
    return figure


def _draw_pair(axes, values, edges):
    """Densities before and after."""
    centres = (edges[1:] + edges[:-1]) / 2
    for data, colour, name in zip(
        values, (SOURCE, HARMONIZED), ("Source (before)", "Harmonized (after)"), strict=True
    ):
        if data.size:
            counts, _ = np.histogram(data, edges)
            axes.plot(
                centres, counts / (data.size * np.diff(edges)), color=colour, lw=1.9, label=name
            )
    axes.set_xlim(0, edges[-1])
    axes.set_ylim(bottom=0)
    axes.set_yticks([])


def _draw_modes(axes, modes):
    """Short marks under the axis' top for the peaks of CSF, grey and white matter."""
    rows = (("target", MUTED), ("source", SOURCE), ("harmonized", HARMONIZED))
    for row, (name, colour) in enumerate(rows):
        found = modes.get(name) or {}
        high = 0.985 - 0.075 * row
        for tissue in _TISSUES:
            value = found.get(tissue)
            if value is None or not np.isfinite(value):
                continue
            axes.axvline(value, ymin=high - 0.055, ymax=high, color=colour, lw=2)
            if name == "target":
                axes.axvline(value, color=colour, lw=0.8, ls=(0, (2, 3)), alpha=0.7)
                axes.text(
                    value,
                    1.01,
                    tissue,
                    transform=axes.get_xaxis_transform(),
                    ha="center",
                    va="bottom",
                    color=MUTED,
                    fontsize=9,
                )


def plot_trace(trace):
    """How the objective and its parts went, or the flow's verdict on each stage, one panel each.

    Parameters
    ----------
    trace : sequence of dict
        One per iteration, with any of ``iteration``, ``objective``, ``ncc``, ``edge``, ``latent``
        (mean |z|²/d) and ``bits_per_dim``; or one per stage, with its name as ``stage``, ``ncc``,
        ``latent`` and ``bits_per_dim``. Other keys are left out, missing or unreadable values leave
        a gap.

    Returns
    -------
    matplotlib.figure.Figure
    """
    from matplotlib.ticker import MaxNLocator

    rows = list(trace)
    stages = [str(row.get("stage")) for row in rows] if rows and rows[0].get("stage") else None
    steps = np.array(
        [i if stages else _number(row.get("iteration", i)) for i, row in enumerate(rows)]
    )
    panels = []
    for key, name, hint in _STAGE_PANELS if stages else _TRACE_PANELS:
        values = np.array([_number(row.get(key)) for row in rows])
        if np.isfinite(values).any():
            panels.append((key, name, hint, values))
    label = "The flow's verdict after each stage" if stages else "Trace of the optimisation"
    figure = _figure(10.5, 2.5, label)
    if not panels:
        axes = figure.add_subplot()
        axes.set_axis_off()
        axes.text(0.5, 0.5, "No iterations were recorded.", ha="center", color=MUTED)
        return figure
    for number, (key, name, hint, values) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), number + 1)
        _style(axes)
        marker = "o" if len(rows) <= 25 else None
        axes.plot(steps, values, color=HARMONIZED, lw=1.8, marker=marker, ms=3.5)
        axes.set_title(name, color=INK, fontsize=10, loc="left")
        axes.set_xlabel(hint, color=MUTED, fontsize=8.5)
        if stages:
            axes.set_xticks(steps, stages)
            axes.set_xlim(-0.4, len(rows) - 0.6)
            _widen(axes, _SPANS[key], top=1.005 if key == "ncc" else None)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.ticklabel_format(axis="y", useOffset=False, scilimits=(-4, 5))
    return figure


def _widen(axes, span, top=None):
    """Let the y axis span at least so much, and end at ``top`` if that is lower."""
    low, high = axes.get_ylim()
    high += max(0.0, span - (high - low)) / 2
    high = high if top is None else min(high, top)
    axes.set_ylim(min(low, high - span), high)


def _number(value):
    """A float, not-a-number for what is none (``n/a``, None)."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")
