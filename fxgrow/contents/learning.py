"""Whether new numbers can learn: after how many steps of training a gradient reaches each parameter's new positions.

Zeros change nothing, but they may pass no gradient either: a product of two zeros passes none to either side, a ReLU none to
what is zero in front of it. Where such a place was met, it is asked of each parameter at the end: what is reached in one
step is no longer zero in the next, and passes on more. What no step would reach whatever it held is no harm.
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fxgrow.axis import Contract, Map, Normalise, Op, Reduce, Value, atoms
from fxgrow.contents.bindings import Bindings
from fxgrow.contents.kinds import NIL, ZERO, ByPart
from fxgrow.contents.zeros import affine_of, scaled_to_zero, slope_of

Place = tuple[Value, int, int | None]  # a dimension of a value, and which part of it, where parts differ
STEPS = 3
FLAT_TOTALS = ("norm", "sample variance", "another variance")  # without a slope at zeros that are added to them


@dataclass
class _Step:
    """Where the numbers at one place come from (None: they are summed up): for each operand, its places.

    joins: linear (a sum), product (zero where one operand is), or any (a function). flat: without a slope at zero.
    """
    op: Op
    out: Place | None
    operands: list[list[Place]]
    joins: str = "linear"
    flat: bool = False

    def gives(self, live: set[Place]) -> bool:
        """Return whether what comes out is other than zero, once these places are."""
        found = [any(p in live for p in places) for places in self.operands]
        if self.joins == "linear" or not found:
            return any(found)
        return all(found) or (self.joins == "any" and len(found) == 1 and (slope_of(self.op) or (True,))[0])

    def passes(self, live: set[Place]) -> Iterator[Place]:
        """Give the places to which a gradient of what comes out is handed on."""
        found = [any(p in live for p in places) for places in self.operands]
        for i, places in enumerate(self.operands):
            if self.joins != "product" or all(found[:i] + found[i + 1:]):
                yield from (p for p in places if not self.flat or p in live)


class Learning:
    """Follows which of a class's new positions are other than zero, and where a gradient of the output arrives."""

    def __init__(self, held: Bindings):
        self.held = held
        tags = [*held.tags.values(), *held.out.contents.values()]
        self.apart = next((t.atom for t in tags if isinstance(t, ByPart)), None)
        self.steps = [step for op in held.tape.ops_of[held.atom] for step in self._of(op)]

    def first_gradients(self) -> dict[str, int | None]:
        """Return after how many steps a gradient reaches all new positions of each parameter; None: never."""
        places = {p for step in self.steps for p in (step.out, *sum(step.operands, [])) if p is not None}
        live = {p for p in places if self._holds(*p)}
        for step in self.steps:
            if step.joins != "linear" and not step.gives(live):
                live.discard(step.out)
        waiting = {p: p[0].source for p in self._reached(places) if p[0].source is not None}
        found: dict[str, int | None] = {}
        for count in range(1, STEPS + 1):
            reached = self._reached(live) & waiting.keys()
            found |= {waiting.pop(place): count for place in reached}
            live |= reached
            for step in self.steps:
                if step.out is not None and step.gives(live):
                    live.add(step.out)
        return found | dict.fromkeys(waiting.values())

    def _of(self, op: Op) -> Iterator[_Step]:
        """Give the steps of one op."""
        held, product = self.held, isinstance(op, (Contract, Normalise)) or getattr(op, "fn", "") == "mul"
        scaled = scaled_to_zero(held, op)
        sums = getattr(op, "fn", "") in ("linear", "div")
        joins = "product" if product else "linear" if sums else "any"
        summed = [] if isinstance(op, Normalise) else [(i, d) for i, d, e in op.reduced if held.atom in atoms(e)]
        if summed:
            flat = isinstance(op, Reduce) and op.how in FLAT_TOTALS
            yield _Step(op, None, [self._parts(op.ins[i], d) for i, d in summed], joins, flat)
        for at, out in enumerate(op.outs):
            for dim in held.dims(out):
                sources = held.sources(op, dim)
                if scaled:
                    yield from self._scaled(op, at, dim, sources)
                    continue
                flat = joins == "any" and (len(sources) > 1 or not (slope_of(op) or (True, False))[1])
                for place in self._parts(out, dim):
                    yield _Step(op, place, [self._came(op, at, place, i, d) for i, d in sources], joins, flat)

    def _scaled(self, op: Op, at: int, dim: int, sources: Sequence[tuple[int, int]]) -> Iterator[_Step]:
        """Give the steps of a norm whose weight and bias are zero: what is normalised times the one, and the other."""
        weight, *biases = affine_of(op)
        for place in self._parts(op.outs[at], dim):
            came = {i: self._came(op, at, place, i, d) for i, d in sources}
            yield _Step(op, place, [came[0], came[weight]], "product")
            yield from (_Step(op, place, [came[i]]) for i in biases)

    def _parts(self, value: Value, dim: int) -> list[Place]:
        if self.apart is None or not any(self.apart in atoms(axis) for axis in value.axes):
            return [(value, dim, None)]
        return [(value, dim, part) for part in range(self.apart.size)]

    def _came(self, op: Op, at: int, place: Place, i: int, dim: int) -> list[Place]:
        """Return where the numbers at a place of the result `at` come from, at a dimension of an operand."""
        places, part = self._parts(op.ins[i], dim), place[2]
        if isinstance(op, Map) and op.pick and op.pick[0] is self.apart:
            part = op.pick[1][at]
        return [p for p in places if part is None or p[2] in (part, None)]

    def _holds(self, value: Value, dim: int, part: int | None) -> bool:
        """Return whether new positions of a value are said to be other than zero."""
        tag = self.held.tag(value, dim)
        if isinstance(tag, ByPart):
            return any(tag.contents[k] not in (ZERO, NIL) for k in (range(len(tag.contents)) if part is None else [part]))
        return tag not in (ZERO, NIL)

    def _reached(self, live: set[Place]) -> set[Place]:
        """Return where a gradient of the output arrives while only these places are other than zero."""
        reached: set[Place] = set()
        for step in reversed(self.steps):
            if (step.out is None or step.out in reached) and step.op.name != "detach":
                reached.update(step.passes(live))
        return reached
