"""Net2WiderNet (Chen 2015, eq. 1-3): new positions copy old ones g(j); consumers share the old column out.

`U'[:, j] = U[:, g(j)]` and `W'[j, h] = s_j W[g(j), h]` with the shares of one old position summing to one (1/count in
the paper). Unequal shares keep the sum and break the symmetry between copies.
"""
from __future__ import annotations

import torch
from torch import Tensor

from fxgrow.passes.methods.initial import Drawing


def _gathered(x: Tensor, axis: int, drawing: Drawing) -> Tensor:
    old = torch.arange(drawing.n)
    return x.index_select(axis, torch.cat([old, drawing.source]).to(x.device))


def copy(x: Tensor, axis: int, drawing: Drawing) -> Tensor:
    """`x[g]` along `axis`; with `noise`, the copies of a kernel differ by noise of that fraction of its deviation."""
    out = _gathered(x, axis, drawing)
    if drawing.noise and not drawing.per_position and not x.is_meta:
        new = out.narrow(axis, drawing.n, drawing.m - drawing.n)
        new += torch.randn(new.shape, dtype=new.dtype, generator=drawing.generator).to(x.device) * drawing.noise * x.std()
    return out


def share(x: Tensor, axis: int, drawing: Drawing) -> Tensor:
    """`x[g] * shares` along `axis`."""
    shares = drawing.shares.to(x).view(-1, *[1] * (x.ndim - axis - 1))
    return _gathered(x, axis, drawing) * shares
