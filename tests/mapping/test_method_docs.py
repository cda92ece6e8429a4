"""What docs/method.md says of the method "map" is what the code does."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from bh_bids.flow import slopes
from bh_bids.flow.config import FlowConfig
from bh_bids.harmonization import contrast, denoise, gates, guards, stages
from bh_bids.harmonization import map as module
from bh_bids.intensity import FEW_INTENSITIES
from bh_bids.mapping import (
    calibration,
    disturb,
    field,
    intensity,
    null_field,
    resolution,
    ruler,
    scanner,
    steady,
    texture,
    tissue,
    versions,
)

PAGE = Path(__file__).resolve().parents[2] / "docs" / "method.md"


@pytest.fixture(scope="module")
def section():
    text = PAGE.read_text(encoding="utf-8")
    return text[text.index("## The method `map`") : text.index("## The problem that `paper`")]


def test_what_the_guards_go_by():
    text = PAGE.read_text(encoding="utf-8")
    said = text[text.index("## Guards") : text.index("## What differs from the published")]
    assert f"less than {stages.PARTIAL} of the target's average brain in view (`map`)" in said
    assert f"fewer than {FEW_INTENSITIES} different intensities in the brain" in said
    assert f"more than {100 * guards.EMPTY:.0f} % of zeros" in said
    assert f"more than {module.ONE_CONTRAST} target units from the mean of all" in said


def test_parameters_and_defaults(section):
    rows = dict(re.findall(r"^\| `(\w+)` \| `?(\w+)`? \|", section, re.MULTILINE))
    defaults = {f.name: str(f.default) for f in fields(module.MapParameters)}
    assert rows == {n: d.lower() if d in ("True", "False") else d for n, d in defaults.items()}


@pytest.mark.parametrize(
    ("row", "values"),
    [
        ("field (`Bias`)", gates.FIELD),
        ("resolution (`Resolution`)", gates.BLURRED),
        ("contrast by tissue (`Tissue`)", gates.UNEVEN),
        ("contrast (`Contrast`), without the ruler", (contrast.LIKE[0], contrast.UNLIKE[0])),
        ("contrast (`Contrast`), with it", (contrast.LIKE[1], contrast.UNLIKE[1])),
        ("noise (`Noise`)", (gates.NOISY, gates.NOISY)),
        ("scanner prior counts less (`Division`)", (contrast.LIKELY, contrast.UNLIKELY)),
        ("ruler counts less (`Distance`)", (contrast.NEAR, contrast.FAR)),
        ("ruler counts less (`Sharpness`)", (contrast.SHARP, contrast.BLURRED)),
        ("slopes count less (`Slopes`, `Distance`)", (contrast.SLOPES_NEAR, contrast.SLOPES_FAR)),
        ("slopes count less (`Slopes`, `Detail`;", (contrast.SLOPES_DETAIL, contrast.SLOPES_ODD)),
        ("the scan is smoothed for them", (contrast.SLOPES_DETAIL, contrast.SLOPES_ODD)),
    ],
)
def test_thresholds(section, row, values):
    cells = next(line for line in section.splitlines() if line.startswith(f"| {row}"))
    found = [float(re.search(r"[\d.]+", cell)[0]) for cell in cells.split("|")[2:4]]
    assert found == [float(v) for v in values]


def test_sizes_named_in_the_text(section):
    low, high = FlowConfig().noise_range
    nine = {9: "nine"}[len(denoise.CANDIDATES)]
    fifth, ten = {0.2: "fifth"}[steady.SHARE], {10: "ten"}[steady.GROUPS]
    eight = {8: "eight"}[versions.DISTURBED]
    for said in (
        f"between {intensity.LEVELS - intensity.TAIL} knots",
        f"of {slopes.KNOTS} straight pieces that meet at the shares {slopes.SHARES[0]} to "
        f"{slopes.SHARES[-2]} of",
        f"of {slopes.SLICES} slices evenly",
        f"no more noise than {gates.QUIET} is found",
        f"noise of $\\sigma$ = {slopes.SIGMA} added",
        f"slopes with a share of {ruler.SLOPES_SHARE}",
        f"with { ({4: 'four'}[versions.ANATOMIES]) } other anatomies, *without*",
        "power that it is over the upper {} and over the upper {}".format(*intensity.TAIL_KNOTS),
        f"sum of {len(field.orders())} products",
        f"order at most {field.ORDER} together",
        f"block $B$ of {field.BLOCK:.0f} mm",
        f"voxels {field.SPACING:.0f} mm apart",
        f"from {field.ANNEALING[0]} to {field.ANNEALING[-1]} in {len(field.ANNEALING)} steps",
        "between {} and {} cycles per voxel".format(*resolution.BAND),
        f"= {resolution.ALONG:.3f}$ of $f^2$, and of either other {resolution.ACROSS:.3f}",
        f"Gaussian mean of {resolution.SMOOTH:.0f} voxels",
        f"looked for {field.LOOKS} times, each time in what",
        f"its spread there is {null_field.LEAST} at least",
        f"{null_field.SMOOTHNESS}th power of the order",
        f"one of {len(null_field.STRENGTHS)}, from {null_field.STRENGTHS[0]:.3f} to "
        f"{null_field.STRENGTHS[-1]:.0f}, that makes",
        "grows from {:.0f} to {:.0f}.".format(*gates.FIELD),
        f"Where less than {gates.LITTLE} of the target's mean brain is left",
        f"stay below ({gates.LEAST_BLUR} at least;",
        "a blur is undone from ${}\\,\\bar v$ on, in full from ${}\\,\\bar v$".format(
            *gates.BLURRED
        ),
        f"}},\\, {resolution.STRONGEST:.0f}\\big)",
        f"Gaussian mean ({tissue.SURROUNDINGS:.0f} voxel, the brain's voxels alone)",
        f"sum of {tissue.WAVES} cosines of brightness (from {tissue.DIM} to {tissue.BRIGHT}, "
        f"{tissue.LEVELS} levels), fitted by ridge regression ({tissue.RIDGE} times",
        f"at most {tissue.STEPS} times, as long as",
        f"$|L|$ is {tissue.LARGEST} at most",
        f"stay below against the others ({gates.LEAST_UNEVEN} at least;",
        "divided out from {} $\\bar u$ on, in full from {} $\\bar u$".format(*gates.UNEVEN),
        f"the rank (one of {texture.RANKS})",
        f"block of {texture.PLACE} voxels",
        f"stratum (one of {texture.STRATA}, equally filled)",
        "= {}, {:.0f}, {:.0f} and {} voxels".format(*texture.SCALES),
        f"cut off at {ruler.REACH} times",
        f"voxels more than {texture.ODD:.0f} robust standard deviations off",
        f"each training scan also in {eight} disturbed versions",
        "enlarged by {} to {} mm, one to {} lesions".format(*disturb.GROWTH, disturb.LESIONS[1]),
        "{:.0f} to {:.0f} % of the brain missing".format(*(100 * v for v in disturb.MISSING)),
        f"a weak field (of {100 * disturb.FIELD:.0f} % at most)",
        f"the {fifth} whose standard deviation",
        f"in each of {ten} equal ranges of $\\bar x$ from {steady.BRIGHTNESS[0]} to 1",
        f"a gamma from {disturb.GAMMA[0]} to {disturb.GAMMA[1]}",
        "blur of {} to {} voxels".format(*disturb.BLUR),
        "sharpening of {} to {}".format(*disturb.SHARPENING),
        "shifted by {} to {} voxels".format(*disturb.SHIFT),
        f"noise of up to {disturb.NOISE}",
        f"gains of {100 * disturb.GAIN:.0f} %",
        f"by {gates.MISSING:.0f} times the share that is missing",
        f"1 - \\frac{{({contrast.ERROR}\\,\\epsilon)^2}}",
        f"with the share $\\eta$ from {ruler.ASKED} errors on",
        f"1 - ({contrast.ERROR_DIVIDED}\\,\\epsilon)^2",
        f"from {contrast.ERROR}; one that ruler and scanner prior tell (`Division`), from "
        f"{contrast.ERROR_DIVIDED}.",
        f"(0, {scanner.GAIN:.0f}^2)$ (any gain), a power of standard deviation "
        f"{scanner.POWER}, its bend of {scanner.BEND}, gains of tissues of {scanner.TISSUE}",
        "one of the shares {}, {}, {} of the brain".format(*scanner.TISSUES),
        f"${scanner.SMOOTH}^2 \\exp(-(\\ell - \\ell')^2/2)$, and $\\varepsilon$ of "
        f"{scanner.NOISE},",
        f"Ranks {scanner.DARK + 1} to {intensity.LEVELS - intensity.TAIL} of {intensity.LEVELS}",
        f"the {calibration.TOLD_SPREAD} largest directions",
        f"from {low} to {high}, and told",
        f"{nine} levels and {denoise.SLICES} slices",
    ):
        assert said in " ".join(section.split())


def test_links_lead_somewhere():
    text = PAGE.read_text(encoding="utf-8")
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}
    for target in re.findall(r"\]\(#([^)]+)\)", text):
        assert target in anchors
    for name in re.findall(r"\]\(([\w/]+\.md)", text):
        assert (PAGE.parent / name).is_file()
