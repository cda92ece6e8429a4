"""Figures of a training: the learning curve, and what the flow takes for slices of the target."""

import numpy as np


def plot_learning_curve(entries, path, best=None):
    """Draw bits per dimension against steps.

    Parameters
    ----------
    entries : list of dict
        "step", "training", "validation" and perhaps "validation_by_noise" of each validation.
    path : pathlib.Path
        PNG to write.
    best : int, optional
        Step whose weights are kept; marked.
    """
    figure, axes = _figure((6, 4), (0.7, 0.5, 0.1, 0.1))
    for name in ("training", "validation"):
        shown = [(e["step"], e[name]) for e in entries if e[name] is not None]
        if shown:
            axes.plot(*zip(*shown, strict=True), label=name)
    for sigma in entries[-1].get("validation_by_noise", {}) if entries else ():
        shown = [(e["step"], e["validation_by_noise"][sigma]) for e in entries]
        axes.plot(*zip(*shown, strict=True), lw=0.8, ls="--", label=f"validation, noise {sigma}")
    if best:
        axes.axvline(best, color="0.7", lw=0.8, zorder=0, label="weights kept")
    axes.set(xlabel="step", ylabel="bits per dimension")
    if entries:
        axes.legend(loc="upper right")
    figure.savefig(path, dpi=100)


def plot_samples(real, samples, path):
    """Draw slices of the target above samples of the flow.

    Parameters
    ----------
    real : numpy.ndarray, shape (n, x, y)
        Held-out slices, target units.
    samples : dict of float to numpy.ndarray, each of ``real``'s shape
        Keyed by temperature: the latents' standard deviation.
    path : pathlib.Path
        PNG to write.
    """
    rows = {"held out": real, **{f"temperature {t:g}": drawn for t, drawn in samples.items()}}
    _, x, y = real.shape
    width = 1.8 * len(real)
    height = width * len(rows) * y / (len(real) * x)
    figure, axes = _figure((width + 0.4, height), (0.4, 0, 0, 0))
    axes.imshow(mosaic(rows.values()), cmap="gray", vmin=0, vmax=1.2)
    axes.set_xticks([])
    axes.set_yticks([(row + 0.5) * y for row in range(len(rows))], list(rows), rotation=90)
    axes.tick_params(length=0, labelsize=8)
    for label in axes.get_yticklabels():
        label.set_verticalalignment("center")
    figure.savefig(path, dpi=100)


def mosaic(rows):
    """One image of several rows of slices.

    Parameters
    ----------
    rows : iterable of numpy.ndarray, each of shape (n, x, y)

    Returns
    -------
    numpy.ndarray, shape (rows * y, n * x)
        To be drawn from its upper left corner: each slice's x to the right, its y upwards.
    """
    upright = [slices.swapaxes(1, 2)[:, ::-1] for slices in rows]
    return np.concatenate([np.concatenate(list(slices), axis=1) for slices in upright])


def _figure(size, margins):
    """Figure of a size with axes within margins (left, bottom, right, top), all in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size)
    FigureCanvasAgg(figure)
    (width, height), (left, bottom, right, top) = size, margins
    box = (left / width, bottom / height, 1 - (left + right) / width, 1 - (bottom + top) / height)
    return figure, figure.add_axes(box)
