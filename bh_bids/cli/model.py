"""Console program bh-model: train, describe, verify and list target-domain models."""

import argparse
import os
import sys

from ..errors import BHError

DESCRIPTION = """\
Train, describe, verify and list target-domain models.

A model is a folder with the weights of a normalizing flow that was trained on the target domain's
scans only, their description and their mean volume. bh-bids harmonizes towards it."""

EXAMPLES = """\
examples:
  bh-model list
  bh-model info default
  bh-model train derivatives/bh-bids --output models/philips --name philips \\
      --exclude-participants 30 31 32 --steps 12000 --max-minutes 120
  bh-model train derivatives/bh-bids --output models/philips --name philips \\
      --exclude-participants 30 31 32 --steps 12000 --resume
  bh-model verify models/philips"""

TRAIN_EXAMPLES = """\
examples:
  bh-model train derivatives/bh-bids --output models/philips
  bh-model train derivatives/bh-bids --output models/philips --resume

The same command with --resume goes on after an interruption and gives the same weights as a
training that was never interrupted (on CPU, with the same number of threads)."""


def main(argv=None):
    """Run bh-model.

    Parameters
    ----------
    argv : list of str, optional
        Arguments; those of the process where not given.

    Returns
    -------
    int
        0 where all went well, 1 after an error a user can mend (one sentence on standard error).
        Wrong usage exits with 2.
    """
    options = _parser().parse_args(argv)
    try:
        return options.run(options)
    except BHError as error:
        print(f"bh-model: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bh-model: interrupted", file=sys.stderr)
        return 130


