"""Reading a trace: what a value is made of, and what lies between it and its source."""
from __future__ import annotations

import torch
from torch import Tensor

from fxgrow.aten import CLAMPS, REARRANGED
from fxgrow.identity.ranges import bounds_of
from fxgrow.identity.values import Val


def in_the_way(v: Val) -> str:
    return f"{v.name.strip('_') or 'a value'} at {v.place or 'its input'} is in the way"


def plain_source(v: Val) -> str | None:
    """The parameter that a value is a plain view of."""
    while v.source is None and v.param_only and len(v.ins) == 1 and v.name in REARRANGED:
        v = v.ins[0]
    return v.source


def only_tensors(v: Val) -> bool:
    """No plain number is added (and nothing is scaled differently: zero stays zero)."""
    return v.name not in ("add", "sub") or len(v.ins) == 2 or v.arg(1) == 0


def keeps_zero(v: Val) -> bool:
    """f(0) = 0 for the arguments at hand."""
    if v.name in CLAMPS:
        least, most = bounds_of(v.name, v.args, {})
        return least <= 0 <= most
    return v.name != "pow" or isinstance(v.arg(1), (int, float)) and v.arg(1) > 0


def is_dead(v: Val) -> bool:
    """The slope of an activation at zero is zero, or there is none."""
    return v.name in CLAMPS and 0 in bounds_of(v.name, v.args, {}) or v.name in ("abs", "square", "sqrt") or \
        v.name == "pow" and v.arg(1) != 1


def rearranged(v: Val, labels: Tensor) -> Tensor:
    """The op, done to labels."""
    if v.name in ("view", "_unsafe_view", "reshape", "_reshape_alias"):
        return labels.reshape(v.tensor.shape)
    if v.name in ("clone", "alias", "detach", "lift_fresh", "contiguous"):
        return labels
    if v.name == "constant_pad_nd":
        return torch.nn.functional.pad(labels, list(v.args[1]), value=-1)
    out = v.func(labels, *v.args[1:])
    return out[v.at] if isinstance(out, (tuple, list)) else out
