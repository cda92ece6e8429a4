"""One self-contained page per participant, from what lies in the derivatives folder."""

import json
import math
import re
from pathlib import Path
from urllib.parse import quote

from ..errors import InputError
from .boilerplate import describe_domain, methods_html, methods_text
from .collect import FIGURES, collect, guards_of, verdict
from .decisions import decision_rows
from .page import add_viewers, provenance_rows, read_script, script_hash
from .svg import data_uri, inline, is_inert, write_text

#: name -> (heading, what to look for, names of the two layers of a flicker)
_FIGURE_TEXTS = {
    "flicker": (
        "Before and after",
        "The same slices before (scaled to the target's units) and after harmonization, with the "
        "same grey values. Only brightness and contrast should change: look for anatomy that "
        "moves, appears or vanishes, for stripes, and for lesions or vessels that fade.",
        ("Before", "After"),
    ),
    "difference": (
        "What changed",
        "After minus before, in per cent of the white matter's level. Smooth colours that follow "
        "tissue are a change of contrast; a smooth gradient is a bias field; sharp rims, spots or "
        "stripes are artefacts.",
        None,
    ),
    "ncc": (
        "Where structure was kept",
        "Correlation of source and result in a small cube around each voxel: dark where structure "
        "is the same. Bright patches inside the brain mean that edges were made or lost there; "
        "noise that was removed shows as an even, faint brightness.",
        None,
    ),
    "histogram": (
        "Intensities",
        "The brain's intensities against the target domain's, and those of each tissue (told by "
        "the source's intensities and an average brain). Marks at the top are the peaks of "
        "CSF, grey matter (GM) and white matter (WM). After harmonization the peaks should lie "
        "nearer the target's; their heights depend on the participant's anatomy and should not be "
        "forced to agree.",
        None,
    ),
    "trace": (
        "How the optimisation went",
        "The objective should fall and level off; a jump or a rise means that the result should "
        "not be trusted.",
        None,
    ),
    "registration": (
        "Registration to the model's space",
        "The participant and the template it was registered to. The red line is the brain mask: "
        "both brains should fill it, and ventricles should lie in the same place.",
        ("Participant", "Template"),
    ),
    "brain": (
        "Brain mask",
        "The red line is the brain mask on the original scan. It should follow the brain's edge, "
        "without skull, eyes or neck and without missing cortex.",
        None,
    ),
}
#: The same of figures that mean something else with a method: (method, name) -> the first two
_METHOD_TEXTS = {
    ("map", "trace"): (
        "What the flow says after each stage",
        "The flow looked at some slices of the source and again after each stage that was carried "
        "out. Fewer bits per dimension are more like the target's scans. A stage may cost a few: "
        "the flow sees slices, the stages the whole volume. A large rise means that the result "
        "should not be trusted.",
    ),
}
_OTHER_METRICS = {
    "ncc_source": ("Correlation with the source", "anatomy kept when near 1"),
    "iterations": ("Iterations", ""),
    "converged": ("Converged", ""),
    "brain_volume_ml": ("Brain volume (ml)", "adults: about 1000 to 1700"),
}
_PAIRED_METRICS = {
    "latent": ("Latent |z|²/d", "compare within one model"),
    "bits_per_dim": ("Bits per dimension", "lower: more like the target domain"),
}
_TABLED = {"participant_id", "session_id", "filename", "model", "method", "guards"}
# What the table of decisions says in words.
_DECIDED = {"converged", "iterations", "bias_field_sd", "contrast_unlikeness", "noise_sigma"}


def write_participant_report(
    output_dir, participant, *, run_uuid=None, scans=(), command_line=None, version=None
):
    """Write ``sub-<participant>.html`` from the derivatives alone.

    Parameters
    ----------
    output_dir : str or os.PathLike
        The derivatives' root.
    participant : str
        With or without ``sub-``.
    run_uuid : str, optional
        The run whose crash files are shown; the latest run's without.
    scans : sequence of str
        Names or paths of the T1w scans that were asked for, so that one that left nothing behind
        is reported as missing.
    command_line : str, optional
        Shown under *About*; the sidecars' without.
    version : str, optional
        The program's version, where no sidecar says it.

    Returns
    -------
    pathlib.Path
        The page. It is whole even where scans failed or figures are missing.

    Raises
    ------
    InputError
        If ``participant`` is not a BIDS label.
    """
    label = str(participant).removeprefix("sub-")
    if not re.fullmatch(r"[A-Za-z0-9+]+", label):
        raise InputError(
            f"{participant!r} is not a participant's label: give letters and digits only, "
            "as in the name of the folder sub-<label>."
        )
    output_dir = Path(output_dir)
    findings = collect(output_dir, label, run_uuid=run_uuid, scans=scans)
    page = _render(findings, output_dir, command_line=command_line, version=version)
    return write_text(output_dir / f"sub-{label}.html", page)


