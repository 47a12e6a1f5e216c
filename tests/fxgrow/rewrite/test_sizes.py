"""Sizes are checked by a run on meta tensors, from which what nothing grew in is left out."""
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.passes import Widen
from fxgrow.rewrite.arguments import keep_old_numbers


class Stages(nn.Module):
    """Three layers, of which the first is widened, a number that is computed from its size, and a turned result."""

    def __init__(self, turn: Callable[[Tensor], Tensor]):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(4, 6), nn.Linear(6, 4), nn.Linear(4, 5)
        self.turn = turn

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        y = torch.tanh(self.second(h / h.shape[1]))
        return self.turn(self.third(y))


# what turned a result in place has left it in another form than the one in which it was given
@pytest.mark.parametrize("turn, stay", [(lambda x: x.transpose(0, 1), {"tanh", "third", "transpose"}),
                                        (lambda x: x.transpose_(0, 1), {"tanh"})], ids=["anew", "in place"])
def test_only_what_grew_is_run_anew(turn, stay, monkeypatch):
    ran: list[str] = []

    def noting(node, numbers):
        ran.append(node.name)
        keep_old_numbers(node, numbers)

    monkeypatch.setattr("fxgrow.rewrite.sizes.keep_old_numbers", noting)
    model, x = Stages(turn).double(), torch.randn(3, 4, dtype=torch.float64)
    grown = fxgrow.transform(model, x, Widen("first", factor=2, seed=0))
    assert {"first", "relu", "second"} <= {*ran} and stay.isdisjoint(ran)
    assert fxgrow.verify(model, grown.model, x).exact_in == ("eval", "train")
