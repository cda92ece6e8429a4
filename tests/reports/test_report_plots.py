"""Figures: valid, the same bytes every time, and true to the numbers."""

import re
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bh_bids.reports import plots, svg
from bh_bids.reports.charts import quantile_density

SHAPE = (40, 48, 36)
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def brain():
    grid = np.indices(SHAPE, dtype=float)
    radii = (14, 18, 12)
    mask = sum(((g - (n - 1) / 2) / r) ** 2 for g, n, r in zip(grid, SHAPE, radii, strict=True)) < 1
    rng = np.random.default_rng(1)
    return np.where(mask, rng.uniform(0.3, 1, SHAPE), 0).astype(np.float32), mask


TRACE = [
    {"iteration": i, "objective": 1 / (i + 1), "ncc": 0.9, "latent": 1.5, "bits_per_dim": 5.0}
    for i in range(5)
]


def all_figures(volume, mask):
    quantiles = np.quantile(volume[mask], np.linspace(0, 1, 257))
    modes = {"source": {"CSF": 0.3, "GM": 0.5, "WM": None}, "target": {"WM": 0.8}}
    return {
        "brain": plots.plot_brain_mask(volume, mask, (1, 1.3, 1.3)),
        "registration": plots.plot_registration(volume, volume[::-1], mask),
        "flicker": plots.flicker_svg(volume, volume**0.8, mask),
        "difference": plots.plot_difference(volume, volume**0.8, mask),
        "histogram": plots.plot_histograms(volume, volume**0.8, mask, quantiles, modes),
        "trace": plots.plot_trace(TRACE),
    }


def test_every_figure_is_valid_and_the_same_every_time(brain, tmp_path):
    for turn in ("a", "b"):
        for name, figure in all_figures(*brain).items():
            plots.save_svg(figure, tmp_path / turn / f"{name}.svg")
    for path in (tmp_path / "a").iterdir():
        content = path.read_bytes()
        assert content == (tmp_path / "b" / path.name).read_bytes()
        root = ElementTree.fromstring(content)
        assert root.tag == f"{SVG}svg"
        assert root.find(f"{SVG}title") is not None
        for element in root.iter():  # nothing is loaded from elsewhere
            for attribute, value in element.attrib.items():
                if attribute.endswith("href"):
                    assert value.startswith(("#", "data:image/png"))


def test_pictures_of_the_brain_may_be_put_into_a_page(brain):
    figures = all_figures(*brain)
    for name in ("brain", "registration", "flicker", "difference"):
        assert svg.is_inert(figures[name])


def test_flicker_moves_pauses_and_has_a_still_version(brain):
    volume, mask = brain
    text = plots.flicker_svg(volume, volume**0.5, mask)
    style = ElementTree.fromstring(text).find(f"{SVG}style").text
    assert "animation" in style
    assert ":hover .bh-after{animation-play-state:paused}" in style
    assert "prefers-reduced-motion:reduce" in style and "@media print" in style
    after = next(e for e in ElementTree.fromstring(text) if e.attrib.get("class") == "bh-after")
    assert after.attrib["opacity"] == "0"  # viewers without CSS show the first volume


def test_flicker_keeps_one_window_and_registration_does_not(brain, pictures):
    volume, mask = brain
    before, after = pictures(plots.flicker_svg(volume, 0.5 * volume, mask))
    grey = before < 250  # not clipped at the window's end
    assert np.abs(after[grey] - before[grey] / 2).max() <= 1
    moving, template = pictures(plots.plot_registration(volume, 500 * volume, mask))
    assert np.array_equal(moving, template)


def test_no_difference_is_the_colour_of_zero(brain, pictures):
    volume, mask = brain
    picture = pictures(plots.plot_difference(volume, volume, mask))[0]
    assert set(np.unique(picture)) == {127, 255}


def test_difference_is_in_per_cent_of_the_brain_s_99th_percentile(brain, pictures):
    volume, mask = brain
    for change in (0.08, -0.08):
        text = plots.plot_difference(volume, volume + change, mask, limit=20)
        picture = pictures(text)[0]
        shown = (np.median(picture[picture != 255]) / 127 - 1) * 20
        assert shown == pytest.approx(100 * change, abs=0.2)
        assert f"Median {100 * change:+.1f} %".replace("-", "−") in text


def test_volumes_that_are_not_finite_or_without_brain_are_drawn(brain):
    volume, mask = brain
    broken = volume.copy()
    broken[::3] = np.nan
    nowhere = np.zeros_like(mask)
    for figure in (
        plots.plot_brain_mask(broken, nowhere),
        plots.flicker_svg(broken, volume, nowhere),
        plots.plot_difference(broken, volume, nowhere),
    ):
        ElementTree.fromstring(figure)
    plots.plot_histograms(broken, volume, nowhere)
    with pytest.raises(ValueError, match="shape"):
        plots.flicker_svg(volume[:-1], volume, mask)


