"""Grown tensors: where the new positions are written."""
import math

import torch
from torch import nn

import fxgrow
from fxgrow.aten import TorchDispatchMode, tensors_in
from fxgrow.axis import Atom, concat
from fxgrow.passes import Widen
from fxgrow.rewrite import Drawn, grow_tensor
from fxgrow.rewrite.tensors import BLOCK


def test_new_positions_may_be_those_of_several_tensors_in_turn():
    """As pairs are, along an axis that is not the last one, behind the old positions."""
    x, axis = torch.arange(6.).reshape(2, 3), Atom(2)
    u = torch.tensor([[10., 11., 12.], [20., 21., 22.]])
    grown = grow_tensor(x, [axis, Atom(3)], {0: {axis: "pair"}}, {axis: 6}, lambda dim: lambda *at: (x, (u, -u)))
    assert torch.equal(grown, torch.stack([x[0], x[1], u[0], -u[0], u[1], -u[1]]))


def test_numbers_drawn_in_blocks_are_those_drawn_at_once(monkeypatch):
    x, axis = torch.zeros(5, 4), Atom(4)

    def grown() -> torch.Tensor:
        counter = iter(range(1000))

        def draw(shape):
            return torch.tensor([float(next(counter)) for _ in range(math.prod(shape))]).view(shape)

        return grow_tensor(x, [Atom(5), axis], {1: {axis: "signed"}}, {axis: 10},
                           lambda dim: lambda *at: (x, Drawn(draw, (1, -1))))

    at_once = grown()
    monkeypatch.setattr("fxgrow.rewrite.tensors.BLOCK", 6)
    assert torch.equal(grown(), at_once)
    assert torch.equal(at_once[1, 4:], torch.tensor([3., -3, 4, -4, 5, -5]))


def test_segments_that_are_alike_are_grown_at_once():
    """One call for the first segment, one for the three behind it, and each number at its place."""
    parts = [Atom(2), *(Atom(3) for _ in range(3))]
    axis, calls = concat(parts), []

    def fill(atom, content, x, dim):
        calls.append(tuple(x.shape))
        return x, x.sum(dim, keepdim=True)

    def grown(kinds) -> torch.Tensor:
        return grow_tensor(torch.arange(22.).view(2, 11), [Atom(2), axis], {1: dict.fromkeys(parts, "pair")},
                           {p: p.size + 1 for p in parts}, lambda dim: fill, kinds=kinds)

    alike = grown({p: p.size for p in parts})
    assert calls == [(2, 2), (2, 3, 3)]
    assert torch.equal(alike, grown(None))
    assert len(calls) == 2 + 4


class Made(TorchDispatchMode):
    """Note the shape of each large tensor with numbers that is made inside, and is no view of another."""

    def __init__(self):
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        given = {t.untyped_storage()._cdata for t in tensors_in(args)}
        if isinstance(out, torch.Tensor) and not out.is_meta and out.numel() > BLOCK and \
                out.untyped_storage()._cdata not in given:
            self.shapes.append(tuple(out.shape))
        return out


class Attends(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.attention = nn.Linear(8, 512), nn.MultiheadAttention(512, 8, batch_first=True)
        self.last = nn.Linear(512, 4)

    def forward(self, x):
        x = self.first(x)
        return self.last(x + self.attention(x, x, x)[0])


def test_each_large_tensor_is_made_once_in_its_final_size():
    """Stacked q, k and v too, whose heads and head size both grow: there is no room for a second copy of any."""
    model, x = Attends().eval(), torch.randn(2, 3, 8)
    graph = fxgrow.capture(model, x)
    with Made() as made:
        grown = fxgrow.transform(graph, x, Widen(factor=1.5, seed=0))
    large = [tuple(t.shape) for t in grown.model.state_dict().values() if t.numel() > BLOCK]
    assert sorted(made.shapes) == sorted(large)
    assert fxgrow.verify(model, grown.model, x).ok


def test_grown_tensors_keep_their_memory_format():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 6, 1),
                          nn.Conv2d(6, 2, 3))
    model, x = model.double().to(memory_format=torch.channels_last), torch.randn(2, 3, 9, 9, dtype=torch.double)
    grown = fxgrow.transform(model, x, [Widen(factor=2, seed=0)]).model
    assert fxgrow.verify(model, grown, x).ok
    for name in ("0.weight", "2.weight", "3.weight", "4.weight"):
        weight = grown.get_parameter(name)
        assert weight.stride() == weight.contiguous(memory_format=torch.channels_last).stride()
