"""The rational-quadratic spline of :mod:`bh_bids.flow.spline`, laid out for inference.

The bins' axis comes first, so that every operation runs over long contiguous rows; running sums
over bins are one small matrix product; knots stay unnormalised until the two of an element are
found; the log-determinant costs one logarithm, and none where it is not asked for.
"""

import torch
from torch.nn import functional as F

from .spline import MIN_BIN_HEIGHT, MIN_BIN_WIDTH, MIN_DERIVATIVE


def planar_spline(inputs, parameters, sums, tail_bound, inverse=False, logabsdet=True):
    """Apply one spline per element, forward or inverse.

    Durkan et al., Neural Spline Flows, NeurIPS 2019, equations 4 to 8.

    Parameters
    ----------
    inputs : torch.Tensor, shape (1, n)
        Elements to transform.
    parameters : torch.Tensor, shape (3 bins + 1, n)
        Logits of the ``bins`` widths, those of the ``bins`` heights, and the derivatives before
        the softplus at all ``bins + 1`` knots.
    sums : torch.Tensor, shape (2, bins + 1, bins)
        :func:`running_sums`.
    tail_bound : float
        Outside [-tail_bound, tail_bound] the transform is the identity.
    inverse : bool
        Apply the inverse function.
    logabsdet : bool
        Give the logarithm of the derivative as well.

    Returns
    -------
    outputs : torch.Tensor, shape (1, n)
    logabsdet : torch.Tensor, shape (1, n), or None
        Logarithm of the derivative of the function applied (so negated for the inverse).
    """
    bins, n = (len(parameters) - 1) // 3, inputs.shape[1]
    clamped = inputs.clamp(-tail_bound, tail_bound)
    # Split, not sliced: a slice's gradient is as large as the whole.
    logits, derivatives = parameters.split((2 * bins, bins + 1))
    logits = logits.view(2, bins, n)
    # Knots are in units of their own, so that this is no part of the gradient.
    exponentials = (logits - logits.detach().amax(dim=1, keepdim=True)).exp_()
    # Knots of widths and of heights, (2, bins + 1, n), 0 in the middle.
    knots = torch.matmul(sums, exponentials)

    searched = int(inverse)
    with torch.no_grad():
        ladder = knots[searched]
        passed = clamped * (ladder[bins:] / tail_bound) >= ladder[1:bins]
        passed = passed.to(inputs.dtype)
        index = torch.mm(passed.new_ones(1, bins - 1), passed).long()
        # One gather for all: the gradient of each would be as large as what it gathers from.
        picks = torch.cat((index, index + 1, torch.full_like(index, bins)))
    low, high, reach = knots.gather(1, picks.expand(2, 3, n)).split(1, dim=1)
    low, size, reach = low.unbind(), (high - low).unbind(), reach.unbind()
    position = clamped * (reach[searched] / tail_bound)
    within = ((position - low[searched]) / size[searched]).clamp(0, 1)

    d_left, d_right = (F.softplus(derivatives.gather(0, picks[:2])) + MIN_DERIVATIVE).split(1)
    slope = (size[1] * reach[0]) / (size[0] * reach[1])
    curvature = d_left + d_right - 2 * slope

    if inverse:
        b = d_left - within * curvature
        discriminant = b * b + 4 * (slope - b) * slope * within
        # The square root's gradient is infinite at 0, which only rounding can reach.
        root = discriminant.clamp_min(torch.finfo(b.dtype).tiny).sqrt()
        theta = (2 * slope * within / (b + root)).clamp(0, 1)
        outputs = (low[0] + theta * size[0]) * (tail_bound / reach[0])
    else:
        theta = within
    mixed = theta * (1 - theta)
    if logabsdet or not inverse:
        denominator = slope + curvature * mixed
    if not inverse:
        share = (slope * theta * theta + d_left * mixed) / denominator
        outputs = (low[1] + share * size[1]) * (tail_bound / reach[1])
    inside = clamped == inputs
    outputs = torch.where(inside, outputs, inputs)
    if not logabsdet:
        return outputs, None

    ratio = slope / denominator
    rest = 1 - theta
    numerator = d_right * theta * theta + 2 * slope * mixed + d_left * rest * rest
    logarithm = torch.where(inside, (numerator * ratio * ratio).log(), 0.0)
    return outputs, -logarithm if inverse else logarithm


def running_sums(bins):
    """Matrices that give knots of widths and of heights: running sums that keep a smallest size.

    Returns
    -------
    torch.Tensor of float64, shape (2, bins + 1, bins)
        Times positive numbers, the knots from minus to plus half of their sum.
    """
    count = torch.arange(bins + 1, dtype=torch.float64)[:, None]
    below = torch.ones(bins + 1, bins, dtype=torch.float64).tril(-1)
    smallest = (MIN_BIN_WIDTH, MIN_BIN_HEIGHT)
    return torch.stack([m * count + (1 - m * bins) * below - 0.5 for m in smallest])
