"""The figures of the documentation: each page's are drawn, small, without a date, and the same every time."""
import importlib.util
import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
ROOT = Path(__file__).resolve().parents[2]
PAGES = ("widening.md", "axes.md", "capture.md", "diagrams.md")


@pytest.fixture(scope="module")
def figures():
    spec = importlib.util.spec_from_file_location("make_figures", ROOT / "tools" / "make_figures.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_figures"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["make_figures"]


def test_every_figure_of_the_pages_is_drawn(figures, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["make_figures.py", "--out", str(tmp_path)])
    figures.main()
    assert len(capsys.readouterr().out.splitlines()) == len(figures.FIGURES)
    named = {n for page in PAGES for n in re.findall(r"\(img/([\w-]+\.svg)\)", (ROOT / "docs" / page).read_text())}
    assert named == {f"{name}.svg" for name in figures.FIGURES}
    for name in named:
        text = (tmp_path / name).read_text()
        assert len(text) < 60_000 and "<dc:date>" not in text
        assert (ROOT / "docs" / "img" / name).exists()


def test_a_figure_is_the_same_every_time(figures, tmp_path):
    first = figures.draw("r2r", tmp_path).read_bytes()
    assert figures.draw("r2r", tmp_path).read_bytes() == first


def test_an_unknown_figure_is_named(figures, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["make_figures.py", "nothing"])
    with pytest.raises(SystemExit):
        figures.main()
    assert "no figure is called nothing" in capsys.readouterr().err
