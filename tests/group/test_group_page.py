"""The group report: escaped, self-contained, usable without scripts; and in a real browser."""

import base64
import hashlib
import html
import json
import re
from html.parser import HTMLParser

import pytest

from bh_bids.group.page import _uneven
from bh_bids.group.run import run_group
from bh_bids.settings import Settings

EVIL = "<script>alert(1)</script>\"'&<img src=x onerror=alert(2)>"


class Page(HTMLParser):
    """Tags with their attributes, and the table of scans."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.rows, self._table = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        self._table = attributes.get("id") == "scans-table" or (self._table and tag != "table")
        if tag == "tr" and self._table and "data-text" in attributes:
            self.rows.append(attributes)


@pytest.fixture(scope="module")
def folder(scan_maker, tmp_path_factory):
    """A study in which every text of the dataset is hostile, after a group level."""
    root = tmp_path_factory.mktemp("page")
    for k in range(3):
        for site in "AB":
            scan_maker(root, f"{k + 1:02d}", site, seed=k)
    for path in root.glob("bids/sub-*/ses-B/anat/*.json"):
        path.write_text(json.dumps({"Manufacturer": EVIL}))
    for path in root.glob("out/sub-02/ses-B/anat/*_metrics.tsv"):
        head, row = path.read_text().splitlines()
        names, cells = head.split("\t"), row.split("\t")
        cells[names.index("guards")] = f"The brain is small. {EVIL}|Look"
        path.write_text(f"{head}\n" + "\t".join(cells) + "\n")
    (root / "out" / "sub-09").mkdir()
    log = root / "out" / "sub-08" / "log" / "20260101-000000_x"
    log.mkdir(parents=True)
    (log / "crash-1.txt").write_text(f"Traceback\nbh_bids.errors.InputError: It is {EVIL}.\n")
    (root / "out" / "sub-08.html").write_text("<h1>sub-08</h1>")
    (root / "bids" / "participants.tsv").write_text(f"participant_id\tage\n{EVIL}\t3\n")
    settings = Settings(
        bids_dir=root / "bids", output_dir=root / "out", work_dir=root / "work",
        analysis_level="group", target="ses-A", comparators=("hm",),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bh_bids.group.page.PAGE_ROWS", 4)
        assert run_group(settings) == 1  # somebody is missing
    (root / "out" / "group.html").rename(root / "out" / "paged.html")
    assert run_group(settings) == 1
    return root / "out"


@pytest.fixture(scope="module")
def text(folder):
    return (folder / "group.html").read_text(encoding="utf-8")


def test_nothing_of_the_dataset_becomes_markup(text):
    assert "<script>alert" not in text and "<img src=x" not in text
    assert html.escape("<img src=x onerror=alert(2)>", quote=False) in text
    for tag, attributes in Page(text).tags:
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)


def test_one_script_runs_and_the_policy_names_it(text):
    scripts = re.findall(r"<script>(.*?)</script>", text, re.S)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    policy = next(a["content"] for t, a in Page(text).tags if a.get("http-equiv"))
    assert f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy


def test_nothing_comes_from_elsewhere(text):
    for tag, attributes in Page(text).tags:
        for name in ("src", "href", "xlink:href"):
            value = attributes.get(name) or ""
            allowed = ("data:image/", "#") if tag != "a" else ("./", "#")
            assert not value or value.startswith(allowed), (tag, value[:80])


def test_links_lead_to_files_and_scans_that_are_there(folder, text):
    links = [a["href"] for t, a in Page(text).tags if t == "a" and a["href"].startswith("./")]
    assert "./sub-02.html#scan-sub-02_ses-B" in links and "./sub-08.html#errors" in links
    assert not any(link.startswith("./sub-09") for link in links)
    for link in links:
        name = link[2:].split("#")[0]
        assert (folder / name).exists() or name.startswith("sub-"), link


def test_every_scan_is_a_row_without_any_script(text):
    rows = Page(text).rows
    assert len(rows) == 6 and sum(row["data-role"] == "target" for row in rows) == 3
    warned = [row for row in rows if row["data-state"] == "warn"]
    assert len(warned) == 1 and "The brain is small." in warned[0]["data-text"]


def test_a_long_table_keeps_its_further_rows_for_the_script(folder):
    text = (folder / "paged.html").read_text(encoding="utf-8")
    table = re.search(r"<tbody>(?:(?!<tbody>).)*</template>", text, re.S)[0]
    shown, kept = table.split('<template id="scans-more">')
    assert shown.count("<tr data-text") == 4 and kept.count("<tr data-text") == 2
    assert "the first 4 of 6 scans are shown" in text


def test_missing_participants_are_listed_with_the_reason(text):
    assert "sub-09" in text and "No results; the last run did not finish." in text


@pytest.mark.parametrize(("scans", "known", "told"), [(2, 7, (2, 7)), (7, 7, None), (0, 7, None)])
def test_fewer_scans_for_the_comparators_than_for_the_model_are_told(scans, known, told):
    assert _uneven(scans, [str(k) for k in range(known)]) == told


def test_pictures_of_all_methods_stand_side_by_side(text):
    words = [a["alt"] for t, a in Page(text).tags if t == "img" and a["alt"]]
    for method in ("Source, untouched", "bh-bids, harmonized", "Histogram match, brain"):
        assert sum(w.startswith(method) for w in words) == 4
    assert sum(w.startswith("Target scan of") for w in words) == 2


@pytest.mark.parametrize("width", [1440, 390])
def test_page_works_in_a_browser(browser, folder, width, tmp_path):
    page = browser.new_page(viewport={"width": width, "height": 900}, accept_downloads=True)
    complaints = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: (complaints.append("dialog"), dialog.dismiss()))
    page.on("request", lambda r: r.url.startswith(("data:", "blob:", "file:")) or
            complaints.append(r.url))  # fmt: skip
    page.goto((folder / "group.html").as_uri())
    root = "document.documentElement"
    assert page.evaluate(f"{root}.scrollWidth <= {root}.clientWidth")

    def shown():
        return page.eval_on_selector_all(
            "#scans-table tbody tr",
            "rows => rows.filter(r => !r.hidden).map(r => r.cells[1].textContent)",
        )

    def column(k):
        return page.eval_on_selector_all(
            "#scans-table tbody tr", f"rows => rows.map(r => r.cells[{k}].dataset.value)"
        )

    assert len(shown()) == 6
    page.select_option("#scans-state", "warn")
    assert shown() == ["sub-02_ses-B"] and page.text_content("#scans-said") == "1 of 6 scans"
    page.select_option("#scans-state", "")
    page.fill("#scans-words", "SUB-03 ses-a")
    page.locator("#scans-said", has_text="1 of 6 scans").wait_for()
    assert shown() == ["sub-03_ses-A"]
    page.fill("#scans-words", "")
    page.locator("#scans-said", has_text="6 of 6 scans").wait_for()
    head = page.locator("#scans-table thead button", has_text="PSNR before")
    head.press("Enter")
    values = [float(v) for v in column(5) if v]
    assert values == sorted(values) and column(5)[-3:] == ["", "", ""]
    head.press("Enter")
    values = [float(v) for v in column(5) if v]
    assert values == sorted(values, reverse=True) and column(5)[-3:] == ["", "", ""]
    page.select_option("#scans-site", index=1)
    with page.expect_download() as download:
        page.click("#scans-save")
    download.value.save_as(tmp_path / "scans.tsv")
    lines = (tmp_path / "scans.tsv").read_text().splitlines()
    assert lines[0].startswith("scan\tsite\trole") and len(lines) == 1 + len(shown())
    assert all(len(line.split("\t")) == len(lines[0].split("\t")) for line in lines)
    assert complaints == []
    page.close()


def test_a_long_table_is_turned_page_by_page(browser, folder, tmp_path):
    """Sorting, filtering and saving take in the rows that are not shown."""
    page = browser.new_page(accept_downloads=True)
    page.goto((folder / "paged.html").as_uri())

    def shown():
        return page.eval_on_selector_all(
            "#scans-table tbody tr", "rows => rows.map(r => r.cells[1].textContent)"
        )

    everyone = [f"sub-0{k}_ses-{site}" for k in (1, 2, 3) for site in "AB"]
    assert shown() == everyone[:4] and page.text_content("#scans-place") == "1 to 4 of 6"
    assert page.is_disabled("#scans-back")
    page.click("#scans-on")
    assert shown() == everyone[4:] and page.is_disabled("#scans-on")
    head = page.locator("#scans-table thead button", has_text="Scan")
    head.click()
    head.click()
    assert shown() == everyone[:1:-1] and page.text_content("#scans-place") == "1 to 4 of 6"
    with page.expect_download() as download:
        page.click("#scans-save")
    download.value.save_as(tmp_path / "scans.tsv")
    assert len((tmp_path / "scans.tsv").read_text().splitlines()) == 7
    page.select_option("#scans-site", "A")
    assert shown() == [f"sub-0{k}_ses-A" for k in (3, 2, 1)] and page.is_hidden("#scans-pages")
    page.close()
