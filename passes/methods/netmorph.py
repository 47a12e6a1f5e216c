"""Network morphism (Wei 2016, section 3): new positions are free where they are produced and unused where consumed."""
from __future__ import annotations

import torch
from torch import Tensor

from fxgrow.passes.methods.initial import Drawing


def free(x: Tensor, axis: int, drawing: Drawing) -> Tensor:
    """`[x; u]` along `axis`, u drawn."""
    return torch.cat([x, drawing.new(x, axis, drawing.m - drawing.n, drawing.source)], axis)


def zero(x: Tensor, axis: int, drawing: Drawing) -> Tensor:
    """`[x; 0]` along `axis`."""
    return torch.cat([x, x.new_zeros(*x.shape[:axis], drawing.m - drawing.n, *x.shape[axis + 1:])], axis)
