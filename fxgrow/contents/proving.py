"""Certificates: abstract interpretation of one class's growth, tried until an assignment of contents is exact.

Position j < n stays where it was as n become m. What the new ones hold is one of a few invariants (kinds.py), chosen where
they are produced and carried forward op by op; at each sum over the class the consumer's new columns are the complement that
makes the new terms vanish. Nothing here touches numbers: methods (fxgrow.passes.methods) turn contents into tensors.
"""
from __future__ import annotations

from fxgrow.axis import Atom, Op, Prod, Tape, atoms, resolve
from fxgrow.common import Refusal
from fxgrow.contents.bindings import Certificate, Flip
from fxgrow.contents.interpreter import Interpreter, NeedsFlip, NeedsZeros
from fxgrow.contents.kinds import AVERAGE, COPY, FREE, PAIR, ZERO, Content

# The contents to try for a wanted one, in this order.
FALLBACKS = {PAIR: (PAIR, AVERAGE, ZERO, FREE, COPY), FREE: (FREE, AVERAGE, ZERO, COPY, PAIR),
             COPY: (COPY, AVERAGE, ZERO, FREE, PAIR)}
SCALED = (AVERAGE, ZERO, COPY)  # those to try with other weights scaled, where none of them is exact otherwise
MOST_RUNS = 16  # with one side of a product or the other turned


def certify(tape: Tape, atom: Atom, base: str, exact: bool = True, scaling: bool = False) -> Certificate:
    """Prove that growing `atom` with contents `base` preserves the function.

    Args:
        base: a `Content` or its name.
        exact: otherwise only say how to fill the tensors.
        scaling: let weights that are no norm's take factors back too, in front of a sum of copies or behind.

    Raises:
        Refusal: with the place and the reason.
    """
    _refuse_repeated(tape, atom)
    todo: list[tuple[frozenset[Flip], frozenset[tuple[str, int]]]] = [(frozenset(), frozenset())]
    reason = ""
    for _ in range(MOST_RUNS):
        flips, zeroed = todo.pop()
        interpreter = Interpreter(tape, atom, Content(base), flips, exact, scaling, zeroed)
        try:
            certificate = interpreter.run()
            unasked = all(norm.op.outs[0].param_only for norm in certificate.norms) and not interpreter.asked
            if exact and base in (AVERAGE, ZERO) and unasked:
                raise Refusal("no norm over it asks for it")
            return certificate
        except NeedsFlip as stop:
            turned = [] if scaling else [side for op in stop.ops for side in _turned(interpreter, op, flips)]
            more = set().union(*map(interpreter.zeros_for, stop.ops)) - zeroed
            todo += [(flips | side, zeroed) for side in reversed(turned)]
            todo[:0] = [(flips, zeroed | more)] if more else []
            reason = reason or ("" if turned or more else str(stop))
        except NeedsZeros as stop:
            more = stop.places - zeroed
            todo += [(flips, zeroed | more)] if more else []
            reason = reason or ("" if more else str(stop))
        except Refusal as why:
            reason = reason or str(why)
        if not todo:
            break
    raise Refusal(reason or "products of values over it contradict each other")


def _refuse_repeated(tape: Tape, atom: Atom) -> None:
    """Refuse a class that is on one tensor twice."""
    for name, dim in tape.params_of[atom]:
        axis = resolve(tape.params[name].axes[dim])
        if isinstance(axis, Prod) and axis.parts.count(atom) > 1:
            raise Refusal("it occurs twice in one product")
    for op in tape.ops_of[atom]:
        for v in (*op.ins, *op.outs):
            if not v.param_only and len(v.places.get(atom, ())) > 1:
                raise Refusal(f"it is on two axes of one value in {op.node}")


def _turned(interpreter: Interpreter, op: Op, flips: frozenset[Flip]) -> list[set[Flip]]:
    """Return the producers of either side of a product, the better choice first: one side is to carry the complement."""
    factors = [(op.ins[i], d) for i, d, e in op.reduced if interpreter.atom in atoms(e)] or interpreter.factors(op)
    try:
        sides = [interpreter.producers(v, d) for v, d in factors]
    except Refusal:
        return []
    for (value, _), side in zip(factors, sides):
        if value.param_only:  # the parameter is a producer elsewhere (tied weights)
            return [side] if side and not side & flips else []
    if any(side & flips for side in sides) or len(sides) != 2 or sides[0] & sides[1]:
        return []
    return sorted(filter(None, reversed(sides)), key=len)  # a weight that is looked up rather than a whole stream
