"""Reading a torch file of unknown origin: its tensors, and never its code."""

import io
import pickle
import tarfile
import warnings
from pathlib import Path

import torch

from ..errors import ModelError

# How deep in dictionaries of dictionaries a state dict is looked for.
DEPTH = 3


def read_tensors(path, key=None):
    """The one table of tensors with a flow's names in a torch file.

    The file is read by ``torch.load(weights_only=True)``, which builds tensors, numbers, strings
    and containers and refuses whatever would run code.

    Parameters
    ----------
    path : str or pathlib.Path
        Of ``torch.save``: a state dict, or dictionaries around one or more.
    key : str, optional
        Which of several state dicts, such as "ema" or "training.model".

    Returns
    -------
    state : dict of str to torch.Tensor
        On the CPU, none of them larger than its own data.
    content : bytes
        Of the file.

    Raises
    ------
    ModelError
        If the file cannot be read, asks to run code, or holds no flow or more than one.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"The checkpoint {path} cannot be read: {error.strerror}.") from None
    tables = dict(_tables(_load(content, path)))
    if key is not None:
        if key not in tables:
            known = ", ".join(name for name in tables if name) or "none"
            raise ModelError(f"{path} holds no state dict called '{key}' (there: {known}).")
        tables = {key: tables[key]}
    flows = {name: table for name, table in tables.items() if _looks_like_a_flow(table)}
    if not flows:
        raise ModelError(
            f"{path} holds no neural spline flow: no tensors of ActNorm layers in a multi-scale "
            "transform (_transforms.0._transforms.1._transforms.0.log_scale and so on)."
        )
    if len(flows) > 1:
        names = ", ".join(name or "(the file itself)" for name in flows)
        raise ModelError(f"{path} holds several flows ({names}): choose one with --key.")
    state = next(iter(flows.values()))
    _check_plain(state, path)
    return state, content


def _load(content, path):
    # A zip archive, or a pickle as of before PyTorch 1.6. Tar archives (before 2017) are left out:
    # versions of PyTorch up to 2.5 unpickled parts of them unchecked.
    known = content.startswith((b"PK\x03\x04", b"\x80"))
    try:
        if known and not tarfile.is_tarfile(io.BytesIO(content)):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        # torch's own words advise to load the file unsafely: they are not shown.
        raise ModelError(
            f"{path} is damaged, or holds other things than tensors, which could only be read by "
            "running code in it: it is refused; save the flow's state_dict() alone and import that."
        ) from None
    except Exception:
        pass
    raise ModelError(
        f"{path} is no whole checkpoint of PyTorch: it is damaged, truncated or of another format."
    )


def _tables(loaded, name="", depth=DEPTH):
    """All dictionaries with a tensor, under the keys that lead to them."""
    if not isinstance(loaded, dict) or not depth:
        return
    if any(isinstance(value, torch.Tensor) for value in loaded.values()):
        yield name, loaded
    for key, value in loaded.items():
        if isinstance(key, str):
            yield from _tables(value, f"{name}.{key}" if name else key, depth - 1)


def _looks_like_a_flow(table):
    return any(isinstance(name, str) and name.endswith(".0.log_scale") for name in table)


def _check_plain(state, path):
    """Refuse what is not a table of dense tensors that the file really holds."""
    storages, needed = {}, 0
    for name, tensor in state.items():
        if not isinstance(name, str):
            raise ModelError(f"{path} holds a tensor without a name.")
        dense = isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided
        if not dense or tensor.is_quantized or tensor.device.type != "cpu":
            raise ModelError(f"{shown(name)} in {path} is no plain tensor.")
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        needed += tensor.numel() * tensor.element_size()
    # A few bytes can claim to be a tensor of any size.
    if needed > sum(storages.values()):
        raise ModelError(f"{path} holds tensors that share their values: it is no checkpoint.")


def shown(name):
    """A foreign name, fit for a message."""
    text = ascii(name)[1:-1]
    return text if len(text) <= 120 else text[:117] + "..."
