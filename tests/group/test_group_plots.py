"""The group report's charts: which points are drawn."""

import numpy as np
from matplotlib.cbook import boxplot_stats

from bh_bids.reports.group_plots import MOST_POINTS, plot_scores


def drawn(values):
    """Heights of the points of one method."""
    figure = plot_scores({"B": {"source": values}}, "PSNR (dB)")
    (points,) = figure.axes[0].collections
    return np.sort(np.asarray(points.get_offsets())[:, 1])


def test_every_participant_of_few_is_a_point():
    values = np.random.default_rng(0).normal(size=MOST_POINTS)
    assert np.array_equal(drawn(values), np.sort(values))


def test_of_many_only_those_beyond_the_whiskers_are_points():
    values = np.random.default_rng(0).standard_t(3, size=5 * MOST_POINTS)
    (expected,) = boxplot_stats(values)
    assert 0 < expected["fliers"].size < 0.1 * values.size
    assert np.array_equal(drawn(values), np.sort(expected["fliers"]))
