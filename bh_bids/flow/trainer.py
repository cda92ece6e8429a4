"""The training loop: batches, steps, validation, checkpoints."""

import json
import math
import sys
import time
from contextlib import contextmanager

import torch

from ..errors import DeviceError, ModelError
from .checkpoint import LOG, TrainingLog, load_checkpoint, save_checkpoint
from .network import TargetFlow
from .slices import CropSampler

# So many steps in a row without a finite gradient end the training: it has diverged.
MAX_SKIPPED_IN_A_ROW = 50


class Trainer:
    """The training loop and its state.

    Parameters
    ----------
    config : FlowConfig
    settings : TrainingSettings
    volumes : dict of str to list of Volume
        "training" and "validation".
    folder : pathlib.Path
        Of the checkpoint, the log and the learning curve; exists.
    fingerprint : dict
        See :func:`bh_bids.flow.checkpoint.load_checkpoint`.
    report : callable
        Called with one sentence at a time.
    """

    def __init__(self, config, settings, volumes, folder, fingerprint, report):
        self.settings = settings
        self.folder = folder
        self._fingerprint = fingerprint
        self._report = report
        self._sampler = CropSampler(volumes["training"], settings.crop, config, settings.seed)
        fixed = CropSampler(volumes["validation"], settings.crop, config, settings.seed + 1)
        self._validation = torch.from_numpy(fixed.batch(0, settings.validation_crops, False))
        self._crop = self._sampler.crop
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.flow = TargetFlow(config)
        try:
            self.flow.to(settings.device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise DeviceError(f"Training on '{settings.device}' is impossible: {reason}") from None
        self.optimizer = torch.optim.Adam(self.flow.parameters(), lr=settings.learning_rate)
        self.step = self.skipped = self._skipped_in_a_row = 0
        self.best, self.best_step, self.seconds = math.inf, 0, 0.0
        self.best_state = None
        self._restore(load_checkpoint(folder, fingerprint))
        self.log = TrainingLog(folder / LOG, self.step)

    def run(self):
        """Train to the last step or until the time is over; validate, log and save on the way."""
        started, before = time.monotonic(), self.seconds
        losses = []
        with _progress(self.settings.steps, self.step) as advance:
            while self.step < self.settings.steps:
                loss = self._one_step()
                losses.append(loss)
                self.step += 1
                self.seconds = before + time.monotonic() - started
                advance(self.step, self.best)
                minutes = self.settings.max_minutes
                over = minutes is not None and time.monotonic() - started > 60 * minutes
                last = self.step == self.settings.steps
                if over or last or self.step % self.settings.interval == 0:
                    self._checkpoint(losses, keep=last or self.step % self.settings.interval == 0)
                    losses = []
                if over and not last:
                    self._report(
                        f"Stopped after {minutes:g} minutes at step {self.step} of "
                        f"{self.settings.steps}: run again with --resume to go on."
                    )
                    break
        plot_learning_curve(self.log.entries, self.folder / "learning_curve.png")

    def validate(self):
        """Bits per dimension of the fixed crops of the held-out participants."""
        self.flow.eval()
        with torch.inference_mode():
            batches = self._validation.split(self.settings.batch_size)
            bits = [self.flow.bits_per_dim(b.to(self.settings.device)).cpu() for b in batches]
        self.flow.train()
        return float(torch.cat(bits).double().mean())

    def summary(self):
        """The "Training" entry of model.json."""
        return {
            **self.settings.fingerprint(),
            "crop": list(self._crop),
            "Step": self.step,
            "Completed": self.step == self.settings.steps,
            "BestStep": self.best_step,
            "BitsPerDimension": round(self.best, 4),
            "SkippedSteps": self.skipped,
            "Seconds": round(self.seconds),
            "Parameters": sum(p.numel() for p in self.flow.parameters()),
        }

    def _one_step(self):
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.rate(self.step)
        self.flow.train()
        batch = torch.from_numpy(self._sampler.batch(self.step, self.settings.batch_size))
        loss = self.flow.bits_per_dim(batch.to(self.settings.device)).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.flow.parameters(), self.settings.clip)
        value = float(loss.detach())
        if math.isfinite(value) and math.isfinite(float(norm)):
            self.optimizer.step()
            self._skipped_in_a_row = 0
            return value
        self.skipped += 1
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise ModelError(
                f"The training diverged: {MAX_SKIPPED_IN_A_ROW} steps in a row without a finite "
                f"gradient before step {self.step}. Lower the learning rate."
            )
        return math.nan

    def _checkpoint(self, losses, keep):
        bits = self.validate()
        finite = [loss for loss in losses if math.isfinite(loss)]
        # A validation that only the clock asked for must not change which weights are the best.
        if (keep or self.best_state is None) and bits < self.best:
            self.best, self.best_step = bits, self.step
            self.best_state = {
                k: v.detach().cpu().clone() for k, v in self.flow.state_dict().items()
            }
        if self.best_state is None:
            raise ModelError(
                f"The flow has no finite likelihood at step {self.step}: lower the learning rate."
            )
        entry = {
            "step": self.step,
            "training": round(sum(finite) / len(finite), 5) if finite else None,
            "validation": round(bits, 5) if math.isfinite(bits) else None,
            "rate": self.settings.rate(self.step),
            "skipped": self.skipped,
            "seconds": round(self.seconds, 1),
        }
        self.log.append(entry)
        save_checkpoint(self.folder, self._state())
        plot_learning_curve(self.log.entries, self.folder / "learning_curve.png")
        self._report(
            f"Step {self.step} of {self.settings.steps}: training {entry['training']}, "
            f"validation {entry['validation']} bits per dimension, {self.seconds / 60:.1f} min."
        )

    def _state(self):
        return {
            "fingerprint": json.dumps(self._fingerprint),
            "flow": self.flow.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best_state": self.best_state,
            "counters": {
                "step": self.step,
                "skipped": self.skipped,
                "skipped_in_a_row": self._skipped_in_a_row,
                "best": self.best,
                "best_step": self.best_step,
                "seconds": self.seconds,
            },
        }

    def _restore(self, state):
        if state is None:
            return
        self.flow.load_state_dict(state["flow"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best_state = state["best_state"]
        counters = state["counters"]
        self.step, self.skipped = counters["step"], counters["skipped"]
        self._skipped_in_a_row = counters["skipped_in_a_row"]
        self.best, self.best_step = counters["best"], counters["best_step"]
        self.seconds = counters["seconds"]
        self._report(f"Going on from step {self.step}.")


def plot_learning_curve(entries, path):
    """Draw bits per dimension against steps.

    Parameters
    ----------
    entries : list of dict
        "step", "training" and "validation" of each validation.
    path : pathlib.Path
        PNG to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name in ("training", "validation"):
        shown = [(e["step"], e[name]) for e in entries if e[name] is not None]
        if shown:
            axes.plot(*zip(*shown, strict=True), label=name)
    axes.set(xlabel="step", ylabel="bits per dimension")
    axes.legend()
    figure.savefig(path, dpi=100)


@contextmanager
def _progress(total, start):
    """Progress bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda step, best: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("training", total=total, completed=start)
        yield lambda step, best: bar.update(
            task, completed=step, description=f"best {best:.3f} bits/dim"
        )
