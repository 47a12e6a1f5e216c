"""Blocks of experts that both models have: in the match, each expert computes each row, with the router's weights.

A class of transformers sorts rows by their expert, so that its graph hides what the experts' numbers do. With the same
numbers under the same names, the block that is matched gives the same result by products alone.
"""
import copy
from typing import Any

import torch
from torch import Tensor, nn

from fxgrow.errors import GrowthError
from fxgrow.passes.into.mixtures import ROWS, TENSORS, close, experts_of, to_look_at


class Open(nn.Module):
    """Experts that all compute each row, with the tensors of the block that they stand for."""

    def __init__(self, experts: Any):
        super().__init__()
        for name in TENSORS:
            setattr(self, name, experts.get_parameter(name))
        self.act_fn = experts.act_fn

    def forward(self, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """Compute the result for rows `[rows, width]`, of which each has experts by number, and their weights."""
        gate, up = torch.matmul(x, self.gate_up_proj.transpose(1, 2)).chunk(2, -1)
        made = torch.matmul(self.act_fn(gate) * up, self.down_proj.transpose(1, 2))  # [experts, rows, width]
        shares = torch.zeros(len(x), len(made), dtype=weights.dtype, device=x.device).scatter(1, chosen, weights)
        return (made * shares.t()[:, :, None]).sum(0).to(x.dtype)


def with_open_experts(model: nn.Module) -> nn.Module:
    """Return a model whose experts all compute each row; raise GrowthError where they keep their numbers in another way."""
    found = copy.deepcopy(model)
    for path, experts in list(experts_of(found)):
        _insist_known(path, experts)
        found.set_submodule(path, Open(experts))
    return found


@torch.no_grad()
def _insist_known(path: str, experts: nn.Module) -> None:
    inner: Any = to_look_at(experts)
    count, width, _ = inner.down_proj.shape
    draw = torch.Generator().manual_seed(0)
    x, weights = torch.randn(ROWS, width, generator=draw), torch.rand(ROWS, 2, generator=draw)
    chosen = torch.stack([torch.arange(ROWS), torch.arange(ROWS) + 1], 1) % count
    device = inner.down_proj.device
    rows = x.to(device), chosen.to(device), weights.to(device)
    if not close(Open(inner)(*rows), inner(*rows)):
        raise GrowthError(f"{path} ({type(inner).__name__}) keeps its experts in a layout that is not known: the first half "
                          "of gate_up_proj would be the gate, and there would be no biases")
