"""What was done and why: sentences a reader can check against the sidecar."""

import json

import pytest

from bh_bids.harmonization.gates import FIELD
from bh_bids.reports import plots
from bh_bids.reports.assemble import write_participant_report
from bh_bids.reports.boilerplate import cited_keys, methods_text
from bh_bids.reports.decisions import decision_rows

BIAS = {
    "Applied": True, "Weight": 1.0, "Evidence": 126.31, "UsualEvidence": 5.0, "Spread": 0.0934,
}  # fmt: skip
RULER = {"Weight": 1.0, "Distance": 1.24, "Sharpness": -0.31}
RESOLUTION = {
    "Applied": True, "Weight": 1.0, "Blur": 0.362, "BlurAlongAxes": [0.36, 0.04, -0.01],
    "UsualBlur": 0.11,
}  # fmt: skip
TISSUE = {
    "Applied": True, "Weight": 1.0, "Unevenness": 0.221, "UsualUnevenness": 0.055,
    "Brightness": [0.2, 0.5, 0.9], "LogGain": [-0.1, 0.1, 0.0],
}  # fmt: skip
CONTRAST = {
    "Applied": True, "Weight": 1.0, "Unlikeness": 5.31, "UsualUnlikeness": 1.8, "Ruler": RULER,
}  # fmt: skip
NOISE = {"Applied": True, "Sigma": 0.02, "UsualSigma": 0.012, "Judge": "model"}


def block(**changes):
    stages = {
        "Bias": BIAS, "Resolution": RESOLUTION, "Tissue": TISSUE, "Contrast": CONTRAST,
        "Noise": NOISE,
    }  # fmt: skip
    for name, change in changes.items():
        stages[name] = {**stages[name], **change}
    return {"Method": "map", "Parameters": {"bias": True}, "Decisions": stages}


def told(stage, **change):
    rows = {row["stage"]: row for row in decision_rows(block(**{stage: change}))}
    return rows[{"Bias": "Bias field", "Tissue": "Contrast by tissue"}.get(stage, stage)]


def test_every_stage_is_told_with_the_sidecar_s_own_figures():
    rows = decision_rows(block())
    stages = [
        "Bias field", "Resolution", "Contrast by tissue", "Contrast", "Own contrast", "Noise",
    ]  # fmt: skip
    assert [row["stage"] for row in rows] == stages
    assert {row["state"] for row in rows} == {"done"}
    bias, resolution, tissue, contrast, own, noise = (row["sentence"] for row in rows)
    assert bias == (
        "A bias field of 9.3 % was removed (log-likelihood ratio 126.3, from 5 on one is removed)."
    )
    assert resolution == (
        "The scan was sharpened: its detail is blurred beyond that of target scans (left-right "
        "0.60, back-front 0.20, foot-head 0.00 voxels; size 0.36; target scans up to 0.11)."
    )
    assert tissue == (
        "Contrast depends on the tissue: a gain that goes with the brightness of a voxel's "
        "surroundings was divided out (uneven by 22.1 %, target scans up to 5.5 %); between the "
        "dimmest and the brightest gain lie 22 %."
    )
    assert "mapped" in contrast
    assert "(distance 5.3, about 1 for a target scan, more than 1.8 is mapped)" in contrast
    assert "distance 1.2, sharpness −0.3 SD" in own and "was kept" in own
    assert noise == (
        "Noise of about 2.0 % of the brain's 99th percentile was removed by the flow "
        "(from 1.2 % on)."
    )


