"""SVG files: from a figure to text, to disk in one step, and safely into a page."""

import base64
import hashlib
import os
import re
import tempfile
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import escape

#: Colours of charts in light pages, and what they become where the reader prefers dark ones.
INK, MUTED, GRID, PAPER = "#1f2a37", "#5b6673", "#d9dee4", "#fffffe"
_DARK = {INK: "#e6eaf0", MUTED: "#a3adba", GRID: "#3a4350", PAPER: "#1b212a"}
_MAX_INLINE_BYTES = 12_000_000


def _dark_style():
    """Rules that recolour matplotlib's inline styles in dark pages; plain viewers ignore them."""
    rules = [
        f'[style*="{prop}: {light}"]{{{prop}:{dark}!important}}'
        for light, dark in _DARK.items()
        for prop in ("fill", "stroke")
    ]
    return "<style>@media screen and (prefers-color-scheme:dark){" + "".join(rules) + "}</style>"


def figure_to_svg(figure, title=""):
    """Render a matplotlib figure to SVG, the same bytes every time.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    title : str
        Read aloud by screen readers and shown as a tooltip.

    Returns
    -------
    str
        A stand-alone SVG document whose text is drawn as outlines and whose colours follow the
        reader's preference for light or dark.
    """
    import io

    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": "bh-bids", "svg.fonttype": "path"}):
        FigureCanvasSVG(figure).print_svg(
            buffer, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    text = buffer.getvalue()
    body = text[text.index("<svg") :]
    head, rest = body.split(">", 1)
    return f"{head}><title>{escape(title)}</title>{_dark_style()}{rest}"


def save_svg(figure, path):
    """Write a figure or an SVG document; a reader never sees half a file.

    Parameters
    ----------
    figure : matplotlib.figure.Figure or str
    path : str or os.PathLike
        Parent folders are made.

    Returns
    -------
    pathlib.Path
    """
    text = figure if isinstance(figure, str) else figure_to_svg(figure, figure.get_label())
    return write_text(path, text)


def write_text(path, text):
    """Write a text file aside and move it into place, so that parallel jobs can share it.

    Parameters
    ----------
    path : str or os.PathLike
        Parent folders are made.
    text : str

    Returns
    -------
    pathlib.Path
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, aside = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(aside, 0o666 & ~umask)  # mkstemp's 0600 would hide the file from colleagues
        os.replace(aside, path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise
    return path


def content_id(*parts):
    """A short identifier made from content, hence the same on every run."""
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    return f"bh-{digest[:10]}"


def is_inert(text):
    """Whether an SVG document can be put into a page: no script, no handler, nothing from outside.

    Parameters
    ----------
    text : str

    Returns
    -------
    bool
    """
    # Declarations, comments and CDATA are read differently by XML and HTML parsers: none of them.
    if len(text) > _MAX_INLINE_BYTES or "<!" in text or "<?" in text:
        return False
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError:
        return False
    allowed = {"svg", "g", "title", "desc", "defs", "style", "image", "path", "rect", "text"}
    allowed |= {"line", "use", "tspan"}
    for element in root.iter():
        if element.tag.removeprefix("{http://www.w3.org/2000/svg}") not in allowed:
            return False
        for name, value in element.attrib.items():
            local = name.rsplit("}", 1)[-1].lower()
            if local.startswith("on"):
                return False
            if local == "href" and not value.startswith(("#", "data:image/png;base64,")):
                return False
            if "url(" in value and not re.fullmatch(r"url\(#[\w-]+\)", value):
                return False
        if element.tag.endswith("style") and re.search(r"@import|url\(|\\|<", element.text or ""):
            return False
    return root.tag == "{http://www.w3.org/2000/svg}svg"


def inline(text, number):
    """Prepare one of our SVG documents for a page that holds several.

    Parameters
    ----------
    text : str
        A document for which :func:`is_inert` holds.
    number : int
        Different for every document of the page.

    Returns
    -------
    str
        The document with its identifiers renamed, so that even two identical ones can stand
        in one page.
    """
    return re.sub(r"\bbh-([0-9a-f]{10})\b", rf"bh-{number}-\1", text[text.index("<svg") :])


def data_uri(text):
    """An SVG document as a ``data:`` address, for ``<img>``, where no script of it can run."""
    return "data:image/svg+xml;base64," + base64.b64encode(text.encode()).decode("ascii")
