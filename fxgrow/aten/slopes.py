"""What a function of one tensor does at zero, found by running it there: its value, and whether it has a slope."""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fxgrow.aten.schema import tensors_in

_known: dict[tuple, tuple[bool, bool] | None] = {}


def at_zero(name: str, ndim: int, args: Sequence) -> tuple[bool, bool] | None:
    """Return whether an ATen op's value at zero is other than zero, and its slope; None: one of them is not finite.

    ndim: of the tensor that it takes, the first of `args`. Where it takes several, or cannot be run so: neither.
    """
    if len(tensors_in(tuple(args))) != 1:
        return False, False
    key = (name, ndim, repr(args[1:]))
    if key not in _known:
        _known[key] = _run(name, ndim, args[1:])
    return _known[key]


def _run(name: str, ndim: int, rest: Sequence) -> tuple[bool, bool] | None:
    zeros = torch.zeros([2] * ndim, dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        try:
            out = getattr(torch.ops.aten, name)(zeros, *rest)
            out = out if isinstance(out, Tensor) else out[0]
            if not out.requires_grad:
                return bool(out.any()), False
            slope, = torch.autograd.grad((out * torch.arange(1, out.numel() + 1).view(out.shape)).sum(), zeros)
        except Exception:  # it takes other arguments than those that were written down
            return False, False
    finite = bool(out.isfinite().all() and slope.isfinite().all())
    return (bool(out.any()), bool(slope.any())) if finite else None
