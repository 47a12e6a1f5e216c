"""Rows of parameters: which numbers a norm or a mean takes together, and centring that is written out, made into one op."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

from fxgrow.aten import COPIES
from fxgrow.axis.algebra import reshaped_together
from fxgrow.axis.tape import Tape
from fxgrow.axis.values import Map, Normalise, Op, Reduce, Value

ORDERED = {"view", "_unsafe_view", "reshape", "_reshape_alias", "unsqueeze", "squeeze", "clone", "alias", "detach",
           "lift_fresh", "contiguous", "expand", "_to_copy"}  # leave each number what it is, and the order as well
CENTRE = "centre"
PERMUTED = {"permute", "transpose", "t"}
Factor = tuple[str, int, int]  # the op, the other operand by its identity, how many factors there were before
Term = tuple[tuple[int, ...] | None, frozenset[Factor]]  # the dimensions of a mean (None: of none), and its factors
PLAIN: Term = (None, frozenset())


def rows_of(value: Value, over: set[int]) -> tuple[str, tuple[int, ...]] | None:
    """Return the parameter whose numbers a value holds, all of them, and its dimensions that `over` are (None: no such).

    Dimensions of one position are left out. The numbers may be centred: that changes no variance.
    """
    over = {d for d in over if value.axes[d].size > 1}
    while value.source is None:
        by = value.op
        if isinstance(by, Normalise) and by.name == CENTRE:
            value, = by.ins
            continue
        if not isinstance(by, Map) or not _moves(by, ORDERED | PERMUTED) or _count(by.ins[0]) != _count(value):
            return None
        before, dmap = by.ins[0], by.dmaps[0]
        found = _through_view(before, value, over) if dmap is None else {d for d in dmap if dmap[d] in over}
        if found is None:
            return None
        value, over = before, found
    return value.source, tuple(sorted(over))


def _moves(op: Map, names: set[str]) -> bool:
    """Tell whether an op leaves each number what it is, and is one of those named."""
    return len(op.ins) == 1 and op.name in names and op.fn == "linear"


def _count(value: Value) -> int:
    return prod(axis.size for axis in value.axes)


def view_groups(before: Value, after: Value) -> list[tuple[list[int], list[int]]]:
    """Return which dimensions a reshape makes of which, in groups as small as can be; those of one position are left out."""
    return reshaped_together(*([axis.size for axis in v.axes] for v in (before, after)))


def _through_view(before: Value, after: Value, over: set[int]) -> set[int] | None:
    """Return the dimensions before a reshape that are `over` after it; None where one is so in part."""
    groups = [(here, there) for here, there in view_groups(before, after) if over.intersection(there)]
    return {d for here, _ in groups for d in here} if all(over.issuperset(there) for _, there in groups) else None


@dataclass
class _Form:
    """A value as a sum of the numbers of a parameter and of their means over rows, each times what it was multiplied by."""
    source: str
    terms: dict[Term, float]


def fuse_centring(tape: Tape) -> None:
    """Make one op of what takes the mean of each row of a parameter from it: `w - mean`, `w * s - mean * s`."""
    means = [op for op in tape.ops if isinstance(op, Reduce) and op.outs[0].param_only and _mean(op)]
    sources = {rows[0] for op in means if (rows := rows_of(op.ins[0], set()))}
    if sources:
        _Centring(tape, sources).run()


def _mean(op: Reduce) -> Value | None:
    """Return the mean that an op takes."""
    return op.outs[-1] if op.name == "mean" or op.name.endswith("_mean") else None


class _Centring:
    """Follows the numbers of parameters and the means of their rows through sums and products."""

    def __init__(self, tape: Tape, sources: set[str]):
        self.tape, self.sources = tape, sources
        self.forms: dict[Value, _Form] = {}

    def run(self) -> None:
        """Find the sums that take the mean from each row, and put a norm in the place of each."""
        for op in [op for op in self.tape.ops if op.outs[0].param_only]:
            if isinstance(op, Reduce):
                self._note_mean(op)
            elif isinstance(op, Map) and not op.const and not op.joined and len(op.ins) <= 2:
                form = self._moved(op) if len(op.ins) == 1 else self._product(op) or self._sum(op)
                if form is not None and not self._centred(op, form):
                    self.forms[op.outs[0]] = form

    def _form(self, value: Value) -> _Form | None:
        return _Form(value.source, {PLAIN: 1.0}) if value.source in self.sources else self.forms.get(value)

    def _note_mean(self, op: Reduce) -> None:
        """Note the mean of rows of a parameter; of means of parts of them, make one."""
        x, out = op.ins[0], _mean(op)
        part, form = x.op, self._form(x)
        rows = rows_of(x, {d for _, d, _ in op.reduced})
        if out is not None and rows is not None and form is not None and set(form.terms) == {PLAIN}:
            self.forms[out] = _Form(rows[0], {(rows[1], frozenset()): 1.0})
        elif out is not None and isinstance(part, Reduce) and _mean(part) is x and len(part.ins[0].axes) == len(out.axes) \
                and [o for o in self.tape.ops if x in o.ins] == [op]:
            gone = {d for _, d, _ in part.reduced}
            op.ins, op.reduced = part.ins, [*part.reduced, *op.reduced]
            op.dmaps = [{d: j for d, j in (op.dmaps[0] or {}).items() if d not in gone}]
            self._put(part, [])
            self._note_mean(op)

    def _moved(self, op: Map) -> _Form | None:
        """Return the form of a view; what is spread over its rows already may only be copied."""
        form = self._form(op.ins[0])
        if form is None or not _moves(op, ORDERED):
            return None
        kept = [axis.size for d, axis in enumerate(self.tape.params[form.source].axes)
                if not any(d in (dims or ()) for dims, _ in form.terms)]
        whole = set(form.terms) == {PLAIN} or op.name in ("expand", *COPIES) or _count(op.ins[0]) == prod(kept)
        return form if whole else None

    def _product(self, op: Map) -> _Form | None:
        """Return the form of a product with, or a quotient by, what has none."""
        if op.fn not in ("mul", "div"):
            return None
        pairs = [op.ins] if op.fn == "div" else [op.ins, op.ins[::-1]]
        for x, other in pairs:
            form = self._form(x)
            if form is not None and self._form(other) is None:
                return _Form(form.source, {(dims, by | {(op.fn, id(other), len(by))}): n
                                           for (dims, by), n in form.terms.items()})
        return None

    def _sum(self, op: Map) -> _Form | None:
        """Return the form of a sum or difference of two."""
        a, b = map(self._form, op.ins)
        if op.name not in ("add", "sub") or a is None or b is None or a.source != b.source:
            return None
        terms, sign = dict(a.terms), 1 if op.name == "add" else -1
        for term, n in b.terms.items():
            terms[term] = terms.get(term, 0.0) + sign * n
        return _Form(a.source, terms)

    def _centred(self, op: Map, form: _Form) -> bool:
        """Put a norm in the place of a difference, if it takes the mean of each row from a parameter."""
        dims = next((dims for dims, _ in form.terms if dims is not None), None)
        if len(form.terms) != 2 or sum(form.terms.values(), 0.0) or dims is None:
            return False
        (_, by), (_, other) = form.terms
        x = self._having({(None, by)}, op.ins)
        if x is None or by != other:
            return False
        scaled = x.op if by else None
        base = x if scaled is None else self._having({PLAIN}, scaled.ins)
        over = None if base is None else self._along(base, op.ins[op.ins[0] is x], op.outs[0], dims)
        if base is None or over is None:
            return False
        self._put(op, self._centring(op, base, over, scaled))
        return True

    def _centring(self, op: Map, x: Value, over: set[int], scaled: Op | None) -> list[Op]:
        """Return the norm of x that gives what an op does, and behind it the product, if there is one."""
        out = op.outs[0] if scaled is None else Value(x.axes, None, True)
        same = {d: d for d in range(len(x.axes))}
        new: list[Op] = [Normalise(CENTRE, op.node, op.fx, [x], [out], [same], [(0, d, x.axes[d]) for d in sorted(over)],
                                   how="layer", correction=None)]
        if scaled is not None:
            new.append(replace(scaled, ins=[out if v is x else v for v in scaled.ins], outs=op.outs))
        for made in new:
            made.outs[0].op = made
        return new

    def _having(self, terms: set[Term], values: Sequence[Value]) -> Value | None:
        """Return the value of these terms alone, if there is one."""
        return next((v for v in values if (form := self._form(v)) is not None and set(form.terms) == terms), None)

    def _along(self, x: Value, mean: Value, out: Value, dims: tuple[int, ...]) -> set[int] | None:
        """Return the dimensions of x that are those of a mean in its parameter; None if they are not aligned."""
        apart = [(d, rows_of(x, {d})) for d, axis in enumerate(x.axes) if axis.size > 1]
        kept = {d for d, rows in apart if rows is not None and not set(rows[1]) & set(dims)}
        over = {d for d, _ in apart} - kept
        if not len(x.axes) == len(mean.axes) == len(out.axes) or any(mean.axes[d].size != x.axes[d].size for d in kept):
            return None
        rows = rows_of(x, over)
        return over if rows is not None and rows[1] == dims else None

    def _put(self, old: Op, new: list[Op]) -> None:
        """Put ops in the place of one."""
        for ops in (self.tape.ops, self.tape.by_node[old.fx]):
            at = ops.index(old)
            ops[at:at + 1] = new
