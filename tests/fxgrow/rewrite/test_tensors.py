"""Grown tensors: where the new positions are written."""
import torch

from fxgrow.axis import Atom
from fxgrow.rewrite import grow_tensor


def test_new_positions_may_be_those_of_several_tensors_in_turn():
    """As pairs are, along an axis that is not the last one, behind the old positions."""
    x, axis = torch.arange(6.).reshape(2, 3), Atom(2)
    u = torch.tensor([[10., 11., 12.], [20., 21., 22.]])
    grown = grow_tensor(x, [axis, Atom(3)], {0: {axis: "pair"}}, {axis: 6}, lambda dim: lambda *at: (x, (u, -u)))
    assert torch.equal(grown, torch.stack([x[0], x[1], u[0], -u[0], u[1], -u[1]]))
