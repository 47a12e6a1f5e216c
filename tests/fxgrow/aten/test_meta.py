"""Shortcuts for meta tensors give what the ops themselves give: shape, type and layout."""
import itertools

import pytest
import torch
from torch import nn

import fxgrow
from fxgrow.aten import Shapes, compute
from fxgrow.passes import Widen

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
    a, b = torch.empty(2, 3, 4), torch.empty(2, 4, 5)
    for pair in ((a, b), (a.transpose(0, 1), b), (a, b.double()), (a, a), (a[:1], b), (b.mT, a.mT), (x, y)):
        _same(aten.bmm.default, pair)


def test_copies():
    for x in MADE:
        _same(aten.clone.default, (x,))
        got, expected = (run(aten.clone.default, (made,), {"memory_format": torch.contiguous_format}) for run, made in (
            (compute, _on_meta((x,))[0]), (lambda func, args, kwargs: func(*args, **kwargs), x)))
        assert got.shape == expected.shape and (got.stride() == expected.stride() or 0 in got.shape)
    number = compute(aten.scalar_tensor.default, (2.0,), {"dtype": torch.float16, "device": torch.device("meta")})
    assert number.is_meta and number.dtype is torch.float16 and not number.ndim
    assert compute(aten.scalar_tensor.default, (2.0,), {}).item() == 2


def test_cat():
    for x, y in itertools.product([m for m in MADE if m.ndim == 4], repeat=2):
        for dim in (0, 1, -1):
            _same(aten.cat.default, ([x, y], dim))


def test_windows_may_be_put_back_together_without_data():
    """`istft` asks whether the sums of its windows vanish; what others ask of data is not answered."""
    spectrum = torch.empty(2, 17, 9, dtype=torch.complex64, device="meta")
    with Shapes():
        out = torch.istft(spectrum, 32, 8, window=torch.hann_window(32, device="meta"), center=True, length=60)
        assert out.shape == (2, 60)
        least = torch.empty(3, device="meta").abs().min()
        for asked in (least < 1, least > 0):
            with pytest.raises(NotImplementedError):
                torch.equal(asked, torch.ones((), dtype=torch.bool, device="meta"))


def test_a_network_between_spectra_grows():
    class Separate(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = nn.Conv2d(2, 6, 1), nn.Conv2d(6, 2, 1)

        def forward(self, x):
            window = torch.hann_window(32).to(x)
            spectrum = torch.stft(x, 32, 8, window=window, return_complex=True)
            mask = self.down(torch.relu(self.up(torch.view_as_real(spectrum).movedim(-1, 1)))).movedim(1, -1)
            return torch.istft(torch.view_as_complex(mask.contiguous()), 32, 8, window=window, length=x.shape[-1])

    model, x = Separate().double(), torch.randn(2, 96, dtype=torch.float64)
    grown = fxgrow.transform(model, x, Widen(factor=2, seed=0)).model
    assert grown.up.weight.shape[0] == 12
    assert fxgrow.verify(model, grown, x).exact_in == ("eval", "train")
