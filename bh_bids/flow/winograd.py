"""Residual blocks of 3 x 3 convolutions by minimal filtering, for CPUs and wide networks.

Winograd, Arithmetic Complexity of Computations, 1980; Lavin & Gray, Fast Algorithms for
Convolutional Neural Networks, CVPR 2016: a 3 x 3 convolution of a 6 x 6 tile to a 4 x 4 one is 36
products where the definition has 144. Each product is a matrix product over channels; the
transforms of tiles are matrix products as well, over all tiles and channels at once. Interpolation
points of small powers keep the rounding within five times that of a direct float32 convolution.
"""

from dataclasses import dataclass

import torch

TILE, FILTER = 4, 3
SIDE = TILE + FILTER - 1
POINTS = (0.0, 0.75, -0.75, 1.5, -1.5)


def matrices():
    """Matrices of the one-dimensional transforms, from the interpolation points and infinity.

    Returns
    -------
    outputs : torch.Tensor of float64, shape (4, 6)
    filters : torch.Tensor of float64, shape (6, 3)
    inputs : torch.Tensor of float64, shape (6, 6)
        ``outputs @ ((filters @ g) * (inputs @ d))`` correlates d (6) with g (3).
    """
    full, short, small = (_vandermonde(n) for n in (SIDE, TILE, FILTER))
    return short.T.contiguous(), small, torch.linalg.inv(full).T.contiguous()


def _vandermonde(n):
    rows = [[p**k for k in range(n)] for p in POINTS]
    return torch.tensor([*rows, [0.0] * (n - 1) + [1.0]], dtype=torch.float64)


@dataclass
class FastBlock:
    """A residual block's convolutions as stacks of matrices, (36, in, out), and their biases."""

    first: torch.Tensor
    first_bias: torch.Tensor
    second: torch.Tensor
    second_bias: torch.Tensor
    scale: torch.Tensor = None
    shift: torch.Tensor = None


class WinogradBlocks:
    """The residual blocks of one conditioner.

    Parameters
    ----------
    blocks : list of bh_bids.flow.fold.Block
    dtype : torch.dtype
    """

    def __init__(self, blocks, dtype):
        outputs, filters, inputs = matrices()
        self._to_tiles = torch.kron(inputs, inputs).to(dtype)
        # One more column of ones: it adds the bias, which stands below the products.
        ones = outputs.new_ones(TILE * TILE, 1)
        self._from_tiles = torch.cat((torch.kron(outputs, outputs), ones), dim=1).to(dtype)
        self._blocks = [_fast(block, filters, dtype) for block in blocks]

    def __call__(self, stream):
        """Run the blocks; ``stream``, shape (n, h, w, channels), contiguous, is overwritten."""
        tiles = _Tiles(stream)
        for block in self._blocks:
            tiles.read(stream, block.scale, block.shift)
            self._convolve(tiles, block.first, block.first_bias)
            tiles.write_rectified()
            self._convolve(tiles, block.second, block.second_bias)
            tiles.add_to(stream)
        return stream

    def _convolve(self, tiles, weight, bias):
        tiles.gathered.copy_(tiles.windows)
        torch.mm(self._to_tiles, tiles.gathered.view(SIDE * SIDE, -1), out=tiles.transformed)
        squares = (SIDE * SIDE, -1, len(bias))
        torch.bmm(tiles.transformed.view(squares), weight, out=tiles.products[:-1])
        tiles.products[-1].copy_(bias)
        torch.mm(self._from_tiles, tiles.products.view(SIDE * SIDE + 1, -1), out=tiles.results)


class _Tiles:
    """Working memory: the padded image and its tiles, in the layouts the steps pass between."""

    def __init__(self, stream):
        n, h, w, channels = stream.shape
        rows, columns = -(-h // TILE), -(-w // TILE)
        padded = stream.new_zeros(n, TILE * rows + 2, TILE * columns + 2, channels)
        size = n * rows * columns * channels
        one, other = (stream.new_empty((SIDE * SIDE + 1) * size) for _ in range(2))
        self.gathered = one[: SIDE * SIDE * size].view(SIDE, SIDE, n, rows, columns, channels)
        self.transformed = other[: SIDE * SIDE * size].view(SIDE * SIDE, size)
        self.products = one.view(SIDE * SIDE + 1, -1, channels)
        self.results = other[: TILE * TILE * size].view(TILE * TILE, size)
        self.windows = _tiles_of(padded, SIDE, (n, rows, columns))
        self._tiled = self.results.view(TILE, TILE, n, rows, columns, channels)
        self._written = _tiles_of(padded[:, 1:, 1:], TILE, (n, rows, columns))
        self._inner = padded[:, 1 : h + 1, 1 : w + 1]
        # What lies beyond the image in tiles that stick out must be zero for its neighbours.
        self._beyond = [padded[:, h + 1 :], padded[:, :, w + 1 :]]
        self._whole = h % TILE == 0 and w % TILE == 0
        self._streamed = _tiles_of(stream, TILE, (n, rows, columns)) if self._whole else None

    def read(self, stream, scale, shift):
        """The image becomes the rectified, and before that scaled, stream."""
        if scale is None:
            torch.clamp_min(stream, 0, out=self._inner)
        else:
            torch.addcmul(shift, stream, scale, out=self._inner)
            self._inner.clamp_min_(0)

    def write_rectified(self):
        """The image becomes the rectified result."""
        torch.clamp_min(self._tiled, 0, out=self._written)
        self._clear()

    def add_to(self, stream):
        """Add the result to the stream."""
        if self._whole:
            self._streamed.add_(self._tiled)
        else:
            self._written.copy_(self._tiled)
            stream.add_(self._inner)
            self._clear()

    def _clear(self):
        if not self._whole:
            for part in self._beyond:
                part.zero_()


def _tiles_of(image, side, counts):
    """View of an image's (overlapping) tiles: (side, side, n, rows, columns, channels)."""
    along, down, across, channel = image.stride()
    strides = (down, across, along, TILE * down, TILE * across, channel)
    return image.as_strided((side, side, *counts, image.shape[3]), strides)


def _fast(block, filters, dtype):
    def stacked(weight):
        transformed = torch.einsum("pi,qj,ocij->pqco", filters, filters, weight)
        return transformed.reshape(SIDE * SIDE, *transformed.shape[2:]).to(dtype).contiguous()

    rest = (block.first_bias, block.second_bias, block.scale, block.shift)
    rest = [None if t is None else t.to(dtype) for t in rest]
    first_bias, second_bias, scale, shift = rest
    return FastBlock(
        stacked(block.first), first_bias, stacked(block.second), second_bias, scale, shift
    )
