"""New columns of a weight whose rows are normalised: they keep the mean of each row, and its variance up to a factor.

With mean c and variance s^2 of a row, columns c + v and c - v whose v^2 are s^2 in the mean leave both as they are, and are
v / s and -v / s in the normalised row. Columns c make the variance s^2 n/m, and are zero there.
"""
import torch
from torch import Tensor

from fxgrow.contents import Rows
from fxgrow.passes.methods.initial import Drawing, RowStatistics


def statistics(x: Tensor, rows: Rows, dim: int, ndim: int) -> RowStatistics:
    """Return mean and deviation of the rows of x, for a view of `ndim` dimensions that takes dimension `dim` apart."""
    along = [d for d in range(x.ndim) if d not in rows.kept]
    mean = x.mean(along, keepdim=True) if rows.centred else x.new_zeros(()).expand(x.sum(along, keepdim=True).shape)
    squares = (x - mean).abs().square().sum(along, keepdim=True)
    deviation = (squares / (x.numel() // mean.numel() - (rows.correction or 0))).sqrt()
    apart = [1 + ndim - x.ndim if d == dim else 1 for d in range(x.ndim)]
    shape = [n for size, count in zip(mean.shape, apart) for n in (size, *[1] * (count - 1))]
    kept = {d if d < dim else d + ndim - x.ndim for d in rows.kept}
    return RowStatistics(mean.reshape(shape), deviation.reshape(shape), tuple(d for d in range(ndim) if d not in kept))


def at_mean(x: Tensor, axis: int, drawing: Drawing) -> tuple[Tensor, Tensor]:
    """Return x and, behind it, the mean of each row along `axis`."""
    new = [drawing.m - drawing.n if d == axis else n for d, n in enumerate(x.shape)]
    return x, drawing.rows.mean.expand(new)


def spread(x: Tensor, axis: int, drawing: Drawing) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Return x and, behind it, `c + v1, c - v1, c + v2, c - v2, ...` along `axis` (m - n is even)."""
    rows = drawing.rows
    v = drawing.new(x, axis, (drawing.m - drawing.n) // 2, drawing.source[::2])
    v = torch.where(v.abs().square().sum(rows.dims, keepdim=True) > 0, v, 1)
    v = v * (rows.deviation / v.abs().square().mean(rows.dims, keepdim=True).sqrt())
    return x, (rows.mean + v, rows.mean - v)
