"""What is compared with what: scans of both, pairs enough, and no lead by leaving scans out."""

import re
from types import SimpleNamespace

import pytest

from bh_bids.group.board import gap_table, leaderboard, verdict
from bh_bids.group.evaluate import Row
from bh_bids.group.page import method_names
from bh_bids.group.study import Record
from bh_bids.group.summary import by_participant, ranking, summarize
from bh_bids.group.volumes import Case


def row(method, participant, site, psnr):
    key = f"sub-{participant:02d}_ses-{site}"
    record = Record(key=key, participant=f"{participant:02d}", session=site)
    return Row(Case(record, site), method, {"psnr": psnr}, [], "")


def study(values, participants, offset=0.0):
    """Rows of "method, site" to PSNR; participants differ a little, and differences do too."""
    return [
        row(method, k, site, psnr + 0.1 * k + (offset * k if method == "harmonized" else 0))
        for (method, site), psnr in values.items()
        for k in range(participants)
    ]


def one(summary, method, site="all"):
    (line,) = [m for m in summary if (m["method"], m["site"]) == (method, site)]
    return line


def judge(summary):
    return verdict(SimpleNamespace(summary=summary))


@pytest.fixture
def absent():
    """Twelve at an easy and a hard site; the U-Net is 1 dB worse, and not at the hard site."""
    values = {
        ("source", "A"): 28, ("source", "B"): 20,
        ("harmonized", "A"): 30, ("harmonized", "B"): 24.5,
        ("hm", "A"): 29, ("hm", "B"): 23, ("unet", "A"): 29,
    }  # fmt: skip
    return study(values, 12, offset=0.01), ["source", "harmonized", "hm", "unet"]


def test_a_difference_is_taken_on_the_scans_of_both(absent):
    summary = summarize(*absent)
    line = one(summary, "unet")
    assert line["mean"] > one(summary, "harmonized")["mean"]  # over other scans
    assert line["difference"] == pytest.approx(1 + 0.01 * 5.5)
    assert line["own_mean"] - line["other_mean"] == pytest.approx(line["difference"])
    assert 0 < line["ci_low"] < line["difference"] < line["ci_high"] and line["p"] < 0.001
    assert (line["n"], line["n_pairs"], line["lacks"]) == (12, 12, 12)
    for name in ("difference", "ci_low", "ci_high", "p"):
        assert line[name] == pytest.approx(one(summary, "unet", "A")[name])
    assert one(summary, "hm")["lacks"] == one(summary, "harmonized")["lacks"] == 0


def test_a_participant_counts_once_over_the_scans_of_both():
    rows = [row("harmonized", 0, s, v) for s, v in (("A", 30), ("B", 20), ("C", 25))]
    rows += [row("hm", 0, "A", 29), row("hm", 0, "B", 17), row("hm", 1, "A", 10)]
    line = one(summarize(rows, ["harmonized", "hm"]), "hm")
    assert (line["n"], line["n_pairs"], line["lacks"]) == (2, 1, 1)
    assert (line["own_mean"], line["other_mean"], line["difference"]) == (25, 23, 2)
    assert by_participant(rows, "hm", "psnr") == {"00": 23, "01": 10}


def test_a_method_that_lacks_a_site_neither_leads_nor_is_the_best_alternative(absent):
    summary = summarize(*absent)
    assert ranking(summary, "psnr") == ["harmonized", "hm", "source", "unet"]
    board = leaderboard(summary)
    assert [r["method"] for r in board["rows"]] == ["harmonized", "hm", "source", "unet"]
    assert [r["method"] for r in board["rows"] if r["cells"][0]["best"]] == ["harmonized"]
    assert [r["lacks"] for r in board["rows"]] == [0, 0, 0, 12] and board["lacks"]
    said = judge(summary)
    assert [(m, words) for m, words, _ in said["lines"]] == [
        ("source", "The harmonization is better than"),
        ("hm", "The harmonization is better than"),
    ]
    assert said["state"] == "pass" and [m["method"] for m in said["left_out"]] == ["unet"]


def test_without_any_whole_alternative_the_verdict_does_not_pass(absent):
    rows, _ = absent
    said = judge(summarize(rows, ["source", "harmonized", "unet"]))
    assert [m for m, *_ in said["lines"]] == ["source"] and said["state"] == "warn"
    assert judge(summarize(rows, ["source", "harmonized"]))["state"] == "pass"


