"""The command ``bh-model train``."""

import os
import sys

from ..errors import InputError
from .arguments import add_command, add_description, target_domain

# As bh_bids.flow.config has them, which imports numpy: the help must come at once.
CONDITIONS = ("mask", "previous", "mean", "noise")
DEFAULT_CONDITIONS = ("mask", "previous", "noise")
# The same of bh_bids.harmonization.gates.
NOISY = 0.012

TRAIN_EXAMPLES = """\
examples:
  bh-model train derivatives/bh-bids --output models/philips
  bh-model train derivatives/bh-bids --output models/philips --resume

The same command with --resume goes on after an interruption and gives the same weights as a
training that was never interrupted (on CPU, with the same number of threads)."""


def add_train(commands):
    """Add the command ``train`` to the sub-parsers of bh-model."""
    train = add_command(
        commands,
        "train",
        _train,
        help="train a model on preprocessed target-domain scans",
        description="Train a flow on the preprocessed T1w scans (desc-preproc, in the model's "
        "space) of one target domain.",
        epilog=TRAIN_EXAMPLES,
    )
    train.add_argument("derivatives", metavar="DERIVATIVES", help="output folder of bh-bids")
    train.add_argument(
        "--output", metavar="MODEL", required=True, help="the model's folder to write"
    )
    _add_card(train)
    _add_participants(train)
    _add_architecture(train)
    _add_optimisation(train)
    _add_execution(train)


def _add_numbers(group, rows):
    """Whole numbers: option, default and what it is."""
    for option, default, text in rows:
        group.add_argument(
            option, type=int, default=default, metavar="N", help=f"{text} (%(default)s)"
        )


def _add_card(train):
    group = train.add_argument_group("description")
    group.add_argument("--name", help="name of the model (default: the output folder's name)")
    group.add_argument("--model-version", default="1.0.0", metavar="VERSION", help="(%(default)s)")
    add_description(group)


def _add_participants(train):
    group = train.add_argument_group("participants")
    group.add_argument(
        "--validation-participants",
        nargs="+",
        action="extend",
        metavar="LABEL",
        help="labels of the participants that measure bits per dimension, or the fraction to draw "
        "(0.12)",
    )
    group.add_argument(
        "--exclude-participants",
        nargs="+",
        action="extend",
        default=[],
        metavar="LABEL",
        help="participants kept for tests, named in the model",
    )


def _add_architecture(train):
    group = train.add_argument_group("architecture")
    rows = (
        ("--levels", 3, "levels, each halving a slice's sides"),
        ("--steps-per-level", 4, "couplings of a level"),
        ("--hidden-channels", 32, "width of the conditioners"),
        ("--blocks", 2, "residual blocks of the conditioners"),
        ("--bins", 8, "bins of the splines"),
        ("--bits", 8, "bits at which intensities are discretised"),
    )
    _add_numbers(group, rows)
    group.add_argument(
        "--batch-norm", action="store_true", help="batch normalisation in the conditioners"
    )
    group.add_argument(
        "--conditions",
        nargs="+",
        action="extend",
        choices=(*CONDITIONS, "none"),
        metavar="CONDITION",
        help="what the flow is told of a slice: mask, previous (the slice below), mean (of the "
        "target), noise; or none, the published flow (mask previous noise)",
    )
    group.add_argument(
        "--noise-range",
        type=float,
        nargs=2,
        default=[0.004, 0.05],
        metavar=("LOW", "HIGH"),
        help="standard deviations of the training noise, target units (0.004 0.05); noise of "
        f"{NOISY} and more is taken away by the method map, so this must lie between them",
    )


def _add_optimisation(train):
    group = train.add_argument_group("optimisation")
    group.add_argument(
        "--crop",
        nargs="+",
        default=["64"],
        metavar="N",
        help="side or sides of the crops in voxels, or 'whole' for whole slices (64)",
    )
    rows = (
        ("--batch-size", 4, "crops of a step"),
        ("--steps", 26000, "optimisation steps, over which the learning rate falls to 0"),
        ("--warm-up", 200, "first steps, over which the learning rate rises"),
        ("--interval", 250, "steps between two validations and checkpoints"),
        ("--validation-crops", 64, "fixed crops of the validation participants"),
        ("--seed", 0, "of weights, crops, noise and the draw of participants"),
    )
    _add_numbers(group, rows)
    group.add_argument(
        "--learning-rate", type=float, default=5e-3, metavar="RATE", help="highest (%(default)s)"
    )
    group.add_argument(
        "--clip", type=float, default=1.0, metavar="NORM", help="gradient's norm (%(default)s)"
    )
    group.add_argument(
        "--ema",
        type=float,
        default=0.999,
        metavar="DECAY",
        help="decay of the averaged weights, which are the ones kept; 0 averages nothing "
        "(%(default)s)",
    )
    group.add_argument(
        "--patience",
        type=int,
        metavar="N",
        help="stop after so many validations without improvement (never)",
    )


