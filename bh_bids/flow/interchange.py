"""Published checkpoints: a state dict of nflows' multi-scale spline flow, read and written.

The tensors are those of nflows 0.14's ``MultiscaleCompositeTransform`` of ``CompositeTransform``
levels (squeeze; steps of ActNorm, 1x1 convolution with LU-decomposed weight, and rational-quadratic
coupling; 1x1 convolution), as published with BlindHarmony (Jeong et al., ICCV 2023), where ActNorm
has no ``initialized``.
"""

import contextlib
import hashlib
import io
import math
import os
import re
from collections import OrderedDict
from dataclasses import fields
from pathlib import Path

import torch

from ..errors import ModelError
from .config import FlowConfig
from .foreign import read_tensors, shown
from .network import CENTRE, TargetFlow

# What tensors do not tell, as published. The grid is the default one's, cut around its centre.
PUBLISHED = {"tail_bound": 3.0, "bits": 12, "slice_shape": (144, 176)}
MAX_BITS = 14

_ACTNORM = re.compile(
    r"(?P<prefix>(?:.*\.)?)_transforms\.(?P<level>\d{1,3})\._transforms\.(?P<step>\d{1,3})"
    r"\._transforms\.0\.log_scale"
)
_PLACE = re.compile(r"_transforms\.(\d{1,3})\.")
# The base distribution's normalising constant, in older versions of nflows.
_IGNORED = re.compile(r"(module\.)?_distribution\._log_z")


def import_checkpoint(path, given=None, key=None):
    """Build the flow of a published checkpoint.

    Parameters
    ----------
    path : str or pathlib.Path
        File of ``torch.save``.
    given : dict, optional
        Fields of :class:`FlowConfig` that the tensors do not tell (``bits``, ``tail_bound``,
        ``slice_shape``, ``slices``, ``voxel_size``, ``origin``, ``space``); the published ones
        where missing. Fields that the tensors tell must agree with them.
    key : str, optional
        Which of several state dicts in the file.

    Returns
    -------
    flow : TargetFlow
        In evaluation mode.
    origin : dict
        ``File``, its ``SHA256``, and ``Prefix`` of the tensors' names, for model.json.

    Raises
    ------
    ModelError
        If the file holds anything but such a flow.
    """
    state, content = read_tensors(path, key)
    state, prefix, bits = unwrap(state)
    given = dict(given or {})
    if bits is not None and given.setdefault("bits", bits) != bits:
        raise ModelError(
            f"The checkpoint scales its input by 2^-{bits}, but the configuration says "
            f"bits={given['bits']}."
        )
    config = infer_config(state, given)
    flow = flow_of_state(state, config)
    origin = {"File": Path(path).name, "SHA256": hashlib.sha256(content).hexdigest()}
    return flow, {**origin, "Prefix": shown(prefix)}


def unwrap(state):
    """The multi-scale transform's tensors, without what stands around it.

    Around it may stand: ``DataParallel`` (``module.``), nflows' ``Flow`` (``_transform.``, with a
    standard normal), and, in front, affine transforms that shift an image to [-0.5, 0.5].

    Parameters
    ----------
    state : dict of str to torch.Tensor

    Returns
    -------
    inner : dict of str to torch.Tensor
        Names as in nflows' ``MultiscaleCompositeTransform``.
    prefix : str
        What stood in front of the names.
    bits : int or None
        b where the affine transforms scale by ``2**-b``, None where they do not scale.

    Raises
    ------
    ModelError
        If tensors are left over, or what stands in front is not that shift.
    """
    prefixes = {m["prefix"] for m in map(_ACTNORM.fullmatch, state) if m}
    if len(prefixes) != 1:
        known = ", ".join(repr(shown(prefix)) for prefix in sorted(prefixes)) or "none"
        raise ModelError(
            f"The checkpoint must hold exactly one multi-scale flow (names found before it: "
            f"{known})."
        )
    prefix = prefixes.pop()
    inner, outer = {}, {}
    for name, tensor in state.items():
        if name.startswith(prefix + "_transforms."):
            inner[name.removeprefix(prefix)] = tensor
        elif not _IGNORED.fullmatch(name):
            outer[name] = tensor
    return inner, prefix, _bits_of_preprocessing(prefix, outer)


