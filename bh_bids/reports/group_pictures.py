"""The group report's pictures of brains: thumbnails, and all methods' slices with their errors."""

import base64
import io

import numpy as np

from .mosaic import cut, grey_levels, plan_mosaic, png_uri
from .palettes import difference_levels, difference_palette

THUMBNAIL = 72
"""Height of a thumbnail, pixels."""
PLANES = ("axial", "coronal")


def thumbnail(volume, mask):
    """A small axial slice through the brain's middle.

    Parameters
    ----------
    volume : numpy.ndarray, shape (x, y, z)
        RAS, target units.
    mask : numpy.ndarray of bool, shape (x, y, z)

    Returns
    -------
    str
        JPEG of 72 rows as a ``data:`` address; "" without a brain.
    """
    from PIL import Image

    mask = np.asarray(mask, dtype=bool)
    if not mask.any():
        return ""
    tile = _tiles(mask)["axial"]
    levels = grey_levels(cut(volume, tile[0], tile[1]), (0.0, 1.1))
    height, width = levels.shape
    size = (max(1, round(THUMBNAIL * width / height)), THUMBNAIL)
    image = Image.fromarray(levels).resize(size, Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=60)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _tiles(mask):
    """The middle tile of each plane shown, and the box all are cut from."""
    layout = plan_mosaic(mask)
    found = {}
    for plane in PLANES:
        tiles = [t for t in layout.tiles if t.plane == plane]
        found[plane] = (tiles[len(tiles) // 2], layout.box)
    return found


def method_slices(volume, mask, truth=None, *, limit=0.2):
    """Slices of one image, and of its error.

    Parameters
    ----------
    volume : numpy.ndarray, shape (x, y, z)
        RAS, target units.
    mask : numpy.ndarray of bool, shape (x, y, z)
        Brain; slices are chosen by it.
    truth : numpy.ndarray, shape (x, y, z), optional
        What the image should look like, target units.
    limit : float
        Error at the ends of the colours, target units.

    Returns
    -------
    dict of str to str
        PNG as ``data:`` addresses: "axial", "coronal", and "axial_error", "coronal_error" where
        there is a truth.
    """
    mask = np.asarray(mask, dtype=bool)
    pictures = {}
    for plane, (tile, box) in _tiles(mask).items():
        image = cut(volume, tile, box)
        pictures[plane] = png_uri(grey_levels(image, (0.0, 1.15)))
        if truth is not None:
            error = np.nan_to_num(image - cut(truth, tile, box))
            levels = difference_levels(error, cut(mask, tile, box), limit)
            pictures[f"{plane}_error"] = png_uri(levels, difference_palette())
    return pictures
