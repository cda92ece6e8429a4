"""The methods text: what was done to the scans, from their sidecars, with citations.

The text is written once, in Markdown with Pandoc's citation keys (``[@key]``), as fMRIPrep does;
the page of a participant shows the same text with the keys resolved.
"""

import re
from html import escape
from pathlib import Path

from .citations import REFERENCES
from .svg import write_text

_KEYS = re.compile(r"\[((?:@[\w-]+(?:; )?)+)\]")

_METHODS = {
    "paper": (
        "Harmonization followed *BlindHarmony* [@blindharmony]: of all images, the one was sought "
        "that correlates with the source, has no edges where the source has none, and is probable "
        "in the target domain. Steps in the image, along the gradient of 1 − correlation and of "
        "the edge term, alternated with steps in the flow's latent space towards its centre. "
        "Unlike in the publication, scale, correlation and edge mask were those of the volume and "
        "not of a slice."
    ),
}
_DENOISERS = {
    "model": (
        "the level under which the flow found the scan most probable among the levels that it was "
        "trained with",
        "the expected noise-free image took the scan's place, by Tweedie's formula [@efron] from "
        "the gradient of the flow's log-density",
    ),
    "gaussian": (
        "the level under which the scan was most probable under a Gaussian of the target scans' "
        "mean power spectrum",
        "the Wiener filter of that spectrum was applied",
    ),
}
_STARTS = {
    "mean": "the target domain's mean volume",
    "gain": "the source with a gain that matches the target's level",
    "histogram": "the source with its brain's histogram matched to the target's",
}


def _of(sidecar, *path, default=None):
    """A value deep in a sidecar, ``default`` where any part is missing."""
    for key in path:
        if not isinstance(sidecar, dict) or sidecar.get(key) is None:
            return default
        sidecar = sidecar[key]
    return sidecar


def _versions(sidecars):
    merged = {}
    for sidecar in sidecars:
        found = _of(sidecar, "Harmonization", "SoftwareVersions", default={})
        merged.update(found if isinstance(found, dict) else {})
    return {str(name).lower().replace("_", "-"): str(v) for name, v in merged.items()}


def _named(name, version):
    return f"*{name}* {version}" if version else f"*{name}*"


def _words(values):
    """Distinct values, in order, joined for a sentence."""
    seen = list(dict.fromkeys(str(v) for v in values if v not in (None, "", {}, [])))
    return seen[0] if len(seen) == 1 else ", ".join(seen[:-1]) + " and " + seen[-1] if seen else ""


def methods_text(sidecars, *, version=None):
    """Describe what was done, in Markdown with citation keys.

    Parameters
    ----------
    sidecars : sequence of dict
        Sidecars of harmonized images (``…_desc-harmonized_T1w.json``); an empty sequence gives
        the program's description alone.
    version : str, optional
        The program's version, where the sidecars do not say it.

    Returns
    -------
    str
        Paragraphs separated by empty lines; only works that were used are cited.
    """
    sidecars = [s for s in sidecars if isinstance(s, dict)]
    versions = _versions(sidecars)
    program = versions.get("bh-bids") or version
    paragraphs = [
        f"Results come from {_named('bh-bids', program)}, a BIDS App [@bids; @bidsapps] built on "
        f"{_named('Nipype', versions.get('nipype'))} [@nipype]; images were read and written with "
        f"{_named('NiBabel', versions.get('nibabel'))} [@nibabel]."
    ]
    blocks = [s["Harmonization"] for s in sidecars if isinstance(s.get("Harmonization"), dict)]
    if blocks:
        paragraphs.append(_anatomical_text(sidecars, blocks, versions))
        paragraphs.append(_model_text(blocks, versions))
        paragraphs.append(_method_text(blocks))
    return "\n\n".join(paragraphs)


def _step(blocks, name):
    """A preprocessing step's method over all scans; '' where it was switched off or reused."""
    values = [_of(block, name, "Method", default=_of(block, name)) for block in blocks]
    if all(v is None for v in values):
        return None
    return _words(
        v for v in values if isinstance(v, str) and v.lower() not in ("none", "skip", "reused")
    )


