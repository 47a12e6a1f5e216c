"""The picture of what growing buys: its bars are the figures of the kept tables."""
from __future__ import annotations

import statistics
import sys
from pathlib import Path

import pytest
from scripts import script

pytest.importorskip("matplotlib")
ROOT = Path(__file__).resolve().parents[2]


def test_bars_are_the_figures_of_the_pages(tmp_path, monkeypatch):
    drawing, page = script("draw_what_growing_buys"), (ROOT / "docs" / "does-it-pay.md").read_text(encoding="utf-8")
    page += (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8")
    for name in [name for *_, read, name in drawing.PANELS if read is drawing.grown]:
        bars = drawing.grown(drawing.DATA / name)
        assert len(bars) > 4 and all(f"{statistics.fmean(gains):+.3f}" in page for _, gains in bars)
    page = (ROOT / "docs" / "evolve-results.md").read_text(encoding="utf-8")
    bars = dict(drawing.searched(drawing.DATA / "evolve-pays.json"))
    assert f"{statistics.fmean(bars['best']):.1f} ± {statistics.stdev(bars['best']):.1f} points above the base" in page
    monkeypatch.setattr(sys, "argv", ["draw", "--out", str(tmp_path / "picture.png")])
    drawing.main()
    assert (tmp_path / "picture.png").stat().st_size > 10_000
