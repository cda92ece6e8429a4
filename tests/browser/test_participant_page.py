"""The participant's page in a real browser: it opens, works, and stays on this computer."""

import json
import os
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from bh_bids.reports import plots
from bh_bids.reports.assemble import write_participant_report
from bh_bids.reports.svg import figure_to_svg
from bh_bids.reports.viewer import as_script_text, viewer_bundle

pytestmark = pytest.mark.browser

EVIL = "<script>window.hacked=1</script><img src=x onerror=window.hacked=1>\"'"
SHAPE = (40, 48, 36)


def brain():
    grid = np.indices(SHAPE, dtype=float)
    centred = [(g - (n - 1) / 2) / (0.44 * n) for g, n in zip(grid, SHAPE, strict=True)]
    mask = sum(c**2 for c in centred) < 1
    volume = 0.35 + 0.4 * (np.sin(6 * centred[0]) * np.cos(5 * centred[1]) > 0) + 0.2 * centred[2]
    return np.where(mask, volume, 0).astype(np.float32), mask


def sidecar(text="", guards=()):
    block = {
        "Model": "default" + text,
        "ModelVersion": "1.0" + text,
        "WeightsSHA256": "ab" * 32,
        "InputSHA256": "cd" * 32,
        "TargetDomain": {"Description": "Adults, one scanner" + text},
        "Method": "map" + text,
        "Seed": 0,
        "Converged": True,
        "Guards": list(guards),
        "SoftwareVersions": {"bh-bids": "0.3.0", "evil" + text: text or "1"},
        "CommandLine": "bh-bids BIDS_DIR OUTPUT_DIR participant" + text,
        "Parameters": {"noise": True},
        "Decisions": {
            "Bias": {"Applied": True, "Spread": 0.11, "UsualSpread": 0.05},
            "Contrast": {"Applied": False, "Unlikeness": 1.1, "UsualUnlikeness": 1.9},
            "Noise": {"Reason": text} if text else {"Applied": False, "Sigma": 0.02},
        },
    }
    names = {"Manufacturer": "Siemens" + text, "MagneticFieldStrength": 3}
    return {"Sources": ["bids:raw:sub-01/anat/sub-01_T1w.nii.gz"], **names, "Harmonization": block}


@cache
def figures():
    """The figures of a scan and the volumes of its viewer, as text by file name's end."""
    volume, mask = brain()
    after = np.where(mask, volume**0.8, 0)
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = [-80, -110, -60]
    labels = 1 + (volume > 0.5) + (volume > 0.7)
    quantiles = np.linspace(0, 1.1, 101)
    histogram = plots.plot_histograms(volume, after, mask, quantiles, labels=labels)
    trace = plots.plot_trace([{"stage": s, "ncc": 1} for s in ("source", "field")])
    volumes = {"source": volume, "harmonized": after, "target": volume, "ncc": volume}
    return {
        "brain_T1w.svg": plots.plot_brain_mask(volume, mask),
        "registration_T1w.svg": plots.plot_registration(volume, after, mask),
        "flicker_T1w.svg": plots.flicker_svg(volume, after, mask),
        "difference_T1w.svg": plots.plot_difference(volume, after, mask),
        "ncc_T1w.svg": plots.plot_local_ncc(np.where(mask, 0.9, np.nan), mask),
        "histogram_T1w.svg": figure_to_svg(histogram),
        "trace_T1w.svg": figure_to_svg(trace),
        "viewer_T1w.json": as_script_text(viewer_bundle(volumes, mask, affine)),
    }


