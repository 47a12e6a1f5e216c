"""Average expansion for LayerNorm streams (LEMON, Wang 2023): new positions hold the mean of the old ones.

With m - n positions at the mean, the mean of all m stays, the variance becomes n/m of it, and the normalised new
positions are zero: weight * sqrt(n/m) and eps * n/m give back the old values, and consumers' new columns are free.
"""
from torch import Tensor

from fxgrow.passes.methods.initial import Drawing


def average(x: Tensor, axis: int, drawing: Drawing) -> tuple[Tensor, Tensor]:
    """Return x and, behind it, `mean(x)` along `axis`, weighted by `drawing.weight` where there is a layer scale behind."""
    if drawing.weight is None:
        mean = x.mean(axis, keepdim=True)
    else:
        mean = (x * drawing.weight.to(x).view(-1, *[1] * (x.ndim - axis - 1))).sum(axis, keepdim=True)
    return x, mean.expand(*x.shape[:axis], drawing.m - drawing.n, *x.shape[axis + 1:])
