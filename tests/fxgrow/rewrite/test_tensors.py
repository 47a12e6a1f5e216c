"""Grown tensors: where the new positions are written."""
import math

import torch

from fxgrow.axis import Atom, concat
from fxgrow.rewrite import Drawn, grow_tensor


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
