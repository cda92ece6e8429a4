"""From volumes to mosaics: which slices, how they are laid out, and the pixels of one picture.

All volumes are RAS, (x, y, z). Pictures are drawn in neurological convention: the participant's
left is on the left of axial and coronal slices; sagittal slices face right.
"""

import base64
import io
from dataclasses import dataclass

import numpy as np

#: (plane, axis that is cut, number of slices, letters at the left and right edge)
PLANES = (
    ("axial", 2, 7, "L", "R"),
    ("coronal", 1, 7, "L", "R"),
    ("sagittal", 0, 6, "P", "A"),
)
_AXIS_NAMES = "xyz"


@dataclass(frozen=True)
class Tile:
    """One slice in a mosaic; positions and sizes in pixels from the upper left corner."""

    plane: str
    axis: int
    index: int
    left: int
    top: int
    width: int
    height: int
    label: str
    first_of_row: bool
    edges: tuple  # letters at the left and right edge


@dataclass(frozen=True)
class Layout:
    """The tiles of a mosaic and the box of voxels that every tile is cut from."""

    width: int
    height: int
    tiles: tuple
    box: tuple  # three (start, stop) pairs, in voxels


def _bounding_box(mask, spacing, margin):
    """Box around the mask, ``margin`` mm wider on all sides, clipped to the volume."""
    box = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        inside = np.flatnonzero(mask.any(axis=others))
        if inside.size == 0:  # nothing marked: show the whole volume
            box.append((0, mask.shape[axis]))
            continue
        pad = int(round(margin / spacing[axis]))
        start = max(int(inside[0]) - pad, 0)
        box.append((start, min(int(inside[-1]) + 1 + pad, mask.shape[axis])))
    return tuple(box)


def _slice_indices(mask, axis, count):
    """Evenly spaced slices through the mask's middle 76 %."""
    others = tuple(a for a in range(3) if a != axis)
    inside = np.flatnonzero(mask.any(axis=others))
    low, high = (inside[0], inside[-1]) if inside.size else (0, mask.shape[axis] - 1)
    positions = low + np.linspace(0.12, 0.88, count) * (high - low)
    return [int(round(p)) for p in positions]


def plan_mosaic(mask, spacing=(1.0, 1.0, 1.0), *, affine=None, margin=4.0, width=1200, gap=4):
    """Choose the slices of the three planes and lay them out in three rows of equal width.

    Parameters
    ----------
    mask : numpy.ndarray of bool, shape (x, y, z)
        Brain mask, RAS; slices are spread over its extent and cropped around it.
    spacing : sequence of 3 floats
        Voxel sizes in mm.
    affine : numpy.ndarray, shape (4, 4), optional
        With it slices are labelled in mm of its space, otherwise by voxel index.
    margin : float
        How much to show around the mask, in mm.
    width : int
        Width of the picture in pixels.
    gap : int
        Least number of pixels between tiles.

    Returns
    -------
    Layout
    """
    mask = np.asarray(mask, dtype=bool)
    spacing = [float(s) for s in spacing]
    box = _bounding_box(mask, spacing, margin)
    extent = [(stop - start) * size for (start, stop), size in zip(box, spacing, strict=True)]
    tile_mm = {2: (extent[0], extent[1]), 1: (extent[0], extent[2]), 0: (extent[1], extent[2])}
    scale = min(
        (width - (count + 1) * gap) / (count * tile_mm[axis][0]) for _, axis, count, _, _ in PLANES
    )
    natural = 1 / min(spacing)  # one pixel a voxel: nothing is interpolated, the file is smaller
    if natural <= scale < 1.25 * natural:
        scale = natural
    tiles, top = [], gap
    for plane, axis, count, left_letter, right_letter in PLANES:
        tile_width, tile_height = (max(int(mm * scale + 1e-6), 1) for mm in tile_mm[axis])
        space = (width - count * tile_width) / (count + 1)
        for number, index in enumerate(_slice_indices(mask, axis, count)):
            tiles.append(
                Tile(
                    plane=plane,
                    axis=axis,
                    index=index,
                    left=int(round(space + number * (tile_width + space))),
                    top=top,
                    width=tile_width,
                    height=tile_height,
                    label=_position_label(axis, index, affine),
                    first_of_row=number == 0,
                    edges=(left_letter, right_letter),
                )
            )
        top += tile_height + gap
    return Layout(width=width, height=top, tiles=tuple(tiles), box=box)


def _position_label(axis, index, affine):
    if affine is None:
        return f"{_AXIS_NAMES[axis]} {index}"
    millimetres = float(affine[axis][axis]) * index + float(affine[axis][3])
    return f"{_AXIS_NAMES[axis]} {round(millimetres):+d} mm".replace("-", "−")


