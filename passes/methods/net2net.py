"""Net2WiderNet (Chen 2015, eq. 1-3): new positions copy old ones g(j); consumers share the old column out.

`U'[:, j] = U[:, g(j)]` and `W'[j, h] = s_j W[g(j), h]` with the shares of one old position summing to one (1/count in
the paper). Unequal shares keep the sum and break the symmetry between copies.
"""
import torch
from torch import Tensor

from fxgrow.passes.methods.initial import Drawing


def copy(x: Tensor, axis: int, drawing: Drawing) -> tuple[Tensor, Tensor]:
    """Return x and, behind it, `x[g]` along `axis`; a kernel's copies differ by `noise` times its deviation."""
    new = x.index_select(axis, drawing.source.to(x.device))
    if drawing.noise and not drawing.per_position and not x.is_meta:
        drawn = torch.randn(new.shape, dtype=new.dtype, generator=drawing.draws.generator)
        new += drawn.to(x.device) * drawing.noise * x.std()
    return x, new


def share(x: Tensor, axis: int, drawing: Drawing) -> tuple[Tensor, Tensor]:
    """Return x and, behind it, `x[g]` along `axis`, both times their shares."""
    old, new = drawing.shares.to(x).view(-1, *[1] * (x.ndim - axis - 1)).split([drawing.n, drawing.m - drawing.n])
    return x * old, x.index_select(axis, drawing.source.to(x.device)) * new