def _bits_of_preprocessing(prefix, outer):
    """Check the affine transforms in front of the flow; b where they scale by 2^-b, or None."""
    scale, shift, modules = 1.0, 0.0, []
    for match in _PLACE.finditer(prefix):
        for place in range(int(match[1])):
            before = f"{prefix[: match.start()]}_transforms.{place}."
            found = sorted((name for name in outer if name.startswith(before)), key=_numbers)
            if not found:
                raise ModelError(
                    "The checkpoint's flow follows a transform without tensors (a logit?), of "
                    "which nothing is known: import the multi-scale transform's state dict alone."
                )
            modules += dict.fromkeys(name.rpartition(".")[0] for name in found)
    for module in modules:
        factor = _scalar(outer.pop(f"{module}._scale", None), 1.0)
        scale, shift = scale * factor, shift * factor
        shift += _scalar(outer.pop(f"{module}._shift", None), 0.0)
    if outer:
        raise ModelError(
            f"The checkpoint holds tensors that are no part of such a flow: "
            f"{shown(next(iter(outer)))} (and {len(outer) - 1} more)."
        )
    bits = -math.log2(scale) if scale > 0 else math.nan
    whole = bits.is_integer() and 0 <= bits <= MAX_BITS
    if modules and not (whole and math.isclose(shift, -CENTRE)):
        raise ModelError(
            f"The checkpoint maps its input by {scale:g} x + {shift:g} before the flow: only the "
            f"shift of an image in [0, 1], or in [0, 2^bits], to [-0.5, 0.5] can be imported."
        )
    return int(bits) or None


def _numbers(name):
    return [int(part) if part.isdecimal() else -1 for part in name.split(".")]


def _scalar(tensor, otherwise):
    if tensor is None:
        return otherwise
    return float(tensor) if tensor.numel() == 1 else math.nan


def infer_config(state, given=None):
    """Read the architecture off the tensors' names and shapes.

    Parameters
    ----------
    state : dict of str to torch.Tensor
        See :func:`unwrap`.
    given : dict, optional
        See :func:`import_checkpoint`.

    Returns
    -------
    FlowConfig
        Without conditions.

    Raises
    ------
    ModelError
        If the names are not those of such a flow, or ``given`` contradicts the tensors.
    """
    told = _architecture(state)
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in (given or {}).items()}
    unknown = sorted(set(given) - {field.name for field in fields(FlowConfig)})
    if unknown:
        raise ModelError(f"Unknown field in the configuration: {shown(unknown[0])}.")
    for name, value in told.items():
        if name in given and given[name] != value:
            raise ModelError(
                f"The configuration says {name}={given[name]!r}, but the checkpoint's tensors "
                f"say {value!r}."
            )
    config = FlowConfig(**{**PUBLISHED, **given, **told})
    if "origin" in given:
        return config
    whole = FlowConfig()
    pairs = zip(whole.origin, whole.shape, whole.voxel_size, config.shape, config.voxel_size,
                strict=True)  # fmt: skip
    origin = tuple(o + (n * a - m * b) / 2 + (b - a) / 2 for o, n, a, m, b in pairs)
    return FlowConfig(**{**config.to_dict(), "origin": origin})


