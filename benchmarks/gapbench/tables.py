"""Markdown tables and the figure of a benchmark's records."""

import numpy as np

from bh_bids.evaluation.statistics import paired_difference

from .methods import OURS, REFERENCE
from .statistics import METRICS, by_participant, worst

GIB = 2**30


def report(records, gaps, methods, heading):
    """All tables of one split as markdown.

    Parameters
    ----------
    records : list of dict
        Of one split.
    gaps, methods : sequence of str
        Rows and columns, in order.
    heading : str

    Returns
    -------
    str
    """
    parts = [heading]
    for metric in METRICS:
        rows = [g for g in gaps if metric.name != "lesion_kept" or g == "lesion"]
        if not rows:
            continue
        parts.append(f"### {metric.title}: mean (worst participant)")
        parts.append(_table(rows, methods, lambda g, m, of=metric: _cell(records, g, m, of)))
        if metric.name == "psnr" and REFERENCE in methods:
            others = [m for m in methods if m != REFERENCE]
            parts.append(f"### PSNR minus that of `{REFERENCE}` in dB: mean [95 % interval]; worst")
            parts.append(_table(gaps, others, lambda g, m: _difference(records, g, m)))
    parts.append("### Time and memory")
    parts.append(_costs(records, methods))
    return "\n\n".join(parts) + "\n"


def figure(records, gaps, methods, path, title):
    """PSNR difference to the reference per gap and method with intervals, as an image file."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = [m for m in methods if m != REFERENCE]
    colours = plt.get_cmap("tab20").colors
    fig, axes = plt.subplots(figsize=(max(7, 0.95 * len(gaps)), 5.5), layout="constrained")
    for i, method in enumerate(shown):
        found = [
            paired_difference(*(by_participant(records, g, m, METRICS[0])
                                for m in (method, REFERENCE)))
            for g in gaps
        ]  # fmt: skip
        x = [k + 0.8 * ((i + 0.5) / len(shown) - 0.5) for k, d in enumerate(found) if d]
        found = [d for d in found if d]
        if not found:
            continue
        mean, low, high = np.array(found).T
        colour, marker, size = colours[i % len(colours)], "o", 4
        if method.startswith("ceiling"):
            colour, marker = "0.6", "_"
        elif method == OURS:
            colour, size = "black", 7
        axes.errorbar(
            x, mean, yerr=np.maximum([mean - low, high - mean], 0), linestyle="none",
            marker=marker, markersize=size, elinewidth=size / 4, label=method, color=colour,
        )  # fmt: skip
    axes.axhline(0, color="0.3", linewidth=0.8)
    for k in range(1, len(gaps)):
        axes.axvline(k - 0.5, color="0.9", linewidth=0.8, zorder=0)
    # Ceilings and untouched scans lie tens of dB away: near 0 the axis is linear, beyond it not.
    axes.set_yscale("symlog", linthresh=10)
    axes.set_yticks([-30, -20, -10, -5, -2, 0, 2, 5, 10, 20, 30, 60])
    axes.yaxis.set_major_formatter(matplotlib.ticker.ScalarFormatter())
    axes.set_xticks(range(len(gaps)), gaps, rotation=30, ha="right")
    axes.set_xlim(-0.5, len(gaps) - 0.5)
    axes.set_ylabel(f"PSNR minus that of {REFERENCE} in dB (95 % interval)")
    axes.set_title(title, fontsize=10)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(ncols=2, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    fig.savefig(path, dpi=120)
    plt.close(fig)


def _table(rows, columns, cell):
    lines = ["| gap | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {r} | " + " | ".join(cell(r, c) for c in columns) + " |" for r in rows]
    return "\n".join(lines)


def _cell(records, gap, method, metric):
    found = by_participant(records, gap, method, metric)
    if not found:
        return "n/a"
    values = list(found.values())
    few = _few(records, found)
    return f"{np.mean(values):.{metric.digits}f} ({worst(values, metric):.{metric.digits}f}){few}"


def _difference(records, gap, method):
    own, other = (by_participant(records, gap, m, METRICS[0]) for m in (method, REFERENCE))
    found = paired_difference(own, other)
    if found is None:
        return "n/a"
    least = min(own[p] - other[p] for p in own if p in other)
    return f"{found.mean:+.1f} [{found.low:+.1f}, {found.high:+.1f}]; {least:+.1f}"


def _few(records, found):
    everyone = {r["participant"] for r in records}
    return f" n={len(found)}" if len(found) < len(everyone) else ""


def _costs(records, methods):
    rows = []
    for title, value, form in (
        ("seconds per scan", lambda r: r["seconds"], "{:.1f}"),
        ("CPU seconds per scan", lambda r: r["cpu_seconds"], "{:.1f}"),
        ("peak memory, GiB", lambda r: r["memory"] / GIB if r["memory"] else None, "{:.2f}"),
    ):
        cells = []
        for m in methods:
            found = [v for r in records if r["method"] == m and (v := value(r)) is not None]
            cells.append(
                f"{form.format(np.mean(found))} ({form.format(max(found))})" if found else "n/a"
            )
        rows.append(f"| {title} | " + " | ".join(cells) + " |")
    head = ["| mean (most) | " + " | ".join(methods) + " |", "|---" * (len(methods) + 1) + "|"]
    return "\n".join([*head, *rows])
