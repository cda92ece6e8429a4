"""Methods text and references: only what was used, and nothing that does not resolve."""

import json
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from bh_bids.reports.boilerplate import (
    cited_keys,
    describe_domain,
    methods_html,
    methods_text,
    write_citations,
)
from bh_bids.reports.citations import REFERENCES
from bh_bids.reports.collect import study_sidecars
from bh_bids.reports.readme import write_readme


def sidecar(**block):
    return {
        "Harmonization": {
            "Model": "default",
            "ModelVersion": "1",
            "Method": "paper",
            "Parameters": {"start": "gain", "iterations": 10},
            "Seed": 3,
            "TargetDomain": {"Description": "Adults", "Manufacturer": "Philips"},
            "BrainExtraction": {"Method": "atlas", "SkullStripT1w": "auto"},
            "SoftwareVersions": {"bh-bids": "9.9", "torch": "2.5"},
        }
        | block
    }


def test_text_says_what_was_done():
    text = methods_text([sidecar()])
    for words in ("*bh-bids* 9.9", "PyTorch* 2.5", "(atlas)", "model *default 1*", "seed 3"):
        assert words in text
    assert "Adults (Philips)" in text
    assert "gain that matches the target's level" in text
    assert {"blindharmony", "nsf", "n4", "ants", "bids", "nipype"} <= set(cited_keys(text))
    assert "syn" not in cited_keys(text)


def test_only_what_was_used_is_cited():
    nothing = cited_keys(methods_text([], version="1"))
    assert nothing == ["bids", "bidsapps", "nipype", "nibabel"]
    skipped = methods_text(
        [
            sidecar(
                BrainExtraction={"SkullStripT1w": "skip"},
                BiasCorrection={"Method": "none"},
                Registration={"Method": "reused"},
            )
        ]
    )
    assert not {"n4", "ants", "mni2009", "syn"} & set(cited_keys(skipped))
    assert "already skull-stripped" in skipped
    found = methods_text([sidecar(BrainExtraction={"Method": "none (already skull-stripped)"})])
    assert "The images were already skull-stripped." in found and "was extracted" not in found
    scaled = methods_text([sidecar(IntensityScale={"Percentile": 99.0})])
    assert "brain's 99th percentile" in scaled
    assert "syn" in cited_keys(methods_text([sidecar(BrainExtraction={"Method": "affine + SyN"})]))


def test_participants_that_differ_are_told_together():
    text = methods_text([sidecar(), sidecar(Model="other", Method="new"), sidecar()])
    assert "*default 1 and other 1*" in text
    assert "method *new*" in text
    assert text.count("BlindHarmony") == 2


@pytest.mark.parametrize("bad", [{}, {"Harmonization": 3}, {"Harmonization": {}}, "text", None])
def test_odd_sidecars_do_no_harm(bad):
    assert methods_text([bad, sidecar()])
    assert methods_text([bad])


def test_every_key_resolves_in_page_and_bibliography(tmp_path):
    text = methods_text([sidecar()])
    keys = re.findall(r"@([\w-]+)", text)
    assert set(keys) == set(cited_keys(text)) <= set(REFERENCES)
    html = methods_html(text)
    assert "[@" not in html
    links = set(re.findall(r'href="#(ref-[\w-]+)"', html))
    assert links == set(re.findall(r'id="(ref-[\w-]+)"', html))
    markdown, bibliography = write_citations(tmp_path, [sidecar()])
    assert markdown.parent == tmp_path / "logs"
    entries = re.findall(r"^@\w+\{([\w-]+),$", bibliography.read_text(), re.M)
    assert entries == cited_keys(text)
    assert "[@n4]" in markdown.read_text()


def test_a_common_template_is_told_with_its_source():
    together = {"Method": "rigid", "WithinTemplate": ["sub-01_ses-A_T1w.nii.gz"]}
    assert "within" in cited_keys(methods_text([sidecar(), sidecar(Registration=together)]))
    assert "within" not in cited_keys(methods_text([sidecar()]))


def test_a_shared_map_is_told():
    mapped = {"Method": "map", "Parameters": {}, "Decisions": {"Contrast": {"Applied": True}}}
    said = "shared that map"
    assert said not in methods_text([sidecar(**mapped)])
    assert said in methods_text([sidecar(**mapped, SharedMap=["sub-01_ses-A_T1w.nii.gz"])])


@pytest.mark.parametrize("key", REFERENCES)
def test_references_are_complete(key):
    reference = REFERENCES[key]
    assert re.fullmatch(r"10\.\d{4,5}/\S+", reference.doi)
    assert all("," in name or name == "others" for name in reference.authors.split(" and "))
    entry = reference.bibtex(key)
    assert entry.count("{") == entry.count("}")
    assert str(reference.year) in reference.short and str(reference.year) in reference.plain
    assert not re.search(r"[{}@]|``", reference.plain)


def test_html_of_the_text_is_escaped():
    html = methods_html(methods_text([sidecar(Model="<script>x</script>*a*")]))
    assert "<script" not in html


def test_parallel_jobs_write_whole_files(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: write_citations(tmp_path, [sidecar()]), range(24)))
    assert sorted(p.name for p in (tmp_path / "logs").iterdir()) == ["CITATION.bib", "CITATION.md"]
    assert results[0][1].read_text().rstrip().endswith("}")


def test_domain_in_one_line():
    assert describe_domain("text") == "text"
    assert describe_domain(None) == ""
    domain = {"Manufacturer": "Philips", "ManufacturersModelName": "Ingenia"}
    assert describe_domain(domain | {"MagneticFieldStrength": 3}) == "Philips Ingenia 3 T"


def test_readme_is_written_once_and_never_over_another(tmp_path):
    path = write_readme(tmp_path, version="1.2")
    assert "bh-bids 1.2" in path.read_text() and "{version}" not in path.read_text()
    assert "bh-bids 1.3" in write_readme(tmp_path, version="1.3").read_text()
    path.write_text("# Mine\n")
    assert write_readme(tmp_path, version="1.3").read_text() == "# Mine\n"


def test_all_harmonized_scans_count_whatever_run_made_them(tmp_path):
    for place, key, ended in (
        ("sub-01/anat", "sub-01", True),
        ("sub-02/ses-A/anat", "sub-02_ses-A", True),
        ("sub-03/anat", "sub-03", False),
    ):
        folder = tmp_path / place
        folder.mkdir(parents=True)
        for space in ("", "_space-X_res-1"):
            path = folder / f"{key}{space}_desc-harmonized_T1w.json"
            path.write_text(json.dumps({"Key": key}))
        if ended:
            (folder / f"{key}_desc-harmonization_metrics.tsv").write_text("ncc\n1\n")
    (folder / "sub-03_run-1_desc-harmonized_T1w.json").write_text("{")
    assert [s["Key"] for s in study_sidecars(tmp_path)] == ["sub-01", "sub-02_ses-A"]
