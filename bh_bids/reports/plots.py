"""The report's pictures: pure functions, arrays in, an SVG document or a matplotlib figure out.

Pictures of the brain are written as SVG by hand: pixels are embedded once as PNG at their own
resolution, outlines and letters stay sharp, and the same input gives the same bytes.
"""

from xml.sax.saxutils import escape

import numpy as np

from .charts import plot_histograms, plot_trace
from .mosaic import (
    compose_mosaic,
    contour_path,
    grey_levels,
    plan_mosaic,
    png_uri,
    robust_window,
)
from .palettes import (
    OUTSIDE,
    correlation_palette,
    difference_levels,
    difference_palette,
    nice_limit,
)
from .svg import content_id, save_svg

__all__ = [
    "flicker_svg",
    "plot_brain_mask",
    "plot_difference",
    "plot_histograms",
    "plot_local_ncc",
    "plot_registration",
    "plot_trace",
    "save_svg",
]

_FONT = "system-ui,'Segoe UI',Roboto,'DejaVu Sans',Helvetica,Arial,sans-serif"
_HEADER = 26  # height of the strip with the names, pixels
_FOOTER = 44  # height of the strip with the colour bar, pixels
_BEFORE, _AFTER = "#7cc4ff", "#ffb454"
_CONTOUR = "#ff4d5e"


def plot_brain_mask(volume, mask, spacing=(1.0, 1.0, 1.0), *, affine=None):
    """The brain mask's outline on the participant's own image.

    Parameters
    ----------
    volume : numpy.ndarray, shape (x, y, z)
        The image in its native space, RAS, any unit.
    mask : numpy.ndarray of bool, shape (x, y, z)
    spacing : sequence of 3 floats
        Voxel sizes in mm.
    affine : numpy.ndarray, shape (4, 4), optional
        To label slices in mm; by voxel index without.

    Returns
    -------
    str
        SVG document.
    """
    volume, mask = _checked(mask, volume)
    layout = plan_mosaic(mask, spacing, affine=affine, margin=22.0)
    # A mask that holds fat or vessels must not darken the brain: hence not its last percentiles.
    low, high = robust_window(volume, mask, high=97.0)
    picture = png_uri(grey_levels(compose_mosaic(volume, layout), (low, 1.2 * high)))
    body = _image(picture, layout) + _outline(mask, layout) + _letters(layout)
    return _document(
        "Brain mask",
        "Outline of the brain mask on axial, coronal and sagittal slices of the T1w image.",
        layout,
        body,
        height=layout.height,
    )


def plot_registration(moving, template, mask, *, affine=None, names=("Participant", "Template")):
    """The participant's image in the model's space, flickering with the model's template.

    Parameters
    ----------
    moving, template : numpy.ndarray, shape (x, y, z)
        Both on the model's grid, RAS; each gets its own window, since their units differ.
    mask : numpy.ndarray of bool, shape (x, y, z)
        Brain mask on the same grid; its outline is drawn on both.
    affine : numpy.ndarray, shape (4, 4), optional
        To label slices in mm of the model's space.
    names : tuple of two str
        What the two pictures are called.

    Returns
    -------
    str
        SVG document.
    """
    return flicker_svg(
        moving,
        template,
        mask,
        affine=affine,
        names=names,
        shared_window=False,
        contour=True,
        title="Registration to the model's space",
    )


def flicker_svg(
    before,
    after,
    mask,
    *,
    spacing=(1.0, 1.0, 1.0),
    affine=None,
    names=("Before", "After"),
    shared_window=True,
    contour=False,
    title="Before and after harmonization",
):
    """Two volumes in one place, shown in turn; the pointer over the picture stops it.

    Parameters
    ----------
    before, after : numpy.ndarray, shape (x, y, z)
        On one grid, RAS; in one unit if ``shared_window``.
    mask : numpy.ndarray of bool, shape (x, y, z)
        Brain mask: slices are spread over it and the window is taken inside it.
    spacing : sequence of 3 floats
        Voxel sizes in mm.
    affine : numpy.ndarray, shape (4, 4), optional
        To label slices in mm.
    names : tuple of two str
    shared_window : bool
        Show both with the same grey values, so that a difference in brightness is seen as one.
    contour : bool
        Draw the mask's outline on both.
    title : str

    Returns
    -------
    str
        SVG document. Without animation (print, viewers without CSS, readers who prefer reduced
        motion) it shows the first volume; with reduced motion the pointer shows the second.
    """
    before, after, mask = _checked(mask, before, after)
    layout = plan_mosaic(mask, spacing, affine=affine)
    windows = [robust_window(before, mask), robust_window(after, mask)]
    if shared_window:
        shared = (min(w[0] for w in windows), max(w[1] for w in windows))
        windows = [shared, shared]
    layers = []
    for volume, window, name, colour in zip(
        (before, after), windows, names, (_BEFORE, _AFTER), strict=True
    ):
        picture = png_uri(grey_levels(compose_mosaic(volume, layout), window))
        layers.append(_banner(name, colour, layout.width) + _image(picture, layout, _HEADER))
    marks = (_outline(mask, layout, _HEADER) if contour else "") + _letters(layout, _HEADER)
    identifier = content_id(title, *names, *layers, marks)
    use = f'<use href="#{identifier}-marks"/>'  # drawn once, used in both layers
    body = (
        f"<style>{_flicker_style(identifier)}</style>"
        f'<defs><g id="{identifier}-marks">{marks}</g></defs>'
        f'<g class="bh-before">{layers[0]}{use}</g>'
        f'<g class="bh-after" opacity="0">{layers[1]}{use}</g>'
    )
    description = f"{names[0]} and {names[1]} shown in turn on axial, coronal and sagittal slices."
    return _document(
        title, description, layout, body, height=layout.height + _HEADER, identifier=identifier
    )


