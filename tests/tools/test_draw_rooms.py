"""The picture of the packages and the page around it are as the code is."""
from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def shown(svg: Path) -> set[str]:
    """Return the packages and arrows in a picture."""
    return {*re.findall(r"<title>(.*?)</title>", svg.read_text(encoding="utf-8"))}


@pytest.mark.skipif(shutil.which("dot") is None, reason="needs Graphviz's program dot")
def test_the_picture_shows_the_packages_and_imports_that_there_are(tmp_path):
    subprocess.run([sys.executable, ROOT / "tools/draw_rooms.py", "--out", tmp_path / "rooms.svg"], check=True)
    drawn = shown(tmp_path / "rooms.svg")
    assert {"cli", "passes", "zoo", "experiments", "passes&#45;&gt;cli"} < drawn
    assert shown(ROOT / "docs/img/rooms.svg") == drawn, "draw it again: python tools/draw_rooms.py"


def test_the_page_names_files_that_there_are():
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:fxgrow|passes|zoo|experiments|tests|tools)/[\w/.]*)`", page)
    assert named and [path for path in named if not (ROOT / path).exists()] == []
    for package in [*(ROOT / "fxgrow").glob("*/__init__.py"), *ROOT.glob("*/__init__.py")]:
        assert f"`{package.parent.name}" in page, package.parent.name
