"""The training loop: batches, steps, validation, checkpoints."""

import json
import math
import sys
import time
from contextlib import closing, contextmanager
from functools import partial

import torch

from ..errors import DeviceError, InputError, ModelError
from .averaging import WeightAverage
from .checkpoint import load_checkpoint, save_checkpoint
from .crops import Ahead, CropSampler
from .gradient import Gradient
from .network import TargetFlow
from .precision import reduce_precision
from .record import DRAWN_SLICES, Record
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
    group : bh_bids.flow.distributed.Group
        The processes that train together; the first alone writes.
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

    def __init__(
        self, config, settings, group, volumes, mean, folder, fingerprint, report, release
    ):
        self.settings = settings
        self.folder = folder
        self._group = group
        self._fingerprint = fingerprint
        self._report = report
        self._release = release
        for name in ("batch_size", "validation_crops"):
            if getattr(settings, name) < group.size:
                raise InputError(f"The option {name} must be at least 1 for each process.")
        crop, seed = settings.crop, settings.seed
        self._sampler = CropSampler(volumes["training"], crop, config, seed, mean)
        fixed = CropSampler(volumes["validation"], crop, config, seed + 1, mean)
        self._validation = FixedCrops(fixed, config, settings, group)
        whole = CropSampler(volumes["validation"], None, config, seed + 1, mean)
        self._shown = partial(whole.batch, 0, DRAWN_SLICES, augment=False)
        self._make_flow(config)
        self.step = self.skipped = self._skipped_in_a_row = self._stale = 0
        self.best, self.best_bits, self.best_step, self.seconds = math.inf, [], 0, 0.0
        self.best_state = None
        self._losses = []
        self._restore(load_checkpoint(folder, fingerprint))
        # All have read the checkpoint before the first writes the next.
        group.wait()
        self.record = Record(folder, self.step, settings.tensorboard) if group.first else None

    def _make_flow(self, config):
        device = self._group.device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.seed)
            self.flow = TargetFlow(config)
            try:
                self.flow.to(device)
            except (RuntimeError, AssertionError) as error:
                reason = str(error).splitlines()[0]
                raise DeviceError(f"Training on '{device}' is impossible: {reason}") from None
            self.average = WeightAverage(self.flow, self.settings.ema)
        reduce_precision(self.flow, self.settings.precision, device)
        # Several processes exchange gradients while a step is computed, which is not recorded.
        recorded = torch.device(device).type == "cuda" and self._group.size == 1
        self._gradient = Gradient(
            self._group.likelihood(self.flow), self.settings.clip, recorded=recorded
        )
        self.optimizer = torch.optim.Adam(self.flow.parameters(), lr=self.settings.learning_rate)

    @property
    def finished(self):
        """Whether the last step is done, or validations have not improved for too long."""
        patience = self.settings.patience
        return self.step >= self.settings.steps or (patience and self._stale >= patience)

    def run(self):
        """Train to the last step or until the time is over; validate, log and save on the way."""
        started, before = time.monotonic(), self.seconds
        settings, group = self.settings, self._group
        draw = partial(self._sampler.batch, size=settings.batch_size, part=group.part)
        batches = Ahead(draw, settings.steps, settings.workers)
        with closing(batches), _progress(settings.steps, self.step, group.first) as advance:
            while not self.finished:
                self._losses.append(self._one_step(batches(self.step)))
                self.step += 1
                self.seconds = before + time.monotonic() - started
                advance(self.step, self.best)
                if self.step == settings.steps or self.step % settings.interval == 0:
                    self._validate()
                    self._save()
                if settings.max_minutes is not None:
                    # The clocks of the processes differ: they stop together.
                    over = time.monotonic() - started > 60 * settings.max_minutes
                    if group.sums(over)[0]:
                        self._stop_for_now()
                        break
        if group.first:
            self._finish()

    def _save(self):
        if self._group.first:
            save_checkpoint(self.folder, self._state())

    def _finish(self):
        self._report_end()
        self.record.draw_curve(self.best_step)
        best = TargetFlow(self.flow.config).eval()
        best.load_state_dict(self.best_state)
        sigma = self._validation.lowest
        self.record.draw_samples(best.to(self._group.device), self._shown(sigma=sigma), self.step)
        self.record.close()

    def _stop_for_now(self):
        if self.finished:
            return
        if self.best_state is None:
            # Nothing to use yet. The next validation must not take this one for the best.
            self._keep(self._validation.bits(self.average.flow), self.step)
            self.best = math.inf
        self._save()

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
            "Precision": self.settings.precision,
            "Processes": self._group.size,
            "Seconds": round(self.seconds),
            "Parameters": sum(p.numel() for p in self.flow.parameters()),
        }

    def _one_step(self, crops):
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.rate(self.step)
        self.flow.train()
        if self.step == 0:
            self._begin()
        group = self._group
        # Counted before they are sent: a number of the device's is not there until all is done.
        counted = group.sums(self.flow.dimensions(*on_device(crops, "cpu")).sum())[0]
        x, context = on_device(crops, group.device)
        # Of the whole batch: the gradients of the processes' parts are averaged, not summed.
        divisor = torch.tensor(math.log(2) * counted / group.size, device=group.device)
        log_prob, norm = self._gradient(x, context, divisor)
        value = bits_of(group.sums(log_prob)[0], counted, self.flow.config)
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

    def _begin(self):
        """Let ActNorm set itself from the first batch, whole, before any weight is averaged."""
        if self._group.first:
            crops = self._sampler.batch(0, self.settings.batch_size)
            with torch.no_grad():
                self.flow(*on_device(crops, self._group.device))
        self._group.share(self.flow)
        self.average.restart(self.flow)

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
        if not self._group.first:
            return
        self.record.add(entry, self.best_step)
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


@contextmanager
def _progress(total, start, wanted):
    """Progress bar on a terminal, nothing elsewhere."""
    if not wanted or not sys.stderr.isatty():
        yield lambda step, best: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("training", total=total, completed=start)
        yield lambda step, best: bar.update(
            task, completed=step, description=f"best {best:.3f} bits/dim"
        )
