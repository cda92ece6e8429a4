"""The group report's charts: scores by site and method, and the scans' place before and after."""

import numpy as np

from .charts import _figure, _style
from .svg import GRID, INK, MUTED

#: Colours that stay apart for the common kinds of colour blindness (Okabe and Ito), light and dark.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a6d3b", "#7a8794")
MARKERS = "osD^vP*X"
HIGHLIGHT = "#d9691e"
#: More points than these are no picture, and slow in a browser.
MOST_POINTS = 100


def plot_scores(values, title, *, better=0):
    """Points and boxes of one score, one panel per site, one place per method.

    Parameters
    ----------
    values : dict of str to dict of str to sequence of float
        Values of the participants, by site and method; sites in panels from left to right.
    title : str
        The score's.
    better : {1, -1, 0}
        More, less, or neither is better.

    Returns
    -------
    matplotlib.figure.Figure
    """
    methods = list(dict.fromkeys(m for of_site in values.values() for m in of_site))
    width = max(5.2, min(16.0, len(values) * (1.0 + 0.42 * len(methods))))
    figure = _figure(width, 3.3, f"{title} by source site and method")
    first = None
    for number, (site, found) in enumerate(values.items()):
        axes = figure.add_subplot(1, len(values), number + 1, sharey=first)
        first = first or axes
        _style(axes)
        _draw_methods(axes, [found.get(m, ()) for m in methods], methods)
        axes.set_title(_short(site), color=INK, fontsize=10, loc="left")
        if number:
            axes.tick_params(labelleft=False)
    hint = {1: " (more is better)", -1: " (less is better)"}.get(better, "")
    if first is not None:
        first.set_ylabel(title + hint, color=MUTED, fontsize=9)
    return figure


def _short(site):
    return site if len(site) <= 28 else site[:26] + "…"


def _draw_methods(axes, found, methods):
    for place, (values, method) in enumerate(zip(found, methods, strict=True)):
        values = np.asarray([v for v in values if np.isfinite(v)], dtype=np.float64)
        if not values.size:
            continue
        colour = HIGHLIGHT if method == "harmonized" else COLOURS[0]
        if values.size >= 5:
            axes.boxplot(
                values, positions=[place], widths=0.62, showfliers=False, patch_artist=True,
                boxprops={"facecolor": colour, "alpha": 0.18, "linewidth": 0},
                medianprops={"color": colour, "linewidth": 1.6},
                whiskerprops={"color": colour, "linewidth": 0.9}, capprops={"linewidth": 0},
            )  # fmt: skip
        else:
            axes.plot([place - 0.3, place + 0.3], [np.median(values)] * 2, color=colour, lw=1.6)
        points = np.sort(values)
        if points.size > MOST_POINTS:
            points = _beyond_whiskers(points)
        # Spread by rank, so that the same values are always drawn the same way.
        spread = ((np.arange(points.size) * 0.618) % 1 - 0.5) * 0.44
        axes.scatter(place + spread, points, s=9, color=colour, alpha=0.75, linewidth=0)
    axes.set_xticks(range(len(methods)), methods, rotation=40, ha="right", fontsize=8.5)
    axes.set_xlim(-0.6, len(methods) - 0.4)
    axes.grid(False, axis="x")


def _beyond_whiskers(values):
    """Values more than 1.5 times the quartiles' distance beyond the quartiles."""
    low, high = np.quantile(values, [0.25, 0.75])
    reach = 1.5 * (high - low)
    return values[(values < low - reach) | (values > high + reach)]


def plot_site_effect(panels):
    """Scans as points, coloured by site, before and after.

    Parameters
    ----------
    panels : dict of str to list of (site, x, y, is_target)
        One panel each, such as "Before" and "After".

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure = _figure(10.5, 4.4, "Scans in the plane in which they differ most, by site")
    sites = list(dict.fromkeys(p[0] for points in panels.values() for p in points))
    first = None
    for number, (name, points) in enumerate(panels.items()):
        axes = figure.add_subplot(1, len(panels), number + 1, sharex=first, sharey=first)
        first = first or axes
        _style(axes)
        for k, site in enumerate(sites):
            own = np.array([p[1:3] for p in points if p[0] == site]).reshape(-1, 2)
            target = any(p[3] for p in points if p[0] == site)
            if len(own):
                # The ninth site has the first one's colour, and another marker.
                marker = MARKERS[(k + k // len(COLOURS)) % len(MARKERS)]
                axes.scatter(
                    *own.T, s=52 if target else 30, marker=marker,
                    color=COLOURS[k % len(COLOURS)], edgecolor=INK if target else "none",
                    linewidth=0.9, alpha=0.85, label=_short(site) + (" (target)" if target else ""),
                )  # fmt: skip
        axes.set_title(name, color=INK, fontsize=10.5, loc="left")
        axes.tick_params(labelleft=False, labelbottom=False)
        axes.axhline(0, color=GRID, lw=0.8, zorder=0)
    handles, labels = first.get_legend_handles_labels() if first else ([], [])
    if handles:
        figure.legend(
            handles, labels, loc="outside lower center", ncols=min(4, len(labels)), frameon=False,
            labelcolor=INK, fontsize=9,
        )  # fmt: skip
    return figure
