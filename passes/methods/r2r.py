"""R2R (Painter): new positions come in pairs (u, u) whose uses cancel (v, -v); u and v are free.

With x the old positions, h = [x, u, u] and consumer columns [W, V, -V]: W x + V u - V u = W x for every u and V.
"""
from torch import Tensor

from fxgrow.passes.methods.initial import Drawing


def pair(x: Tensor, axis: int, drawing: Drawing) -> tuple[Tensor, Tensor]:
    """Return x and, behind it, `u1, u1, u2, u2, ...` along `axis` (m - n is even)."""
    if drawing.constant:
        return x, drawing.new(x, axis, drawing.m - drawing.n, drawing.source)
    u = drawing.new(x, axis, (drawing.m - drawing.n) // 2, drawing.source[::2])
    return x, _twice(u, axis).flatten(axis, axis + 1)


def signed(x: Tensor, axis: int, drawing: Drawing) -> tuple[Tensor, Tensor]:
    """Return x and, behind it, `v1, -v1, v2, -v2, ...` along `axis`."""
    v = drawing.new(x, axis, (drawing.m - drawing.n) // 2, drawing.source[::2])
    both = _twice(v, axis)
    both.select(axis + 1, 1).neg_()
    return x, both.flatten(axis, axis + 1)


def _twice(u: Tensor, axis: int) -> Tensor:
    """Return two copies of `u`, position by position along an axis of their own behind `axis`."""
    both = u.new_empty((*u.shape[:axis + 1], 2, *u.shape[axis + 1:]))
    for i in (0, 1):  # torch.stack takes ten times as long where few numbers lie behind the axis
        both.select(axis + 1, i).copy_(u)
    return both
