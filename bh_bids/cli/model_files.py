"""Sub-commands of bh-model that exchange models: import, calibrate, export."""

import os
import sys

from .arguments import add_command, add_description, target_domain

IMPORT_EXAMPLES = """\
examples:
  bh-model import best.pt --output models/oasis --license CC-BY-NC-ND-4.0
  bh-model import best.pt --output models/oasis --config grid.json

The checkpoint is read without running any code in it. The architecture is read off its tensors;
--config is a JSON object with what they do not tell, each of it optional, here the defaults:
  {"tail_bound": 3.0, "bits": 12, "slice_shape": [144, 176], "slices": 160,
   "voxel_size": [1, 1, 1], "space": "MNI152NLin2009aSym"}"""

CALIBRATE_EXAMPLES = """\
examples:
  bh-bids /data/target /data/target-derivatives participant --anat-only --model models/oasis
  bh-model calibrate models/oasis /data/target-derivatives --description "3 T Siemens Trio"
"""


def add_import(commands):
    """Add the sub-command import."""
    command = add_command(
        commands,
        "import",
        _import,
        help="read a published checkpoint (BlindHarmony, NSF)",
        description="Make a model of a published checkpoint: a PyTorch file with the state dict of "
        "a multi-scale neural spline flow, as of nflows.",
        epilog=IMPORT_EXAMPLES,
    )
    command.add_argument("checkpoint", metavar="CHECKPOINT", help="PyTorch file")
    command.add_argument(
        "--output", metavar="MODEL", required=True, help="the model's folder to write"
    )
    command.add_argument("--config", metavar="JSON", help="what the tensors do not tell")
    command.add_argument("--key", help="which of several state dicts in the file")
    command.add_argument("--name", help="name of the model (default: the output folder's name)")
    command.add_argument(
        "--model-version", default="1.0.0", metavar="VERSION", help="(%(default)s)"
    )
    add_description(command)


def add_calibrate(commands):
    """Add the sub-command calibrate."""
    command = add_command(
        commands,
        "calibrate",
        _calibrate,
        help="describe an imported model's target domain",
        description="Give an imported model what it needs to harmonize: the mean volume and the "
        "intensities of its target domain, and its bits per dimension, measured on preprocessed "
        "T1w scans of that domain. The weights stay as they are.",
        epilog=CALIBRATE_EXAMPLES,
    )
    command.add_argument("model", metavar="MODEL", help="folder or name of the model")
    command.add_argument(
        "derivatives",
        metavar="DERIVATIVES",
        help="output folder of bh-bids, on the model's grid",
    )
    command.add_argument(
        "--output", metavar="FOLDER", help="write another model (default: into the model's folder)"
    )
    command.add_argument(
        "--exclude-participants",
        nargs="+",
        action="extend",
        default=[],
        metavar="LABEL",
        help="participants kept for tests, named in the model",
    )
    add_description(command)
    command.add_argument("--threads", type=int, metavar="N", help="CPU threads (all)")
    command.add_argument("--device", default="auto", help="cpu, cuda or auto (%(default)s)")


def add_export(commands):
    """Add the sub-command export."""
    command = add_command(
        commands,
        "export",
        _export,
        help="write a checkpoint as published",
        description="Write a model's flow as a PyTorch file with the names of nflows, as the "
        "published checkpoints. Mean volume and intensities are not part of it; models with "
        "conditions have no such form.",
    )
    command.add_argument("model", metavar="MODEL", help="folder or name of the model")
    command.add_argument("checkpoint", metavar="CHECKPOINT", help="file to write")


def _import(options):
    from importlib.metadata import version

    from ..flow.interchange import import_checkpoint
    from ..flow.model import save_model
    from ..flow.registry import refuse_taken

    refuse_taken(options.output)
    given = _read_config(options.config) if options.config else {}
    flow, origin = import_checkpoint(options.checkpoint, given, options.key)
    metadata = {
        "Name": options.name or os.path.basename(os.path.normpath(options.output)),
        "Version": options.model_version,
        "TargetDomain": target_domain(options),
        "License": options.license or "that of the imported checkpoint",
        "Imported": origin,
        "Software": {name: version(name) for name in ("bh-bids", "torch", "nflows")},
    }
    save_model(options.output, flow, None, metadata)
    config = flow.config
    print(
        f"{options.output}: {config.levels} levels x {config.steps} steps, "
        f"{sum(p.numel() for p in flow.parameters()):,} parameters. Before its first use, describe "
        f"its target domain: bh-model calibrate {options.output} DERIVATIVES"
    )
    return 0


def _read_config(path):
    from ..errors import InputError
    from ..jsonfiles import read_json

    try:
        given = read_json(path)
    except OSError as error:
        raise InputError(f"The configuration {path} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise InputError(f"The configuration {path} is not valid JSON: {error}.") from None
    # A whole model.json serves as well.
    if isinstance(given, dict) and "Config" in given:
        given = given["Config"]
    if not isinstance(given, dict):
        raise InputError(f"The configuration {path} must hold a JSON object.")
    return given


def _calibrate(options):
    from ..flow.calibration import calibrate_model
    from ..harmonization.device import resolve_device
    from ..threads import use_threads

    use_threads(options.threads)
    model = calibrate_model(
        options.model,
        options.derivatives,
        output=options.output,
        exclude=options.exclude_participants,
        about={"TargetDomain": target_domain(options), "License": options.license},
        device=resolve_device(options.device),
        report=lambda sentence: print(sentence, file=sys.stderr, flush=True),
    )
    if constants := model.metadata.get("Constants"):
        excluded = ", ".join(constants["ExcludedParticipants"]) or "none"
        print(
            f"{options.model}: given the constants of the method 'map', learned from "
            f"{len(constants['Participants'])} participants (excluded: {excluded})"
        )
        return 0
    found = model.metadata["Calibration"]
    print(
        f"{options.output or options.model}: calibrated on {len(found['Participants'])} "
        f"participants, {found['BitsPerDimension']} bits per dimension"
    )
    return 0


def _export(options):
    from ..flow.interchange import export_checkpoint
    from ..flow.model import load_model

    digest = export_checkpoint(load_model(options.model).flow, options.checkpoint)
    print(f"{options.checkpoint}: SHA-256 {digest}")
    return 0
