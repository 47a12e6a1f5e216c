"""Pointwise ops with broadcasting: every position is computed from the same position of the inputs."""
from collections.abc import Sequence

import torch
from torch import Tensor

from fxgrow.aten import FILLED, LINEAR, ODD, OTHER_POINTWISE, ZERO_AT_ZERO, tensors_in
from fxgrow.axis.expressions import Fixed
from fxgrow.axis.tape import Tape, rule
from fxgrow.axis.values import Map, Value


def broadcast(tape: Tape, name: str, tensors: Sequence[Tensor], out: Tensor) -> Value:
    """Align the inputs' axes at the right and unify those of the output's size; others must be of one position."""
    ins = [tape.of(t) for t in tensors]
    axes = []
    for j, size in enumerate(out.shape):
        here = [v.axes[j - out.ndim] for v in ins if len(v.axes) >= out.ndim - j]
        alike = [axis for axis in here if axis.size == size != 1]
        for axis in alike[1:]:
            tape.unify(alike[0], axis, name)
        tape.freeze_all((axis for axis in here if axis.size not in (1, size)), f"{name} gives it another size")
        axes.append(alike[0] if alike else Fixed(size))
    return tape.set(out, axes)


def pointwise(tape: Tape, name: str, tensors: Sequence[Tensor], outs, fn: str, const: bool = False) -> None:
    """Record an op that acts on each position alone, and give its results their axes."""
    first, *others = tensors_in((outs,))
    ins = [tape.of(t) for t in tensors]
    value = broadcast(tape, name, tensors, first)
    for other in (o for o in others if o.shape == first.shape):
        tape.set(other, value.axes)
    dmaps = [{i: i + first.ndim - len(v.axes) for i in range(len(v.axes))} for v in ins]
    tape.record(Map, name, ins, [value], fn=fn, dmaps=dmaps, const=const)


@rule(*FILLED)
def constants(tape, name, args, kwargs, out):
    """Put the same number at every position, whatever was there."""
    tape.set(out, [Fixed(1) if s == 1 else a for s, a in zip(out.shape, tape.of(args[0]).axes)]).constant = FILLED[name]


@rule("native_dropout")
def dropout(tape, name, args, kwargs, out):
    """Drop nothing outside of training; what is dropped at every call is never the same."""
    if len(args) > 2 and args[2] and args[1]:
        random_values(tape, name, args, kwargs, out[0])
    else:
        pointwise(tape, name, args[:1], out, "linear")


@rule(*LINEAR)
def linear(tape, name, args, kwargs, out):
    tensors, fn, const = tensors_in((*args, *kwargs.values())), "linear", False
    if name == "where":
        fn, const = "linear" if _is_plain(tape, tensors[0]) else "any", len(tensors) < 3
    elif name == "masked_fill":
        fn = "linear" if _is_plain(tape, args[1]) else "any"
        const = isinstance(args[2], Tensor) or args[2] != 0
    elif name == "_to_copy" and not out.is_floating_point() and not out.is_complex():
        fn = "fn0" if out.dtype is torch.bool else "odd"
    elif name in ("add", "sub", "rsub"):
        const = len(args) > 1 and isinstance(args[1], (int, float)) and args[1] != 0
        name += " of a multiple" if kwargs.get("alpha", 1) != 1 else ""
    pointwise(tape, name, tensors, out, fn, const)


@rule("copy")
def copy(tape, name, args, kwargs, out):
    """Forget what was there; its axes are those of what is there now."""
    old, new = map(tape.of, args[:2])
    shift = out.ndim - len(new.axes)
    for i, axis in enumerate(new.axes):
        if axis.size > 1:
            tape.unify(old.axes[i + shift], axis, name)
    tape.map(name, [new], out, old.axes, [{i: i + shift for i in range(len(new.axes))}])


def _is_plain(tape: Tape, mask: Tensor) -> bool:
    return all(isinstance(a, Fixed) for a in tape.of(mask).axes)


@rule("mul", "div")
def mul(tape, name, args, kwargs, out):
    tensors = tensors_in((*args, *kwargs.values()))
    fn = name if len(tensors) > 1 else "linear"
    if name == "div" and (kwargs.get("rounding_mode") or not isinstance(args[0], Tensor)):
        fn = "any"
    pointwise(tape, name, tensors, out, fn)


@rule(*ODD, *OTHER_POINTWISE)
def odd_or_any(tape, name, args, kwargs, out):
    pointwise(tape, name, tensors_in((*args, *kwargs.values())), out, "odd" if name in ODD else "any")


@rule(*ZERO_AT_ZERO)
def zero_at_zero(tape, name, args, kwargs, out):
    fn = "fn0"
    if name in ("hardtanh", "clamp", "clip"):
        fn = "fn0" if _clips_around_zero(name, args) else "any"
    elif name == "pow":
        fn = _kind_of_power(*args[:2])
    pointwise(tape, name, tensors_in((*args, *kwargs.values())), out, fn)


def _clips_around_zero(name: str, args) -> bool:
    missing = (-1, 1) if name == "hardtanh" else (None, None)
    low, high = (*args[1:3], *missing)[:2]
    return not isinstance(low, Tensor) and not isinstance(high, Tensor) and (low is None or low <= 0) and \
        (high is None or high >= 0)


def _kind_of_power(base, exponent) -> str:
    """Return the kind of function (as for `Map.fn`) that a power is."""
    if not isinstance(base, Tensor) or isinstance(exponent, Tensor) or exponent <= 0:
        return "any"
    return "odd" if exponent % 2 == 1 else "fn0"


@rule("prelu", "_prelu_kernel")
def prelu(tape, name, args, kwargs, out):
    """Compute `prelu(x [N, C, ...], weight [C] or [1])`: the slope belongs to axis 1."""
    if args[1].ndim != 1 or args[0].ndim < 2:
        pointwise(tape, name, args, out, "fn0")
        return
    x, weight = map(tape.of, args)
    if weight.axes[0].size > 1:
        tape.unify(x.axes[1], weight.axes[0], "prelu")
    tape.map("prelu", [x, weight], out, x.axes, [{i: i for i in range(len(x.axes))}, {0: 1}], "fn0")


@rule("bernoulli", "rand_like", "randn_like", "randint_like", "random", "uniform", "normal", "exponential", "geometric",
      "cauchy", "log_normal", "multinomial", "poisson")
def random_values(tape, name, args, kwargs, out):
    tape.freeze_all(tape.of(args[0]).axes, "random values are drawn")
    tape.set(out, [Fixed(s) for s in out.shape])


@rule("glu")
def glu(tape, name, args, kwargs, out):
    """Compute `a * sigmoid(b)` of the two halves along a dimension."""
    x = tape.of(args[0])
    dim = (args[1] if len(args) > 1 else -1) % len(x.axes)
    half = out.shape[dim]
    left, right = tape.cut(x.axes[dim], [half, half], "glu")
    tape.unify(left, right, "glu")
    tape.map("glu", [x], out, [left if i == dim else a for i, a in enumerate(x.axes)], [None], "any")
