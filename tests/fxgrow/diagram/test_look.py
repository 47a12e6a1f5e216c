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