def _anatomical_text(sidecars, blocks, versions):
    ants = versions.get("antspyx") or versions.get("ants")
    spaces = _words(_of(s, "Harmonization", "Space") for s in sidecars) or "MNI152NLin2009aSym"
    sentences = []
    if _step(blocks, "BiasCorrection") != "":
        sentences.append(
            "T1w images were corrected for intensity non-uniformity with N4 [@n4], distributed "
            f"with {_named('ANTsPy', ants)} [@ants]."
        )
    extraction = _words(_of(b, "BrainExtraction", "Method") for b in blocks)
    skipped = all(
        str(_of(b, "BrainExtraction", "Method") or "").startswith("none")
        or _of(b, "BrainExtraction", "SkullStripT1w") == "skip"
        for b in blocks
    )
    if skipped:
        sentences.append("The images were already skull-stripped.")
    elif extraction:
        nonlinear = " [@syn]" if "syn" in extraction.lower() else ""
        sentences.append(f"The brain was extracted ({extraction}){nonlinear}.")
    if any(_of(b, "Registration", "WithinTemplate") for b in blocks):
        sentences.append(
            "All scans of a participant were averaged in the space halfway between them [@within]; "
            "the average's brain mask and registration are those of its scans."
        )
    registration = _step(blocks, "Registration")
    if registration != "":
        how = f" ({registration})" if registration else " by an affine transform"
        nonlinear = "; @syn" if "syn" in (registration or "").lower() else ""
        sentences.append(
            f"They were registered to the {spaces} template [@mni2009; @mni2011]{how} with ANTs "
            f"[@ants{nonlinear}] and resampled once."
        )
    return " ".join(sentences)


def _model_text(blocks, versions):
    models = _words(
        " ".join(str(p) for p in (b.get("Model"), b.get("ModelVersion")) if p) for b in blocks
    )
    hashes = _words(str(b["WeightsSHA256"])[:12] for b in blocks if b.get("WeightsSHA256"))
    targets = _words(describe_domain(b.get("TargetDomain")) for b in blocks)
    known = (_of(b, "IntensityScale", "Percentile") for b in blocks)
    percentile = _words(f"{p:g}" for p in known if isinstance(p, (int, float))) or "99"
    about = f" (weights' SHA-256 {hashes}…)" if hashes else ""
    trained = f" It was trained on scans of the target domain only: {targets}." if targets else ""
    return (
        f"Each volume was divided by its brain's {percentile}th percentile. The target domain was "
        f"represented by the model *{models or 'unknown'}*{about}, a neural spline flow "
        f"[@nsf; @nflows] on axial slices, run with "
        f"{_named('PyTorch', versions.get('torch'))} [@pytorch].{trained}"
    )


def _method_text(blocks):
    sentences = []
    for method in dict.fromkeys(str(b.get("Method")) for b in blocks if b.get("Method")):
        used = [b for b in blocks if str(b.get("Method")) == method]
        if method == "map":
            sentences.append(_map_text(used))
        else:
            sentences.append(
                _METHODS.get(
                    method,
                    f"Images were harmonized with the method *{method}*, which follows the idea of "
                    "*BlindHarmony* [@blindharmony]: no image of the source domain is needed.",
                )
            )
        parameters = _of(used[0], "Parameters", default={})
        same = all(b.get("Parameters") == used[0].get("Parameters") for b in used)
        if isinstance(parameters, dict) and parameters and same:
            start = parameters.get("start")
            if isinstance(start, str) and start in _STARTS:
                sentences.append(f"The iteration started from {_STARTS[start]}.")
            listed = ", ".join(f"{name} = {value}" for name, value in parameters.items())
            sentences.append(f"Parameters: {listed}; seed {used[0].get('Seed', 'unknown')}.")
    sentences.append(
        "The result, an estimate of what the target scanner would have shown, was given the target "
        "domain's intensity scale."
    )
    return " ".join(sentences)


