"""Describing the target domain of a flow that came without a description, or without constants."""

import tempfile
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from ..errors import InputError, ModelError
from .checks import about_verdicts, unlike_others
from .domain import describe_domain, learn_constants
from .model import load_model, save_model
from .network import dequantise
from .registry import find_model, refuse_taken
from .slices import STEP, find_scans, participants_left
from .store import open_store

# Whole slices of which bits per dimension are measured, evenly spread over scans and brains.
N_SLICES = 64
BATCH = 4


def calibrate_model(
    model, derivatives, *, output=None, exclude=(), about=None, device="cpu", report=None
):
    """Give an imported model its target's mean volume, intensities and constants.

    The flow's weights stay as they are. A model that has its mean volume, but no constants of the
    method "map" or another version's, is given those and ``about`` alone, not learned from the
    participants that its description excludes.

    Parameters
    ----------
    model : str or pathlib.Path
        Name or folder of the model.
    derivatives : str or pathlib.Path
        Folder of preprocessed target-domain scans on the model's grid.
    output : str or pathlib.Path, optional
        Another folder for the calibrated model; needed if the model is calibrated already.
    exclude : sequence of str
        Labels of participants kept for tests.
    about : dict, optional
        ``TargetDomain``, ``License`` and the like, for model.json; empty ones are left out.
    device : str or torch.device
        Where bits per dimension are measured, and the flow is asked of the contrast.
    report : callable, optional
        Called with one sentence at a time.

    Returns
    -------
    TargetModel
        As it was written.

    Raises
    ------
    InputError
        If scans are missing, damaged, on another grid, or of fewer than four participants, or an
        excluded participant is unknown.
    ModelError
        If the model has conditions, or is described already and ``output`` is missing or taken.
    """
    report = report or (lambda sentence: None)
    folder = find_model(model)
    given = load_model(folder)
    target = _place(given, folder, output)
    config = given.config
    constants_alone = output is None and _lacks_constants_alone(given)
    kept = _kept_for_tests(given.metadata) if constants_alone else []
    if kept:
        report(f"The model keeps participant(s) {', '.join(kept)} for tests: they are left out.")
    scans = find_scans(derivatives, config.space)
    excluded = sorted({*_known(exclude, scans), *kept})
    scans = _scans_of_target(scans, excluded, report)
    origin = {
        "Participants": sorted({scan.participant for scan in scans}),
        "ExcludedParticipants": excluded,
        "Software": {name: version(name) for name in ("bh-bids", "torch", "nflows")},
    }
    _check_grid(scans[0], config, model)
    about = _without_blanks(about or {})
    about["TargetDomain"] = {**given.target_domain, **about.get("TargetDomain", {})}
    # On disk, not in memory: a target may have hundreds of scans.
    with tempfile.TemporaryDirectory(prefix="bh-calibrate-") as aside:
        store = open_store(aside, scans, config, report)
        for volume in store.volumes:
            for sentence in volume.warnings:
                report(f"Warning: {sentence}")
        for sentence in unlike_others(store.volumes):
            report(f"Warning: {sentence}")
        if constants_alone:
            known = given.mean, given.intensity, given.to(device).flow
            constants = learn_constants(store.volumes, *known, report, store.release)
            metadata = {**given.metadata, **about, "Constants": origin}
            save_model(target, given.flow, given.mean, metadata, constants)
            return load_model(target.absolute())
        intensity, mean = describe_domain(store.volumes, config, store.release)
        known = mean, intensity, given.to(device).flow
        constants = learn_constants(store.volumes, *known, report, store.release)
        report("Measuring bits per dimension.")
        bits, count = measure_bits(given.to(device).flow, store.volumes, config)
    metadata = {
        **{name: value for name, value in given.metadata.items() if name != "Constants"},
        **about,
        "Intensity": intensity,
        "Calibration": {
            **origin,
            "Scans": len(scans),
            "BitsPerDimension": round(bits, 4),
            "Slices": count,
        },
    }
    save_model(target, given.flow, mean, metadata, constants)
    return load_model(target.absolute())


