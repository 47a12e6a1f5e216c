"""The ten networks of docs/diagrams.md: the command draws them, and the page shows what it drew."""
from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "draw_networks.py"


@pytest.mark.sweep
@pytest.mark.skipif(shutil.which("dot") is None, reason="needs Graphviz's program dot")
def test_networks_written_by_hand_are_drawn(tmp_path):
    names = ("graph", "decoder", "tagger", "unrolled")
    done = subprocess.run([sys.executable, TOOL, "--out", tmp_path, *names], capture_output=True, text=True, check=True)
    assert [4 < int(boxes) <= 20 for boxes in re.findall(r"(\d+) boxes", done.stdout)] == [True] * 4
    assert {file.stem for file in tmp_path.iterdir()} == set(names)


def test_the_page_shows_ten():
    page = (ROOT / "docs" / "diagrams.md").read_text(encoding="utf-8")
    drawn = [file.name for file in (ROOT / "docs" / "img" / "networks").iterdir()]
    assert len(drawn) == 10 and all(page.count(f"img/networks/{name}") == 2 for name in drawn)
