"""Volumes for the page's slice viewer: eight bits a voxel, as PNG pictures in one JSON document.

A browser decodes PNG by itself, so a page needs neither a request nor a library to show them.
"""

import base64
import binascii
import io
import json
import re

import numpy as np

from .mosaic import png_uri
from .palettes import OUTSIDE, difference_levels, difference_palette, nice_limit

#: Name and label of what the viewer can show, in its order; the page makes the difference itself.
LAYERS = {
    "source": "Source",
    "harmonized": "Harmonized",
    "target": "Target mean",
    "ncc": "Local correlation",
}
_UNITS = (0.0, 1.3)  # target units that the levels 1 to 255 span; 0 is outside the brain
_COLUMNS = 12
_MARGIN = 2  # voxels around the brain
_PREFIX = "data:image/png;base64,"
_MAX_VOXELS = 20_000_000


def viewer_bundle(volumes, mask, affine, windows=None):
    """Pack volumes for the slice viewer.

    Parameters
    ----------
    volumes : dict of numpy.ndarray, shape (x, y, z)
        Names of :data:`LAYERS` to volumes on one RAS grid, in target units; ``ncc`` from 0 to 1.
        What is not finite is shown as outside the brain.
    mask : numpy.ndarray of bool, shape (x, y, z)
        Brain mask; voxels outside are left out.
    affine : numpy.ndarray, shape (4, 4)
        Of the grid; without rotation.
    windows : dict of (float, float), optional
        Values of the darkest and brightest level by layer; target units from 0 to 1.3 otherwise.

    Returns
    -------
    dict
        ``shape``, ``spacing`` and ``origin`` (mm, of the first voxel's centre), ``columns`` of the
        pictures, and ``layers``, each with ``name``, ``label``, ``range`` and ``png``: its axial
        slices row by row, each as :func:`axial` gives it.
    """
    mask = np.asarray(mask, dtype=bool)
    box = _box(mask)
    inside = mask[box]
    spacing = np.abs(np.diag(affine)[:3])
    origin = [float(affine[a, a]) * box[a].start + float(affine[a, 3]) for a in range(3)]
    windows = {"ncc": (0.0, 1.0), **(windows or {})}
    layers = []
    for name, label in LAYERS.items():
        if name not in volumes:
            continue
        window = windows.get(name, _UNITS)
        low, high = window
        values = np.asarray(volumes[name])[box]
        known = inside & np.isfinite(values)
        share = (np.where(known, values, low) - low) / (high - low)
        levels = 1 + np.round(254 * np.clip(share, 0, 1))
        picture = _tile(np.where(known, levels, 0).astype(np.uint8))
        layer = {"name": name, "label": label, "range": list(map(float, window))}
        layers.append({**layer, "png": png_uri(picture)[len(_PREFIX) :]})
    return {
        "shape": list(inside.shape),
        "spacing": [float(s) for s in spacing],
        "origin": origin,
        "columns": _COLUMNS,
        "layers": layers,
    }


def read_bundle(text):
    """Check a bundle that was read from a file: nothing but numbers and PNG pictures.

    Parameters
    ----------
    text : str
        JSON of :func:`viewer_bundle`.

    Returns
    -------
    dict

    Raises
    ------
    ValueError
        If it is anything else.
    """
    found = json.loads(text)
    try:
        shape = [int(n) for n in found["shape"]]
        bundle = {
            "shape": shape,
            "spacing": [float(s) for s in found["spacing"]],
            "origin": [float(o) for o in found["origin"]],
            "columns": int(found["columns"]),
        }
        layers = []
        for layer in found["layers"]:
            name, png = layer["name"], layer["png"]
            low, high = map(float, layer["range"])
            if name not in LAYERS or not re.fullmatch(r"[A-Za-z0-9+/]+=*", png):
                raise ValueError("a layer that is none")
            layers.append({"name": name, "label": LAYERS[name], "range": [low, high], "png": png})
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a viewer's bundle: {error!r}") from None
    numbers = [*bundle["spacing"], *bundle["origin"], *(v for y in layers for v in y["range"])]
    right = len(shape) == len(bundle["spacing"]) == len(bundle["origin"]) == 3
    right = right and min(shape) > 0 and np.prod(shape) <= _MAX_VOXELS and bundle["columns"] > 0
    if (
        not right
        or not np.isfinite(numbers).all()
        or not {"source", "harmonized"} <= {layer["name"] for layer in layers}
    ):
        raise ValueError("not a viewer's bundle")
    return {**bundle, "layers": layers}