def test_target_density_is_that_of_its_distribution():
    quantiles = stats.norm.ppf(np.linspace(1e-6, 1 - 1e-6, 4001), 0.6, 0.15)
    edges = np.linspace(0, 1.2, 61)
    expected = np.diff(stats.norm.cdf(edges, 0.6, 0.15)) / np.diff(edges)
    assert quantile_density(quantiles, edges) == pytest.approx(expected, abs=0.02)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=60), st.integers(2, 80))
def test_target_density_has_mass_one(values, bins):
    edges = np.linspace(-0.1, 1.1, bins + 1)
    density = quantile_density(np.sort(values), edges)
    assert np.all(density >= 0)
    assert np.sum(density * np.diff(edges)) == pytest.approx(1.0)


def test_histograms_have_mass_one_inside_the_brain(brain):
    volume, mask = brain
    axes = plots.plot_histograms(volume, 0.9 * volume, mask, bins=50).axes[0]
    for line in axes.lines[:2]:
        x, density = line.get_data()
        assert np.sum(density) * (x[1] - x[0]) == pytest.approx(1.0, abs=0.01)


def test_trace_draws_what_is_there_and_leaves_out_what_is_not():
    rows = [{k: (None if k == "ncc" else str(v)) for k, v in row.items()} for row in TRACE]
    figure = plots.plot_trace(rows)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["Objective", "Latent |z|²/d", "Bits per dimension"]
    objective = figure.axes[0].lines[0].get_ydata()
    assert objective == pytest.approx([row["objective"] for row in TRACE])
    assert "No iterations" in plots.plot_trace([]).axes[0].texts[0].get_text()


def test_plots_leave_matplotlib_as_it_was():
    code = (
        "import sys, matplotlib, numpy as np\n"
        "before = matplotlib.rcParams.copy()\n"
        "from bh_bids.reports import plots, svg\n"
        "v = np.random.default_rng(0).random((9, 9, 9)); m = v > 0.2\n"
        "svg.figure_to_svg(plots.plot_histograms(v, v, m))\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "assert dict.__eq__(before, matplotlib.rcParams)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_saving_is_all_or_nothing(tmp_path, monkeypatch):
    path = plots.save_svg("<svg/>", tmp_path / "deep" / "figure.svg")
    assert path.stat().st_mode & 0o044  # readable by others, unlike a temporary file

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(svg.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        plots.save_svg("<svg>other</svg>", path)
    assert path.read_text() == "<svg/>"
    assert [p.name for p in path.parent.iterdir()] == ["figure.svg"]


HEAD = '<svg xmlns="http://www.w3.org/2000/svg">'


@pytest.mark.parametrize(
    "text",
    [
        f"{HEAD}<script>alert(1)</script></svg>",
        f'{HEAD}<g onclick="alert(1)"/></svg>',
        f'{HEAD}<image href="https://example.org/x.png"/></svg>',
        f'{HEAD}<image href="data:image/svg+xml;base64,AAAA"/></svg>',
        f"{HEAD}<foreignObject/></svg>",
        f"{HEAD}<style>@import 'x.css'</style></svg>",
        f"{HEAD}<style>g{{background:url(x)}}</style></svg>",
        f'{HEAD}<rect fill="url(https://example.org)"/></svg>',
        f"{HEAD}<title><![CDATA[x><img src=x onerror=alert(1)>]]></title></svg>",
        f"<!DOCTYPE svg [<!ENTITY a 'b'>]>{HEAD}&a;</svg>",
        f'{HEAD}<h:script xmlns:h="http://www.w3.org/1999/xhtml">1</h:script></svg>',
        f"{HEAD}<g></svg>",
        "<html/>",
    ],
)
def test_foreign_documents_are_kept_out_of_the_page(text):
    assert not svg.is_inert(text)


def test_two_identical_documents_get_different_identifiers(brain):
    volume, mask = brain
    text = plots.flicker_svg(volume, volume, mask)
    ids = [set(re.findall(r'id="([^"]+)"', svg.inline(text, n))) for n in (1, 2)]
    assert ids[0] and not ids[0] & ids[1]
    for number in (1, 2):  # references follow
        one = svg.inline(text, number)
        declared = set(re.findall(r'id="([^"]+)"', one))
        assert set(re.findall(r'(?:href="#|^#| #)([\w-]+)', one)) <= declared | {"bh-after"}
