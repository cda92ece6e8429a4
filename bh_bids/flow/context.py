"""What a conditioned flow is told of the slices of a volume."""

import torch

from ..errors import InputError


def slice_context(config, stack, positions, *, mask, mean, sigma=None):
    """Context of some slices of a stack.

    Parameters
    ----------
    config : FlowConfig
        Of the flow; its ``conditions`` say which maps.
    stack : torch.Tensor, shape (m, h, w)
        Neighbouring axial slices in target units, 0 outside the brain; the lowest first.
    positions : sequence of int
        The slices asked for.
    mask : torch.Tensor, shape (m, h, w)
        Brain mask of the stack.
    mean : torch.Tensor, shape (m, h, w)
        The target's mean volume at the stack's slices, target units.
    sigma : float, optional
        Standard deviation of the slices' noise, target units; by default the lowest of the
        flow's training.

    Returns
    -------
    torch.Tensor, shape (len(positions), len(config.conditions), h, w), or None
        None where the flow has no conditions.

    Raises
    ------
    InputError
        If ``sigma`` is no positive number.
    """
    if not config.conditions:
        return None
    sigma = config.noise_range[0] if sigma is None else float(sigma)
    if not 0 < sigma < float("inf"):
        raise InputError(f"The noise's standard deviation must be a positive number, not {sigma}.")
    positions = [int(k) for k in positions]
    maps = []
    for condition in config.conditions:
        if condition == "mask":
            maps.append(mask[positions].to(stack.dtype))
        elif condition == "previous":
            below = stack[[max(k - 1, 0) for k in positions]]
            # The lowest slice of the stack has none below it.
            has = below.new_tensor([float(k > 0) for k in positions])
            maps.append(below * has[:, None, None])
        elif condition == "mean":
            maps.append(mean[positions].to(stack.dtype))
        else:
            maps.append(torch.full_like(stack[positions], config.noise_code(sigma)))
    return torch.stack(maps, dim=1)
