"""Which compute device to use."""

import torch

from ..errors import DeviceError


def resolve_device(device="auto"):
    """The torch device for a name.

    Parameters
    ----------
    device : str or torch.device
        "auto" (the first CUDA device, else the CPU), "cpu", "cuda" or "cuda:N".

    Returns
    -------
    torch.device

    Raises
    ------
    DeviceError
        If the name is unknown, or the CUDA device asked for is not there.
    """
    if device == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        found = None
    if found is None or found.type not in ("cpu", "cuda"):
        raise DeviceError(f"There is no device {device!r}: choose auto, cpu, cuda or cuda:N.")
    if found.type == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise DeviceError(
            f"Device '{device}' asks for CUDA, which torch does not find here: use the device "
            "'cpu' or 'auto', or install a torch build with CUDA and its driver."
        )
    index = found.index or 0
    if index >= torch.cuda.device_count():
        raise DeviceError(
            f"There is no CUDA device {index}: this machine has {torch.cuda.device_count()}, "
            "counted from 0."
        )
    return torch.device("cuda", index)
