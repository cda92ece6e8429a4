"""Every package of the source tree is in the wheel; the image installs what is pinned."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_all_packages_are_installed():
    tomllib = pytest.importorskip("tomllib")
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {
        ".".join(p.parent.relative_to(ROOT).parts) for p in ROOT.glob("bh_bids/**/__init__.py")
    }
    assert found | {"bh_bids.workflows"} == set(listed)


def test_the_image_installs_the_pinned_versions_by_their_hashes():
    def versions(name):
        lines = (ROOT / name).read_text().splitlines()
        pins = (re.match(r"([\w.-]+)==([\w.]+)", line) for line in lines)
        return {re.sub(r"[-_.]+", "-", m[1]).lower(): m[2] for m in pins if m}

    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned, image = versions("constraints.txt"), versions("requirements-image.txt")
    assert {name: pinned.get(name) for name in image} == image
    needed = {re.match(r"[\w.-]+", line)[0] for line in project["dependencies"] if ";" not in line}
    assert {re.sub(r"[-_.]+", "-", name).lower() for name in needed} - {"torch"} <= image.keys()
    text = (ROOT / "requirements-image.txt").read_text()
    blocks = re.findall(r"^[\w.-]+==.*\n(?:    --hash=sha256:[0-9a-f]{64}.*\n)+", text, re.M)
    assert len(blocks) == len(image)
