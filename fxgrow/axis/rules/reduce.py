"""Reductions over dimensions, and ops that mix the positions of one dimension."""
from math import inf

import torch
from torch import Tensor

from fxgrow.aten import tensors_in
from fxgrow.axis.expressions import Fixed, is_fixed
from fxgrow.axis.rules.elementwise import pointwise
from fxgrow.axis.tape import rule
from fxgrow.axis.values import Reduce

FOURIER = ("_fft_r2c", "_fft_c2c", "_fft_c2r")
MIXED = dict.fromkeys(("cumsum", "flip", "roll", "tril", "triu", *FOURIER), "linear")
# What each takes over its dimensions, as far as it matters which contents keep it: copies keep a max and a mean, zeros a sum
# and a norm, opposite pairs a sum. Nothing keeps the others.
HOW = {"sum": "sum", "nansum": "sum", "mean": "mean", "amax": "max", "amin": "max", "max": "max", "min": "max", "any": "max",
       "all": "max", "aminmax": "max", "var": "mean", "var_mean": "mean", "std": "mean", "std_mean": "mean",
       "linalg_vector_norm": "norm", "norm": "norm", "prod": "product", **{name: name for name in (
           "median", "nanmedian", "mode", "kthvalue", "argmax", "argmin", "logsumexp", "count_nonzero")}}
AT = {"linalg_vector_norm": 2, "norm": 2, "kthvalue": 2}  # where the dimensions stand, if not next to the tensor
# Losses that take two tensors, perhaps weights, and how to reduce at this place.
LOSSES = {"mse_loss": 2, "smooth_l1_loss": 2, "huber_loss": 2, "soft_margin_loss": 2, "binary_cross_entropy": 3,
          "binary_cross_entropy_with_logits": 4}
OF_DIFFERENCES = ("mse_loss", "smooth_l1_loss", "huber_loss")  # and zero where there are none
WITH_PLACES = ("max", "min", "median", "nanmedian", "mode", "kthvalue")  # give the place of what they find as well


def dimensions(args, kwargs, ndim: int, at: int, missing: int | None) -> list[int]:
    """Return the dimensions named by an argument; all of them if it is missing, empty or None (or as `missing` says)."""
    dims = kwargs.get("dim", args[at] if len(args) > at else missing)
    if dims is None or isinstance(dims, (Tensor, str, torch.dtype)) or (isinstance(dims, (list, tuple)) and not dims):
        return list(range(ndim))
    return [d % ndim for d in (dims if isinstance(dims, (list, tuple)) else (dims,))] if ndim else []


def _how(name, args, kwargs) -> str:
    if name in ("var", "var_mean", "std", "std_mean"):
        correction = kwargs.get("correction", next((a for a in args[1:] if isinstance(a, bool)), 1))
        return {0: "mean", 1: "sample variance"}.get(correction, "another variance")
    if HOW[name] == "norm":
        order = args[1] if len(args) > 1 and args[1] is not None else 2
        other = "norm of another order" if order > 0 else "norm of no positive order"
        return {2: "norm", inf: "max", -inf: "max"}.get(order, other)
    return HOW[name]


@rule(*HOW)
def reduce(tape, name, args, kwargs, out):
    if name in ("max", "min") and len(args) > 1 and isinstance(args[1], Tensor):
        pointwise(tape, name, [args[0], args[1]], out, "any")
        return
    x = tape.of(args[0])
    dims = dimensions(args, kwargs, len(x.axes), AT.get(name, 1), -1 if name in ("mode", "kthvalue") else None)
    outs = tensors_in((out,))
    kept = [i for i in range(len(x.axes)) if outs[0].ndim == len(x.axes) or i not in dims]
    values = [tape.set(o, [Fixed(1) if i in dims else x.axes[i] for i in kept]) for o in outs]
    tape.record(Reduce, name, [x], values, how=_how(name, args, kwargs), fn="linear" if name in ("sum", "mean") else "any",
                dmaps=[{i: j for j, i in enumerate(kept) if i not in dims}], reduced=[(0, i, x.axes[i]) for i in dims])
    growable = [x.axes[i] for i in dims if not is_fixed(x.axes[i])]
    if name in WITH_PLACES and len(outs) > 1 and growable:  # copies of a maximum do not say which of them is found
        tape.freeze_if_read(outs[1], growable, f"{name} (a place)")


@rule("_cdist_forward", "_euclidean_dist")
def distances(tape, name, args, kwargs, out):
    """Take the norm of the differences of rows: `x [*, n, k]` and `y [*, m, k]` give `[*, n, m]`."""
    rows, order = [], args[2] if name == "_cdist_forward" else 2
    if order == inf:
        tape.freeze_all((tape.of(t).axes[-1] for t in args[:2]), "each of equal largest differences gets the whole gradient")
    for tensor, at in zip(args[:2], (-2, -3)):
        value, spread = tape.of(tensor), tensor.unsqueeze(at)
        axes = list(value.axes)
        axes.insert(spread.ndim + at, Fixed(1))
        kept = [i for i in range(spread.ndim) if i != spread.ndim + at]
        tape.map("unsqueeze", [value], spread, axes, [dict(enumerate(kept))])
        rows.append(spread)
    difference = rows[0] - rows[1]
    pointwise(tape, "sub", rows, difference, "linear")
    reduce(tape, "linalg_vector_norm", [difference, order, [-1]], {}, out)


@rule(*LOSSES)
def losses(tape, name, args, kwargs, out):
    """Take the mean (reduction 1) or sum (2) of a loss of each position, or neither."""
    at = LOSSES[name]
    tensors, loss, fn = tensors_in(args[:at]), args[0] + args[1], "any"
    if name in OF_DIFFERENCES:
        difference = args[0] - args[1]
        pointwise(tape, "sub", tensors, difference, "linear")
        tensors, fn = [difference], "fn0"
    how = kwargs.get("reduction", args[at] if len(args) > at else 1)
    pointwise(tape, "square" if name == "mse_loss" else name, tensors, loss if how else out, fn)
    if how:
        reduce(tape, {1: "mean", 2: "sum"}[how], [loss], {}, out)


@rule("_softmax", "_log_softmax", "cumsum", "cumprod", "sort", "topk", "flip", "roll", "_safe_softmax", "logcumsumexp",
      "renorm", "cummax", "cummin", "_cummax_helper", "argsort", "msort", "tril", "triu", *FOURIER)
def mixes_one_dimension(tape, name, args, kwargs, out):
    """Keep the size of one dimension, whose positions depend on each other; map the others."""
    x = tape.of(args[0])
    at = 2 if name in ("roll", "topk", "renorm") else 1
    dims = dimensions(args, kwargs, len(x.axes), at, {"roll": None, "msort": 0}.get(name, -1))
    if name == "renorm":  # the norm over all dimensions but the one that is given
        dims = [i for i in range(len(x.axes)) if i not in dims]
    elif name in ("tril", "triu"):
        dims = [len(x.axes) - 2, len(x.axes) - 1]
    tape.freeze_all((x.axes[d] for d in dims), f"{name.strip('_')} runs over it")
    for o in tensors_in((out,)):
        axes = [Fixed(o.shape[i]) if i in dims else a for i, a in enumerate(x.axes)]
        tape.map(name, [x], o, axes, fn=MIXED.get(name, "any"))
