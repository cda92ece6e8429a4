"""Training of a target-domain model by maximum likelihood on preprocessed target scans."""

import math
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from ..errors import InputError
from .checkpoint import CHECKPOINT
from .checks import about_verdicts, unlike_others
from .crops import check_crop
from .distributed import joined
from .domain import describe_domain, learn_constants
from .model import save_model
from .network import TargetFlow
from .precision import PRECISIONS, reduce_precision
from .registry import refuse_taken
from .slices import find_scans, split_participants
from .store import open_store
from .trainer import Trainer

# torch's seeds are integers of 64 bits, with a sign or without.
LARGEST_SEED = 2**63 - 1
# Settings that may change when a training is resumed.
RUNNING = ("patience", "device", "precision", "max_minutes", "workers", "tensorboard")


@dataclass(frozen=True)
class TrainingSettings:
    """How a flow is trained.

    Parameters
    ----------
    steps : int
        Optimisation steps; the learning rate follows half a cosine over them.
    batch_size : int
        Crops of a step.
    crop : tuple of int or None
        Sides (x, y) of the crops; None for whole slices, cut to the brains' bounding box.
    learning_rate : float
        Adam's, at its highest.
    warm_up : int
        First steps, in which the learning rate grows linearly.
    clip : float
        Largest norm of the gradient. Norms are about 30, so that the default takes the gradient's
        direction alone, and the outliers' weight away.
    seed : int
        Of weights, permutations, crops, noise and the drawing of participants.
    interval : int
        Steps between two validations, each followed by a checkpoint.
    validation_crops : int
        Fixed crops of held-out participants that measure bits per dimension.
    ema : float
        Decay, in [0, 1), of the average of the weights that is validated and kept; 0 keeps the
        weights themselves.
    patience : int or None
        Stop after so many validations in a row without fewer bits per dimension.
    device : str
        torch device; "cuda" under torchrun is each process's own.
    precision : str
        Of the convolutions, see :func:`bh_bids.flow.precision.reduce_precision`. Validation is in
        float32, but for "tf32".
    max_minutes : float or None
        Stop, resumable, after so long.
    workers : int
        Threads that draw the next batches; the same batches for any number.
    tensorboard : bool
        Write events for TensorBoard.
    """

    steps: int = 26000
    batch_size: int = 4
    crop: tuple | None = (64, 64)
    learning_rate: float = 5e-3
    warm_up: int = 200
    clip: float = 1.0
    seed: int = 0
    interval: int = 250
    validation_crops: int = 64
    ema: float = 0.999
    patience: int | None = None
    device: str = "cpu"
    precision: str = "float32"
    max_minutes: float | None = None
    workers: int = 1
    tensorboard: bool = False

    def __post_init__(self):
        for name in ("steps", "batch_size", "interval", "validation_crops", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"The option {name} must be at least 1.")
        for name in ("warm_up", "workers"):
            if getattr(self, name) < 0:
                raise InputError(f"The option {name} must not be negative.")
        if not 0 <= self.seed <= LARGEST_SEED:
            raise InputError(f"The option seed must be from 0 to {LARGEST_SEED}.")
        if self.precision not in PRECISIONS:
            raise InputError(f"The option precision must be one of {', '.join(PRECISIONS)}.")
        if not 0 <= self.ema < 1:
            raise InputError("The option ema must be at least 0 and less than 1.")
        for name in ("learning_rate", "clip", "max_minutes"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"The option {name} must be positive.")

    def rate(self, step):
        """Learning rate of a step (from 0): linear warm-up, then half a cosine down to 0."""
        if step < self.warm_up:
            return self.learning_rate * (step + 1) / self.warm_up
        done = (step - self.warm_up) / max(1, self.steps - self.warm_up)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))

    def fingerprint(self):
        """The settings that decide a step's weights: all but where and how long it runs."""
        return {name: value for name, value in asdict(self).items() if name not in RUNNING}


