"""Whether new numbers can learn: which of a class's new positions a gradient reaches within a few steps of training.

A sum of zeros times zeros changes nothing, but passes no gradient to either side either. Where both are used elsewhere too
(an embedding that is the head's weight, under a norm), that is no harm: so it is asked of each parameter, at the end. The
second step reaches what the first one's numbers are multiplied with, the third a norm's weight behind those.
"""
from __future__ import annotations

from fxgrow.axis import Contract, Map, Normalise, Op, Value, atoms
from fxgrow.contents.bindings import Bindings
from fxgrow.contents.kinds import NIL, ZERO, ByPart

Place = tuple[Value, int]  # a dimension of a value
STEPS = 3
FLAT = {"relu", "relu6", "square", "pow", "abs", "sqrt"}  # without a slope at zero


def unreached(held: Bindings) -> list[tuple[str, int]]:
    """Return the parameter axes whose new positions no gradient reaches within so many steps."""
    live = {(value, dim) for value, dim in _places(held) if _holds(held, value, dim)}
    waiting = dict.fromkeys(held.out.contents)
    for _ in range(STEPS):
        reached = _reached(held, live)
        for name, dim in list(waiting):
            if (held.tape.params[name], dim) in reached:
                del waiting[name, dim]
        live |= {place for place in reached if place[0].source is not None}
        for op in held.tape.ops_of[held.atom]:
            live |= {(out, dim) for out in op.outs for dim in held.dims(out) if _carries(held, op, dim, live)}
    return list(waiting)


def _places(held: Bindings) -> set[Place]:
    return {(v, dim) for op in held.tape.ops_of[held.atom] for v in (*op.ins, *op.outs) for dim in held.dims(v)}


def _holds(held: Bindings, value: Value, dim: int) -> bool:
    """Return whether the new positions of a value are other than zero."""
    tag = held.tag(value, dim)
    return any(each not in (ZERO, NIL) for each in (tag.contents if isinstance(tag, ByPart) else (tag,)))


def _carries(held: Bindings, op: Op, dim: int, live: set[Place]) -> bool:
    """Return whether a dimension of a result is other than zero once these places are."""
    arriving = [(op.ins[i], d) in live for i, d in held.sources(op, dim)]
    return bool(arriving) and (all if _multiplies(op) else any)(arriving)


def _reached(held: Bindings, live: set[Place]) -> set[Place]:
    """Return where a gradient of the output arrives while only these places are other than zero."""
    reached: set[Place] = set()
    for op in reversed(held.tape.ops_of[held.atom]):
        summed = [(op.ins[i], d) for i, d, e in op.reduced if held.atom in atoms(e) and not isinstance(op, Normalise)]
        for place in summed:
            if len(summed) == 1 or any(other in live for other in summed if other is not place):
                reached.add(place)
        for dim in {d for out in op.outs for d in held.dims(out)}:
            if any((out, dim) in reached for out in op.outs):
                arriving = [(op.ins[i], d) for i, d in held.sources(op, dim)]
                reached.update(place for place in arriving if _passes(op, place, arriving, live))
    return reached


def _passes(op: Op, place: Place, arriving: list[Place], live: set[Place]) -> bool:
    """Return whether an op hands the gradient of its result on to one of the places that arrive there."""
    if op.name in FLAT:
        return place in live
    return not _multiplies(op) or all(other in live for other in arriving if other is not place)


def _multiplies(op: Op) -> bool:
    """Return whether a result is zero where one of the operands is."""
    return isinstance(op, (Contract, Normalise)) or (isinstance(op, Map) and op.fn == "mul")
