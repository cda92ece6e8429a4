"""A target-domain model on disk: weights, description and mean volume in one folder."""

import hashlib
import json
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from ..errors import DeviceError, ModelError
from .config import FlowConfig
from .network import TargetFlow

PACKAGED_MODELS = Path(__file__).resolve().parent.parent / "data" / "models"
WEIGHTS, DESCRIPTION, MEAN = "weights.safetensors", "model.json", "mean.nii.gz"


@dataclass
class TargetModel:
    """The density of one target domain's axial slices, and what is known of the domain.

    Attributes
    ----------
    config : FlowConfig
        Architecture and grid.
    flow : TargetFlow
        The network, in evaluation mode, its parameters frozen.
    mean : numpy.ndarray of float32, shape ``config.shape``
        Mean of the training participants' volumes, target units, on the grid.
    metadata : dict
        Content of model.json.
    """

    config: FlowConfig
    flow: TargetFlow
    mean: np.ndarray
    metadata: dict = field(default_factory=dict)

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


def packaged_models():
    """Names of the models that come with the package, sorted."""
    return sorted(path.parent.name for path in PACKAGED_MODELS.glob(f"*/{DESCRIPTION}"))


def read_description(folder):
    """Content of a model folder's model.json.

    Raises
    ------
    ModelError
        If it cannot be read or is no JSON object.
    """
    path = Path(folder) / DESCRIPTION
    try:
        metadata = json.loads(_read_bytes(path))
    except ValueError as error:
        raise ModelError(f"{path} is not valid JSON: {error}.") from None
    if not isinstance(metadata, dict):
        raise ModelError(f"{path} must hold a JSON object.")
    return metadata


def load_model(name_or_path="default", device="cpu"):
    """Load a target-domain model.

    Parameters
    ----------
    name_or_path : str or pathlib.Path
        Folder of a model, or the name of one that comes with the package.
    device : str or torch.device
        Where the flow is put.

    Returns
    -------
    TargetModel

    Raises
    ------
    ModelError
        If the model is missing, unreadable, tampered with, or its files do not fit one another.
    DeviceError
        If the device is not there.
    """
    folder = _find(name_or_path)
    metadata = read_description(folder)
    config = FlowConfig.from_dict(metadata.get("Config"))
    weights = _read_bytes(folder / WEIGHTS)
    digest = hashlib.sha256(weights).hexdigest()
    if digest != metadata.get("WeightsSHA256"):
        raise ModelError(
            f"{folder / WEIGHTS} is not the file that {DESCRIPTION} describes (its SHA-256 "
            "differs): copy or train the model again."
        )
    flow = TargetFlow(config)
    load_weights(flow, weights, folder / WEIGHTS)
    flow.eval().requires_grad_(False)
    model = TargetModel(config, flow, _read_mean(folder / MEAN, config), metadata)
    return model.to(device)


def save_model(folder, flow, mean, metadata):
    """Write a model's folder; a crash half-way leaves what was there before.

    Parameters
    ----------
    folder : str or pathlib.Path
        Where to; made where missing. Other files in it are left alone.
    flow : TargetFlow
        The network.
    mean : numpy.ndarray, shape ``flow.config.shape``
        Mean target volume in target units; stored with 8 bits.
    metadata : dict
        Content of model.json; ``Config`` and ``WeightsSHA256`` are filled in here.

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
    if tuple(mean.shape) != flow.config.shape:
        raise ModelError(
            f"The mean volume's shape {tuple(mean.shape)} is not the grid's {flow.config.shape}."
        )
    state = {k: v.detach().cpu().contiguous() for k, v in flow.state_dict().items()}
    _check_finite(state, folder / WEIGHTS)
    weights = save_safetensors(state)
    digest = hashlib.sha256(weights).hexdigest()
    metadata = {**metadata, "Config": flow.config.to_dict(), "WeightsSHA256": digest}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as aside:
            aside = Path(aside)
            (aside / WEIGHTS).write_bytes(weights)
            (aside / DESCRIPTION).write_text(json.dumps(metadata, indent=2) + "\n")
            _write_mean(aside / MEAN, mean, flow.config)
            # The description goes last: it vouches for the weights by their hash.
            for name in (MEAN, WEIGHTS, DESCRIPTION):
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
    try:
        state = load_safetensors(weights)
    except Exception as error:
        raise ModelError(f"{source} cannot be read as safetensors: {error}") from None
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


def _find(name_or_path):
    given = Path(name_or_path).expanduser()
    if (given / DESCRIPTION).is_file():
        return given
    packaged = PACKAGED_MODELS / str(name_or_path)
    if given.name == str(name_or_path) and (packaged / DESCRIPTION).is_file():
        return packaged
    if given.is_dir():
        raise ModelError(f"{given} is no model: it has no {DESCRIPTION}.")
    names = ", ".join(packaged_models()) or "none"
    raise ModelError(
        f"There is no model '{name_or_path}': give a model's folder or the name of a packaged one "
        f"({names})."
    )


def _read_bytes(path):
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.") from None


def _check_finite(state, source):
    for name, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise ModelError(f"{name} in {source} holds NaN or infinity: train the model again.")


def _read_mean(path, config):
    if not path.is_file():
        raise ModelError(f"{path} is missing: copy or train the model again.")
    try:
        image = nib.load(path)
        mean = np.asarray(image.dataobj, dtype=np.float32)
    except Exception as error:
        raise ModelError(f"{path} cannot be read: {error}") from None
    if mean.shape != config.shape or not np.allclose(image.affine, config.affine, atol=1e-3):
        raise ModelError(f"{path} does not lie on the grid of the model's Config.")
    if not np.isfinite(mean).all():
        raise ModelError(f"{path} holds NaN or infinity: train the model again.")
    return mean


def _write_mean(path, mean, config):
    top = max(float(np.max(mean)), 1e-6)
    levels = np.rint(np.clip(mean, 0, top) * (255 / top)).astype(np.uint8)
    image = nib.Nifti1Image(levels, config.affine)
    image.header.set_slope_inter(top / 255, 0)
    image.header.set_xyzt_units("mm", "sec")
    image.set_sform(config.affine, code="mni")
    image.set_qform(config.affine, code="mni")
    nib.save(image, path)
