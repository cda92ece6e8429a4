"""What a flow that was trained at many noise levels knows of noise: how much, and away with it.

The noise level is the one under which the scan is most probable. The expected clean scan follows
from the density's gradient (Tweedie's formula, Efron, JASA 2011): ``x + s**2 grad log p_s(x)``.
"""

import numpy as np
import torch

from ..flow.context import slice_context
from ..flow.precision import repeatable_convolutions
from ..threads import in_parts, results, workers

CANDIDATES = (0.004, 0.006, 0.009, 0.012, 0.016, 0.02, 0.026, 0.034, 0.044)
# Slices that the noise level is told from, evenly spread over the middle of the brain.
SLICES = 6
# Neighbouring slices that are cropped alike, to where one of them has brain: fewer are cropped
# closer. It is no batch's size, so that nothing depends on how many pass the flow at once.
CROPPED_ALIKE = 8


class FlowDenoiser:
    """A flow's view of one volume's noise.

    Parameters
    ----------
    flow : FlowEngine or TargetFlow
        With the condition "noise".
    box : SliceBox
    mask, mean : torch.Tensor, shape (n, h, w)
        Brain mask and the target's mean volume as stacks of the box.
    batch_slices : int
        Slices that go through the flow at once, on all threads together: bounds the memory.
    """

    def __init__(self, flow, box, mask, mean, batch_slices=8):
        self._flow, self._box, self._mask, self._mean = flow, box, mask, mean
        self._workers = min(workers(mask.device), batch_slices)
        self._batch = batch_slices // self._workers

    def noise_level(self, stack):
        """Standard deviation of the noise, target units, among ``CANDIDATES``.

        Parameters
        ----------
        stack : torch.Tensor, shape (n, h, w)
            Target units.

        Returns
        -------
        float
            Slices whose density is not finite have no say; the lowest candidate if none has.
        """
        occupied = self._box.occupied
        ends = len(occupied) // 4, 3 * len(occupied) // 4
        chosen = occupied[np.unique(np.linspace(*ends, SLICES).round().astype(int))]
        window = (slice(None), *self._content(chosen))
        low, high = self._flow.config.noise_range
        # The flow was never trained outside its range: beyond, it has no say.
        candidates = [sigma for sigma in CANDIDATES if low <= sigma <= high] or [low]

        parts, known = in_parts(chosen, self._batch), {}

        def score(item):
            index, places = item
            with torch.inference_mode():
                found = self._log_prob(stack[window], places, candidates[index], window)
            return found.double().cpu().numpy()

        def best(indices):
            items = [(k, places) for k in indices if k not in known for places in parts]
            for (k, _), found in zip(items, results(score, items, self._workers), strict=True):
                known.setdefault(k, []).append(found)
            table = np.stack([np.concatenate(known[k]) for k in indices])
            fine = np.isfinite(table).all(axis=0)
            return indices[int(np.argmax(table[:, fine].sum(axis=1)))]

        # The score has one peak: from the best of every other candidate, both ends aside, uphill.
        count = len(candidates)
        peak = best(range(0, count, 2)[1:-1] or range(count))
        for _ in candidates:
            nearby = best(range(max(peak - 1, 0), min(peak + 2, count)))
            if nearby == peak:
                break
            peak = nearby
        return candidates[peak]

    def clean(self, stack, sigma, report=lambda done, of: None):
        """The expected stack without noise of ``sigma``; background stays 0.

        Parameters
        ----------
        stack : torch.Tensor, shape (n, h, w)
        sigma : float
        report : callable
            Called as ``report(slices done, slices)``.

        Returns
        -------
        torch.Tensor, shape (n, h, w)
        int
            Slices that kept their values because the flow gave no finite gradient.
        """
        gradient = torch.zeros_like(stack)
        occupied, done = self._box.occupied, 0
        items = [
            (places, self._content(alike))
            for alike in in_parts(occupied, CROPPED_ALIKE)
            for places in in_parts(alike, self._batch)
        ]

        def part(item):
            places, box = item
            # Each slice also sees the one below.
            lowest = max(places[0] - 1, 0)
            window = (slice(lowest, places[-1] + 1), *box)
            with torch.enable_grad():
                values = stack[window].clone().requires_grad_(True)
                self._log_prob(values, places - lowest, sigma, window).sum().backward()
            return window, values.grad, len(places)

        with repeatable_convolutions(tf32=False):
            for window, found, count in results(part, items, self._workers):
                gradient[window] += found
                done += count
                report(done, len(occupied))
        fine = gradient.isfinite().all(dim=2).all(dim=1)
        step = (sigma**2 * gradient).clamp(-3 * sigma, 3 * sigma)
        cleaned = torch.where(fine[:, None, None], stack + step, stack)
        return cleaned.clamp_min(0) * self._mask, int((~fine).sum())

    def _content(self, positions):
        """Rows and columns in which one of the slices has brain."""
        mask = self._mask[positions].bool().any(dim=0)
        return self._box.content(mask.cpu().numpy())

    def _log_prob(self, part, positions, sigma, window):
        """Log densities (n,) of slices of the part of the stack that lies in a window."""
        positions = [int(k) for k in positions]
        mask, mean = self._mask[window], self._mean[window]
        context = slice_context(
            self._flow.config, part, positions, mask=mask, mean=mean, sigma=sigma
        )
        return self._flow.log_prob(part[positions][:, None], context)