def plot_difference(before, after, mask, *, limit=None, affine=None):
    """Signed difference after − before, in per cent of the brain's 99th percentile.

    Parameters
    ----------
    before, after : numpy.ndarray, shape (x, y, z)
        On one grid and in target units, RAS.
    mask : numpy.ndarray of bool, shape (x, y, z)
    limit : float, optional
        Ends of the colour bar in per cent; by default the smallest of 5, 10, 20, 30, 50, 75,
        100, … that covers 98 % of the brain.
    affine : numpy.ndarray, shape (4, 4), optional
        To label slices in mm.

    Returns
    -------
    str
        SVG document.
    """
    before, after, mask = _checked(mask, before, after)
    percent = np.nan_to_num(100.0 * (after - before))
    inside = percent[mask] if mask.any() else np.zeros(1, np.float32)
    limit = nice_limit(np.percentile(np.abs(inside), 98)) if limit is None else float(limit)
    layout = plan_mosaic(mask, affine=affine)
    picture = compose_mosaic(np.where(mask, percent, 0.0), layout)
    inside_picture = compose_mosaic(mask.astype(np.float32), layout) >= 0.5
    levels = difference_levels(picture, inside_picture, limit)
    palette = difference_palette()
    low, middle, high = np.percentile(inside, [5, 50, 95])
    words = (
        f"After − before, % of the brain’s 99th percentile. Median {middle:+.1f} %, "
        f"5th to 95th percentile {low:+.1f} % to {high:+.1f} %."
    ).replace("-", "−")
    body = (
        _image(png_uri(levels, palette), layout)
        + _outline(mask, layout, colour="#8b97a6", width=0.6)
        + _letters(layout)
        + _colour_bar(layout, palette, _difference_ticks(limit), words)
    )
    return _document(
        "Difference",
        f"After minus before, in per cent of the brain's 99th percentile, from −{limit:g} % (blue) "
        f"to +{limit:g} % (orange).",
        layout,
        body,
        height=layout.height + _FOOTER,
    )


def plot_local_ncc(correlation, mask, *, low=0.5, affine=None):
    """Map of the local correlation of source and result.

    Parameters
    ----------
    correlation : numpy.ndarray, shape (x, y, z)
        As of :func:`bh_bids.evaluation.harm.local_ncc_map`, RAS; NaN where it is not known.
    mask : numpy.ndarray of bool, shape (x, y, z)
    low : float
        The colour bar's lower end; 1 is the upper one.
    affine : numpy.ndarray, shape (4, 4), optional
        To label slices in mm.

    Returns
    -------
    str
        SVG document.
    """
    mask = np.asarray(mask, dtype=bool)
    known = mask & np.isfinite(correlation)
    inside = correlation[known] if known.any() else np.ones(1)
    layout = plan_mosaic(mask, affine=affine)
    picture = compose_mosaic(np.where(known, correlation, 1.0), layout)
    levels = np.round(254 * np.clip((picture - low) / (1 - low), 0, 1)).astype(np.uint8)
    levels[compose_mosaic(known.astype(np.float32), layout) < 0.5] = OUTSIDE
    palette = correlation_palette()
    middle, few = np.median(inside), np.percentile(inside, 1)
    share = 100 * float(np.mean(inside < 0.8))
    words = (
        f"Correlation in cubes of 9 mm. Median {middle:.3f}, 1st percentile {few:.2f}; "
        f"{share:.1f} % of the brain lies below 0.8."
    ).replace("-", "−")
    ticks = [(f, f"{low + f * (1 - low):.2g}") for f in (0.0, 0.25, 0.5, 0.75, 1.0)]
    body = (
        _image(png_uri(levels, palette), layout)
        + _outline(mask, layout, colour="#8b97a6", width=0.6)
        + _letters(layout)
        + _colour_bar(layout, palette, ticks, words)
    )
    return _document(
        "Local correlation",
        f"Correlation of source and result in small windows, from {low:g} (bright) to 1 (dark).",
        layout,
        body,
        height=layout.height + _FOOTER,
    )


