"""Every package of the source tree is in the wheel."""

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
