"""The distance of Eq. 1 and its exact gradients, over a whole volume.

    D(x, x_s) = beta_1 {1 - NCC(x, x_s)} + beta_2 ||M . G x||_1

Jeong et al., BlindHarmony, ICCV 2023. Two departures from the published implementation, whose
NCC is an uncentred cosine of one slice and whose edge mask is empty on skull-stripped slices:
the correlation is centred and taken over the brain's voxels of the volume, and so is the
percentile under which a gradient counts as no edge.
"""

import torch


class Correlation:
    """Centred normalised cross-correlation with a fixed source inside a mask.

    Parameters
    ----------
    source : torch.Tensor, any shape
        Source volume.
    mask : torch.Tensor of bool, same shape
        Voxels that count.
    """

    def __init__(self, source, mask):
        self.mask = mask
        inside = source[mask].double()
        inside = inside - inside.mean()
        norm = inside.norm()
        self._direction = inside / norm.clamp_min(torch.finfo(torch.float64).tiny)

    def __call__(self, x):
        """Correlation of a volume with the source, and the volume's contrast.

        Returns
        -------
        ncc : float
        power : float
            ``||x_c||^2``, the sum of squares of the centred volume inside the mask.
        """
        centred = self._centred(x)
        power = float(centred @ centred)
        if power <= 0:
            return 0.0, 0.0
        return float(centred @ self._direction) / power**0.5, power

    def gradient(self, x):
        """Gradient of ``1 - NCC`` at a volume, times ``||x_c||^2``, as a stack (0 outside).

        With u the centred volume and v the source's unit direction the gradient is
        ``(NCC u/|u| - v) / |u|``. Its curvature at the optimum is ``1/|u|^2``, so a descent step
        s along this scaled gradient is stable for every volume and every s in (0, 2).
        """
        centred = self._centred(x)
        norm = centred.norm()
        out = torch.zeros_like(x)
        if norm > 0:
            out[self.mask] = self._slope(centred, norm).to(x.dtype)
        return out

    def descend(self, x, step):
        """One descent step on ``1 - NCC`` that leaves level and contrast as they were.

        The correlation is blind to a volume's mean and to ``||x_c||``. Its gradient is
        orthogonal to x_c, so a plain step of finite length adds contrast, the more the larger the
        step; scaling x_c back to its norm (the retraction of a descent on a sphere) removes that
        and changes the correlation by nothing.

        Parameters
        ----------
        x : torch.Tensor
            Volume, of the source's shape.
        step : float
            In units of ``||x_c||^2``, see :meth:`gradient`.

        Returns
        -------
        torch.Tensor
            New volume; as given outside the mask.
        """
        inside = x[self.mask].double()
        level = inside.mean()
        centred = inside - level
        norm = centred.norm()
        out = x.clone()
        if norm > 0:
            moved = centred - step * self._slope(centred, norm)
            out[self.mask] = (level + moved * (norm / moved.norm())).to(x.dtype)
        return out

    def _slope(self, centred, norm):
        ncc = (centred @ self._direction) / norm
        return ncc * centred - norm * self._direction

    def _centred(self, x):
        inside = x[self.mask].double()
        return inside - inside.mean()


class EdgeTerm:
    """``||M . G x||_1`` over the voxel pairs that are no edge of the source.

    G are forward differences along the three axes; a pair counts if both voxels are brain and the
    source's difference is at or below a percentile of all such differences of its axis. |t| is
    smoothed to ``sqrt(t^2 + delta^2) - delta``, so that a descent does not rattle around 0.

    Parameters
    ----------
    source : torch.Tensor, three axes
        Source volume.
    mask : torch.Tensor of bool, same shape
        Brain mask.
    percentile : float
        Of the absolute differences inside the brain, in [0, 100].
    delta : float
        Smoothing, in target units.
    """

    def __init__(self, source, mask, percentile=30.0, delta=0.005):
        self.delta = delta
        self._flat = [_non_edges(source, mask, axis, percentile) for axis in range(source.dim())]
        self.pairs = max(sum(int(m.sum()) for m in self._flat), 1)

    def __call__(self, x):
        """The sum over all pairs, in target units."""
        total = 0.0
        for axis, flat in enumerate(self._flat):
            step = x.diff(dim=axis)[flat].double()
            total += float((step.square() + self.delta**2).sqrt().sum() - self.delta * step.numel())
        return total

    def gradient(self, x):
        """Gradient of the sum at a volume; a stack of x's shape."""
        out = torch.zeros_like(x)
        for axis, flat in enumerate(self._flat):
            step = x.diff(dim=axis)
            slope = step / (step.square() + self.delta**2).sqrt() * flat
            n = x.shape[axis]
            out.narrow(axis, 1, n - 1).add_(slope)
            out.narrow(axis, 0, n - 1).sub_(slope)
        return out


def _non_edges(source, mask, axis, percentile):
    """Voxel pairs along one axis, inside the brain, whose difference is small."""
    n = source.shape[axis]
    both = mask.narrow(axis, 0, n - 1) & mask.narrow(axis, 1, n - 1)
    steps = source.diff(dim=axis).abs()
    inside = steps[both]
    if inside.numel() == 0:
        return both
    # torch.quantile refuses more than 2**24 values; a k-th value has no such limit.
    rank = max(1, round(percentile / 100 * inside.numel()))
    return both & (steps <= inside.kthvalue(rank).values)
