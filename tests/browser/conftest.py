"""A real browser for the pages: Debian's Chromium, driven by Playwright."""

import os
from pathlib import Path

import pytest

SIZES = {1440: 900, 390: 844}


class Watched:
    """A page, and all that it must not do: complain, ask for anything, open dialogs."""

    def __init__(self, page):
        self.page, self.complaints = page, []
        page.on("console", lambda message: self.complaints.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (self.complaints.append("dialog"), dialog.dismiss()))
        page.on("request", self._requested)

    def _requested(self, request):
        if not request.url.startswith(("data:", "blob:")) and request.url != self.url:
            self.complaints.append(f"request: {request.url[:200]}")

    def open(self, path):
        self.url = Path(path).as_uri()
        self.page.goto(self.url)
        return self.page

    def overflow(self):
        """Pixels by which the page is wider than the window."""
        root = "document.documentElement"
        return self.page.evaluate(f"{root}.scrollWidth - {root}.clientWidth")


@pytest.fixture
def visit(browser):
    """Open a page at a width and in a colour scheme."""
    contexts = []

    def visit(path, width=1440, scheme="light", **options):
        context = browser.new_context(
            viewport={"width": width, "height": SIZES[width]}, color_scheme=scheme, **options
        )
        contexts.append(context)
        watched = Watched(context.new_page())
        watched.open(path)
        return watched

    yield visit
    for context in contexts:
        context.close()


@pytest.fixture
def screenshot(tmp_path):
    """Keep a picture of a page for a reviewer, in the folder that BH_SCREENSHOTS names."""
    folder = Path(os.environ.get("BH_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)

    def keep(page, name, full=True):
        path = folder / f"{name}.png"
        page.screenshot(path=path, full_page=full)
        return path

    return keep


@pytest.fixture
def barriers():
    """What axe-core, the usual checker of accessibility, finds wrong with a page."""
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright",
        reason="axe-core is missing: pip install axe-playwright-python",
    )

    def found(page):
        return [
            f"{rule['id']}: {node['html'][:150]}"
            for rule in axe.Axe().run(page).response["violations"]
            for node in rule["nodes"]
        ]

    return found
