"""Filters as pictures: what is drawn, where frames stand, and which weights are convolutions."""
from __future__ import annotations

import builtins
import io

import numpy
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import fxgrow
from fxgrow.errors import DrawError
from fxgrow.visual import filter_grid, filter_limits, first_convolution
from fxgrow.visual.filters import BLUE, MARGIN, VERMILION, convolutions, out_first, png, shown, view_of


def weight(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def cells(grid, columns: int, h: int, w: int, scale: int):
    """The grid cut into its tiles with their margins, [n, H, W, 3]."""
    high, wide = h * scale + 2 * MARGIN, w * scale + 2 * MARGIN
    rows = grid.shape[0] // high
    assert grid.shape == (rows * high, columns * wide, 3)
    return grid.reshape(rows, high, columns, wide, 3).transpose(0, 2, 1, 3, 4).reshape(-1, high, wide, 3)


def framed(cell) -> str:
    """solid, dashed or none, by the middle of the ring."""
    ring = numpy.concatenate([cell[1, 1:-1], cell[-2, 1:-1], cell[1:-1, 1], cell[1:-1, -2]])
    share = (ring == BLUE).all(-1).mean()
    return "solid" if share == 1 else "none" if share == 0 else "dashed"


@pytest.mark.parametrize("shape", [(6, 3, 3, 3), (6, 1, 5, 3), (6, 3, 2, 3, 3), (6, 1, 2, 3, 3), (6, 4, 5), (6, 10)])
def test_new_filters_and_no_others_are_framed(shape):
    new = torch.zeros(shape, dtype=torch.bool)
    new[[1, 4]] = True
    grid = filter_grid(weight(*shape), new, columns=3, scale=4)
    h, w = {2: lambda: (1, shape[1]), 3: lambda: shape[1:], 4: lambda: shape[2:],
            5: lambda: (shape[3], shape[2] * shape[4])}[len(shape)]()
    assert [framed(c) for c in cells(grid, 3, h, w, 4)] == ["none", "solid", "none", "none", "solid", "none"]


def test_pairs_frame_new_inputs_and_new_outputs():
    new = torch.zeros(3, 4, 2, 2, dtype=torch.bool)
    new[2], new[:, 3] = True, True
    grid = cells(filter_grid(weight(3, 4, 2, 2), new, scale=5), 4, 2, 2, 5)
    assert [framed(c) for c in grid] == ["none"] * 3 + ["solid"] + ["none"] * 3 + ["solid"] + ["solid"] * 4


def test_partly_new_filters_have_a_dashed_frame_and_hatched_numbers():
    new = torch.zeros(2, 4, 6, dtype=torch.bool)
    new[:, 3] = True
    for cell in cells(filter_grid(weight(2, 4, 6), new, columns=1, scale=6), 1, 4, 6, 6):
        assert framed(cell) == "dashed"
        inside = (cell[MARGIN:-MARGIN, MARGIN:-MARGIN] == BLUE).all(-1)
        assert not inside[:18].any() and 0 < inside[18:].mean() < 0.5


def test_new_taps_are_hatched():
    new = torch.ones(1, 3, 5, 5, dtype=torch.bool)
    new[:, :, 1:4, 1:4] = False
    cell, = cells(filter_grid(weight(1, 3, 5, 5), new, scale=6), 1, 5, 5, 6)
    inside = (cell[MARGIN:-MARGIN, MARGIN:-MARGIN] == BLUE).all(-1)
    assert framed(cell) == "dashed" and inside[:6].any() and not inside[6:24, 6:24].any()


def test_pixels_are_the_numbers():
    w = torch.tensor([-2.0, 0.0, 1.0, 2.0]).reshape(1, 1, 2, 2)
    tile = filter_grid(w, scale=1)[MARGIN:-MARGIN, MARGIN:-MARGIN, 0]
    assert tile.tolist() == [[0, 128], [191, 255]]
    colour = torch.tensor([1.0, -1.0, 0.0]).reshape(1, 3, 1, 1)
    assert filter_grid(colour, scale=1)[MARGIN, MARGIN].tolist() == [255, 0, 128]
    size = torch.tensor([3.0, -3.0]).reshape(1, 2, 1, 1).expand(1, 2, 1, 2)
    assert filter_grid(size, view="size", scale=1)[MARGIN, MARGIN].tolist() == [255] * 3  # nothing cancels


def test_equal_numbers_have_equal_colours_under_the_same_limits():
    small, large = weight(4, 3, 3, 3), torch.cat([weight(4, 3, 3, 3), 5 * weight(2, 3, 3, 3)])
    limits = filter_limits([small, large])
    assert limits == (-float(large.abs().max()), float(large.abs().max()))
    a, b = (filter_grid(t, columns=len(t), scale=3, limits=limits) for t in (small, large))
    assert (a == b[:, :a.shape[1]]).all()
    assert (filter_grid(small, columns=4, scale=3) != a).any()


def test_limit_spreads_what_is_drawn():
    assert shown(5, 10).tolist() == [0, 1, 2, 3, 4] and shown(1000, 3).tolist() == [0, 500, 999]
    w = torch.arange(9.0).reshape(9, 1, 1, 1).expand(9, 3, 1, 1)
    tiles = cells(filter_grid(w, limit=3, columns=3, scale=1, limits=(0, 8)), 3, 1, 1, 1)
    assert [int(c[MARGIN, MARGIN, 0]) for c in tiles] == [0, 128, 255]


def test_views_follow_the_shape():
    assert [view_of(weight(*s)) for s in ((8, 3, 3, 3), (8, 1, 3, 3), (8, 4, 3, 3), (64, 8, 3, 3), (8, 3, 3), (8, 3))] == \
        ["colour", "pairs", "pairs", "size", "rows", "rows"]


def test_numbers_that_are_not_finite_are_vermilion():
    w = torch.tensor([[float("nan"), 1.0]])
    assert filter_grid(w, scale=1)[MARGIN, MARGIN:MARGIN + 2].tolist() == [list(VERMILION), [255] * 3]
    assert filter_grid(torch.zeros(1, 3, 1, 1), scale=1)[MARGIN, MARGIN].tolist() == [128] * 3


@pytest.mark.parametrize("call, words", [
    (lambda: filter_grid(weight(3)), r"shape \[3\] holds no filters"),
    (lambda: filter_grid(torch.zeros(0, 3, 3, 3)), "holds no filters"),
    (lambda: filter_grid(weight(3, 3), torch.zeros(3, dtype=torch.bool)), "they must agree"),
    (lambda: filter_grid(torch.zeros(2, 3, 3, 3, device="meta")), "no numbers to draw"),
    (lambda: filter_grid(weight(2, 4, 3, 3), view="colour"), "does not suit")])
def test_what_cannot_be_drawn_is_told(call, words):
    with pytest.raises(DrawError, match=words):
        call()


def test_out_first_is_how_a_transposed_convolution_reads_its_weight():
    for groups in (1, 2):
        layer = nn.ConvTranspose2d(4, 6, 1, groups=groups, bias=False)
        x = weight(1, 4, 1, 1)
        alike = F.conv2d(x, out_first(layer.weight, groups), groups=groups)
        assert torch.allclose(layer(x), alike, atol=1e-6)


def test_png():
    grid = filter_grid(weight(4, 3, 3, 3))
    assert (numpy.asarray(Image.open(io.BytesIO(png(grid)))) == grid).all()


def test_without_pillow_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "PIL":
            raise ImportError("No module named 'PIL'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DrawError, match=r"fxgrow\[plots\]"):
        png(numpy.zeros((2, 2, 3), numpy.uint8))


class Functional(nn.Module):
    """Declared in another order than they run, by function and by layer, one transposed and grouped."""

    def __init__(self):
        super().__init__()
        self.late = nn.ConvTranspose2d(4, 4, 2, groups=2)
        self.held = nn.Module()
        self.held.kernel = nn.Parameter(torch.randn(4, 3, 3, 3))
        self.head = nn.Linear(3, 3)

    def forward(self, x):
        return self.late(F.conv2d(self.head(x), self.held.kernel, padding=1))


def test_convolutions_in_the_order_of_execution():
    gm = fxgrow.capture(Functional(), torch.zeros(1, 3, 4, 3))
    assert first_convolution(gm) == "held.kernel"
    assert [tuple(c) for c in convolutions(gm).values()] == [("held.kernel", 2, False, 1), ("late.weight", 2, True, 2)]
    assert first_convolution(fxgrow.capture(nn.Linear(3, 3), torch.zeros(1, 3))) is None


class Leaf(nn.Module):
    """Cannot be captured: it replaces its buffer by a tensor of another form."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Conv1d(2, 2, 1)
        self.register_buffer("state", torch.zeros(2, 1))

    def forward(self, x):
        self.state = x.mean(0)
        return self.inner(x - self.state)


def test_layers_inside_an_untraced_module_are_found():
    gm = fxgrow.capture(nn.Sequential(Leaf(), nn.Conv1d(2, 2, 1)), torch.zeros(1, 2, 8))
    assert "0" in gm.meta["leaves"]
    assert list(convolutions(gm)) == ["0.inner.weight", "1.weight"]
