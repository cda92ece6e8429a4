"""One self-contained page per participant, from what lies in the derivatives folder."""

import json
import re
from pathlib import Path
from urllib.parse import quote

from ..errors import InputError
from .boilerplate import describe_domain, methods_html, methods_text
from .collect import FIGURES, collect, guards_of, scan_key, verdict
from .decisions import decision_rows
from .metrics import (
    DECIDED,
    facts,
    format_number,
    other_rows,
    paired_rows,
    structure_rows,
    tissue_rows,
)
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
        "After minus before, in per cent of the brain's 99th percentile. Smooth colours that "
        "follow tissue are a change of contrast; a smooth gradient is a bias field; sharp "
        "rims, spots or stripes are artefacts.",
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
_CHECKS = {
    "MaskVolume": "Mask's volume",
    "FieldOfView": "Field of view",
    "TemplateOverlap": "Overlap with the template",
    "Registration": "Registration",
    "Contrast": "Contrast",
}


def write_participant_report(
    output_dir,
    participant,
    *,
    run_uuid=None,
    scans=(),
    command_line=None,
    version=None,
    anat_only=False,
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
    anat_only : bool
        Whether no harmonized images were asked for.

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
    asked = {scan_key(name) for name in scans} or {scan.key for scan in findings.scans}
    # Of a scan that another run preprocessed alone no harmonized image was asked for.
    alone = {s.key for s in findings.scans if anat_only or not (s.key in asked or s.sidecar)}
    page = _render(
        findings, output_dir, anat_only, alone, command_line=command_line, version=version
    )
    return write_text(output_dir / f"sub-{label}.html", page)


def _render(findings, output_dir, anat_only, alone, *, command_line, version):
    from jinja2 import Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("bh_bids", "reports/templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = format_number
    counter = iter(range(1, 10_000))
    scans = [_scan_view(s, output_dir, counter, s.key in alone) for s in findings.scans]
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
        anat_only=anat_only,
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


def _scan_view(scan, output_dir, counter, anat_only):
    block = scan.harmonization
    method = str(block.get("Method") or scan.metrics.get("method") or "")
    decisions = decision_rows(block)
    converged = _truth(block.get("Converged", scan.metrics.get("converged")))
    tissues = tissue_rows(scan.metrics)
    return {
        "id": f"scan-{scan.key}",
        "key": scan.key,
        "label": scan.label,
        "state": verdict(scan, anat_only),
        "anat_only": anat_only,
        "guards": guards_of(scan),
        "checks": _check_rows(scan.checks),
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
        "facts": facts(scan.metrics, tissues, decisions),
        "provenance": provenance_rows(block),
        "command": block.get("CommandLine"),
        "paired": paired_rows(scan.metrics),
        "first": "Source" if decisions else "First guess",
        "others": other_rows(scan.metrics, DECIDED if decisions else ()),
        "structure": structure_rows(scan.metrics),
        "figures": [
            _figure_view(name, method, scan.figures.get(name), output_dir, counter)
            for name in FIGURES
            if name in scan.figures or (scan.sidecar and not anat_only)
        ],
        "parameters": block.get("Parameters") if isinstance(block.get("Parameters"), dict) else {},
        "sidecar": json.dumps(scan.sidecar, indent=2, ensure_ascii=False) if scan.sidecar else "",
    }


def _check_rows(checks):
    """The anatomy's checks: name, state and sentence."""
    return [
        {"name": _CHECKS.get(name, name), "state": str(c["State"]), "sentence": str(c["Sentence"])}
        for name, c in checks.items()
    ]


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