def write_scan(root, key="sub-01", text="", guards=()):
    anat, drawn = root / "sub-01" / "anat", root / "sub-01" / "figures"
    anat.mkdir(parents=True, exist_ok=True)
    drawn.mkdir(exist_ok=True)
    name = f"{key}_space-MNI152NLin2009aSym_res-1_desc-harmonized_T1w.json"
    (anat / name).write_text(json.dumps(sidecar(text, guards)))
    values = {"ncc_source": "0.98", "brain_volume_ml": "1312", "converged": "true"}
    for tissue, place in (("csf", 0.2), ("gm", 0.6), ("wm", 0.9)):
        values |= {f"{tissue}_mode_before": str(0.8 * place), f"{tissue}_mode_after": str(place)}
        values[f"{tissue}_mode_target"] = str(1.01 * place)
    table = "\t".join(values) + "\n" + "\t".join(values.values()) + "\n"
    (anat / f"{key}_desc-harmonization_metrics.tsv").write_text(table)
    for end, content in figures().items():
        (drawn / f"{key}_desc-{end}").write_text(content)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Pages of all kinds, by name."""
    root = tmp_path_factory.mktemp("pages")
    found = {}
    for kind in ("pass", "warn", "evil", "sessions", "fail"):
        folder = root / kind
        if kind == "sessions":
            for session in "AB":
                write_scan(folder, f"sub-01_ses-{session}")
        elif kind != "fail":
            guards = ["The brain is small: 812 ml."] if kind == "warn" else []
            text = EVIL if kind == "evil" else ""
            write_scan(folder, text=text, guards=[EVIL] if text else guards)
        if kind in ("fail", "evil"):
            log = folder / "sub-01" / "log" / "run"
            log.mkdir(parents=True)
            error = "MemoryError" if kind == "fail" else f"ValueError: {EVIL}"
            (log / "crash-1.txt").write_text(f"Node: harmonize\n\nTraceback:\n\n{error}\n")
        found[kind] = write_participant_report(
            folder, "01", scans=["sub-01_T1w.nii.gz"] if kind == "fail" else ()
        )
    return found


@pytest.mark.parametrize("kind", ["pass", "warn", "evil", "sessions", "fail"])
@pytest.mark.parametrize("width", [1440, 390])
def test_page_opens_quietly_and_fits(pages, visit, screenshot, kind, width):
    for scheme in ("light", "dark"):
        seen = visit(pages[kind], width, scheme)
        wake(seen.page)
        screenshot(seen.page, f"participant-{kind}-{width}-{scheme}")
        assert seen.overflow() == 0
        assert seen.complaints == []
        assert seen.page.evaluate("window.hacked") is None
        # Nothing is drawn beside its box: whatever is wider than the window scrolls in its own.
        assert wider(seen.page) == []


def wake(page):
    """Scroll to every viewer, and wait until all are there."""
    for viewer in page.locator("[data-viewer]").all():
        viewer.scroll_into_view_if_needed()
        viewer.and_(page.locator("[data-ready]")).wait_for()
    page.evaluate("scrollTo(0, 0)")


def wider(page):
    """Elements that stick out of the window without a scroller around them."""
    return page.evaluate(
        """() => [...document.querySelectorAll('main *')].filter(element => {
            if (element.getBoundingClientRect().right <= innerWidth + 1) return false;
            for (let up = element; up; up = up.parentElement)
                if (['auto', 'scroll', 'hidden'].includes(getComputedStyle(up).overflowX))
                    return false;
            return element.checkVisibility();
        }).map(element => element.outerHTML.slice(0, 120))"""
    )


def test_first_screen_tells_the_verdict_and_shows_the_brain(pages, visit):
    seen = visit(pages["warn"])
    for text in ("Warn", "The brain is small: 812 ml.", "Siemens, 3 T", "Adults, one scanner"):
        box = seen.page.get_by_text(text).first.bounding_box()
        assert box["y"] + box["height"] < 900, text
    for picture in seen.page.locator(".pair img").all()[:3]:
        box = picture.bounding_box()
        assert box["width"] > 300 and box["y"] + box["height"] < 900


def read_out(page):
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return page.locator(".viewer output").first.inner_text()


def test_viewer_reads_the_volumes_values(pages, visit):
    page = visit(pages["pass"]).page
    wake(page)
    volume, mask = brain()
    where = []
    for name, axis in (("Sagittal", 0), ("Coronal", 1), ("Axial", 2)):
        slider = page.get_by_role("slider", name=f"{name} slice")
        slider.fill("20")
        first = np.argwhere(mask).min(axis=0)[axis]
        where.append(max(first - 2, 0) + 20)
    value = float(volume[tuple(where)])
    text = read_out(page)
    assert f"source {value:.2f}" in text and f"harmonized {value**0.8:.2f}" in text
    millimetres = [f"{a} {-o + 4 * i}".replace("-", "−") for a, o, i in
                   zip("xyz", (80, 110, 60), where, strict=True)]  # fmt: skip
    assert ", ".join(millimetres) in text


def picture(page, plane=0):
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return page.evaluate(
        "plane => document.querySelectorAll('.planes canvas')[plane].toDataURL()", plane
    )


def test_controls_change_what_is_shown(pages, visit):
    seen = visit(pages["pass"])
    page = seen.page
    wake(page)
    first = picture(page)
    for control, value in (("window", "40"), ("level", "90"), ("swipe", "10")):
        page.locator(f'[data-control="{control}"]').fill(value)
        changed = picture(page)
        assert changed != first, control
        page.get_by_role("button", name="Reset").click()
        assert picture(page) == first
    for layer in ("source", "target", "ncc", "difference"):
        page.get_by_label("Left of the line").select_option(layer)
        assert picture(page) != first, layer
    page.get_by_label("Right of the line").select_option("")
    assert not page.get_by_text("Line", exact=True).is_visible()
    page.get_by_role("button", name="Reset").click()
    page.get_by_role("button", name="Swap").click()
    assert page.get_by_label("Left of the line").input_value() == "source"
    assert seen.complaints == []


def test_colours_are_explained_and_sides_named(pages, visit):
    page = visit(pages["pass"]).page
    wake(page)
    scale = page.locator('[data-scale="difference"]')
    assert not scale.is_visible()
    page.get_by_label("Left of the line").select_option("difference")
    scale.wait_for()
    assert "\u221230 %" in scale.inner_text() and "+30 %" in scale.inner_text()
    page.locator('[data-control="window"]').fill("50")
    page.get_by_text("\u221215 %").wait_for()
    assert not page.locator('[data-scale="ncc"]').is_visible()


def test_the_cursor_is_linked_and_follows_pointer_and_keys(pages, visit):
    page = visit(pages["pass"]).page
    wake(page)
    before, coronal = read_out(page), picture(page, 1)
    canvas = page.locator(".planes canvas").first
    box = canvas.bounding_box()
    canvas.click(position={"x": 0.3 * box["width"], "y": 0.3 * box["height"]})
    clicked = read_out(page)
    assert clicked != before
    assert picture(page, 1) != coronal, "another coronal slice"
    for key in ("ArrowLeft", "ArrowUp", "PageUp"):
        page.keyboard.press(key)
        moved = read_out(page)
        assert moved != clicked, key
        clicked = moved
    page.keyboard.press("Space")
    assert page.get_by_label("Left of the line").input_value() == "source"


def test_the_whole_page_is_reached_by_keyboard(pages, visit):
    page = visit(pages["pass"]).page
    wake(page)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    reached = set()
    for _ in range(80):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate(
                """() => { const e = document.activeElement;
                return e.dataset.control || e.tagName + (e.dataset.copy || ''); }"""
            )
        )
    assert {"show", "compare", "swipe", "level", "window", "CANVAS", "SUMMARY"} <= reached
    assert {"BUTTONmethods-text", "BUTTONscan-sub-01-command"} <= reached


def test_a_screen_reader_hears_a_name_for_everything(pages, visit):
    page = visit(pages["sessions"]).page
    wake(page)
    tree = page.locator("body").aria_snapshot()
    for line in tree.splitlines():
        role = line.strip().removeprefix("- ").split(":")[0].strip()
        assert role not in ("button", "slider", "combobox", "img", "link", "table"), line
    for words in ('heading "Summary', 'slider "Axial slice, z"', 'combobox "Left of the line"'):
        assert words in tree
    assert page.locator("h1").count() >= 1 and page.locator("html").get_attribute("lang") == "en"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", ["warn", "sessions", "fail"])
def test_nothing_keeps_readers_out(pages, visit, barriers, kind, scheme):
    page = visit(pages[kind], scheme=scheme).page
    wake(page)
    for folded in page.locator("details").all():
        folded.evaluate("details => { details.open = true; }")
    found = barriers(page)
    assert found == [], "\n".join(found)


def test_without_javascript_the_mosaics_show_the_same(pages, visit):
    seen = visit(pages["pass"], java_script_enabled=False)
    page = seen.page
    assert not page.locator(".viewer").is_visible()
    assert page.get_by_text("The viewer needs JavaScript").is_visible()
    for name in ("flicker", "difference", "ncc"):
        assert page.locator(f".mosaics figure.{name} svg").is_visible()
    assert not page.get_by_role("button").count()


def test_print_shows_the_pictures_and_no_controls(pages, visit, screenshot):
    page = visit(pages["pass"]).page
    wake(page)
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert not page.locator(".viewer").is_visible() and not page.locator("nav").is_visible()
    assert page.locator(".mosaics figure.flicker svg").is_visible()
    assert page.pdf().startswith(b"%PDF")
    screenshot(page, "participant-print")


def test_dark_pages_print_dark_on_white(pages, visit):
    page = visit(pages["pass"], scheme="dark").page
    page.emulate_media(media="print", color_scheme="dark")
    for place in ("body", "h1", ".card"):
        ink = page.locator(place).first.evaluate("e => getComputedStyle(e).color")
        assert max(map(int, re.findall(r"\d+", ink)[:3])) < 100, place


def test_an_error_says_what_to_do(pages, visit):
    page = visit(pages["fail"]).page
    page.locator(".verdict").get_by_role("link", name="Errors").click()
    crash = page.locator("#errors .crash")
    assert "run again with --low-mem or a smaller --nprocs" in crash.inner_text()
    crash.locator("summary").click()
    assert "MemoryError" in crash.locator("pre").inner_text()


def test_only_our_script_may_run(pages, visit):
    seen = visit(pages["pass"])
    seen.page.evaluate(
        """() => { const s = document.createElement('script');
        s.textContent = 'window.hacked = 1'; document.body.append(s); }"""
    )
    assert seen.page.evaluate("window.hacked") is None
    assert any("Content Security Policy" in said for said in seen.complaints)


def test_the_methods_text_can_be_copied(pages, visit):
    page = visit(pages["pass"], permissions=["clipboard-read", "clipboard-write"]).page
    page.get_by_role("button", name="Copy the text").click()
    page.get_by_text("Copied", exact=True).wait_for()
    assert "BlindHarmony" in page.evaluate("navigator.clipboard.readText()")


def real_pages():
    folder = os.environ.get("BH_REPORTS")
    return sorted(Path(folder).glob("sub-*.html")) if folder else []


@pytest.mark.parametrize("path", real_pages(), ids=lambda path: path.stem)
@pytest.mark.parametrize("width", [1440, 390])
def test_pages_of_real_scans(path, width, visit, screenshot, barriers):
    """Those in the folder that BH_REPORTS names, such as demo/out."""
    assert path.stat().st_size < 10e6
    for scheme in ("light", "dark"):
        seen = visit(path, width, scheme)
        timing = seen.page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
        print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB, loaded in {timing:.0f} ms")
        wake(seen.page)
        screenshot(seen.page, f"real-{path.stem}-{width}-{scheme}", full=False)
        screenshot(seen.page, f"real-{path.stem}-{width}-{scheme}-whole")
        assert seen.overflow() == 0 and wider(seen.page) == [] and seen.complaints == []
        assert barriers(seen.page) == []
