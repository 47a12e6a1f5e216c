"""Factors on the weights of a network that make up for constants that are not its own.

A stock class has its norms' eps and its attention's scale from its sizes, so a grown network that needs others (the eps of a
LayerNorm over more positions, say) cannot be put there as it is. But networks have symmetries: a residual stream may be
scaled where it is written, as the norm that reads it takes the factor out again. So the factor of every value is an unknown,
every ATen op an equation between logarithms, and each constant that differs a term; what the equations leave open is left
alone. What lives here: the equations and their solution. What does not: which constants differ (passes/into/constants.py).
"""
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from torch.fx import Node

from fxgrow.aten import BILINEAR, CONTRACTIONS, COPIES, HOMOGENEOUS, NORMS, POWERS, tensors_in
from fxgrow.common import Refusal
from fxgrow.identity.trace import Trace
from fxgrow.identity.values import Val

Sum = tuple[list[tuple[Val, float]], float, str]  # unknowns with coefficients, what they add up to, the place of the op


class Equations:
    """Unknown logarithms, equalities between them, and sums of them that are numbers."""

    def __init__(self) -> None:
        self.leader: dict[Val, Val] = {}  # a value: one of the same factor, by which all of them are known
        self.known: dict[Val, float] = {}  # leader: the logarithm of its factor
        self.sums: list[Sum] = []

    def find(self, v: Val) -> Val:
        """Return the leader of the values that have the factor of `v`."""
        root = v
        while self.leader.get(root, root) is not root:
            root = self.leader[root]
        while self.leader.get(v, v) is not root:
            self.leader[v], v = root, self.leader[v]
        return root

    def equal(self, values: Iterable[Val], place: str) -> None:
        """Say that values have the same factor."""
        first, *others = map(self.find, values)
        for other in map(self.find, others):
            if other is not first:
                self.leader[other] = first
                if other in self.known:
                    self.fix(first, self.known.pop(other), place)

    def fix(self, v: Val, number: float, place: str) -> None:
        """Say that the logarithm of the factor on `v` is `number`."""
        if abs(self.known.setdefault(self.find(v), number) - number) > 1e-12:
            raise _contradiction(place)

    def sum(self, terms: list[tuple[Val, float]], number: float, place: str) -> None:
        """Say that the sum of `coefficient * unknown` is `number`."""
        self.sums.append((terms, number, place))

    def solve(self, free: Iterable[Val]) -> None:
        """Find all unknowns in sums; what they leave open is zero, those of `free` before others and the earliest first."""
        count = -1
        while len(self.known) != count:
            count = len(self.known)
            self.sums = list(filter(None, (self._substituted(*each) for each in self.sums)))
        wanted = {self.find(v): None for v in free}
        roots = dict.fromkeys(v for terms, _, _ in self.sums for v, _ in terms)
        columns = [v for v in roots if v not in wanted] + [v for v in reversed(wanted) if v in roots]
        at = {v: i for i, v in enumerate(columns)}
        matrix = np.zeros((len(self.sums), len(columns) + 1))
        for row, (terms, number, _) in zip(matrix, self.sums):
            row[-1] = number
            for v, k in terms:
                row[at[v]] = k
        self.known.update(dict.fromkeys(columns, 0.0))
        for column, value in _pivots(matrix, [place for _, _, place in self.sums]).items():
            self.known[columns[column]] = value

    def _substituted(self, terms: list[tuple[Val, float]], number: float, place: str) -> Sum | None:
        """Return a sum without the unknowns that are known; None if one was left at most, which is known now."""
        left: dict[Val, float] = {}
        for v, k in terms:
            root = self.find(v)
            if root in self.known:
                number -= k * self.known[root]
            else:
                left[root] = left.get(root, 0) + k
        left = {v: k for v, k in left.items() if k}
        if len(left) > 1:
            return list(left.items()), number, place
        for v, k in left.items():
            self.fix(v, number / k, place)
        if not left and abs(number) > 1e-9:
            raise _contradiction(place)
        return None


def _contradiction(place: str) -> Refusal:
    return Refusal(f"{place} would need a value at two scales")


def _pivots(matrix: np.ndarray, places: list[str]) -> dict[int, float]:
    """Return the columns that the rows determine, with their values where all others are zero (Gauss-Jordan elimination)."""
    rows: dict[int, int] = {}  # column: the row that determines it
    for column in range(matrix.shape[1] - 1):
        rest = [r for r in range(len(matrix)) if r not in rows.values() and abs(matrix[r, column]) > 1e-9]
        if rest:
            row = max(rest, key=lambda r: abs(matrix[r, column]))
            matrix[row] /= matrix[row, column]
            others = np.arange(len(matrix)) != row
            matrix[others] -= np.outer(matrix[others, column], matrix[row])
            rows[column] = row
    for r, row in enumerate(matrix):
        if r not in rows.values() and abs(row[-1]) > 1e-9:
            raise _contradiction(places[r])
    return {column: float(matrix[row, -1]) for column, row in rows.items()}