def test_what_was_left_alone_is_told_with_the_reason():
    rows = {
        "bias": told("Bias", Applied=False, Weight=0.0, Evidence=0.4, Spread=0.002),
        "resolution": told("Resolution", Applied=False, Weight=0.0, Blur=0.0),
        "tissue": told("Tissue", Applied=False, Weight=0.0, Unevenness=0.021),
        "contrast": told("Contrast", Applied=False, Weight=0.0, Unlikeness=0.94),
        "noise": told("Noise", Applied=False, Sigma=0.009),
    }
    assert {row["state"] for row in rows.values()} == {"left"}
    assert {row["answer"] for row in rows.values()} == {"Left alone"}
    assert rows["bias"]["sentence"] == (
        "No bias field was removed: what was found is hardly likelier a field than what target "
        "scans show of their own anatomy (log-likelihood ratio 0.4, from 5 on one is removed)."
    )
    assert "blurred no more than in target scans" in rows["resolution"]["sentence"]
    assert "size 0.00; target scans up to 0.11)." in rows["resolution"]["sentence"]
    for axes in (None, [0.36], [0.36, None, 0.1]):
        sentence = told("Resolution", BlurAlongAxes=axes)["sentence"]
        assert "of target scans (size 0.36; target scans up to 0.11)." in sentence
    for size, more in ((0.1, "blurred no more than"), (0.12, "blurred hardly more than")):
        sentence = told("Resolution", Applied=False, Weight=0.0, Blur=size)["sentence"]
        assert more in sentence
    assert "(uneven by 2.1 %, target scans up to 5.5 %)" in rows["tissue"]["sentence"]
    assert "on the tissue no more than" in rows["tissue"]["sentence"]
    found = told("Tissue", Applied=False, Weight=0.0, Unevenness=0.072)["sentence"]
    assert "on the tissue hardly more than in target scans (uneven by 7.2 %" in found
    assert "left as it was" in rows["contrast"]["sentence"]
    assert "0.9" in rows["contrast"]["sentence"] and "1.8" in rows["contrast"]["sentence"]
    assert "left as it was: about 0.9 %" in rows["noise"]["sentence"]
    # Without a mapped contrast nobody had to tell whose it was.
    left = decision_rows(block(Contrast={"Applied": False}))
    assert "Own contrast" not in [row["stage"] for row in left]


@pytest.mark.parametrize("stage", ["Bias", "Resolution", "Tissue", "Contrast"])
def test_half_a_change_is_told_as_half(stage):
    assert "42 %" in told(stage, Weight=0.42)["sentence"]
    assert "42 %" not in told(stage)["sentence"]


def test_stages_that_were_switched_off_say_so():
    given = block(Bias={"Applied": False, "Reason": "switched off"}, Noise={"Reason": "no flow"})
    # The parameter speaks where the decision does not.
    given["Parameters"] |= {"contrast": False, "resolution": False, "tissue": False}
    rows = decision_rows(given)
    assert [row["state"] for row in rows] == ["off"] * 5
    assert "Switched off" in rows[0]["sentence"] and "Switched off" in rows[1]["sentence"]
    assert "Switched off" in rows[2]["sentence"] and "Switched off" in rows[3]["sentence"]
    assert "no flow" in rows[4]["sentence"]


@pytest.mark.parametrize(("coverage", "told"), [(0.86, False), (0.66, True), (None, False)])
def test_a_part_of_a_brain_is_told_as_such(coverage, told):
    given = block()
    given["Decisions"]["Coverage"] = coverage
    first = decision_rows(given)[0]
    assert (first["stage"] == "Field of view") == told
    assert not told or "66 % of" in first["sentence"]


def test_without_the_ruler_an_average_anatomy_was_assumed():
    ruler = {"Weight": 0.0, "Reason": "switched off"}
    row = decision_rows(block(Contrast={"Ruler": ruler}))[4]
    assert (row["stage"], row["answer"]) == ("Own contrast", "Off")
    assert "was not told" in row["sentence"] and "large ventricles" in row["sentence"]
    text = methods_text([{"Harmonization": block(Contrast={"Ruler": ruler})}])
    assert "target scans together;" in text and "ridge" not in text
    assert "ridge regression" in methods_text([{"Harmonization": block()}])


@pytest.mark.parametrize(
    ("why", "words"),
    [
        ({"TooNoisy": True}, "too noisy"),
        ({"TooNoisy": False, "Evened": 0.0}, "could not tell"),
        ({"TooNoisy": False, "Evened": 1.0}, "was made the target's usual one: it cannot tell"),
    ],
)
def test_an_anatomy_that_was_not_told_apart_is_pointed_out(why, words):
    given = block(Contrast={"Ruler": {**RULER, "Weight": 0.0, **why}})
    row = next(row for row in decision_rows(given) if row["stage"] == "Own contrast")
    assert words in row["sentence"] and "large ventricles" in row["sentence"]
    assert row["answer"] == "Not known"