def measure_bits(flow, volumes, config):
    """Bits per dimension of whole slices, background included.

    Parameters
    ----------
    flow : TargetFlow
        Without conditions.
    volumes : sequence of bh_bids.flow.slices.Volume
    config : FlowConfig

    Returns
    -------
    bits : float
        Mean over the slices.
    count : int
        How many: about 64, evenly spread, the same ones and the same noise each time.
    """
    each = -(-N_SLICES // len(volumes))
    chosen = np.concatenate([_spread(volume.values, each) for volume in volumes])
    chosen = chosen * np.float32(STEP)
    noise = np.random.default_rng(0).random(chosen.shape, dtype=np.float32)
    crops = dequantise(torch.from_numpy(chosen), config.bits, torch.from_numpy(noise))
    device = next(flow.parameters()).device
    with torch.inference_mode():
        bits = [flow.bits_per_dim(batch.to(device)).double().cpu() for batch in crops.split(BATCH)]
    return float(torch.cat(bits).mean()), len(chosen)


def uncalibrated_stand_in(model):
    """An imported model with a smooth ellipsoid for its mean, to try its flow on."""
    if model.calibrated:
        return model
    axes = [np.linspace(-1.1, 1.1, n, dtype=np.float32) for n in model.config.shape]
    radius = sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij", sparse=True))
    return replace(model, mean=np.clip(1.2 - 1.2 * radius, 0, 1).astype(np.float32))


def _spread(values, number):
    """Evenly spread slices (n, 1, x, y) of those of a volume (slices, x, y) that hold brain."""
    used = np.flatnonzero(values.any(axis=(1, 2)))
    return values[used[np.unique(np.linspace(0, len(used) - 1, number).round().astype(int))], None]


def _known(labels, scans):
    """Labels without "sub-", all of which must have scans."""
    labels = {str(label).removeprefix("sub-") for label in labels}
    unknown = sorted(labels - {scan.participant for scan in scans})
    if unknown:
        raise InputError(f"No scans of participant(s) {', '.join(unknown)} in the derivatives.")
    return labels


def _kept_for_tests(metadata):
    """Participants who were left out whenever the model learned something; sorted."""
    tables = (metadata, metadata.get("Calibration", {}), metadata.get("Constants", {}))
    lists = [table.get("ExcludedParticipants") for table in tables]
    return sorted({str(label) for labels in lists if isinstance(labels, list) for label in labels})


def _scans_of_target(scans, excluded, report):
    participants_left(scans, excluded, "to describe the target domain by")
    scans = [scan for scan in scans if scan.participant not in excluded]
    for sentence in about_verdicts(scans):
        report(f"Warning: {sentence}")
    return [scan for scan in scans if scan.usable]


def _lacks_constants_alone(model):
    return model.calibrated and model.calibration is None


def _place(model, folder, output):
    if output is None and _lacks_constants_alone(model):
        return folder
    if model.config.conditions:
        raise ModelError(
            f"The model '{model.name}' has conditions: 'bh-model train' described its target "
            "domain, and its flow would not fit another description."
        )
    if output is None:
        if model.calibrated:
            raise ModelError(
                f"The model '{model.name}' is calibrated already: give --output to write a copy "
                "that is described by these scans."
            )
        return folder
    refuse_taken(output)
    return Path(output)


def _check_grid(scan, config, model):
    try:
        image = nib.load(scan.image)
    except Exception as error:
        raise InputError(f"{scan.image} cannot be read: {error}") from None
    if image.shape != config.shape or not np.allclose(image.affine, config.affine, atol=1e-2):
        raise InputError(
            f"{scan.image} (shape {image.shape}) does not lie on the model's grid (shape "
            f"{config.shape}): preprocess the target's scans for this model, with 'bh-bids BIDS "
            f"OUT participant --anat-only --model {model}'."
        )


def _without_blanks(about):
    kept = {}
    for name, value in about.items():
        value = _without_blanks(value) if isinstance(value, dict) else value
        if value not in ("", None, {}):
            kept[name] = value
    return kept