def cut(volume, tile, box):
    """The tile's slice as a picture: rows from top to bottom, columns from left to right.

    Parameters
    ----------
    volume : numpy.ndarray, shape (x, y, z)
    tile : Tile
    box : tuple of three (start, stop)
        Voxels to keep, as in ``Layout.box``.

    Returns
    -------
    numpy.ndarray, shape (rows, columns)
        Superior (or anterior, in axial slices) on top.
    """
    window = [slice(*limits) for limits in box]
    window[tile.axis] = tile.index
    return np.asarray(volume)[tuple(window)].T[::-1]


def _resize(picture, tile):
    """Resample one slice to the tile's pixels, averaging where it shrinks."""
    from PIL import Image

    if picture.shape == (tile.height, tile.width):
        return picture
    image = Image.fromarray(np.ascontiguousarray(picture, dtype=np.float32))
    return np.asarray(image.resize((tile.width, tile.height), Image.Resampling.BICUBIC))


def compose_mosaic(volume, layout, *, fill=0.0):
    """Draw a volume's slices where the layout wants them.

    Parameters
    ----------
    volume : numpy.ndarray, shape (x, y, z)
    layout : Layout
    fill : float
        Value between the tiles.

    Returns
    -------
    numpy.ndarray of float32, shape (layout.height, layout.width)
    """
    canvas = np.full((layout.height, layout.width), fill, dtype=np.float32)
    for tile in layout.tiles:
        rows = slice(tile.top, tile.top + tile.height)
        columns = slice(tile.left, tile.left + tile.width)
        canvas[rows, columns] = _resize(cut(volume, tile, layout.box), tile)
    return canvas


def contour_path(mask, layout):
    """The mask's outline on every tile as the data of one SVG path.

    Parameters
    ----------
    mask : numpy.ndarray of bool, shape (x, y, z)
    layout : Layout

    Returns
    -------
    str
        ``M x y L x y … Z`` in the mosaic's pixels; empty where the mask crosses no tile.
    """
    from contourpy import contour_generator

    parts = []
    for tile in layout.tiles:
        picture = np.pad(cut(mask, tile, layout.box).astype(np.float32), 1)
        rows, columns = picture.shape[0] - 2, picture.shape[1] - 2
        for line in contour_generator(z=picture).lines(0.5):
            # The padding shifts by one voxel, a voxel's centre lies at its half.
            x = tile.left + (line[:, 0] - 0.5) * tile.width / columns
            y = tile.top + (line[:, 1] - 0.5) * tile.height / rows
            points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
            parts.append(f"M{points}Z")
    return "".join(parts)


def robust_window(volume, mask, low=None, high=99.5):
    """Grey values to show as black and white: percentiles inside the mask, never an empty range.

    Parameters
    ----------
    volume : numpy.ndarray, shape (x, y, z)
    mask : numpy.ndarray of bool, shape (x, y, z)
        Where the percentiles are taken; the whole volume if it is empty.
    low, high : float or None
        Percentiles; ``low=None`` puts black at 0 (or at the minimum, if that is higher).

    Returns
    -------
    tuple of two floats
    """
    values = np.asarray(volume, dtype=np.float64)
    mask = np.asarray(mask, dtype=bool)
    values = values[mask] if mask.any() else values.ravel()
    values = values[np.isfinite(values)]
    if values.size == 0:
        return 0.0, 1.0
    bottom = max(0.0, float(values.min())) if low is None else float(np.percentile(values, low))
    top = float(np.percentile(values, high))
    bottom = 0.0 if low is None and top > 0 else bottom
    return (bottom, top) if top > bottom else (bottom, bottom + 1.0)


def grey_levels(picture, window):
    """Map a picture to bytes, black and white at the window's ends.

    Parameters
    ----------
    picture : numpy.ndarray, shape (rows, columns)
        Values that are not finite become black.
    window : tuple of two floats

    Returns
    -------
    numpy.ndarray of uint8, shape (rows, columns)
    """
    low, high = window
    clean = np.nan_to_num(picture, nan=low, posinf=high, neginf=low)
    return np.round(255 * np.clip((clean - low) / (high - low), 0, 1)).astype(np.uint8)


def png_uri(levels, palette=None):
    """Encode bytes as a PNG in a ``data:`` address.

    Parameters
    ----------
    levels : numpy.ndarray of uint8, shape (rows, columns)
        Grey levels, or rows of the palette.
    palette : numpy.ndarray of uint8, shape (256, 3), optional
        Colours; grey without.

    Returns
    -------
    str
    """
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(levels, dtype=np.uint8))
    if palette is not None:
        image = image.convert("P") if image.mode != "P" else image
        image.putpalette(np.ascontiguousarray(palette, dtype=np.uint8).tobytes())
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
