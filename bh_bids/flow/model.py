"""A target-domain model on disk: weights, description and mean volume in one folder."""

import gzip
import hashlib
import io
import json
import math
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from ..errors import DeviceError, ModelError
from ..mapping.calibration import Calibration
from .config import FlowConfig
from .network import TargetFlow
from .registry import DESCRIPTION, find_model, read_description
from .slopes import KNOTS

WEIGHTS, MEAN, CALIBRATION = "weights.safetensors", "mean.nii.gz", "calibration.safetensors"
_TABLES = ("TargetDomain", "Intensity", "Training", "Calibration", "Constants", "Imported")


@dataclass
class TargetModel:
    """The density of one target domain's axial slices, and what is known of the domain.

    Attributes
    ----------
    config : FlowConfig
        Architecture and grid.
    flow : TargetFlow
        The network, in evaluation mode, its parameters frozen.
    mean : numpy.ndarray of float32, shape ``config.shape``, or None
        Mean of the target participants' volumes, target units, on the grid; None in a model that
        was imported and not yet calibrated.
    metadata : dict
        Content of model.json.
    calibration : bh_bids.mapping.calibration.Calibration or None
        Constants of the method "map"; None in a model that has none yet.
    """

    config: FlowConfig
    flow: TargetFlow
    mean: np.ndarray | None
    metadata: dict = field(default_factory=dict)
    calibration: Calibration | None = None

    @property
    def name(self):
        """Name of the model."""
        return self.metadata.get("Name", "")

    @property
    def version(self):
        """Version of the model."""
        return self.metadata.get("Version", "")

    @property
    def weights_sha256(self):
        """SHA-256 of the weights file, hexadecimal."""
        return self.metadata.get("WeightsSHA256", "")

    @property
    def target_domain(self):
        """Description of the target domain: dataset, scanner."""
        return self.metadata.get("TargetDomain", {})

    @property
    def intensity(self):
        """Intensities of the domain: ScalePercentile, TargetScale, Quantiles, Modes."""
        return self.metadata.get("Intensity", {})

    @property
    def space(self):
        """BIDS name of the template space."""
        return self.config.space

    @property
    def calibrated(self):
        """The target's mean volume and intensities are known: the model can harmonize."""
        return self.mean is not None

    @property
    def bits_per_dimension(self):
        """Of scans that the flow was not trained on, as far as known; None where not measured."""
        for group in ("Training", "Calibration"):
            bits = self.metadata.get(group, {}).get("BitsPerDimension")
            if bits is not None:
                return bits
        return None

    def require_calibrated(self):
        """Raise ModelError, with what to do, unless the model is calibrated."""
        if not self.calibrated:
            raise ModelError(
                f"The model '{self.name}' was imported and does not know its target's intensities "
                "yet: describe them once with 'bh-model calibrate MODEL DERIVATIVES', on "
                "preprocessed scans of the target domain."
            )

    def to(self, device):
        """Move the flow to a device; returns the model itself.

        Raises
        ------
        DeviceError
            If the device is not there.
        """
        try:
            self.flow.to(device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise DeviceError(f"The model cannot be moved to device '{device}': {reason}") from None
        return self


def load_model(name_or_path="default", device="cpu"):
    """Load a target-domain model.

    Parameters
    ----------
    name_or_path : str or pathlib.Path
        Folder of a model, or the name of one: see :func:`bh_bids.flow.registry.find_model`.
    device : str or torch.device
        Where the flow is put.

    Returns
    -------
    TargetModel

    Raises
    ------
    ModelError
        If the model is missing, its name ambiguous, or its files unreadable, tampered with, or
        not fit for one another.
    DeviceError
        If the device is not there.

    Examples
    --------
    >>> model = load_model("default")
    >>> model.config.shape, model.config.space
    ((160, 192, 160), 'MNI152NLin2009aSym')
    >>> model.target_domain["Manufacturer"], model.calibrated
    ('Philips', True)
    """
    folder = find_model(name_or_path)
    metadata = read_description(folder)
    for name in _TABLES:
        if not isinstance(metadata.get(name, {}), dict):
            raise ModelError(f"{name} in {folder / DESCRIPTION} must be a JSON object.")
    config = FlowConfig.from_dict(metadata.get("Config"))
    weights = _read_bytes(folder / WEIGHTS)
    digest = hashlib.sha256(weights).hexdigest()
    if digest != metadata.get("WeightsSHA256"):
        raise ModelError(_tampered(folder / WEIGHTS))
    # Each residual block has a filter per pair of hidden channels: less cannot be all weights.
    held = sum(tensor.numel() for tensor in _tensors(weights, folder / WEIGHTS).values())
    if config.levels * config.steps * config.blocks * config.hidden_channels**2 > held:
        raise ModelError(
            f"The Config in {folder / DESCRIPTION} asks for a larger network than {WEIGHTS} holds: "
            "copy or train the model again."
        )
    flow = TargetFlow(config)
    load_weights(flow, weights, folder / WEIGHTS)
    flow.eval().requires_grad_(False)
    # Only what says so itself may lack its mean: elsewhere a missing file is damage.
    uncalibrated = metadata.get("Calibrated") is False
    mean = None if uncalibrated else _read_mean(folder / MEAN, config, metadata.get("MeanSHA256"))
    constants = _read_calibration(folder / CALIBRATION, metadata.get("CalibrationSHA256"))
    return TargetModel(config, flow, mean, metadata, constants).to(device)


def save_model(folder, flow, mean, metadata, calibration=None):
    """Write a model's folder.

    A crash leaves what was there before; one in the instant in which the files are moved into place
    leaves a folder that no longer loads, for its hashes do not fit.

    Parameters
    ----------
    folder : str or pathlib.Path
        Where to; made where missing. Other files in it are left alone.
    flow : TargetFlow
        The network.
    mean : numpy.ndarray, shape ``flow.config.shape``, or None
        Mean target volume in target units; stored with 8 bits. None for a model that is to be
        calibrated.
    metadata : dict
        Content of model.json; ``Config``, ``WeightsSHA256``, ``CalibrationSHA256`` and
        ``MeanSHA256`` (or ``Calibrated``: false) are filled in here.
    calibration : bh_bids.mapping.calibration.Calibration, optional
        Constants of the method "map".

    Returns
    -------
    str
        SHA-256 of the weights file.

    Raises
    ------
    ModelError
        If the weights hold NaN or infinity, the mean has another shape, or the folder cannot be
        written.
    """
    folder = Path(folder)
    if mean is not None and tuple(mean.shape) != flow.config.shape:
        raise ModelError(
            f"The mean volume's shape {tuple(mean.shape)} is not the grid's {flow.config.shape}."
        )
    state = {k: v.detach().cpu().contiguous() for k, v in flow.state_dict().items()}
    _check_finite(state, folder / WEIGHTS)
    weights = save_safetensors(state)
    digest = hashlib.sha256(weights).hexdigest()
    ours = ("Config", "WeightsSHA256", "MeanSHA256", "CalibrationSHA256", "Calibrated")
    metadata = {name: value for name, value in metadata.items() if name not in ours}
    metadata |= {"Config": flow.config.to_dict(), "WeightsSHA256": digest}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as aside:
            aside = Path(aside)
            (aside / WEIGHTS).write_bytes(weights)
            names = [WEIGHTS, DESCRIPTION]
            if mean is None:
                metadata["Calibrated"] = False
            else:
                _write_mean(aside / MEAN, mean, flow.config)
                metadata["MeanSHA256"] = hashlib.sha256((aside / MEAN).read_bytes()).hexdigest()
                names.insert(0, MEAN)
            if calibration is not None:
                constants = save_arrays(calibration.to_arrays())
                (aside / CALIBRATION).write_bytes(constants)
                metadata["CalibrationSHA256"] = hashlib.sha256(constants).hexdigest()
                names.insert(0, CALIBRATION)
            (aside / DESCRIPTION).write_text(json.dumps(metadata, indent=2) + "\n")
            # The description goes last: it vouches for the others by their hashes.
            for name in names:
                os.replace(aside / name, folder / name)
    except OSError as error:
        raise ModelError(f"The model cannot be written to {folder}: {error.strerror}.") from None
    return digest


def load_weights(flow, weights, source):
    """Put a safetensors file's bytes into a flow, checked.

    Parameters
    ----------
    flow : TargetFlow
        Filled in place.
    weights : bytes
        Content of the file.
    source : pathlib.Path
        The file's name, for messages.

    Raises
    ------
    ModelError
        If the bytes are no safetensors file, its tensors have other names or shapes than the
        flow's, or hold NaN or infinity.
    """
    state = _tensors(weights, source)
    expected = flow.state_dict()
    if set(state) != set(expected):
        raise ModelError(
            f"The tensors in {source} are not those of its Config "
            f"({len(set(expected) - set(state))} missing, {len(set(state) - set(expected))} extra)."
        )
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            raise ModelError(
                f"{name} in {source} has shape {tuple(tensor.shape)}, but its Config asks for "
                f"{tuple(expected[name].shape)}."
            )
    _check_finite(state, source)
    flow.load_state_dict(state)


def _tensors(weights, source):
    try:
        return load_safetensors(weights)
    except Exception as error:
        raise ModelError(f"{source} cannot be read as safetensors: {error}") from None


def _read_bytes(path):
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.") from None


def _tampered(path):
    return (
        f"{path} is not the file that {DESCRIPTION} describes (its SHA-256 differs): copy or train "
        "the model again."
    )


def _check_finite(state, source):
    for name, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise ModelError(f"{name} in {source} holds NaN or infinity: train the model again.")


def _read_mean(path, config, digest):
    if not path.is_file():
        raise ModelError(f"{path} is missing: copy or train the model again.")
    content = _read_bytes(path)
    # Models of version 0.1 vouch for their weights alone.
    if digest is not None and hashlib.sha256(content).hexdigest() != digest:
        raise ModelError(_tampered(path))
    try:
        # A few packed bytes can become any number: no more are unpacked than a mean can have.
        with gzip.open(io.BytesIO(content)) as stream:
            unpacked = stream.read(8 * math.prod(config.shape) + 65_536)
        image = nib.Nifti1Image.from_bytes(unpacked)
        if image.shape != config.shape:
            raise ValueError(f"its shape is {image.shape}, not the grid's {config.shape}")
        mean = np.asarray(image.dataobj, dtype=np.float32)
    except Exception as error:
        raise ModelError(f"{path} cannot be read: {error}") from None
    if mean.shape != config.shape or not np.allclose(image.affine, config.affine, atol=1e-3):
        raise ModelError(f"{path} does not lie on the grid of the model's Config.")
    if not np.isfinite(mean).all():
        raise ModelError(f"{path} holds NaN or infinity: train the model again.")
    return mean


def _read_calibration(path, digest):
    if digest is None:
        return None
    content = _read_bytes(path)
    if hashlib.sha256(content).hexdigest() != digest:
        raise ModelError(_tampered(path))
    try:
        arrays = load_arrays(content)
    except Exception as error:
        raise ModelError(f"{path} cannot be read as safetensors: {error}") from None
    calibration = Calibration.from_arrays(arrays)
    if calibration and calibration.slopes and calibration.slopes_scale.size != KNOTS:
        return None
    return calibration


def _write_mean(path, mean, config):
    top = max(float(np.max(mean)), 1e-6)
    levels = np.rint(np.clip(mean, 0, top) * (255 / top)).astype(np.uint8)
    image = nib.Nifti1Image(levels, config.affine)
    image.header.set_slope_inter(top / 255, 0)
    image.header.set_xyzt_units("mm", "sec")
    image.set_sform(config.affine, code="mni")
    image.set_qform(config.affine, code="mni")
    nib.save(image, path)