def factors(trace: Trace, ops: Sequence[Val], same: Iterable[tuple[Val, Val]], outputs: list[Val],
            change: Callable[[Val], float], held: Mapping[str, float] | None = None) -> dict[str, tuple[float, float]]:
    """Return the logarithm of the factor on each parameter and buffer, zeros left out; raise a Refusal if there are none.

    With each comes the number that the network adds to it before it uses it: the factor is on the sum (Gemma's `1 + w`).

    trace: the network. ops: the results of its ops, in order. outputs: values that keep their scale.
    same: what comes out of parts whose ops are not there, and the same value as it goes in.
    change: of a norm, log sqrt(its eps there / its eps here); of a product or quotient with a plain number, log(there /
    here) of that number. held: tensors whose factor is known, by name.
    """
    equations, shifted = Equations(), _shifted(ops)
    for v in outputs:
        equations.fix(v, 0.0, v.place)
    for pair in same:
        equations.equal(pair, pair[0].place)
    seen: dict[Val, None] = {}
    for v in ops:
        seen.update(dict.fromkeys([*v.ins, v]))
        if v not in shifted:
            _relate(equations, v, change)
    for v in seen:
        if (not v.ins and v.source is None) or not v.tensor.is_floating_point():
            equations.fix(v, 0.0, v.place)
    parameters = [v for v in trace.now.values() if v.source is not None]
    for v in parameters:
        if held and v.source is not None and v.source in held:
            equations.fix(v, held[v.source], v.source)
    for first, *others in _by_name(shifted).values():
        equations.equal([first, *others], first.place)
    equations.solve([*parameters, *shifted])
    found = [*((v, v.source, 0.0) for v in parameters), *((v, *at) for v, at in shifted.items())]
    logs = {name: (equations.known.get(equations.find(v), 0.0), shift) for v, name, shift in found}
    return {name: (log, shift) for name, (log, shift) in logs.items() if name is not None and abs(log) > 1e-15}


def _shifted(ops: Sequence[Val]) -> dict[Val, tuple[str, float]]:
    """Return the sums of a parameter, which is used in no other way, and a number: its name and the number."""
    found: dict[Val, tuple[str, float]] = {}
    for v in ops:
        if v.name == "add" and v.param_only and len(v.ins) == 1 and isinstance(v.arg(1), (int, float)) and v.alpha == 1:
            source = _copied(v.ins[0])
            if source is not None:
                found[v] = source, float(v.arg(1))
    numbers: dict[str, set[float]] = {}
    for name, number in found.values():
        numbers.setdefault(name, set()).add(number)
    elsewhere = {_copied(i) for v in ops if v not in found and v.name not in COPIES for i in v.ins}
    return {v: (name, number) for v, (name, number) in found.items() if name not in elsewhere and len(numbers[name]) == 1}


def _copied(v: Val) -> str | None:
    """Return the parameter that a value is, perhaps in another type."""
    while v.source is None and v.name in COPIES and len(v.ins) == 1:
        v = v.ins[0]
    return v.source


def _by_name(shifted: dict[Val, tuple[str, float]]) -> dict[str, list[Val]]:
    found: dict[str, list[Val]] = {}
    for v, (name, _) in shifted.items():
        found.setdefault(name, []).append(v)
    return found


def _relate(equations: Equations, v: Val, change: Callable[[Val], float]) -> None:
    """Add what an op says of the factors on its result and on what it takes."""
    real = [i for i in v.ins if i.tensor.is_floating_point()]
    if not v.tensor.is_floating_point() or (v.name in NORMS and v.at):
        return
    if v.name in NORMS:
        _relate_norm(equations, v, change)
    elif v.name in CONTRACTIONS:
        bias = v.operand(CONTRACTIONS[v.name][1])
        equations.sum([(v, 1), *((i, -1) for i in real if i is not bias)], 0.0, v.place)
        equations.equal(filter(None, (v, bias)), v.place)
    elif v.name == "baddbmm":  # a sum, and a product times a number
        equations.equal([v, real[0]], v.place)
        equations.sum([(v, 1), (real[1], -1), (real[2], -1)], change(v), v.place)
    elif _passes_on(v, real):
        equations.equal([v, *real], v.place)
    elif v.name == "add" and len(real) == 1 and isinstance(v.arg(1), (int, float)):  # an eps
        equations.equal([v, *real], v.place)
        equations.fix(v, change(v), v.place)
    elif powers := _powers(v, real):
        by_number = change(v) if len(real) == 1 and v.name not in POWERS else 0.0
        equations.sum([(v, 1), *((i, -k) for i, k in powers)], -by_number if v.name == "div" else by_number, v.place)
    elif v.name not in ("empty", "new_empty") and not (v.at and v.name.startswith("max_pool")):
        for value in (v, *real):
            equations.fix(value, 0.0, v.place)


def _passes_on(v: Val, real: list[Val]) -> bool:
    """Return whether the result has the factor that all operands have together."""
    if v.name in ("add", "sub"):
        return len(real) == 2 or v.arg(1) == 0
    if v.name == "constant_pad_nd":
        return v.arg(2, 0) == 0
    return v.name == "embedding" or (v.name in HOMOGENEOUS and bool(real))


def _powers(v: Val, real: list[Val]) -> list[tuple[Val, float]]:
    """Return the operands whose product, each to a power, is the result; none of an op that is no product."""
    if v.name in POWERS and len(real) == 1:
        power = POWERS[v.name] or v.arg(1)
        return [(real[0], power)] if isinstance(power, (int, float)) else []
    if v.name == "div":
        return [(v.ins[0], 1), *((i, -1) for i in v.ins[1:])]
    return [(i, 1) for i in real] if v.name in BILINEAR else []


def _relate_norm(equations: Equations, v: Val, change: Callable[[Val], float]) -> None:
    weight, bias, _ = map(v.operand, NORMS[v.name][:3])
    if v.name == "native_batch_norm":
        for value in (v.ins[0], *filter(None, v.of[3:5])):
            equations.fix(value, 0.0, v.place)
    else:
        equations.fix(v.ins[0], change(v), v.place)
    if weight is None:
        equations.fix(v, 0.0, v.place)
    equations.equal(filter(None, (v, weight, bias)), v.place)


def results(trace: Trace, output: Node) -> list[Val]:
    """Return the values that a graph gives."""
    return [trace.val(t) for node in output.all_input_nodes for t in tensors_in([trace.values.get(node.name)])]