def unpack(bundle, name):
    """One layer's levels.

    Parameters
    ----------
    bundle : dict
    name : str

    Returns
    -------
    numpy.ndarray of uint8, shape (x, y, z)
        0 outside the brain, 1 to 255 over the layer's range.

    Raises
    ------
    ValueError
        If its picture cannot be decoded or has another size.
    """
    from PIL import Image

    layer = next(layer for layer in bundle["layers"] if layer["name"] == name)
    nx, ny, nz = bundle["shape"]
    columns = bundle["columns"]
    rows = -(-nz // columns)
    try:
        with Image.open(io.BytesIO(base64.b64decode(layer["png"], validate=True))) as image:
            shape = image.size[::-1]
            # Few bytes can claim to be a picture of any size: none is unpacked unless it fits.
            picture = np.asarray(image.convert("L")) if shape == (rows * ny, columns * nx) else None
    except (OSError, SyntaxError, Image.DecompressionBombError, binascii.Error) as error:
        raise ValueError(f"the picture of {name} cannot be decoded: {error}") from None
    if picture is None:
        raise ValueError(f"the picture of {name} has the shape {shape}")
    tiles = picture.reshape(rows, ny, columns, nx).swapaxes(1, 2).reshape(rows * columns, ny, nx)
    return tiles[:nz, ::-1].transpose(2, 1, 0)


def shrink(bundle):
    """The same bundle with half as many voxels along each axis, for pages with many scans.

    Parameters
    ----------
    bundle : dict

    Returns
    -------
    dict
    """
    layers = []
    for layer in bundle["layers"]:
        levels = unpack(bundle, layer["name"]).astype(np.float32)
        levels = np.pad(levels, [(0, n % 2) for n in levels.shape], mode="edge")
        nx, ny, nz = (n // 2 for n in levels.shape)
        small = levels.reshape(nx, 2, ny, 2, nz, 2).mean(axis=(1, 3, 5))
        outside = levels.reshape(nx, 2, ny, 2, nz, 2).min(axis=(1, 3, 5)) == 0
        picture = _tile(np.where(outside, 0, np.round(small)).astype(np.uint8))
        layers.append({**layer, "png": png_uri(picture)[len(_PREFIX) :]})
    spacing = bundle["spacing"]
    return {
        **bundle,
        "shape": [nx, ny, nz],
        "spacing": [2 * s for s in spacing],
        "origin": [o + s / 2 for o, s in zip(bundle["origin"], spacing, strict=True)],
        "layers": layers,
    }


def fit(bundles, budget):
    """Bundles that fit into a page together: the largest ones are shrunk until they do.

    Parameters
    ----------
    bundles : list of dict or None
    budget : int
        Bytes for all of them.

    Returns
    -------
    list of dict or None
        In the same order. Each is shrunk at most twice, to 4 mm where it was 1 mm.
    """
    bundles = list(bundles)
    finest = {i: b["spacing"][0] for i, b in enumerate(bundles) if b is not None}

    def size(i):
        return sum(len(layer["png"]) for layer in bundles[i]["layers"])

    while sum(map(size, finest)) > budget:
        left = [i for i, first in finest.items() if bundles[i]["spacing"][0] < 4 * first]
        if not left:
            break
        largest = max(left, key=size)
        bundles[largest] = shrink(bundles[largest])
    return bundles


def preview(bundle, name):
    """Three planes through the middle of the brain, side by side.

    Parameters
    ----------
    bundle : dict
    name : str
        Layer.

    Returns
    -------
    str
        ``data:`` address of a PNG.
    """
    return png_uri(_three_planes(unpack(bundle, name), 0))


def preview_change(bundle):
    """The same planes of harmonized minus source.

    Parameters
    ----------
    bundle : dict

    Returns
    -------
    str
        ``data:`` address of a PNG, blue where it became darker, orange where brighter.
    float
        The change at the ends of the colours, in per cent of the brain's 99th percentile.
    """
    before, after = (unpack(bundle, name).astype(np.float32) for name in ("source", "harmonized"))
    low, high = next(y["range"] for y in bundle["layers"] if y["name"] == "source")
    inside = before > 0
    percent = np.where(inside, 100 * (high - low) / 254 * (after - before), 0)
    limit = nice_limit(np.percentile(np.abs(percent[inside]), 98)) if inside.any() else 5.0
    levels = difference_levels(percent, inside, limit)
    return png_uri(_three_planes(levels, OUTSIDE), difference_palette()), limit


def _three_planes(levels, outside):
    nx, ny, nz = levels.shape
    # Just above the middle, axial slices show ventricles and deep grey matter; off the midline,
    # sagittal ones show more than the falx.
    cuts = (levels[:, :, int(0.55 * nz)], levels[:, ny // 2, :], levels[int(0.46 * nx), :, :])
    height = max(cut.shape[1] for cut in cuts)
    gap = np.full((height, 6), outside, np.uint8)
    parts = []
    for cut in cuts:
        space = height - cut.shape[1]
        above = (space // 2, space - space // 2)
        parts += [np.pad(cut.T[::-1], (above, (0, 0)), constant_values=outside), gap]
    return np.hstack(parts[:-1])


def as_script_text(bundle):
    """JSON that may stand inside a ``<script type="application/json">``."""
    return json.dumps(bundle, separators=(",", ":")).replace("<", "\\u003c")


def _box(mask):
    box = []
    for axis in range(3):
        inside = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        low, high = (inside[0], inside[-1]) if inside.size else (0, mask.shape[axis] - 1)
        box.append(slice(max(int(low) - _MARGIN, 0), int(high) + 1 + _MARGIN))
    return tuple(box)


def _tile(levels):
    """Axial slices as one picture, anterior on top, twelve in a row."""
    nx, ny, nz = levels.shape
    rows = -(-nz // _COLUMNS)
    tiles = np.zeros((rows * _COLUMNS, ny, nx), np.uint8)
    tiles[:nz] = levels.transpose(2, 1, 0)[:, ::-1]
    return tiles.reshape(rows, _COLUMNS, ny, nx).swapaxes(1, 2).reshape(rows * ny, _COLUMNS * nx)