def _architecture(state):
    steps = {}
    for match in filter(None, map(_ACTNORM.fullmatch, state)):
        steps.setdefault(int(match["level"]), []).append(int(match["step"]))
    levels, count = len(steps), len(next(iter(steps.values()), []))
    regular = sorted(steps) == list(range(levels)) and all(
        sorted(numbers) == list(range(1, count + 1)) for numbers in steps.values()
    )
    if not regular or not count:
        raise ModelError("The checkpoint's levels do not all have the same number of steps.")
    conditioner = "_transforms.0._transforms.1._transforms.2.transform_net."
    hidden = _sizes(state, conditioner + "initial_layer.weight")
    if hidden[1] != 2:
        raise ModelError(
            "The checkpoint's couplings see more than their own channels (a conditional flow): "
            "only unconditional flows are exchanged this way."
        )
    outputs = _sizes(state, conditioner + "final_layer.weight")[0]
    blocks = {
        name.removeprefix(conditioner + "blocks.").partition(".")[0]
        for name in state
        if name.startswith(conditioner + "blocks.")
    }
    bins, rest = divmod(outputs // 2 + 1, 3)
    if outputs % 2 or rest:
        raise ModelError(
            f"The checkpoint's couplings have {outputs} parameters for 2 channels: they are no "
            "rational-quadratic splines with linear tails."
        )
    return {
        "levels": levels,
        "steps": count,
        "hidden_channels": hidden[0],
        "blocks": len(blocks),
        "bins": bins,
        "batch_norm": any(".batch_norm_layers." in name for name in state),
        "conditions": (),
    }


def _sizes(state, name):
    if name not in state:
        raise ModelError(f"The checkpoint lacks {name}: it is no such flow.")
    if state[name].dim() != 4:
        raise ModelError(
            f"{name} in the checkpoint has shape {tuple(state[name].shape)}, which is no "
            "convolution's."
        )
    return tuple(state[name].shape)


def flow_of_state(state, config):
    """Fill a flow with a state dict that may lack ActNorm's ``initialized``.

    Parameters
    ----------
    state : dict of str to torch.Tensor
        See :func:`unwrap`.
    config : FlowConfig

    Returns
    -------
    TargetFlow
        In evaluation mode, its parameters frozen; every ActNorm counts as initialised.

    Raises
    ------
    ModelError
        If tensors are missing, left over, of wrong shape or type, hold NaN or infinity, or couple
        or permute channels in another way than nflows' default.
    """
    # Before a flow of that width is built: the file must really hold such convolutions.
    width = config.hidden_channels
    for name, tensor in state.items():
        if ".conv_layers." in name and tensor.dim() == 4:
            _check_shape(name, tensor, (width, width, 3, 3))
    flow = TargetFlow(config)
    expected = flow.state_dict()
    given = {**dict.fromkeys(k for k in expected if k.endswith(".initialized")), **state}
    missing, extra = (
        sorted(a.keys() - b.keys()) for a, b in ((expected, given), (given, expected))
    )
    if missing or extra:
        first = f"{'lacks' if missing else 'also holds'} {shown((missing or extra)[0])}"
        raise ModelError(
            f"The checkpoint is no such flow: it {first} ({len(missing)} tensors missing, "
            f"{len(extra)} too many)."
        )
    for name, tensor in given.items():
        if tensor is None:
            given[name] = torch.tensor(True)
        else:
            given[name] = _fitted(name, tensor, expected[name])
    flow.load_state_dict(given)
    return flow.eval().requires_grad_(False)


def _fitted(name, tensor, model):
    """A checkpoint's tensor as the flow holds it, checked against the flow's own."""
    _check_shape(name, tensor, tuple(model.shape))
    if tensor.is_floating_point() != model.is_floating_point() or tensor.is_complex():
        raise ModelError(f"{name} in the checkpoint is of type {tensor.dtype}.")
    if not torch.isfinite(tensor).all():
        raise ModelError(f"{name} in the checkpoint holds NaN or infinity.")
    leaf = name.rpartition(".")[2]
    if leaf == "initialized" and not tensor:
        raise ModelError("The checkpoint was saved before its first training step: it is no model.")
    if leaf == "running_var" and (tensor < 0).any():
        raise ModelError(f"{name} in the checkpoint holds a negative variance.")
    if leaf == "_permutation" and not torch.equal(tensor.sort().values, torch.arange(len(tensor))):
        raise ModelError(f"{name} in the checkpoint is no permutation.")
    if leaf in ("identity_features", "transform_features") and not torch.equal(tensor, model):
        raise ModelError(
            f"{name} in the checkpoint couples other channels than the first half to the second."
        )
    fitted = tensor.to(model.dtype)
    if not torch.isfinite(fitted).all():
        raise ModelError(f"{name} in the checkpoint exceeds 32-bit floating point.")
    return fitted


def _check_shape(name, tensor, shape):
    if tuple(tensor.shape) != shape:
        raise ModelError(
            f"{shown(name)} in the checkpoint has shape {tuple(tensor.shape)}, not {shape}."
        )


def published_state(flow):
    """A flow's state dict as published: nflows' names, without ActNorm's ``initialized``.

    Parameters
    ----------
    flow : TargetFlow

    Returns
    -------
    collections.OrderedDict of str to torch.Tensor

    Raises
    ------
    ModelError
        If the flow has conditions, for which the published format has no place.
    """
    if flow.config.conditions:
        raise ModelError(
            f"The model sees conditions ({', '.join(flow.config.conditions)}), for which the "
            "published format has no place: share the model's folder instead."
        )
    return OrderedDict(
        (name, tensor.detach().cpu().contiguous().clone())
        for name, tensor in flow.state_dict().items()
        if not name.endswith(".initialized")
    )


def export_checkpoint(flow, path):
    """Write a flow as a published checkpoint; the same flow gives the same bytes.

    Parameters
    ----------
    flow : TargetFlow
    path : str or pathlib.Path
        Written whole or not at all.

    Returns
    -------
    str
        SHA-256 of the file.

    Raises
    ------
    ModelError
        If the flow has conditions or the file cannot be written.
    """
    # Through memory: torch.save puts the name of a file into it.
    buffer = io.BytesIO()
    torch.save(published_state(flow), buffer)
    path = Path(path)
    aside = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_bytes(buffer.getvalue())
        os.replace(aside, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise ModelError(f"{path} cannot be written: {error.strerror}.") from None
    return hashlib.sha256(buffer.getvalue()).hexdigest()