def _checked(mask, *volumes):
    """Finite float32 volumes and a boolean mask, all of one shape."""
    mask = np.asarray(mask, dtype=bool)
    clean = []
    for volume in volumes:
        volume = np.nan_to_num(np.asarray(volume, dtype=np.float32))
        if volume.shape != mask.shape or volume.ndim != 3:
            raise ValueError(f"a volume of shape {volume.shape} with a mask of {mask.shape}")
        clean.append(volume)
    return (*clean, mask)


def _colour_bar(layout, palette, ticks, words):
    width, top = 320, layout.height + 8
    left = layout.width - width - 32
    ramp = png_uri(np.tile(np.arange(255, dtype=np.uint8), (1, 1)), palette)
    parts = [
        f'<image x="{left}" y="{top}" width="{width}" height="10" preserveAspectRatio="none" '
        f'href="{ramp}"/>'
    ]
    for fraction, text in ticks:
        parts.append(_text(left + fraction * width, top + 26, text, anchor="middle", size=12))
    parts.append(_text(12, top + 18, words, size=13))
    return "".join(parts)


def _difference_ticks(limit):
    fractions = (0.0, 0.25, 0.5, 0.75, 1.0)
    values = [(2 * fraction - 1) * limit for fraction in fractions]
    texts = ["0" if v == 0 else f"{v:+g} %".replace("-", "−") for v in values]
    return list(zip(fractions, texts, strict=True))


def _image(uri, layout, offset=0):
    return (
        f'<image x="0" y="{offset}" width="{layout.width}" height="{layout.height}" '
        f'preserveAspectRatio="none" href="{uri}"/>'
    )


def _outline(mask, layout, offset=0, colour=_CONTOUR, width=1.1):
    path = contour_path(mask, layout)
    move = f' transform="translate(0 {offset})"' if offset else ""
    return (
        f'<path class="bh-contour" d="{path}" fill="none" stroke="{colour}" '
        f'stroke-width="{width}" stroke-linejoin="round"{move}/>'
        if path
        else ""
    )


def _text(x, y, text, *, anchor="start", size=11, colour="#e6eaf0", weight=400):
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" '
        f'font-weight="{weight}" fill="{colour}" stroke="#000" stroke-width="2.5" '
        f'stroke-linejoin="round" paint-order="stroke">{escape(text)}</text>'
    )


def _letters(layout, offset=0):
    """Orientation letters on each row's first tile and every slice's position."""
    parts = []
    for tile in layout.tiles:
        top = tile.top + offset
        if tile.first_of_row:
            middle = top + 13
            left, right = tile.edges
            parts.append(_text(tile.left + 3, middle, left, size=13, weight=700))
            parts.append(
                _text(tile.left + tile.width - 3, middle, right, anchor="end", size=13, weight=700)
            )
        parts.append(
            _text(tile.left + 3, top + tile.height - 4, tile.label, size=10, colour="#a9b4c2")
        )
    return "".join(parts)


def _banner(name, colour, width):
    return (
        f'<rect x="0" y="0" width="{width}" height="{_HEADER}" fill="#000"/>'
        f'<rect x="8" y="7" width="12" height="12" fill="{colour}"/>'
        + _text(27, 18, name, size=14, colour=colour, weight=700)
    )


def _flicker_style(identifier):
    """Two seconds a turn, short fades: slow enough to look, never near three flashes a second."""
    return (
        f"@keyframes {identifier}-turn{{0%,45%{{opacity:0}}50%,95%{{opacity:1}}100%{{opacity:0}}}}"
        f"#{identifier} .bh-after{{animation:{identifier}-turn 2.4s linear infinite}}"
        f"#{identifier}:hover .bh-after{{animation-play-state:paused}}"
        f"@media (prefers-reduced-motion:reduce){{#{identifier} .bh-after{{animation:none}}"
        f"#{identifier}:hover .bh-after{{opacity:1}}}}"
        f"@media print{{#{identifier} .bh-after{{animation:none}}}}"
    )


def _document(title, description, layout, body, *, height, identifier=None):
    identifier = identifier or content_id(title, body)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" id="{identifier}" '
        f'viewBox="0 0 {layout.width} {height}" width="{layout.width}" height="{height}" '
        f'role="img" aria-labelledby="{identifier}-title {identifier}-desc" '
        f'font-family="{escape(_FONT)}">'
        f'<title id="{identifier}-title">{escape(title)}</title>'
        f'<desc id="{identifier}-desc">{escape(description)}</desc>'
        f'<rect x="0" y="0" width="{layout.width}" height="{height}" fill="#000"/>{body}</svg>\n'
    )
