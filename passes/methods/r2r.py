"""R2R (Painter): new positions come in pairs (u, u) whose uses cancel (v, -v); u and v are free.

With x the old positions, h = [x, u, u] and consumer columns [W, V, -V]: W x + V u - V u = W x for every u and V.
"""
from torch import Tensor

from fxgrow.passes.methods.initial import Drawing
from fxgrow.rewrite import New


def pair(x: Tensor, axis: int, drawing: Drawing) -> tuple[Tensor, New]:
    """Return x and, behind it, `u1, u1, u2, u2, ...` along `axis` (m - n is even)."""
    if drawing.constant:
        return x, drawing.new(x, axis, drawing.m - drawing.n, drawing.source)
    return x, drawing.in_turn(x, axis, 1, 1)


def signed(x: Tensor, axis: int, drawing: Drawing) -> tuple[Tensor, New]:
    """Return x and, behind it, `v1, -v1, v2, -v2, ...` along `axis`."""
    return x, drawing.in_turn(x, axis, 1, -1)
