"""What new positions contain: abstract interpretation of one class's growth, and the certificate that it is exact.

Growing an atom from n to m positions leaves position j < n where it was. What the new positions hold is one of a few
invariants ("contents"), chosen where they are produced and carried forward op by op; at each sum over the class the
consumer's new columns are the complement that makes the new terms vanish. An op that keeps no invariant stops the
method, with its reason. Nothing here touches numbers: methods (fxgrow.passes.methods) turn contents into tensors.

| content | new positions hold | complement |
|---|---|---|
| pair    | (u, u), two by two                      | signed |
| signed  | (v, -v)                                 | pair   |
| free    | anything                                | zero   |
| zero    | zero                                    | free   |
| average | the mean over the old positions         | zero   |
| copy    | the old position g(j)                   | share  |
| share   | g(j) times its share, shares sum to one | copy   |
"""
from __future__ import annotations

from fxgrow.axis import Atom, Op, Prod, Tape, atoms, resolve
from fxgrow.common import Refusal
from fxgrow.contents.certificate import Certificate
from fxgrow.contents.interpreter import Interpreter, NeedsFlip

# The bases to try for a wanted one, in this order.
FALLBACKS = {"pair": ("pair", "average", "zero", "free", "copy"), "free": ("free", "average", "zero", "copy"),
             "copy": ("copy", "average", "zero", "free")}


def certify(tape: Tape, atom: Atom, base: str, exact: bool = True) -> Certificate:
    """A certificate that growing `atom` with contents `base` preserves the function (with `exact=False`: only how to
    fill the tensors).

    Raises:
        Refusal: with the place and the reason.
    """
    for name, dim in tape.params_of[atom]:
        if isinstance(e := resolve(tape.params[name].axes[dim]), Prod) and e.parts.count(atom) > 1:
            raise Refusal("it occurs twice in one product")
    for op in tape.ops_of[atom]:
        for v in (*op.ins, *op.outs):
            if not v.param_only and len(v.places.get(atom, ())) > 1:
                raise Refusal(f"it is on two axes of one value in {op.node}")
    flips: set[tuple] = set()
    for _ in range(8):
        interpreter = Interpreter(tape, atom, base, flips, exact)
        try:
            certificate = interpreter.run()
            if exact and base in ("average", "zero") and not certificate.norms:
                raise Refusal("no norm over it asks for it")
            return certificate
        except NeedsFlip as stop:
            new = _flip(interpreter, stop.op, flips)
            if new is None:
                raise Refusal(str(stop)) from stop
            flips |= new
    raise Refusal("products of values over it contradict each other")


def _flip(interpreter: Interpreter, op: Op, flips: set[tuple]) -> set[tuple] | None:
    """The producers of one side of a product of two values, to carry the complement."""
    summed = [(op.ins[i], d) for i, d, e in op.reduced if interpreter.atom in atoms(e)]
    sides = [interpreter._producers(v, d) for v, d in summed]
    for (value, _), side in zip(summed, sides):
        if value.param_only:  # the parameter is a producer elsewhere (tied weights)
            return side if side and not side & flips else None
    for one, two in ((1, 0), (0, 1)):
        if sides[one] and not sides[one] & sides[two] and not sides[one] & flips and not sides[two] & flips:
            return sides[one]
    return None