def _map_text(blocks):
    """The stages of the method map, how many scans each changed, and on what thresholds."""
    stages = []
    if used := _with_stage(blocks, "Bias"):
        stages.append(
            "A smooth field of the bias that was left by N4 was estimated by comparing each "
            "voxel's intensity with the target scans' local histograms, as N4 [@n4] compares it "
            "with a sharpened global one. Of what was found, the expected field given what is "
            "found in the target's own scans was divided out where the logarithm of its "
            "likelihood's ratio to that of no field exceeded 5 (in full, 10); "
            f"{_changed(used, 'Bias')}."
        )
    if used := _with_stage(blocks, "Resolution"):
        stages.append(
            "Where the power of the brain's detail fell off faster with spatial frequency than in "
            "target scans, the Gaussian blur along each axis that explains it was undone, with a "
            f"gain of 2 at most; {_changed(used, 'Resolution')}."
        )
    if used := _with_stage(blocks, "Tissue"):
        stages.append(
            "Where the local contrast (how far voxels lie from their surroundings' mean) at each "
            "brightness of the surroundings differed from target scans' unevenly, the gain as a "
            "function of that brightness which explains it was divided out; "
            f"{_changed(used, 'Tissue')}."
        )
    if used := _with_stage(blocks, "Contrast"):
        rulers = [_of(b, "Decisions", "Contrast", "Ruler") or {} for b in used]
        ruled = any(r.get("Weight") and r.get("Share", 1) for r in rulers)
        deviation = (
            ", with a deviation predicted, by a ridge regression on target scans, from the brain's "
            "texture and its brightness where participants agree, both after a histogram match"
        )
        if any(_of(r, "Slopes", "Weight") for r in rulers):
            deviation += (
                ", and in undisturbed scans by another from the slopes of the flow's log density "
                "with the slopes of a map of intensities"
            )
        if any(_of(r, "Slopes", "Weight") and _of(r, "Slopes", "DetailShown") for r in rulers):
            deviation += ", of scans finer than the target's after smoothing to its detail"
        divisions = [_of(b, "Decisions", "Contrast", "Division") or {} for b in used]
        divided = any(d.get("Weight") and d.get("Share") for d in divisions)
        division = (
            " What was left was divided between the scanner and the participant by a Gaussian "
            "regression of log-quantiles, with priors of a smooth map of intensities for the one "
            "and the covariance of target participants for the other; where that was plausible, "
            "the participant's part was kept."
        )
        shared = (
            " The scans that a participant has of one scanner and sequence shared that map, "
            "estimated on the mean of their quantiles once their gains were equal."
        )
        stages.append(
            "Where the distribution of the brain's intensities was unlike target scans', one "
            "monotone map per volume took its quantiles to those of the target scans together"
            f"{deviation if ruled else ''}; {_changed(used, 'Contrast')}."
            f"{division if divided else ''}"
            f"{shared if any(block.get('SharedMap') for block in used) else ''}"
        )
    for judge, (level, removal) in _DENOISERS.items():
        judged = _with_stage(blocks, "Noise")
        if used := [b for b in judged if _of(b, "Decisions", "Noise", "Judge") == judge]:
            usual = _words(_percent(_of(b, "Decisions", "Noise", "UsualSigma")) for b in used)
            from_on = f" (from {usual} of the brain's 99th percentile on)" if usual else ""
            stages.append(
                f"The noise level was {level}; where it was high{from_on}, {removal}; "
                f"{_changed(used, 'Noise')}."
            )
    intro = (
        "Harmonization used the method *map* of bh-bids, which, like *BlindHarmony* "
        "[@blindharmony], needs no image of the source domain. Each of its stages left alone "
        "what was like the target's own scans."
    )
    return " ".join([intro, *stages])


def _with_stage(blocks, stage):
    """Those of which a stage was judged: neither switched off nor missing."""
    found = []
    for block in blocks:
        decision = _of(block, "Decisions", stage)
        if not isinstance(decision, dict) or "Applied" not in decision or decision.get("Reason"):
            continue
        if _of(block, "Parameters", stage.lower()) is not False:
            found.append(block)
    return found


