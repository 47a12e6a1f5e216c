"""Abstract values of the identity analysis, and the ranges that hold their numbers."""
from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from math import inf
from typing import Any

from torch import Tensor

from fxgrow.aten import CLAMPS, ODD, POOLED, RANGES, REARRANGED, ZERO_AT_ZERO, Recorded, at_zero

Range = tuple[float, float]
KEPT_FROM_ZERO = ("leaky_relu", "prelu", "_prelu_kernel", "abs", "rrelu_with_noise", "celu")  # f(x) = x for x >= 0


@dataclass(eq=False)
class Val(Recorded):
    """One result of an ATen op, and the op; its `ins` are Vals.

    tensor: on the meta device. of: for each positional argument, its Val where it is one tensor. at: which of several
    results. alpha: of a sum, the factor on its second operand. source: the parameter or buffer that it is. serial: grows
    from op to op.
    """
    tensor: Tensor = None  # type: ignore[assignment]
    of: list[Val | None] = field(default_factory=list)
    at: int = 0
    alpha: Any = 1
    source: str | None = None
    param_only: bool = False
    range: Range = (-inf, inf)
    serial: int = field(default_factory=itertools.count().__next__)

    def operand(self, position: int | None) -> Val | None:
        """Return the tensor at a position among the arguments, if there is one."""
        return None if position is None or position >= len(self.of) else self.of[position]

    def parameter(self, position: int | None) -> str | None:
        """Return the parameter that the tensor at a position among the arguments is a plain view of."""
        v = self.operand(position)
        while v is not None and v.source is None and v.param_only and len(v.ins) == 1 and v.name in REARRANGED:
            v = v.ins[0]
        return None if v is None else v.source


def in_the_way(v: Val) -> str:
    """Say that an op keeps a block from being the identity."""
    return f"{v.name.strip('_') or 'a value'} at {v.place or 'its input'} is in the way"


def union(*ranges: Range) -> Range:
    """Return the smallest interval around all `ranges`."""
    return min(low for low, _ in ranges), max(high for _, high in ranges)


def range_of(v: Val) -> Range:
    """Return an interval that holds every number of the result: the whole line where nothing is known."""
    if v.name in RANGES:
        return RANGES[v.name]
    if not v.ins:
        return -inf, inf
    if v.name in CLAMPS:
        (low, high), (least, most) = v.ins[0].range, _bounds(v)
        return (max(low, least), min(max(high, least), most)) if least <= most else (-inf, inf)
    if v.name in REARRANGED or v.name in ("cat", "stack"):
        return union(*(i.range for i in v.ins))
    if (v.name in POOLED and v.name != "sum") or v.name == "native_dropout":
        border = float(v.arg(2, 0.0)) if v.name == "constant_pad_nd" else 0.0
        return union(v.ins[0].range, (border, border))
    return _range_of_arithmetic(v)


def _range_of_arithmetic(v: Val) -> Range:
    if len(v.ins) == 2:
        (low, high), (other_low, other_high) = v.ins[0].range, v.ins[1].range
        if v.name == "add" and v.alpha == 1:
            return low + other_low, high + other_high
        if v.name == "mul" and low >= 0 and other_low >= 0:
            return 0.0, inf
    return -inf, inf


def _bounds(v: Val) -> Range:
    """Return the interval that a clamping op clamps to, an empty one where tensors bound it."""
    if v.name in ("relu", "relu6"):
        return 0.0, 6.0 if v.name == "relu6" else inf
    least, most = (-1.0, 1.0) if v.name == "hardtanh" else (None, None)
    low, high = v.arg(1, least), v.arg(2, most)
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        return inf, -inf
    return -inf if low is None else float(low), inf if high is None else float(high)


def leaves_alone(v: Val, x: Range) -> bool:
    """Return whether an activation gives back every number of the interval `x`."""
    if v.name in CLAMPS:
        least, most = _bounds(v)
        return least <= x[0] and x[1] <= most
    return x[0] >= 0 and (v.name in KEPT_FROM_ZERO or (v.name == "elu" and v.arg(2, 1) == 1))


def keeps_zero(v: Val) -> bool:
    """Return whether f(0) = 0 for the arguments at hand."""
    if v.name in CLAMPS:
        least, most = _bounds(v)
        return least <= 0 <= most
    if v.name == "pow":
        return isinstance(v.arg(1), (int, float)) and v.arg(1) > 0
    return v.name != "constant_pad_nd" or v.arg(2, 0) == 0


def is_dead(v: Val) -> bool:
    """Return whether the slope of an activation at zero is zero, or there is none."""
    if v.name not in (*ODD, *ZERO_AT_ZERO) or len(v.ins) != 1:
        return False
    found = at_zero(v.name, v.tensor.ndim, v.args)
    return found is None or not found[1]
