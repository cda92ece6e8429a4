"""Branch-free monotone rational-quadratic splines with linear tails.

Durkan, Bekasov, Murray, Papamakarios: Neural Spline Flows, NeurIPS 2019 (equations 4 to 8). The
values are nflows'; the way there is not: no boolean-mask indexing and no assertion on the
discriminant, which rounding makes slightly negative in float32.
"""

import math

import torch
from torch.nn import functional as F

MIN_BIN_WIDTH = 1e-3
MIN_BIN_HEIGHT = 1e-3
MIN_DERIVATIVE = 1e-3


def rational_quadratic_spline(inputs, widths, heights, derivatives, tail_bound, inverse=False):
    """Apply one spline per element, forward or inverse.

    Parameters
    ----------
    inputs : torch.Tensor, shape (n, c, h, w)
        Elements to transform.
    widths, heights : torch.Tensor, shape (n, c, bins, h, w)
        Unnormalised (before the softmax) bin widths and heights.
    derivatives : torch.Tensor, shape (n, c, bins - 1, h, w)
        Unnormalised (before the softplus) derivatives at the inner knots; those at the two outer
        knots are 1, so that the linear tails join smoothly.
    tail_bound : float
        Outside [-tail_bound, tail_bound] the transform is the identity.
    inverse : bool
        Apply the inverse function.

    Returns
    -------
    outputs : torch.Tensor, shape (n, c, h, w)
    logabsdet : torch.Tensor, shape (n, c, h, w)
        Logarithm of the derivative of the function applied (so negated for the inverse).
    """
    bins = widths.shape[2]
    inside = (inputs >= -tail_bound) & (inputs <= tail_bound)
    clamped = inputs.clamp(-tail_bound, tail_bound).unsqueeze(2)

    knots_x = _inner_knots(widths, MIN_BIN_WIDTH, tail_bound)
    knots_y = _inner_knots(heights, MIN_BIN_HEIGHT, tail_bound)
    searched = knots_y if inverse else knots_x
    index = (clamped >= searched.detach()).sum(dim=2, keepdim=True)

    left, width = _bin(knots_x, index, bins, tail_bound)
    bottom, height = _bin(knots_y, index, bins, tail_bound)
    slope = height / width
    d_left, d_right = _derivatives(derivatives, index, bins)
    curvature = d_left + d_right - 2 * slope

    if inverse:
        rise = clamped - bottom
        a = rise * curvature + height * (slope - d_left)
        b = height * d_left - rise * curvature
        c = -slope * rise
        discriminant = (b * b - 4 * a * c).clamp_min(0)
        # The square root's gradient is infinite at 0, which only rounding can reach.
        root = 2 * c / (-b - discriminant.clamp_min(torch.finfo(b.dtype).tiny).sqrt())
        theta = root.clamp(0, 1)
        outputs = left + theta * width
    else:
        theta = ((clamped - left) / width).clamp(0, 1)

    mixed = theta * (1 - theta)
    denominator = slope + curvature * mixed
    if not inverse:
        outputs = bottom + height * (slope * theta * theta + d_left * mixed) / denominator
    remainder = 1 - theta
    numerator = d_right * theta * theta + 2 * slope * mixed + d_left * remainder * remainder
    logabsdet = 2 * (slope.log() - denominator.log()) + numerator.log()

    outputs = torch.where(inside, outputs.squeeze(2), inputs)
    logabsdet = torch.where(inside, logabsdet.squeeze(2), 0.0)
    return outputs, -logabsdet if inverse else logabsdet


def _inner_knots(unnormalised, minimum, tail_bound):
    """Positions of the bins - 1 inner knots: all bins positive, together 2 tail_bound wide."""
    bins = unnormalised.shape[2]
    sizes = torch.softmax(unnormalised, dim=2).narrow(2, 0, bins - 1).cumsum(dim=2)
    steps = torch.arange(1, bins, dtype=sizes.dtype, device=sizes.device).view(1, 1, -1, 1, 1)
    offset = (2 * tail_bound * minimum) * steps - tail_bound
    return torch.addcmul(offset, sizes, sizes.new_full((), 2 * tail_bound * (1 - minimum * bins)))


def _bin(knots, index, bins, tail_bound):
    """Lower edge and size of the bin that ``index`` (0 to bins - 1) names."""
    lower = torch.where(index > 0, knots.gather(2, (index - 1).clamp_min(0)), -tail_bound)
    upper = torch.where(index < bins - 1, knots.gather(2, index.clamp_max(bins - 2)), tail_bound)
    return lower, upper - lower


def _derivatives(unnormalised, index, bins):
    """Derivatives at both ends of the bin that ``index`` names."""
    outer = math.log(math.expm1(1 - MIN_DERIVATIVE))
    left = torch.where(index > 0, unnormalised.gather(2, (index - 1).clamp_min(0)), outer)
    right = torch.where(index < bins - 1, unnormalised.gather(2, index.clamp_max(bins - 2)), outer)
    return MIN_DERIVATIVE + F.softplus(left), MIN_DERIVATIVE + F.softplus(right)