def test_ranks_are_over_the_scans_of_the_harmonization(absent):
    """Others that have a further, easy scan are not ahead by it."""
    rows, methods = absent
    rows += [row(m, k, "C", 60) for m in ("hm", "source") for k in range(12)]
    summary = summarize(rows, methods)
    assert one(summary, "hm")["mean"] > one(summary, "harmonized")["mean"]
    assert ranking(summary, "psnr") == ["harmonized", "hm", "source", "unet"]


def test_without_the_harmonization_all_scans_are_asked_for(absent):
    rows = [r for r in absent[0] if r.method != "harmonized"]
    summary = summarize(rows, ["source", "hm", "unet"])
    assert ranking(summary, "psnr") == ["hm", "source", "unet"]
    assert one(summary, "hm")["n_pairs"] is None and judge(summary) is None


def test_one_pair_has_no_interval_and_no_verdict():
    rows = study({("source", "A"): 20}, 9) + [row("harmonized", 0, "A", 30)]
    summary = summarize(rows, ["source", "harmonized"])
    line = one(summary, "source", "A")
    assert (line["n"], line["n_pairs"], line["difference"]) == (9, 1, 10)
    assert line["ci_low"] is None and line["ci_high"] is None
    said = judge(summary)
    assert "Too few participants" in said["lines"][0][1] and said["state"] == "warn"
    cell = leaderboard(summary)["rows"][1]["cells"][0]
    assert cell["n_pairs"] == 1 and "interval" not in cell


def test_without_pairs_nothing_is_compared():
    rows = [row("harmonized", 0, "A", 30), row("source", 1, "A", 20)]
    summary = summarize(rows, ["source", "harmonized"])
    line = one(summary, "source", "A")
    assert (line["n_pairs"], line["difference"], line["p"]) == (0, None, None)
    assert judge(summary)["lines"][0][1] == "The harmonization cannot be compared with"


@pytest.mark.parametrize(
    ("participants", "change", "words", "state"),
    [
        (5, 2, "Too few participants (at least 6 are needed) to tell", "warn"),
        (6, 2, "The harmonization is better than", "pass"),
        (6, -2, "The harmonization is worse than", "warn"),
    ],
)
def test_better_and_worse_are_said_of_six_participants_or_more(participants, change, words, state):
    values = {("source", "A"): 20, ("harmonized", "A"): 20 + change}
    said = judge(summarize(study(values, participants, 0.01), ["source", "harmonized"]))
    assert said["lines"][0][1].startswith(words) and said["state"] == state


def test_an_interval_without_a_significant_p_is_no_clear_difference():
    """Six gains, the least of which is a loss: the interval is above 0, p is 0.0625."""
    changes = [2, 2.1, 2.2, 2.3, 2.4, -0.1]
    rows = [row("source", k, "A", 20) for k in range(6)]
    rows += [row("harmonized", k, "A", 20 + d) for k, d in enumerate(changes)]
    summary = summarize(rows, ["source", "harmonized"])
    assert one(summary, "source", "A")["ci_low"] > 0
    said = judge(summary)
    assert said["lines"][0][1] == "The harmonization does not clearly differ from"
    assert said["state"] == "warn"


def test_the_best_of_a_gap_lacks_no_scan():
    rows = study({("source", "exp"): 20, ("harmonized", "exp"): 30}, 3)
    rows.append(row("unet", 2, "exp", 99))
    methods = ["source", "harmonized", "unet"]
    (found,) = gap_table(summarize(rows, methods), methods)["rows"]
    assert [cell["best"] for cell in found["cells"]] == [False, True, False]


def test_the_page_says_who_lacks_scans_and_counts_pairs(absent):
    from jinja2 import Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("bh_bids", "reports/templates"), autoescape=True, trim_blocks=True
    )
    summary = summarize(*absent)
    page = environment.get_template("group.html.j2").render(
        verdict=judge(summary), board=leaderboard(summary), names=method_names(), counts={},
        sites={"certain": True}, about={}, script="", scans=[], page_rows=9,
    )  # fmt: skip
    text = " ".join(page.split())
    assert "they lack scans that the harmonization has: U-Net" in text and "(12 scans)." in text
    assert "<br><small>lacks 12 scans</small>" in text and "lacks any comes last" in text
    title = next(t for t in re.findall('title="(.*?)"', text) if "lacks" in t)
    assert re.fullmatch(
        r"Harmonized minus this, on the scans of both: \+1\.0\d \(95 % interval \+1\.0\d to "
        r"\+1\.0\d, Wilcoxon p &lt; 0\.001, 12 participants; lacks 12 scans\)",
        title,
    )
    assert "PSNR (dB) 27.86 against 26.55, difference +1.3" in text
    assert "12 participants with both)" in text
