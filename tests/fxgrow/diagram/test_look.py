"""Looks of pictures: direction, size of letters, legend, and what a printed page needs."""
from __future__ import annotations

import re

import pytest
import torch
from torch import nn

import fxgrow
from fxgrow.diagram.look import COLOURS, GREYS
from fxgrow.errors import DrawError

NET, X = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.zeros(2, 4)


def dot(path, **options) -> str:
    return fxgrow.draw(NET, X, path / "a.dot", **options).read_text()


def test_direction_letters_and_legend(tmp_path):
    usual = dot(tmp_path)
    assert "rankdir=TB" in usual and "rankdir=LR" in dot(tmp_path, direction="right")
    assert ">matrix product<" in usual and ">matrix product<" not in dot(tmp_path, legend=False)
    sizes = [[float(n) for n in re.findall(r'(?:point-size="|fontsize=)([\d.]+)', text)]
             for text in (usual, dot(tmp_path, font_size=15))]
    assert sizes[1] == [1.5 * n for n in sizes[0]]


def test_paper_is_grey_narrow_and_holds_its_letters(tmp_path):
    text = dot(tmp_path, style="paper")
    greys = [int(colour[1:3], 16) for family, colour in GREYS.items() if family not in ("join", "other", "in and out")]
    assert set(GREYS) == set(COLOURS) and len(set(greys)) == len(greys)
    for colour in re.findall(r"#[0-9A-F]{6}", text):
        assert colour[1:3] == colour[3:5] == colour[5:]
    pdf = fxgrow.draw(NET, X, tmp_path / "a.pdf", style="paper").read_bytes()
    width = float(re.search(rb"/MediaBox \[ ?\S+ \S+ (\S+)", pdf)[1])
    assert width <= 3.34 * 72 and b"/FontFile" in pdf


@pytest.mark.parametrize("options", [{"direction": "up"}, {"style": "loud"}, {"font_size": 0}])
def test_refusals(tmp_path, options):
    with pytest.raises(DrawError):
        dot(tmp_path, **options)


def test_arrows_do_not_run_through_titles(tmp_path):
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            return x + self.second(torch.tanh(self.first(x)))

    net = nn.Sequential(*(Residual() for _ in range(4)))
    svg = fxgrow.draw(net, torch.zeros(2, 8), tmp_path / "a.svg").read_text()
    titles = []
    for cluster in re.findall(r'<g id="\w+" class="cluster">(.*?)</g>\s*</g>', svg, re.DOTALL):
        found = re.findall(r'<text [^>]*x="([-\d.]+)" y="([-\d.]+)"[^>]*>(.*?)</text>', cluster)
        words = [(float(x), float(y), t) for x, y, t in found]
        titles.append((words[0][0], words[-1][0] + 5 * len(words[-1][2]), words[0][1]))
    lines = [[tuple(map(float, spot.split(","))) for spot in re.findall(r"[-\d.]+,[-\d.]+", path)]
             for path in re.findall(r'<path fill="none" stroke="#555555" d="([^"]+)"', svg)]
    assert len(titles) == 4 and len(lines) > 8
    straight = [line for line in lines if max(x for x, _ in line) - min(x for x, _ in line) < 4]
    assert straight  # a straight line is where its points are
    for left, right, y in titles:
        assert not [line for line in straight if left < line[0][0] < right and line[0][1] < y - 4 < line[-1][1]]
