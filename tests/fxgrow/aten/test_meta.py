"""Shortcuts for meta tensors give what the ops themselves give: shape, type and layout."""
import itertools

import pytest
import torch

from fxgrow.aten import compute

aten = torch.ops.aten
SHAPES = [(2, 3, 4, 5), (2, 1, 4, 5), (2, 3, 1, 1), (4, 5), (1, 5), (5,), (), (1, 3, 4, 1), (2, 3, 5, 5)]


def _made(shape: tuple[int, ...], form: str) -> torch.Tensor:
    """Return a tensor of a shape: as it is, its dimensions swapped in memory, with gaps, or expanded."""
    if form == "plain" or len(shape) < 2:
        return torch.empty(shape)
    if form == "swapped":
        return torch.empty((shape[1], shape[0], *shape[2:])).transpose(0, 1)
    if form == "last":
        return torch.empty((shape[0], *shape[2:], shape[1])).movedim(-1, 1)
    if form == "gaps":
        return torch.empty((*shape[:-1], 3 * shape[-1]))[..., :shape[-1]]
    return torch.empty((*shape[:-1], 1)).expand(shape)


MADE = [_made(shape, form) for shape in SHAPES for form in ("plain", "swapped", "last", "gaps", "expanded")]


def _same(func, args) -> None:
    try:
        expected = func(*args)
    except RuntimeError:
        with pytest.raises(RuntimeError):
            compute(func, _on_meta(args), {})
        return
    got = compute(func, _on_meta(args), {})
    assert got.shape == expected.shape and got.dtype is expected.dtype
    strides = [(a, b) for a, b, size in zip(expected.stride(), got.stride(), expected.shape) if size > 1]
    assert all(a == b for a, b in strides), (func, [(a.shape, a.stride()) for a in args if isinstance(a, torch.Tensor)])


def _on_meta(args):
    return [[t.to("meta") for t in a] if isinstance(a, list) and isinstance(a[0], torch.Tensor) else
            torch.empty_strided(a.shape, a.stride(), dtype=a.dtype, device="meta") if isinstance(a, torch.Tensor) else a
            for a in args]


@pytest.mark.parametrize("func", [aten.add.Tensor, aten.mul.Tensor])
def test_pointwise(func):
    for x, y in itertools.product(MADE, repeat=2):
        _same(func, (x, y))


def test_pointwise_of_one():
    for x in MADE:
        _same(aten.relu.default, (x,))
        _same(aten.mul.Tensor, (x, 2.0))
        _same(aten.mul.Tensor, (x, 2j))


def test_where():
    for x, y in itertools.product(MADE[::3], repeat=2):
        _same(aten.where.self, (x > 0, x, y))
        _same(aten.where.self, (y > 0, x, x))


def test_products_and_views():
    x, y = torch.empty(3, 4), torch.empty(5, 4).t()
    _same(aten.mm.default, (x, y))
    _same(aten.mm.default, (x, x))
    _same(aten._unsafe_view.default, (x, [2, 6]))
    _same(aten._unsafe_view.default, (x, [2, -1]))
    _same(aten._unsafe_view.default, (x, [5, 6]))


def test_cat():
    for x, y in itertools.product([m for m in MADE if m.ndim == 4], repeat=2):
        for dim in (0, 1, -1):
            _same(aten.cat.default, ([x, y], dim))