def _add_execution(train):
    group = train.add_argument_group("execution")
    group.add_argument("--threads", type=int, metavar="N", help="CPU threads (all)")
    group.add_argument(
        "--workers", type=int, default=1, metavar="N", help="threads that draw crops (%(default)s)"
    )
    group.add_argument("--device", default="auto", help="cpu, cuda or auto (%(default)s)")
    group.add_argument(
        "--precision",
        choices=("float32", "tf32", "bf16"),
        default="float32",
        help="of the convolutions; splines stay in float32 (%(default)s)",
    )
    group.add_argument(
        "--tensorboard", action="store_true", help="write events to MODEL/training/tensorboard"
    )
    group.add_argument(
        "--max-minutes", type=float, metavar="MINUTES", help="stop, resumable, after so long"
    )
    group.add_argument(
        "--store",
        metavar="FOLDER",
        help="keep the scans' slices here, for several trainings on them (MODEL/training/store)",
    )
    group.add_argument("--resume", action="store_true", help="go on from the last checkpoint")


def _train(options):
    from ..flow.config import FlowConfig
    from ..flow.training import TrainingSettings, train_model
    from ..harmonization.device import resolve_device
    from ..threads import use_threads

    use_threads(options.threads)
    given = vars(options)
    same = ("levels", "hidden_channels", "blocks", "bins", "bits", "batch_norm")
    config = FlowConfig(
        steps=options.steps_per_level,
        conditions=_conditions(options.conditions or DEFAULT_CONDITIONS),
        noise_range=tuple(options.noise_range),
        **{name: given[name] for name in same},
    )
    low, high = config.noise_range
    if "noise" in config.conditions and not low < NOISY < high:
        raise InputError(
            f"--noise-range {low:g} {high:g} does not enclose {NOISY}, from which on the method "
            "map takes noise away: the flow has to know what lies on both sides."
        )
    same = ("steps", "batch_size", "learning_rate", "warm_up", "clip", "seed", "interval")
    same += ("validation_crops", "ema", "patience", "max_minutes", "workers", "precision")
    settings = TrainingSettings(
        crop=_crop(options.crop),
        device=str(resolve_device(options.device)),
        tensorboard=options.tensorboard,
        **{name: given[name] for name in same},
    )
    about = {
        "Name": options.name or os.path.basename(os.path.normpath(options.output)),
        "Version": options.model_version,
        "TargetDomain": target_domain(options),
        "License": options.license,
    }
    metadata = train_model(
        options.derivatives,
        options.output,
        config,
        settings,
        about,
        validation=_validation(options.validation_participants),
        exclude=options.exclude_participants,
        store=options.store,
        resume=options.resume,
        report=lambda sentence: print(sentence, file=sys.stderr, flush=True),
    )
    if metadata is not None:
        bits = metadata["Training"]["BitsPerDimension"]
        print(f"{options.output}: {bits} bits per dimension on held-out participants")
    return 0


def _conditions(values):
    from ..errors import InputError

    if "none" in values and len(values) > 1:
        raise InputError("--conditions takes either 'none' or the names of conditions.")
    return tuple(name for name in CONDITIONS if name in values)


def _crop(values):
    from ..errors import InputError

    if values == ["whole"]:
        return None
    if len(values) > 2 or not all(value.isdecimal() for value in values):
        raise InputError(f"--crop needs one or two numbers or 'whole', not '{' '.join(values)}'.")
    return int(values[0]), int(values[-1])


def _validation(values):
    if values is None:
        return 0.12
    # A fraction has a point, which no participant's label can hold.
    if len(values) == 1 and "." in values[0]:
        try:
            return float(values[0])
        except ValueError:
            pass
    return values