@pytest.mark.parametrize(
    ("share", "answer", "words"),
    [
        (0.0, "Average", "target's average"),
        (0.5, "Kept", "weight of 50 %"),
        (1.0, "Kept", "own was kept"),
    ],
)  # fmt: skip
def test_what_was_kept_of_the_own_contrast_is_told(share, answer, words):
    given = block(Contrast={"Ruler": {**RULER, "Share": share}})
    row = next(row for row in decision_rows(given) if row["stage"] == "Own contrast")
    assert row["answer"] == answer and words in row["sentence"]


@pytest.mark.parametrize(
    "slopes",
    [{"Weight": 0.5}, {"Weight": 0.0}, {"Weight": 0.5, "DetailShown": 1.2},
     {"Weight": 0.0, "DetailShown": 3.2}, None, "damaged"],
)  # fmt: skip
def test_that_the_flow_was_asked_is_told_where_it_counted(slopes):
    given = block(Contrast={"Ruler": {**RULER, "Slopes": slopes}})
    row = next(row for row in decision_rows(given) if row["stage"] == "Own contrast")
    counted = slopes not in (None, "damaged") and slopes["Weight"] > 0
    text = methods_text([{"Harmonization": given}])
    assert ("the flow" in row["sentence"]) == ("log density" in text) == counted
    smoothed = counted and "DetailShown" in slopes
    assert ("finer detail" in row["sentence"]) == ("finer than the target" in text) == smoothed


@pytest.mark.parametrize(
    ("division", "words"),
    [
        ({"Weight": 1.0, "Share": 0.84, "Unlikeness": 0.71}, "weight of 84 % (distance 0.7,"),
        ({"Weight": 0.5, "Share": 0.84}, "weight of 42 %."),
        ({"Weight": 1.0, "Share": 0.0}, None),
        ({"Weight": 0.0, "Share": 0.9, "Unlikeness": 2.0}, None),
        ({"Weight": 0.0, "Reason": "switched off"}, None),
    ],
)
def test_what_was_divided_between_scanner_and_participant_is_told(division, words):
    given = block(Contrast={"Division": division})
    row = next(row for row in decision_rows(given) if row["stage"] == "Own contrast")
    text = methods_text([{"Harmonization": given}])
    assert ("was divided between the scanner" in text) == (words is not None)
    if words is None:
        # Then it is the ruler that tells.
        assert "divided" not in row["sentence"] and "texture" in row["sentence"]
    else:
        assert row["answer"] == "Kept" and words in row["sentence"]


def test_a_filter_is_not_called_the_flow():
    sentence = told("Noise", Judge="gaussian")["sentence"]
    assert "filter" in sentence and "flow" not in sentence


def test_thresholds_that_the_sidecar_does_not_tell_are_left_out():
    bare = block()
    for stage in bare["Decisions"]:
        kept = {k: v for k, v in bare["Decisions"][stage].items() if not k.startswith("Usual")}
        bare["Decisions"][stage] = kept
    for row in decision_rows(bare):
        assert not any(odd in row["sentence"] for odd in ("None", "()", " ,", ", )", "  "))
        assert "1.8" not in row["sentence"] and "1.2 %" not in row["sentence"]


@pytest.mark.parametrize(
    "odd",
    [{}, {"Decisions": None}, {"Decisions": []}, {"Decisions": {"Bias": 3, "Other": {}}}]
    + [{"Decisions": {}, "Parameters": None}],
)
def test_methods_that_decide_nothing_have_no_rows(odd):
    assert decision_rows(odd) == []


@pytest.mark.parametrize("value", [None, "many", True, float("nan"), [], {}])
def test_odd_figures_do_no_harm(value):
    odd = {"Applied": True, "Weight": value, "Spread": value, "Unlikeness": value, "Sigma": value,
           "Evidence": value, "UsualEvidence": value,
           "Ruler": {"Weight": value, "Distance": value}}  # fmt: skip
    rows = decision_rows({"Decisions": {"Bias": odd, "Contrast": odd, "Noise": odd}})
    assert len(rows) == 4
    assert not any("nan" in row["sentence"] or "None" in row["sentence"] for row in rows)


TRACE = [
    {"iteration": k, "stage": stage, "ncc": 1 - 0.01 * k, "latent": 1.2, "bits_per_dim": 6 - k}
    for k, stage in enumerate(("source", "field", "contrast", "noise"))
]


