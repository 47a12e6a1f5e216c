"""Zeros on demand: which parameters make new positions of a value zero, where something else than zeros would be seen."""
from __future__ import annotations

from math import prod

from torch import Tensor

from fxgrow.aten import POOLED, at_zero
from fxgrow.axis import Contract, Map, Normalise, Op, Reduce, Value
from fxgrow.common import Refusal
from fxgrow.contents.bindings import Bindings
from fxgrow.contents.kinds import ZERO, Var

PER_CHANNEL = ("batch_norm", "standardise")


def makers_of_zeros(held: Bindings, value: Value, dim: int) -> set[tuple[str, int]]:
    """Return the parameter axes that make new positions of a value zero by being zero there, the last before it.

    Raises:
        Refusal: something on the way is other than zero all the same.
    """
    if value.source is not None:
        return {(value.source, dim)}
    op = value.op
    if value.constant == "zeros":
        return set()
    if op is not None and op.name in PER_CHANNEL and affine_of(op):
        sources = [(i, d) for i, d in held.sources(op, dim) if i in affine_of(op)]
    elif isinstance(op, (Contract, Normalise)) or getattr(op, "fn", "") == "mul":
        sources = _smallest(held, op, held.sources(op, dim))  # type: ignore[arg-type]
    elif isinstance(op, (Map, Reduce)) and op.fn in ("linear", "odd", "fn0", "div") and not getattr(op, "const", False):
        sources = held.sources(op, dim)[:1 if op.fn == "div" else None]
    else:
        sources = []
    if not sources:
        raise Refusal(f"{'what makes it' if op is None else op.node} gives no zeros that something else needs")
    return set().union(*(makers_of_zeros(held, op.ins[i], d) for i, d in sources))  # type: ignore[union-attr]


def slope_of(op: Op) -> tuple[bool, bool] | None:
    """Return whether an op's value at zero is other than zero, and its slope (None: not finite), as far as that is known."""
    made = op.outs[0].made
    if getattr(op, "fn", "") in ("mul", "div", "linear") or op.name in POOLED or "pool" in op.name:
        return False, True
    if made is None or made.name != op.name:
        return False, False
    return at_zero(op.name, len(op.ins[0].axes), made.args)


def may_vanish(held: Bindings, value: Value, dim: int) -> bool:
    """Tell whether new positions of a value, by what is known of them, may be zero throughout."""
    tag = held.tag(value, dim)
    if isinstance(tag, Var):
        return False
    if ZERO in getattr(tag, "contents", [tag]):
        return True
    op = value.op
    if value.source is not None or not isinstance(op, (Map, Reduce, Contract)) or getattr(op, "const", False):
        return False
    found = [may_vanish(held, op.ins[i], d) for i, d in held.sources(op, dim)]
    if isinstance(op, Contract) or getattr(op, "fn", "") in ("mul", "div"):
        return any(found)
    constant = op.fn == "linear" and len(found) < len(op.ins)
    return bool(found) and all(found) and not constant and not (slope_of(op) or (True,))[0]


def _smallest(held: Bindings, op: Op, sources: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the operand of a product that is to be zero: of parameters that of the fewest numbers, such as a gain."""
    given = [(i, d) for i, d in sources if op.ins[i].param_only] or sources
    return sorted(given, key=lambda at: prod(axis.size for axis in op.ins[at[0]].axes))[:1]


def affine_of(op: Op) -> list[int]:
    """Return which operands of a norm of each channel are its weight and, behind that, its bias."""
    made = op.outs[0].made
    given = [isinstance(a, Tensor) for a in made.args[1:3]] if made is not None else []
    return list(range(1, 1 + sum(given))) if given[:1] == [True] else []


def scaled_to_zero(held: Bindings, op: Op) -> bool:
    """Tell whether an op is a norm of each channel whose weight and bias are zero at all new positions."""
    affine = affine_of(op) if held.zeroed and op.name in PER_CHANNEL else []
    tags = [held.tag(op.ins[i], d) for i in affine for d in held.dims(op.ins[i])]
    return bool(tags) and set(tags) == {ZERO}
