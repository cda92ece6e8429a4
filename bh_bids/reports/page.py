"""Parts of a participant's page beside its figures: the viewer, its script, the provenance."""

import base64
import hashlib
from importlib.resources import files

from .viewer import LAYERS, as_script_text, fit, preview, preview_change

# Bytes of a page's pictures and viewers; 10 MB are promised of the whole page.
_BUDGET = 9_600_000


def add_viewers(views, bundles, problems):
    """Give each scan's view its slice viewer and the pictures of its card.

    Parameters
    ----------
    views : list of dict
        One per scan, with its ``figures``; they get ``viewer`` (``data``, ``layers``, ``widths``
        of the three planes in mm; None without), ``pair``, the pictures before and after as
        ``data:`` addresses, and ``change``, their difference and its limit in per cent.
    bundles : list of dict or None
        As :func:`bh_bids.reports.viewer.read_bundle` gives them.
    problems : list of str
        Gets a sentence for each bundle that cannot be shown.
    """
    shown = []
    for view, bundle in zip(views, bundles, strict=True):
        view["pair"] = view["change"] = None
        try:
            if bundle is not None:
                view["pair"] = [preview(bundle, name) for name in ("source", "harmonized")]
                view["change"] = preview_change(bundle)
        except ValueError as error:
            problems.append(f"The slice viewer of {view['label']} is left out: {error}.")
            bundle = None
        shown.append(bundle)
    drawn = sum(
        len(figure["svg"] or figure["uri"] or "") for view in views for figure in view["figures"]
    )
    for view, bundle in zip(views, fit(shown, _BUDGET - drawn), strict=True):
        view["viewer"] = None
        if bundle is not None:
            names = [layer["name"] for layer in bundle["layers"]]
            layers = {name: label for name, label in LAYERS.items() if name in names}
            nx, ny, _ = bundle["shape"]
            widths = [side * bundle["spacing"][a] for side, a in ((nx, 0), (nx, 0), (ny, 1))]
            view["viewer"] = {"data": as_script_text(bundle), "layers": layers, "widths": widths}


def read_script():
    """The page's script.

    Returns
    -------
    str
    """
    return (files("bh_bids.reports") / "templates" / "report.js").read_text(encoding="utf-8")


def script_hash(script):
    """What a content security policy calls a script that it lets run.

    Parameters
    ----------
    script : str
        All that stands between the tags.

    Returns
    -------
    str
        ``sha256-...``
    """
    digest = hashlib.sha256(script.encode()).digest()
    return "sha256-" + base64.b64encode(digest).decode("ascii")


def provenance_rows(block):
    """What a result depends on, from a sidecar's account of the harmonization.

    Parameters
    ----------
    block : dict
        A sidecar's ``Harmonization``.

    Returns
    -------
    list of (str, str)
        Name and value; what is not known is left out.
    """

    def part(name, key):
        found = block.get(name)
        return found.get(key) if isinstance(found, dict) else None

    model = " ".join(str(p) for p in (block.get("Model"), block.get("ModelVersion")) if p)
    rows = [
        ("Model", model),
        ("SHA-256 of its weights", block.get("WeightsSHA256")),
        ("SHA-256 of its constants", block.get("CalibrationSHA256")),
        ("SHA-256 of the scan", block.get("InputSHA256")),
        ("Method", block.get("Method")),
        ("Seed", block.get("Seed")),
        ("Device", block.get("Device")),
        ("Threads of a step", block.get("Threads")),
        ("Brain extraction", part("BrainExtraction", "Method")),
        ("Bias correction", part("BiasCorrection", "Method")),
        ("Registration", part("Registration", "Method")),
    ]
    return [(name, str(value)) for name, value in rows if value not in (None, "")]
