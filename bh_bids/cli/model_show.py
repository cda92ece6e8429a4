"""Sub-commands of bh-model that look at models: list, info, verify."""

from .arguments import add_command


def add_list(commands):
    """Add the sub-command list."""
    add_command(
        commands,
        "list",
        _list,
        help="list the models that have a name",
        description="List the models that can be called by name: those of the package, and those "
        "in the folders of the environment variable BH_MODELS.",
    )


def add_info(commands):
    """Add the sub-command info."""
    text = "describe a model"
    command = add_command(commands, "info", _info, help=text, description=text.capitalize() + ".")
    command.add_argument("model", metavar="MODEL", help="folder or name of the model")


def add_verify(commands):
    """Add the sub-command verify."""
    text = "check that a model's files are whole and its flow invertible"
    command = add_command(
        commands, "verify", _verify, help=text, description=text.capitalize() + "."
    )
    command.add_argument("model", metavar="MODEL", help="folder or name of the model")


def _list(options):
    from collections import Counter

    from ..errors import ModelError
    from ..flow.registry import list_models, read_description

    entries = list_models()
    names = Counter(entry.name for entry in entries)
    rows = [("NAME", "BITS/DIM", "LICENSE", "CONDITIONS", "WHERE", "TARGET DOMAIN")]
    for entry in entries:
        try:
            rest = _summary(read_description(entry.folder))
        except ModelError as error:
            rest = ("-", "-", "-", f"damaged: {error}")
        where = "package" if entry.packaged else str(entry.folder.parent)
        if names[entry.name] > 1:
            where += " (name taken twice: give the path)"
        rows.append((entry.name, *rest[:3], where, rest[3]))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
    return 0


def _summary(metadata):
    """Bits per dimension, licence, conditions, target domain, each as text."""
    tables = {
        name: value if isinstance(value := metadata.get(name), dict) else {}
        for name in ("Config", "TargetDomain", "Training", "Calibration")
    }
    bits = tables["Training"].get("BitsPerDimension", tables["Calibration"].get("BitsPerDimension"))
    text = str(tables["TargetDomain"].get("Description") or "")
    if metadata.get("Calibrated") is False:
        text = f"not calibrated; {text}".removesuffix("; ")
    conditions = tables["Config"].get("conditions") or ()
    return (
        "-" if bits is None else str(bits),
        str(metadata.get("License") or "-"),
        ", ".join(map(str, conditions)) or "none",
        text,
    )


def _info(options):
    from ..flow.model import load_model
    from ..flow.registry import find_model

    model = load_model(options.model)
    rows = {"Folder": str(find_model(options.model)), **_described(model)}
    for name, value in rows.items():
        if value not in (None, ""):
            print(f"{name:<24}{value}")
    return 0


def _described(model):
    config, domain = model.config, model.target_domain
    parameters = sum(p.numel() for p in model.flow.parameters())
    return {
        "Name": f"{model.name} {model.version}".strip(),
        "Target domain": domain.get("Description"),
        "Dataset": domain.get("Dataset"),
        "Manufacturer": domain.get("Manufacturer"),
        "License": model.metadata.get("License"),
        "Space": f"{config.space}, {' x '.join(map(str, config.shape))} voxels",
        "Architecture": f"{config.levels} levels x {config.steps} steps, "
        f"{config.blocks} blocks of {config.hidden_channels} channels, {config.bins} bins",
        "Conditions": ", ".join(config.conditions) or "none",
        "Parameters": f"{parameters:,}",
        **_provenance(model.metadata),
        "Bits per dimension": model.bits_per_dimension,
        "Calibrated": "yes" if model.calibrated else "no: bh-model calibrate MODEL DERIVATIVES",
        "Method map": "yes"
        if model.calibration is not None
        else "no constants: bh-model calibrate MODEL DERIVATIVES",
        "Target scale": model.intensity.get("TargetScale"),
        "Modes (target units)": ", ".join(
            f"{name} {value:.3f}" for name, value in model.intensity.get("Modes", {}).items()
        ),
        "SHA-256 of weights": model.weights_sha256,
        "SHA-256 of mean": model.metadata.get("MeanSHA256"),
        "SHA-256 of calibration": model.metadata.get("CalibrationSHA256"),
    }


def _provenance(metadata):
    """Where the weights and the description of the domain come from."""
    rows = {}
    if training := metadata.get("Training"):
        rows["Participants"] = ", ".join(
            f"{len(metadata.get(f'{group}Participants', []))} {group.lower()}"
            for group in ("Training", "Validation", "Excluded")
        )
        rows["Training"] = "complete" if training.get("Completed") else "stopped early"
    if imported := metadata.get("Imported"):
        rows["Imported from"] = f"{imported.get('File')}, SHA-256 {imported.get('SHA256')}"
    if calibration := metadata.get("Calibration"):
        rows["Calibration"] = (
            f"{len(calibration.get('Participants', []))} participants, "
            f"{calibration.get('BitsPerDimension')} bits per dimension"
        )
    if constants := metadata.get("Constants"):
        rows["Constants"] = ", ".join(
            f"{len(constants.get(f'{group}Participants', []))} {word}"
            for group, word in (("", "participants"), ("Excluded", "excluded"))
        )
    return rows


def _verify(options):
    from ..flow.calibration import uncalibrated_stand_in
    from ..flow.model import load_model
    from ..flow.verify import roundtrip_error

    model = load_model(options.model)
    error = roundtrip_error(uncalibrated_stand_in(model))
    state = "calibrated" if model.calibrated else "not calibrated"
    print(
        f"{options.model}: files whole, round trip through the flow within {error:.1e}, {state}, "
        f"weights' SHA-256 {model.weights_sha256}"
    )
    return 0