def test_the_trace_of_stages_names_them_on_its_axis():
    figure = plots.plot_trace(TRACE)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["Bits per dimension", "Latent |z|²/d", "Correlation with source"]
    for axes in figure.axes:
        assert [label.get_text() for label in axes.get_xticklabels()] == [
            "source", "field", "contrast", "noise",
        ]  # fmt: skip
        assert list(axes.get_xticks()) == [0, 1, 2, 3]
    assert list(figure.axes[0].lines[0].get_ydata()) == [6, 5, 4, 3]
    assert len(plots.plot_trace(TRACE[:1]).axes) == 3


def test_what_hardly_changed_looks_as_if_nothing_had():
    still = [{**row, "ncc": 1 - 1e-7 * k} for k, row in enumerate(TRACE)]
    low, high = plots.plot_trace(still).axes[2].get_ylim()
    assert high - low > 0.01 and low < 1 < high


@pytest.fixture
def page(tmp_path):
    """Write a page from a sidecar and a row of metrics."""

    def write(harmonization, **row):
        anat = tmp_path / "sub-01" / "anat"
        anat.mkdir(parents=True, exist_ok=True)
        stem = anat / "sub-01_space-MNI152NLin2009aSym_res-1_desc-harmonized_T1w.json"
        stem.write_text(json.dumps({"Harmonization": harmonization}))
        row = {
            "participant_id": "sub-01", "method": harmonization["Method"], "iterations": "3",
            "converged": "true", "noise_sigma": "0.02", "latent_before": "1.2", **row,
        }  # fmt: skip
        table = "\t".join(row) + "\n" + "\t".join(row.values()) + "\n"
        (anat / "sub-01_desc-harmonization_metrics.tsv").write_text(table)
        figure = tmp_path / "sub-01" / "figures" / "sub-01_desc-trace_T1w.svg"
        plots.save_svg(plots.plot_trace(TRACE), figure)
        return write_participant_report(tmp_path, "01").read_text()

    return write


def test_the_page_shows_the_decisions_before_the_metrics(page):
    text = page(block())
    assert text.index("What was done, and why") < text.index(">Metrics<")
    assert "A bias field of 9.3 % was removed" in text
    assert "What the flow says after each stage" in text
    assert "How the optimisation went" not in text
    # Told in words above, or nothing that could differ.
    assert "noise_sigma" not in text.split("All settings")[0] and "Converged</th>" not in text
    assert "<th>Source</th><th>Result</th>" in text


def test_the_page_of_the_other_method_speaks_of_its_iterations(page):
    text = page({"Method": "paper"}, noise_sigma="n/a")
    assert "How the optimisation went" in text and "<th>First guess</th>" in text
    assert "What was done, and why" not in text and "Iterations" in text


def test_nothing_from_a_sidecar_can_run_in_the_decisions(page):
    evil = "<script>alert(1)</script>"
    text = page(block(Bias={"Reason": evil}, Noise={"Judge": evil}))
    assert evil not in text and "Left out: &lt;script" in text


def test_the_methods_text_counts_the_scans_and_cites_what_was_used():
    text = methods_text([{"Harmonization": b} for b in (block(), block(Bias={"Applied": False}))])
    assert "method *map*" in text and "1 of 2 scans were changed" in text
    low, high = FIELD
    assert f"to that of no field exceeded {low:.0f} (in full, {high:.0f})" in text
    assert {"blindharmony", "efron", "n4", "nsf", "nflows"} <= set(cited_keys(text))
    other = methods_text([{"Harmonization": block(Noise={"Judge": "gaussian"})}])
    assert "Wiener filter" in other and "efron" not in cited_keys(other)
    assert "this scan was changed" in other


def test_the_methods_text_leaves_out_what_was_switched_off():
    given = block(Bias={"Reason": "switched off"}, Noise={"Applied": False, "Reason": "no flow"})
    given["Parameters"]["contrast"] = False
    text = methods_text([{"Harmonization": given}])
    for words in ("field of the bias", "monotone map", "noise level", "Tweedie"):
        assert words not in text
    assert methods_text([{"Harmonization": {"Method": "map", "Decisions": 3}}])
