"""What a training leaves to be looked at: log, learning curve, samples, TensorBoard."""

import numpy as np
import torch

from ..errors import InputError
from .checkpoint import LOG, TrainingLog, writing
from .crops import Crops
from .figures import plot_learning_curve, plot_samples
from .validation import on_device

TEMPERATURES = (0.7, 0.85, 1.0)
# Target units; the background's noise lies below.
VISIBLE = 0.05
# Of so many slices, those with the most brain are shown.
DRAWN_SLICES, SHOWN_SLICES = 16, 4


class Record:
    """Writes the log and the figures of a training.

    Parameters
    ----------
    folder : pathlib.Path
        Of the files; exists.
    step : int
        That the training goes on from: what was written of later ones is forgotten.
    tensorboard : bool
        Also write events to the subfolder ``tensorboard``.

    Raises
    ------
    InputError
        If TensorBoard is asked for and not installed.
    ModelError
        If a file cannot be written, here or later.
    """

    def __init__(self, folder, step, tensorboard):
        self._folder = folder
        self._board = _board(folder / "tensorboard", step) if tensorboard else None
        self._log = TrainingLog(folder / LOG, step)

    def add(self, entry, best_step):
        """Write one validation's entry, and draw the curve up to it."""
        self._log.append(entry)
        self.draw_curve(best_step)
        if self._board is None:
            return
        for name, value in _scalars(entry):
            self._board.add_scalar(name, value, entry["step"])
        self._board.flush()

    def draw_curve(self, best_step):
        """Draw the learning curve of all entries."""
        path = self._folder / "learning_curve.png"
        with writing(path):
            plot_learning_curve(self._log.entries, path, best_step)

    def draw_samples(self, flow, crops, step):
        """Draw slices that the flow makes of latents at three temperatures.

        Parameters
        ----------
        flow : TargetFlow
            In evaluation mode.
        crops : Crops
            Held-out slices; the context of those with the most brain is given to the samples.
        step : int
            For TensorBoard.
        """
        crops = fullest(crops, SHOWN_SLICES)
        samples = sample(flow, crops)
        path = self._folder / "samples.png"
        with writing(path):
            plot_samples(crops.x[:, 0], samples, path)
        if self._board is not None:
            for temperature, images in samples.items():
                shown = torch.from_numpy(images[:, None].swapaxes(2, 3)[:, :, ::-1].copy())
                name = f"samples/temperature {temperature:g}"
                self._board.add_images(name, (shown / 1.2).clamp(0, 1), step)
            self._board.flush()

    def close(self):
        """Close what is open."""
        if self._board is not None:
            self._board.close()


def fullest(crops, number):
    """The crops with the most brain, that with the most first."""
    brain = np.count_nonzero(crops.x > VISIBLE, axis=(1, 2, 3))
    chosen = np.argsort(-brain, kind="stable")[:number]
    return Crops(*(None if a is None else a[chosen] for a in crops))


@torch.inference_mode()
def sample(flow, crops, temperatures=TEMPERATURES, seed=0):
    """Slices made of random latents, given the context of real ones.

    Parameters
    ----------
    flow : TargetFlow
        In evaluation mode.
    crops : Crops
        Their context and size are those of the samples.
    temperatures : sequence of float
        Standard deviations of the latents; below 1 the samples keep to what is most usual.
    seed : int
        Of the latents, which are the same at all temperatures but for their scale.

    Returns
    -------
    dict of float to numpy.ndarray, each of shape (n, x, y)
        Target units, keyed by temperature; 0 outside the brain where the flow knows the mask.
    """
    device = next(flow.parameters()).device
    x, context = on_device(crops, device)
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(len(x), x[0].numel(), generator=generator).to(device)
    conditions = flow.config.conditions
    brain = context[:, conditions.index("mask")] if "mask" in conditions else 1
    drawn = {t: flow.inverse(t * latents, x.shape[2:], context)[:, 0] for t in temperatures}
    return {t: (images * brain).cpu().numpy() for t, images in drawn.items()}


def _board(folder, step):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError(
            "--tensorboard needs the package tensorboard: install it with "
            "'pip install tensorboard', or leave the option out."
        ) from None
    return SummaryWriter(folder, purge_step=step + 1 if step else 0)


def _scalars(entry):
    names = {"training": "bits/training", "validation": "bits/validation", "rate": "rate"}
    for name, shown in names.items():
        if entry[name] is not None:
            yield shown, entry[name]
    for sigma, value in entry.get("validation_by_noise", {}).items():
        yield f"bits/validation, noise {sigma}", value
