"""Reductions over dimensions, and ops that mix the positions of one dimension."""
from __future__ import annotations

from torch import Tensor

from fxgrow._analysis import rule
from fxgrow._axis import Fixed, is_fixed

HOW = {"sum": "sum", "mean": "mean", "amax": "max", "amin": "max", "max": "max", "min": "max", "var": "mean",
       "var_mean": "mean", "std": "mean", "std_mean": "mean", "linalg_vector_norm": "norm", "norm": "norm"}


def _dims(name, args, kwargs, ndim) -> list[int]:
    at = {"linalg_vector_norm": 2, "norm": 2}.get(name, 1)
    dims = kwargs.get("dim", args[at] if len(args) > at else None)
    if dims is None or isinstance(dims, Tensor) or isinstance(dims, (list, tuple)) and not dims:
        return list(range(ndim))
    return [d % ndim for d in (dims if isinstance(dims, (list, tuple)) else (dims,))] if ndim else []


@rule(*HOW)
def reduce(tape, name, args, kwargs, out):
    if name in ("max", "min") and len(args) > 1 and isinstance(args[1], Tensor):
        from fxgrow.rules.elementwise import pointwise
        return pointwise(tape, name, [args[0], args[1]], out, "any")
    x = tape.of(args[0])
    dims = _dims(name, args, kwargs, len(x.axes))
    outs = [o for o in (out if isinstance(out, (tuple, list)) else [out]) if isinstance(o, Tensor)]
    keep = outs[0].ndim == len(x.axes)
    kept = [i for i in range(len(x.axes)) if keep or i not in dims]
    axes = [Fixed(1) if i in dims else x.axes[i] for i in kept]
    values = [tape.set(o, axes) for o in outs]
    tape.record("reduce", name, [x], values, how=HOW[name], fn="linear" if name in ("sum", "mean") else "any",
                dmaps=[{i: j for j, i in enumerate(kept) if i not in dims}],
                reduced=[(0, i, x.axes[i]) for i in dims])


@rule("_softmax", "_log_softmax", "softmax", "log_softmax", "cumsum", "cumprod", "sort", "topk", "argmax", "argmin", "flip",
      "roll", "_safe_softmax", "logsumexp", "logcumsumexp", "renorm")
def mixes_one_dimension(tape, name, args, kwargs, out):
    """Positions of one dimension depend on each other: it keeps its size; the other dimensions are mapped."""
    x = tape.of(args[0])
    at = {"roll": 2, "topk": 2}.get(name, 1)
    dims = kwargs.get("dim", kwargs.get("dims", args[at] if len(args) > at else -1))
    dims = [d % len(x.axes) for d in (dims if isinstance(dims, (list, tuple)) else (dims if dims is not None else -1,))]
    for d in dims:
        if not is_fixed(x.axes[d]):
            tape.freeze(x.axes[d], f"{name.strip('_')} runs over it")
    for o in out if isinstance(out, (tuple, list)) else [out]:
        if not isinstance(o, Tensor):
            continue
        gone = o.ndim < len(x.axes)
        kept = [i for i in range(len(x.axes)) if not (gone and i in dims)]
        value = tape.set(o, [Fixed(o.shape[j]) if i in dims else x.axes[i] for j, i in enumerate(kept)])
        tape.record("map", name, [x], [value], fn="any", dmaps=[{i: j for j, i in enumerate(kept)}])