def train_model(
    derivatives,
    output,
    config,
    settings,
    about,
    *,
    validation=0.12,
    exclude=(),
    store=None,
    resume=False,
    report=None,
):
    """Train a flow on a derivatives folder's scans and write the model's folder.

    Started by torchrun in several processes, each takes its part of every batch, and the first
    alone reports and writes. The curve is that of one process with the same batches, but for the
    order of sums and for batch normalisation, whose statistics are each part's own.

    Parameters
    ----------
    derivatives : str or pathlib.Path
        Folder of preprocessed target-domain scans on the model's grid.
    output : str or pathlib.Path
        The model's folder. Its subfolder ``training`` holds the checkpoint, the log and the
        learning curve, and is needed only to resume.
    config : FlowConfig
        Architecture and grid.
    settings : TrainingSettings
    about : dict
        ``Name``, ``Version``, ``TargetDomain``, ``License`` and the like, for model.json.
    validation, exclude
        See :func:`bh_bids.flow.slices.split_participants`.
    store : str or pathlib.Path, optional
        Folder of the scans' slices, see :mod:`bh_bids.flow.store`; built at the first training,
        and again when a scan has changed. ``output/training/store`` where not given.
    resume : bool
        Go on from the checkpoint, if there is one; the final weights are those of a training
        that was never interrupted.
    report : callable, optional
        Called with one sentence at a time.

    Returns
    -------
    dict
        Content of model.json; None in all processes but the first.

    Raises
    ------
    InputError
        If the scans or the options cannot be used, or ``output`` holds another training.
    ModelError
        If the training diverges or cannot be written, or ``output`` holds a model and no training
        to go on with.
    DeviceError
        If the device is not there.
    """
    if settings.crop is not None:
        check_crop(settings.crop, config)
    scans = find_scans(derivatives, config.space)
    training, held_out = split_participants(
        scans, validation=validation, exclude=exclude, seed=settings.seed
    )
    folder = Path(output) / "training"
    if not (folder / CHECKPOINT).exists():
        refuse_taken(output)
    elif not resume:
        raise InputError(
            f"{folder} holds a training: add --resume to go on, or choose another folder."
        )
    excluded = sorted(str(label).removeprefix("sub-") for label in exclude)
    asked = [scan for scan in scans if scan.participant not in excluded]
    used = [scan for scan in asked if scan.usable]
    with joined(settings.device) as group:
        if report is None or not group.first:
            report = _silent
        for sentence in about_verdicts(asked):
            report(f"Warning: {sentence}")
        stored = _stored(store or folder / "store", folder, used, config, group, report)
        volumes = {
            name: [volume for volume in stored.volumes if volume.participant in labels]
            for name, labels in (("training", training), ("validation", held_out))
        }
        intensity, mean = describe_domain(volumes["training"], config, stored.release)
        fingerprint = {
            "Config": config.to_dict(),
            **settings.fingerprint(),
            "participants": {"training": training, "validation": held_out},
            "scans": [round(v.scale, 6) for several in volumes.values() for v in several],
        }
        trainer = Trainer(
            config, settings, group, volumes, mean, folder, fingerprint, report, stored.release
        )
        trainer.run()
        if not group.first:
            return None
        metadata = {
            **about,
            "TrainingParticipants": training,
            "ValidationParticipants": held_out,
            "ExcludedParticipants": excluded,
            "Intensity": intensity,
            "Training": trainer.summary(),
            "Software": {name: version(name) for name in ("bh-bids", "torch", "nflows")},
        }
        flow = TargetFlow(config)
        flow.load_state_dict(trainer.best_state)
        # The flow must not learn from the validation participants; these few constants may.
        reduce_precision(flow, "float32", group.device)
        known = mean, intensity, flow.to(group.device)
        constants = learn_constants(stored.volumes, *known, report, stored.release)
        save_model(output, flow, mean, metadata, constants)
        return metadata


def _stored(place, folder, scans, config, group, report):
    """The scans' store, built by the first process, once what is wrong with them was said."""
    if group.first:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder} cannot be made: {error.strerror}.") from None
        open_store(place, scans, config, report)
    group.wait()
    stored = open_store(place, scans, config, report)
    for volume in stored.volumes:
        for sentence in volume.warnings:
            report(f"Warning: {sentence}")
    for sentence in unlike_others(stored.volumes):
        report(f"Warning: {sentence}")
    return stored


def _silent(sentence):
    """Report nothing."""