def _parser():
    parser = argparse.ArgumentParser(
        prog="bh-model",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_train(commands)
    for name, run, text in (
        ("info", _info, "describe a model"),
        ("verify", _verify, "check that a model's files are whole and its flow invertible"),
    ):
        command = commands.add_parser(name, help=text, description=text.capitalize() + ".")
        command.add_argument("model", metavar="MODEL", help="folder, or name of a packaged model")
        command.set_defaults(run=run)
    command = commands.add_parser(
        "list", help="list the packaged models", description="List the packaged models."
    )
    command.set_defaults(run=_list)
    return parser


def _add_train(commands):
    train = commands.add_parser(
        "train",
        help="train a model on preprocessed target-domain scans",
        description="Train a flow on the preprocessed T1w scans (desc-preproc, in the model's "
        "space) of one target domain.",
        epilog=TRAIN_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    train.set_defaults(run=_train)
    train.add_argument("derivatives", metavar="DERIVATIVES", help="output folder of bh-bids")
    train.add_argument(
        "--output", metavar="MODEL", required=True, help="the model's folder to write"
    )

    group = train.add_argument_group("description")
    group.add_argument("--name", help="name of the model (default: the output folder's name)")
    group.add_argument("--model-version", default="1.0.0", metavar="VERSION", help="(%(default)s)")
    group.add_argument("--description", default="", help="the target domain in a sentence")
    group.add_argument("--dataset", default="", help="where the scans come from, such as a DOI")
    group.add_argument("--manufacturer", default="", help="of the target scanner")
    group.add_argument("--license", default="", help="licence of the model")

    group = train.add_argument_group("participants")
    group.add_argument(
        "--validation-participants",
        nargs="+",
        default=["0.12"],
        metavar="LABEL",
        help="labels of the participants that measure bits per dimension, or the fraction to draw "
        "(0.12)",
    )
    group.add_argument(
        "--exclude-participants",
        nargs="+",
        default=[],
        metavar="LABEL",
        help="participants kept for tests, named in the model",
    )

    group = train.add_argument_group("architecture")
    for option, default, text in (
        ("--levels", 3, "levels, each halving a slice's sides"),
        ("--steps-per-level", 4, "couplings of a level"),
        ("--hidden-channels", 32, "width of the conditioners"),
        ("--blocks", 2, "residual blocks of the conditioners"),
        ("--bins", 8, "bins of the splines"),
        ("--bits", 8, "bits at which intensities are discretised"),
    ):
        group.add_argument(
            option, type=int, default=default, metavar="N", help=f"{text} (%(default)s)"
        )
    group.add_argument(
        "--batch-norm", action="store_true", help="batch normalisation in the conditioners"
    )
    _add_optimisation(train)


def _add_optimisation(train):
    group = train.add_argument_group("optimisation")
    group.add_argument(
        "--crop",
        nargs="+",
        default=["64"],
        metavar="N",
        help="side or sides of the crops in voxels, or 'whole' for whole slices (64)",
    )
    for option, default, text in (
        ("--batch-size", 8, "crops of a step"),
        ("--steps", 12000, "optimisation steps, over which the learning rate falls to 0"),
        ("--warm-up", 200, "first steps, over which the learning rate rises"),
        ("--interval", 250, "steps between two validations and checkpoints"),
        ("--validation-crops", 64, "fixed crops of the validation participants"),
        ("--seed", 0, "of weights, crops, noise and the draw of participants"),
    ):
        group.add_argument(
            option, type=int, default=default, metavar="N", help=f"{text} (%(default)s)"
        )
    group.add_argument(
        "--learning-rate", type=float, default=3e-3, metavar="RATE", help="highest (%(default)s)"
    )
    group.add_argument(
        "--clip", type=float, default=1.0, metavar="NORM", help="gradient's norm (%(default)s)"
    )

    group = train.add_argument_group("execution")
    group.add_argument("--threads", type=int, metavar="N", help="CPU threads (all)")
    group.add_argument("--device", default="auto", help="cpu, cuda or auto (%(default)s)")
    group.add_argument(
        "--max-minutes", type=float, metavar="MINUTES", help="stop, resumable, after so long"
    )
    group.add_argument("--resume", action="store_true", help="go on from the last checkpoint")


def _train(options):
    import torch

    from ..flow.config import FlowConfig
    from ..flow.training import TrainingSettings, train_model

    if options.threads is not None:
        torch.set_num_threads(max(1, options.threads))
    config = FlowConfig(
        levels=options.levels,
        steps=options.steps_per_level,
        hidden_channels=options.hidden_channels,
        blocks=options.blocks,
        bins=options.bins,
        bits=options.bits,
        batch_norm=options.batch_norm,
    )
    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    settings = TrainingSettings(
        steps=options.steps,
        batch_size=options.batch_size,
        crop=_crop(options.crop),
        learning_rate=options.learning_rate,
        warm_up=options.warm_up,
        clip=options.clip,
        seed=options.seed,
        interval=options.interval,
        validation_crops=options.validation_crops,
        device=device,
        max_minutes=options.max_minutes,
    )
    about = {
        "Name": options.name or os.path.basename(os.path.normpath(options.output)),
        "Version": options.model_version,
        "TargetDomain": {
            "Description": options.description,
            "Dataset": options.dataset,
            "Manufacturer": options.manufacturer,
        },
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
        resume=options.resume,
        report=lambda sentence: print(sentence, file=sys.stderr, flush=True),
    )
    bits = metadata["Training"]["BitsPerDimension"]
    print(f"{options.output}: {bits} bits per dimension on held-out participants")
    return 0


def _crop(values):
    from ..errors import InputError

    if values == ["whole"]:
        return None
    if len(values) > 2 or not all(value.isdecimal() for value in values):
        raise InputError(f"--crop needs one or two numbers or 'whole', not '{' '.join(values)}'.")
    return int(values[0]), int(values[-1])


def _validation(values):
    # A fraction has a point, which no participant's label can hold.
    if len(values) == 1 and "." in values[0]:
        try:
            return float(values[0])
        except ValueError:
            pass
    return values


def _info(options):
    from ..flow.model import load_model

    model = load_model(options.model)
    for name, value in _described(model):
        print(f"{name:<24}{value}")
    return 0


def _described(model):
    config, domain = model.config, model.target_domain
    training = model.metadata.get("Training", {})
    participants = [
        f"{len(model.metadata.get(f'{group}Participants', []))} {group.lower()}"
        for group in ("Training", "Validation", "Excluded")
    ]
    modes = model.intensity.get("Modes", {})
    rows = {
        "Name": f"{model.name} {model.version}".strip(),
        "Target domain": domain.get("Description"),
        "Dataset": domain.get("Dataset"),
        "Manufacturer": domain.get("Manufacturer"),
        "License": model.metadata.get("License"),
        "Space": f"{config.space}, {' x '.join(map(str, config.shape))} voxels",
        "Architecture": f"{config.levels} levels x {config.steps} steps, "
        f"{config.blocks} blocks of {config.hidden_channels} channels, {config.bins} bins",
        "Parameters": f"{sum(p.numel() for p in model.flow.parameters()):,}",
        "Participants": ", ".join(participants),
        "Bits per dimension": training.get("BitsPerDimension"),
        "Training": "complete" if training.get("Completed") else "stopped early",
        "Target scale": model.intensity.get("TargetScale"),
        "Modes (target units)": ", ".join(f"{name} {value:.3f}" for name, value in modes.items()),
        "SHA-256 of weights": model.weights_sha256,
    }
    return [(name, value) for name, value in rows.items() if value not in (None, "")]


def _verify(options):
    from ..flow.model import load_model
    from ..flow.verify import roundtrip_error

    model = load_model(options.model)
    error = roundtrip_error(model)
    print(f"{options.model}: files whole, round trip through the flow within {error:.1e}")
    return 0


def _list(options):
    from ..flow.model import PACKAGED_MODELS, packaged_models, read_description

    for name in packaged_models():
        metadata = read_description(PACKAGED_MODELS / name)
        print(f"{name:<16}{metadata.get('TargetDomain', {}).get('Description', '')}")
    return 0
