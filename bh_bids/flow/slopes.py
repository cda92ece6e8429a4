"""What a flow asks of a brain's contrast: the slopes of its density with those of a map.

A density says little by its height: flat images are the most probable. But how it changes as the
contrast between two intensities is stretched (the score of a map of intensities, as statistics has
it) depends on how that contrast is already, and on what the target's scans are like. On target
scans these slopes are what they are on average; on one whose contrast was changed they differ, and
by how much goes with the change.
"""

import numpy as np
import torch

from ..threads import results, workers
from .content import content
from .context import slice_context
from .precision import repeatable_convolutions

# Shares of the target's brains at whose intensities the slope of a map changes, all but the last:
# the first slope holds from 0 to the first of them, the last from the last but one on.
SHARES = (0.02, 0.06, 0.12, 0.2, 0.3, 0.42, 0.55, 0.7, 0.85, 0.97)
KNOTS = len(SHARES)
# Noise that is added before the density is asked, target units: a scan's own, much less, does not
# matter then. It is drawn from the seed.
SIGMA, SEED = 0.02, 0
# Axial slices that are asked, evenly spread over the middle half of the target's mean brain.
SLICES = 40
CONDITIONS = {"mask", "noise"}


class ContrastSlopes:
    """A flow's word on the contrast of brains whose histogram was matched to the target's.

    Parameters
    ----------
    flow : FlowEngine
        With the conditions "mask" and "noise".
    mean : numpy.ndarray, shape (x, y, z)
        The target's mean volume, target units.
    quantiles : array_like, shape (q,)
        Quantiles of the target's brains together, evenly spaced from 0 to 100 %.
    batch_slices : int
        Slices that go through the flow at once, on all threads together: bounds the memory.
    """

    def __init__(self, flow, mean, quantiles, batch_slices=8):
        self._flow, self._mean = flow, np.asarray(mean, np.float32)
        self.knots = np.interp(SHARES, np.linspace(0, 1, len(quantiles)), quantiles)
        self._batch = batch_slices
        used = np.flatnonzero((self._mean > 0).any(axis=(0, 1)))
        middle = len(used) // 4, 3 * len(used) // 4
        self._slices = used[np.unique(np.linspace(*middle, SLICES).round().astype(int))]

    @staticmethod
    def known_to(config):
        """Whether a flow of this configuration can be asked."""
        lowest, highest = config.noise_range
        return set(config.conditions) >= CONDITIONS and lowest <= SIGMA <= highest

    def __call__(self, matched, mask):
        """The slopes, summed over the slices that are asked, as shares of their sum.

        Parameters
        ----------
        matched : numpy.ndarray, shape (x, y, z)
            On the model's grid, target units, its histogram matched to the target's.
        mask : numpy.ndarray of bool, shape (x, y, z)

        Returns
        -------
        numpy.ndarray of float64, shape (KNOTS,)
            Of the log density with the logarithm of the map's slope between two knots; without
            unit, their sum is 1: how strongly a density asks for less contrast altogether is a
            matter of noise and detail. NaN where no slice that is asked shows brain, or the
            density does not ask for less.
        """
        asked = [int(z) for z in self._slices if mask[:, :, z].any()]
        with repeatable_convolutions(tf32=False):
            at_once = min(workers(self._flow.device), self._batch)
            found = results(lambda z: self._of_slice(matched, mask, z), asked, at_once)
            slopes = np.sum([np.zeros(KNOTS), *found], axis=0)
        total = slopes.sum()
        return slopes / total if total < 0 and np.isfinite(slopes).all() else slopes * np.nan

    def _of_slice(self, matched, mask, z):
        """Slopes of one slice's log density."""
        # Whoever calls may be in inference mode, which knows no gradients.
        with torch.inference_mode(False), torch.enable_grad():
            logs = torch.zeros(
                KNOTS, dtype=self._flow.dtype, device=self._flow.device, requires_grad=True
            )
            (slopes,) = torch.autograd.grad(self._density(matched, mask, z, logs), logs)
        return slopes.double().cpu().numpy()

    def _density(self, matched, mask, z, logs):
        """Log density of one slice through the map whose slopes have these logarithms."""
        # The flow may be told the slice below.
        below = max(z - 1, 0)
        occupied = mask[:, :, below : z + 1].any(axis=2)
        rows, columns = content(occupied, self._flow.config.side_multiple)
        # A slice's noise does not depend on how many are asked.
        noise = np.random.default_rng((SEED, z)).standard_normal((*mask.shape[:2], z + 1 - below))

        def stack(part):
            part = np.ascontiguousarray(part[rows, columns].transpose(2, 0, 1))
            return torch.from_numpy(part).to(self._flow.device, self._flow.dtype)

        values, inside, mean = (
            stack(array[:, :, below : z + 1]) for array in (matched, mask, self._mean)
        )
        knots = torch.as_tensor(self.knots).to(values)
        image = ramps(values, knots) @ logs.exp()
        return log_density(self._flow, image, stack(SIGMA * noise), [z - below], inside, mean)


def log_density(flow, image, noise, positions, inside, mean):
    """Log density of slices of a noised stack.

    Parameters
    ----------
    flow : object
        With ``config`` and ``log_prob(x, context)``.
    image : torch.Tensor, shape (m, h, w)
        Neighbouring axial slices, target units; the lowest first.
    noise : torch.Tensor, shape (m, h, w)
        Is added; of the standard deviation SIGMA.
    positions : sequence of int
        The slices that are asked.
    inside, mean : torch.Tensor, shape (m, h, w)
        Brain mask, and the target's mean volume.

    Returns
    -------
    torch.Tensor, shape ()
        The sum over the slices.
    """
    noisy = (image + noise) * inside
    context = slice_context(flow.config, noisy, positions, mask=inside, mean=mean, sigma=SIGMA)
    return flow.log_prob(noisy[positions][:, None], context).sum()


def ramps(values, knots):
    """What each slope adds to a map through 0 that is straight between knots.

    Parameters
    ----------
    values : torch.Tensor, shape (...)
        From 0 on.
    knots : torch.Tensor, shape (KNOTS,)

    Returns
    -------
    torch.Tensor, shape (..., KNOTS)
        Their sum is the values; times slopes, it is the values mapped.
    """
    edges = torch.cat([knots.new_zeros(1), knots[:-1]])
    widths = torch.cat([knots[:-1] - edges[:-1], knots.new_full((1,), torch.inf)])
    return torch.minimum((values[..., None] - edges).clamp_min(0), widths)
