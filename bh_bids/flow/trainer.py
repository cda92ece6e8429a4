"""The training loop: batches, steps, validation, checkpoints."""

import json
import math
import sys
import time
from contextlib import closing, contextmanager
from functools import partial

import torch

from ..errors import DeviceError, ModelError
from .averaging import WeightAverage
from .checkpoint import LOG, TrainingLog, load_checkpoint, save_checkpoint
from .crops import Ahead, CropSampler
from .network import TargetFlow
from .validation import FixedCrops, bits_of, on_device

# So many steps in a row without a finite gradient end the training: it has diverged.
MAX_SKIPPED_IN_A_ROW = 50
# The trainer's numbers that a checkpoint holds.
COUNTERS = (
    *("step", "skipped", "_skipped_in_a_row", "_stale"),
    *("best", "best_bits", "best_step", "seconds", "_losses"),
)


class Trainer:
    """The training loop and its state.

    Parameters
    ----------
    config : FlowConfig
    settings : TrainingSettings
    volumes : dict of str to list of Volume
        "training" and "validation".
    mean : numpy.ndarray, shape ``config.shape``
        Mean of the training volumes, target units.
    folder : pathlib.Path
        Of the checkpoint, the log and the learning curve; exists.
    fingerprint : dict
        See :func:`bh_bids.flow.checkpoint.load_checkpoint`.
    report : callable
        Called with one sentence at a time.
    release : callable
        Called after each validation, to give back the memory of the slices read so far.

    Attributes
    ----------
    best_state : dict of str to torch.Tensor
        The averaged weights with the fewest bits per dimension of the held-out participants.
    """

    def __init__(self, config, settings, volumes, mean, folder, fingerprint, report, release):
        self.settings = settings
        self.folder = folder
        self._fingerprint = fingerprint
        self._report = report
        self._release = release
        crop, seed = settings.crop, settings.seed
        self._sampler = CropSampler(volumes["training"], crop, config, seed, mean)
        fixed = CropSampler(volumes["validation"], crop, config, seed + 1, mean)
        self._validation = FixedCrops(fixed, config, settings)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.flow = TargetFlow(config)
            try:
                self.flow.to(settings.device)
            except (RuntimeError, AssertionError) as error:
                reason = str(error).splitlines()[0]
                raise DeviceError(
                    f"Training on '{settings.device}' is impossible: {reason}"
                ) from None
            self.average = WeightAverage(self.flow, settings.ema)
        self.optimizer = torch.optim.Adam(self.flow.parameters(), lr=settings.learning_rate)
        self.step = self.skipped = self._skipped_in_a_row = self._stale = 0
        self.best, self.best_bits, self.best_step, self.seconds = math.inf, [], 0, 0.0
        self.best_state = None
        self._losses = []
        self._restore(load_checkpoint(folder, fingerprint))
        self.log = TrainingLog(folder / LOG, self.step)

    @property
    def finished(self):
        """Whether the last step is done, or validations have not improved for too long."""
        patience = self.settings.patience
        return self.step >= self.settings.steps or (patience and self._stale >= patience)

    def run(self):
        """Train to the last step or until the time is over; validate, log and save on the way."""
        started, before = time.monotonic(), self.seconds
        minutes = self.settings.max_minutes
        draw = partial(self._sampler.batch, size=self.settings.batch_size)
        batches = Ahead(draw, self.settings.steps, self.settings.workers)
        with closing(batches), _progress(self.settings.steps, self.step) as advance:
            while not self.finished:
                self._losses.append(self._one_step(batches(self.step)))
                self.step += 1
                self.seconds = before + time.monotonic() - started
                advance(self.step, self.best)
                if self.step == self.settings.steps or self.step % self.settings.interval == 0:
                    self._validate()
                    save_checkpoint(self.folder, self._state())
                if minutes is not None and time.monotonic() - started > 60 * minutes:
                    self._stop_for_now()
                    break
        self._report_end()
        plot_learning_curve(self.log.entries, self.folder / "learning_curve.png")

    def _stop_for_now(self):
        if self.finished:
            return
        if self.best_state is None:
            # Nothing to use yet. The next validation must not take this one for the best.
            self._keep(self._validation.bits(self.average.flow), self.step)
            self.best = math.inf
        save_checkpoint(self.folder, self._state())

    def _report_end(self):
        done = f"at step {self.step} of {self.settings.steps}"
        if not self.finished:
            self._report(
                f"Stopped after {self.settings.max_minutes:g} minutes {done}: run again with "
                "--resume to go on."
            )
        elif self.step < self.settings.steps:
            self._report(
                f"Stopped {done}: no better for {self._stale} validations, best at step "
                f"{self.best_step}."
            )

    def summary(self):
        """The "Training" entry of model.json."""
        return {
            **self.settings.fingerprint(),
            "crop": list(self._sampler.crop),
            "Step": self.step,
            "Completed": bool(self.finished),
            "BestStep": self.best_step,
            "BitsPerDimension": round(sum(self.best_bits) / len(self.best_bits), 4),
            **(
                {"BitsPerDimensionByNoise": self._validation.named(self.best_bits, 4)}
                if self._validation.by_noise
                else {}
            ),
            "SkippedSteps": self.skipped,
            "Seconds": round(self.seconds),
            "Parameters": sum(p.numel() for p in self.flow.parameters()),
        }

    def _one_step(self, crops):
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.rate(self.step)
        self.flow.train()
        x, context = on_device(crops, self.settings.device)
        if self.step == 0:
            # ActNorm sets itself from the first batch: the average must start from there.
            with torch.no_grad():
                self.flow(x, context)
            self.average.restart(self.flow)
        counted = self.flow.dimensions(x, context).sum()
        loss = bits_of(self.flow.log_prob(x, context).sum(), counted, self.flow.config)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.flow.parameters(), self.settings.clip)
        value = float(loss.detach())
        if math.isfinite(value) and math.isfinite(float(norm)):
            self.optimizer.step()
            self.average.update(self.flow, self.step)
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

    def _keep(self, bits, step):
        self.best, self.best_bits, self.best_step = sum(bits) / len(bits), bits, step
        if not math.isfinite(self.best):
            raise ModelError(
                f"The flow has no finite likelihood at step {step}: lower the learning rate."
            )
        state = self.average.flow.state_dict()
        self.best_state = {name: value.detach().cpu().clone() for name, value in state.items()}

    def _validate(self):
        bits = self._validation.bits(self.average.flow)
        mean = sum(bits) / len(bits)
        if mean < self.best or self.best_state is None:
            self._keep(bits, self.step)
            self._stale = 0
        else:
            self._stale += 1
        finite = [loss for loss in self._losses if math.isfinite(loss)]
        self._losses = []
        entry = {
            "step": self.step,
            "training": round(sum(finite) / len(finite), 5) if finite else None,
            "validation": round(mean, 5) if math.isfinite(mean) else None,
            "rate": self.settings.rate(self.step),
            "skipped": self.skipped,
            "seconds": round(self.seconds, 1),
        }
        if self._validation.by_noise:
            entry["validation_by_noise"] = self._validation.named(bits, 5)
        self._release()
        self.log.append(entry)
        plot_learning_curve(self.log.entries, self.folder / "learning_curve.png")
        self._report(
            f"Step {self.step} of {self.settings.steps}: training {entry['training']}, "
            f"validation {entry['validation']} bits per dimension, {self.seconds / 60:.1f} min."
        )

    def _state(self):
        return {
            "fingerprint": json.dumps(self._fingerprint),
            "flow": self.flow.state_dict(),
            "average": self.average.flow.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best_state": self.best_state,
            "counters": {name: getattr(self, name) for name in COUNTERS},
        }

    def _restore(self, state):
        if state is None:
            return
        self.flow.load_state_dict(state["flow"])
        self.average.flow.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best_state = state["best_state"]
        for name in COUNTERS:
            setattr(self, name, state["counters"][name])
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
    if entries:
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