def _changed(blocks, stage):
    count = sum(bool(_of(b, "Decisions", stage, "Applied")) for b in blocks)
    if len(blocks) == 1:
        return "this scan was changed" if count else "this scan was left as it was"
    return f"{count} of {len(blocks)} scans were changed"


def _percent(value):
    known = isinstance(value, (int, float)) and not isinstance(value, bool)
    return f"{100 * value:.1f} %" if known else None


def describe_domain(domain):
    """One line about a target domain, from a text or from a model's ``TargetDomain`` block."""
    if not isinstance(domain, dict):
        return str(domain) if domain else ""
    about = domain.get("Description") or domain.get("Dataset") or ""
    parts = [
        domain.get("Manufacturer"),
        domain.get("ManufacturersModelName"),
        f"{domain['MagneticFieldStrength']} T" if domain.get("MagneticFieldStrength") else None,
    ]
    scanner = " ".join(str(p) for p in parts if p)
    if scanner and scanner.lower() not in str(about).lower():
        return f"{about} ({scanner})" if about else scanner
    return str(about)


def cited_keys(text):
    """Keys of all works that a text cites, in the order in which they come.

    Parameters
    ----------
    text : str

    Returns
    -------
    list of str
    """
    found = re.findall(r"@([\w-]+)", " ".join(m.group(1) for m in _KEYS.finditer(text)))
    return [key for key in dict.fromkeys(found) if key in REFERENCES]


def methods_html(text):
    """The methods text as HTML paragraphs, keys resolved to links to a list of references.

    Parameters
    ----------
    text : str
        As :func:`methods_text` returns it; everything in it is escaped.

    Returns
    -------
    str
        Paragraphs and an ordered list of references whose DOIs are plain links.
    """

    def cite(match):
        links = [
            f'<a href="#ref-{key}">{escape(REFERENCES[key].short)}</a>'
            for key in re.findall(r"@([\w-]+)", match.group(1))
            if key in REFERENCES
        ]
        return f"({'; '.join(links)})" if links else match.group(0)

    paragraphs = []
    for paragraph in text.split("\n\n"):
        html = _KEYS.sub(cite, escape(paragraph, quote=True))
        paragraphs.append("<p>" + re.sub(r"\*([^*<>]+)\*", r"<em>\1</em>", html) + "</p>")
    entries = "".join(
        f'<li id="ref-{key}">{escape(REFERENCES[key].plain)} '
        f'<a href="{escape(REFERENCES[key].url)}" rel="noreferrer">'
        f"doi:{escape(REFERENCES[key].doi)}</a></li>"
        for key in cited_keys(text)
    )
    heading = '<h2 id="references">References</h2>' if entries else ""
    return "".join(paragraphs) + heading + (f"<ol class='refs'>{entries}</ol>" if entries else "")


def write_citations(output_dir, sidecars=(), *, version=None):
    """Write ``logs/CITATION.md`` and ``logs/CITATION.bib``.

    Parameters
    ----------
    output_dir : str or os.PathLike
        The derivatives' root. Several jobs may write at once: each file is moved into place whole.
    sidecars : sequence of dict
        See :func:`methods_text`.
    version : str, optional

    Returns
    -------
    tuple of two pathlib.Path
        The Markdown and the BibTeX file.
    """
    logs = Path(output_dir) / "logs"
    text = methods_text(sidecars, version=version)
    keys = cited_keys(text)
    listed = "\n".join(f"- {REFERENCES[k].plain} <{REFERENCES[k].url}> (`@{k}`)" for k in keys)
    markdown = (
        "# Methods\n\n"
        "The text below was written by bh-bids and may be used unchanged in a manuscript; it is "
        "released under CC0. Citation keys refer to `CITATION.bib`.\n\n"
        f"{text}\n\n## References\n\n{listed}\n"
    )
    bibliography = "\n".join(REFERENCES[key].bibtex(key) for key in keys)
    return (
        write_text(logs / "CITATION.md", markdown),
        write_text(logs / "CITATION.bib", bibliography),
    )
