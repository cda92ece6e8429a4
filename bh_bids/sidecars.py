"""What the JSON sidecars of derivatives tell."""

import shlex

from .intensity import SCALE_PERCENTILE
from .provenance import inputs_sha256, software_versions

_SWITCHES = ("anat_only", "longitudinal", "force", "sloppy")
_ELSEWHERE = ("Warnings", "Checks", "WithinTemplate")


def image_sidecar(scan, *, description, model=None):
    """Sidecar of a derived image.

    Parameters
    ----------
    scan : bh_bids.dataset.Scan
    description : str
    model : dict, optional
        Description of the model on whose grid the image lies; the scan's own grid without.

    Returns
    -------
    dict
    """
    sidecar = {"Description": description, "Sources": [scan.uri], "SkullStripped": True}
    if model:
        sidecar |= grid_of(model)
    return {**sidecar, **scan.scanner}


def grid_of(model):
    """A sidecar's account of the grid that a model's images lie on.

    Parameters
    ----------
    model : dict
        Description of the target-domain model.

    Returns
    -------
    dict
    """
    sizes = [f"{size:g}" for size in model["Config"].get("voxel_size", (1.0, 1.0, 1.0))]
    isotropic = len(set(sizes)) == 1
    resolution = f"{sizes[0]} mm isotropic" if isotropic else f"{' x '.join(sizes)} mm"
    return {"SpatialReference": model["Config"]["space"], "Resolution": resolution}


def anatomical_checks(extraction):
    """A sidecar's account of the checks of the anatomical fit.

    Parameters
    ----------
    extraction : dict
        What the brain extraction and the checks found.

    Returns
    -------
    dict
        ``AnatomicalChecks`` with ``Verdict`` and one entry per check.
    """
    from .anatomy.checks import verdict_of

    checks = extraction["Checks"]
    return {"AnatomicalChecks": {"Verdict": verdict_of(checks), **checks}}


def registration(extraction):
    """A sidecar's account of the registration.

    Parameters
    ----------
    extraction : dict
        What the brain extraction found.

    Returns
    -------
    dict
    """
    scans = extraction.get("WithinTemplate")
    if not scans:
        return {"Method": "rigid, then affine"}
    method = "rigid to the participant's unbiased template; the template's rigid, then affine"
    return {"Method": method, "WithinTemplate": scans}


def provenance(scan, settings, model):
    """What made a scan's results, for the sidecars that do not tell of the harmonization.

    Parameters
    ----------
    scan : bh_bids.dataset.Scan
    settings : bh_bids.settings.Settings
    model : dict
        The model's description.

    Returns
    -------
    dict
    """
    return {
        "Model": model["Name"],
        "WeightsSHA256": model["WeightsSHA256"],
        "Method": settings.method,
        "Seed": settings.random_seed,
        "Threads": settings.omp_nthreads,
        **inputs_sha256(scan, settings),
        "SoftwareVersions": software_versions(),
        "CommandLine": command_line(settings, scan),
    }


