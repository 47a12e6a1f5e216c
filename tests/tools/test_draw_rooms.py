"""The picture of the packages and the page around it are as the code is."""
from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import draw_rooms  # noqa: E402


def test_the_picture_shows_the_packages_and_imports_that_there_are():
    svg = (ROOT / "docs/img/rooms.svg").read_text(encoding="utf-8")
    titles = {title.replace("&#45;&gt;", " -> ") for title in re.findall(r"<title>(.*?)</title>", svg)} - {"%3"}
    now = {*draw_rooms.folders(), *(f"{room} -> {other}" for room, other in draw_rooms.arrows())}
    assert titles == now, "draw it again: python tools/draw_rooms.py"


def test_the_page_names_files_that_there_are():
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:fxgrow|passes|zoo|experiments|tests|tools)/[\w/.]*)`", page)
    assert named and [path for path in named if not (ROOT / path).exists()] == []
    for room in draw_rooms.folders():
        assert f"`{room}" in page or f"`{room}/" in page, room
