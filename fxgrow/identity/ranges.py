"""Ranges of values: the numbers that an activation may see and give."""
from __future__ import annotations

from collections.abc import Iterable
from math import inf

from torch import Tensor

from fxgrow.aten import CLAMPS, POOLED, RANGES, REARRANGED
from fxgrow.identity.values import Range, Val


def union_of(vals: Iterable[Val]) -> Range:
    ranges = [v.range for v in vals]
    return min((r[0] for r in ranges), default=-inf), max((r[1] for r in ranges), default=inf)


def bounds_of(name: str, args: tuple, kwargs: dict) -> Range:
    """Of a clamping op, the interval that it clamps to."""
    if name in ("relu", "relu6"):
        return 0.0, 6.0 if name == "relu6" else inf
    low, high = (kwargs.get(k, args[i] if len(args) > i else d) for k, i, d in (
        ("min_val" if name == "hardtanh" else "min", 1, -1.0 if name == "hardtanh" else None),
        ("max_val" if name == "hardtanh" else "max", 2, 1.0 if name == "hardtanh" else None)))
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        return inf, -inf
    return -inf if low is None else float(low), inf if high is None else float(high)


def range_of(name: str, args: tuple, kwargs: dict, ins: list[Val]) -> Range:
    """An interval that holds every number of the result (sound; whole line where nothing is known)."""
    if name in RANGES:
        return RANGES[name]
    if not ins:
        return -inf, inf
    low, high = ins[0].range
    if name in CLAMPS:
        least, most = bounds_of(name, args, kwargs)
        return (max(low, least), min(max(high, least), most)) if least <= most else (-inf, inf)
    if name in REARRANGED or name in ("cat", "stack"):
        return union_of(ins)
    if name in POOLED and name != "sum" or name == "native_dropout":
        zero = 0.0 if name != "constant_pad_nd" else float(args[2]) if len(args) > 2 else 0.0
        return min(low, zero), max(high, zero)
    if name == "add" and len(ins) == 2 and kwargs.get("alpha", 1) == 1:
        return low + ins[1].range[0], high + ins[1].range[1]
    if name == "mul" and len(ins) == 2 and low >= 0 and ins[1].range[0] >= 0:
        return 0.0, inf
    return -inf, inf


def leaves_alone(v: Val, x: Range) -> bool:
    """Whether an activation gives back every number of the interval `x`."""
    if v.name in CLAMPS:
        least, most = bounds_of(v.name, v.args, {})
        return least <= x[0] and x[1] <= most
    if v.name in ("leaky_relu", "prelu", "_prelu_kernel", "abs", "rrelu_with_noise"):
        return x[0] >= 0
    if v.name in ("elu", "celu"):
        return x[0] >= 0 and v.arg(2, 1) in (1, 1.0) and v.name == "elu" or v.name == "celu" and x[0] >= 0
    return False