def harmonization_block(settings, model, result, extraction, scan):
    """The sidecar's account of how an image was harmonized.

    Parameters
    ----------
    settings : bh_bids.settings.Settings
    model : dict
        The model's description.
    result : dict
        What the harmonization found: see
        :class:`bh_bids.interfaces.harmonization.Harmonize`.
    extraction : dict
        What the brain extraction found.
    scan : bh_bids.dataset.Scan

    Returns
    -------
    dict
    """
    block = {
        "Model": model["Name"],
        "ModelVersion": model.get("Version", "unknown"),
        "WeightsSHA256": model["WeightsSHA256"],
        "CalibrationSHA256": model.get("CalibrationSHA256"),
        "TargetDomain": model.get("TargetDomain", {}),
        "Space": model["Config"]["space"],
        "Method": result["method"],
        "Parameters": result["parameters"],
        "Device": result["device"],
        "Seed": result["seed"],
        "Threads": result["threads"],
        "Converged": result["converged"],
        "Iterations": result["iterations"],
        "Decisions": result["decisions"],
        "IntensityMap": intensity_map(result["mapping"]) if result["decisions"] else None,
        "SharedMap": result["shared"] or None,
        "Guards": [*extraction.get("Warnings", []), *result["guards"]],
        "TargetCorrelation": result["contrast"],
        "Structure": result["structure"],
        "Clipping": result["clipping"],
        "Lesion": result["lesion"],
        "IntensityScale": {
            "Percentile": SCALE_PERCENTILE,
            "SourceScale": result["source_scale"],
            "TargetScale": result["target_scale"],
        },
        **inputs_sha256(scan, settings),
        "BrainExtraction": {
            **{k: v for k, v in extraction.items() if k not in _ELSEWHERE},
            "SkullStripT1w": settings.skull_strip_t1w,
        },
        "BiasCorrection": {"Method": "N4"},
        "Registration": registration(extraction),
        "SoftwareVersions": software_versions(),
        "CommandLine": command_line(settings, scan, threads=result["threads"]),
    }
    # Left out where the method, the model or the scan has none.
    optional = ("CalibrationSHA256", "Decisions", "IntensityMap", "SharedMap", "Lesion")
    return {name: value for name, value in block.items() if value or name not in optional}


def intensity_map(mapping, knots=33):
    """A mapping's curve at few knots, and its field.

    Parameters
    ----------
    mapping : dict
        As :meth:`bh_bids.mapping.mapping.Mapping.to_dict` gives it.
    knots : int
        At most so many, evenly spaced among the mapping's.

    Returns
    -------
    dict
        ``Input``, ``Output`` and ``Ceiling`` (None for no limit) in target units;
        ``FieldCoefficients``, None without a field.
    """
    last = len(mapping["Input"]) - 1
    steps = min(knots - 1, last)
    chosen = [round(k * last / steps) for k in range(steps + 1)]
    field, ceiling = mapping["Field"], mapping["Ceiling"]
    return {
        "Input": [round(mapping["Input"][k], 5) for k in chosen],
        "Output": [round(mapping["Output"][k], 5) for k in chosen],
        "Ceiling": None if ceiling is None else round(ceiling, 5),
        "FieldCoefficients": None if field is None else [round(c, 6) for c in field],
    }


def command_line(settings, scan, threads=None):
    """A command that makes a scan's results again, byte for byte.

    Parameters
    ----------
    settings : bh_bids.settings.Settings
    scan : bh_bids.dataset.Scan
    threads : int, optional
        That the harmonization ran on; those of the settings without. (A run that goes on may have
        been given others.)

    Returns
    -------
    str
        For a shell; BIDS_DIR, OUTPUT_DIR and PATH stand for folders.
    """
    words = ["bh-bids", "BIDS_DIR", "OUTPUT_DIR", "participant"]
    words += ["--participant-label", scan.participant]
    # Of a longitudinal study the other visits are needed, too.
    sessions = settings.session_label if settings.longitudinal else scan.session
    if sessions:
        words += ["--session-label", *([sessions] if isinstance(sessions, str) else sessions)]
    if settings.longitudinal and settings.bids_filters:
        words += ["--bids-filter-file", "PATH"]
    words += ["--model", settings.model, "--method", settings.method]
    words += ["--skull-strip-t1w", settings.skull_strip_t1w]
    if settings.template:
        words += ["--template", settings.template]
    words += ["--output-spaces", *settings.output_spaces, "--device", settings.device]
    if settings.derivatives:
        words += ["--derivatives", *(f"{name}=PATH" for name in settings.derivatives)]
    if settings.lesion_roi:
        words += ["--lesion-roi", "PATH"]
    words += ["--random-seed", str(settings.random_seed)]
    words += ["--omp-nthreads", str(threads or settings.omp_nthreads)]
    words += [f"--{name.replace('_', '-')}" for name in _SWITCHES if getattr(settings, name)]
    return shlex.join(words)