def _render(findings, output_dir, *, command_line, version):
    from jinja2 import Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("bh_bids", "reports/templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = format_number
    counter = iter(range(1, 10_000))
    scans = [_scan_view(scan, output_dir, counter) for scan in findings.scans]
    add_viewers(scans, [scan.viewer for scan in findings.scans], findings.problems)
    crashes = [_crash_view(crash, output_dir) for crash in findings.crashes]
    sidecars = [scan.sidecar for scan in findings.scans if scan.sidecar]
    blocks = [scan.harmonization for scan in findings.scans if scan.harmonization]
    first = blocks[0] if blocks else {}
    software = {}
    for block in blocks:
        found = block.get("SoftwareVersions")
        software.update(found if isinstance(found, dict) else {})
    script = read_script()
    failed_scans = sum(scan["state"] == "fail" for scan in scans)
    failures = max(len(crashes) + len(findings.problems), failed_scans)
    return environment.get_template("participant.html.j2").render(
        participant=findings.participant,
        scans=scans,
        script=script,
        script_hash=script_hash(script),
        crashes=crashes,
        problems=findings.problems,
        failures=failures,
        failed_scans=failed_scans,
        state=_overall(scans, failures),
        software=dict(sorted(software.items())),
        command_line=command_line or first.get("CommandLine"),
        run_uuid=findings.run_uuid,
        version=software.get("bh-bids") or version,
        methods=methods_html(methods_text(sidecars, version=version)),
    )


def _overall(scans, failures):
    states = {scan["state"] for scan in scans}
    if failures or not scans:
        return "fail"
    return "warn" if "warn" in states else "pass"


def _scan_view(scan, output_dir, counter):
    block = scan.harmonization
    method = str(block.get("Method") or scan.metrics.get("method") or "")
    decisions = decision_rows(block)
    converged = _truth(block.get("Converged", scan.metrics.get("converged")))
    tissues = _tissue_rows(scan.metrics)
    return {
        "id": f"scan-{scan.key}",
        "key": scan.key,
        "label": scan.label,
        "state": verdict(scan),
        "guards": guards_of(scan),
        "converged": converged,
        "source": _source_scanner(scan.sidecar),
        "target": describe_domain(block.get("TargetDomain")),
        "model": str(block.get("Model") or scan.metrics.get("model") or ""),
        "model_version": block.get("ModelVersion"),
        "hash": str(block.get("WeightsSHA256") or ""),
        "method": method,
        "device": block.get("Device"),
        "sources": _sources(scan.sidecar),
        "decisions": decisions,
        "tissues": tissues,
        "facts": _facts(scan.metrics, tissues),
        "provenance": provenance_rows(block),
        "command": block.get("CommandLine"),
        "paired": _paired_rows(scan.metrics),
        "first": "Source" if decisions else "First guess",
        "others": _other_rows(scan.metrics, _DECIDED if decisions else ()),
        "figures": [
            _figure_view(name, method, scan.figures.get(name), output_dir, counter)
            for name in FIGURES
            if name in scan.figures or scan.sidecar
        ],
        "parameters": block.get("Parameters") if isinstance(block.get("Parameters"), dict) else {},
        "sidecar": json.dumps(scan.sidecar, indent=2, ensure_ascii=False) if scan.sidecar else "",
    }


def _truth(value):
    return {"true": True, "1": True, "false": False, "0": False}.get(str(value).lower())


def _source_scanner(sidecar):
    """Manufacturer, model and field of the source, wherever the sidecar keeps them."""
    block = sidecar.get("Harmonization")
    block = block if isinstance(block, dict) else {}
    for place in (block.get("SourceScanner"), block.get("SourceDomain"), sidecar):
        if isinstance(place, str) and place:
            return place
        if isinstance(place, dict):
            field = place.get("MagneticFieldStrength")
            parts = [place.get("Manufacturer"), place.get("ManufacturersModelName")]
            words = " ".join(str(p) for p in parts if p)
            if words or field:
                return ", ".join(p for p in (words, f"{field} T" if field else "") if p)
    return ""


def _sources(sidecar):
    sources = sidecar.get("Sources", [])
    sources = sources if isinstance(sources, list) else [sources]
    return [str(s) for s in sources]


def _tissue_rows(metrics):
    """CSF, GM and WM peaks before, after and in the target, with their distances to it."""
    rows = []
    for tissue in ("CSF", "GM", "WM"):
        before, after, target = (
            _number(metrics.get(f"{tissue.lower()}_mode_{when}"))
            for when in ("before", "after", "target")
        )
        if before is None and after is None:
            continue
        row = {"tissue": tissue, "before": before, "after": after, "target": target}
        row["off"] = [
            None if value is None or not target else 100 * (value - target) / target
            for value in (before, after)
        ]
        known = None not in row["off"]
        row["nearer"] = abs(row["off"][1]) <= abs(row["off"][0]) if known else None
        rows.append(row)
    return rows


def _facts(metrics, tissues):
    """What speaks for a result, or against it, in a sentence each."""
    facts = []
    kept = _number(metrics.get("ncc_source"))
    if kept is not None:
        facts.append(f"Correlation with the source inside the brain: {format_number(kept)}.")
    for row in tissues:
        if row["tissue"] != "CSF" and row["nearer"] is not None:
            # Rounded first: there is no −0.0.
            off = (round(value, 1) + 0.0 for value in row["off"])
            before, after = (f"{value:+.1f} %".replace("-", "−") for value in off)
            name = {"GM": "Grey", "WM": "White"}[row["tissue"]]
            facts.append(
                f"{name} matter's peak against the target's: {before} before, {after} now."
            )
    return facts


def _paired_rows(metrics):
    rows = []
    for key, (name, hint) in _PAIRED_METRICS.items():
        before, after = (_number(metrics.get(f"{key}_{when}")) for when in ("before", "after"))
        if before is not None or after is not None:
            rows.append({"name": name, "hint": hint, "before": before, "after": after})
    return rows


def _other_rows(metrics, told):
    """The remaining columns: those we know by name first, then whatever else the table holds."""
    metrics = {key: value for key, value in metrics.items() if key not in told}
    shown = re.compile(r"(csf|gm|wm)_mode_(before|after|target)|(latent|bits_per_dim)_\w+")
    rows = [
        {"name": name, "hint": hint, "value": metrics[key]}
        for key, (name, hint) in _OTHER_METRICS.items()
        if metrics.get(key) is not None
    ]
    for key, value in metrics.items():
        if value is None or key in _TABLED or key in _OTHER_METRICS or shown.fullmatch(key):
            continue
        rows.append({"name": key, "hint": "", "value": value})
    return rows


def _figure_view(name, method, path, output_dir, counter):
    heading, caption, layers = _FIGURE_TEXTS[name]
    heading, caption = _METHOD_TEXTS.get((method, name), (heading, caption))
    number = next(counter)
    view = {"name": name, "heading": heading, "caption": caption, "number": number}
    view |= {"layers": layers, "svg": None, "uri": None, "path": None, "link": None, "size": None}
    if path is None:
        return view
    view["path"] = path.relative_to(output_dir).as_posix()
    view["link"] = quote(view["path"])
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return view
    # Only our own harmless documents become part of the page, where the pointer can stop them and
    # their rasters are not encoded twice; any other is an image, where its scripts are dead.
    if is_inert(text):
        view["svg"] = inline(text, number)
        view["size"] = _view_box(text)
    else:
        view["uri"] = data_uri(text)
    return view


def _view_box(text):
    found = re.search(r'viewBox="0 0 (\d+) (\d+)"', text)
    return (int(found.group(1)), int(found.group(2))) if found else None


def _crash_view(crash, output_dir):
    path = crash.path.relative_to(output_dir).as_posix()
    return {
        "node": crash.node,
        "sentence": crash.sentence,
        "advice": crash.advice,
        "text": crash.text,
        "path": path,
        "link": quote(path),
    }


def _number(value):
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def format_number(value, digits=3, sign=False):
    """A number as a reader wants it, a dash for none, any other value as it is.

    Parameters
    ----------
    value : object
    digits : int
        Significant digits of numbers that are not whole.
    sign : bool
        Write + before positive numbers.

    Returns
    -------
    str
    """
    if value is None or value == "":
        return "–"
    number = _number(value)
    if number is None or isinstance(value, bool):
        return {"true": "yes", "false": "no"}.get(str(value).lower(), str(value))
    if number == int(number) and abs(number) < 1e6:
        text = f"{int(number):+d}" if sign else str(int(number))
    else:
        text = f"{number:+.{digits}g}" if sign else f"{number:.{digits}g}"
        if "e" in text and 1 <= abs(number) < 1e6:
            text = f"{number:+.0f}" if sign else f"{number:.0f}"
    return text.replace("-", "−")
