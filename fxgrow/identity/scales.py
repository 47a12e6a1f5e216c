"""Which factors on the weights of a network make up for constants that are not its own.

A stock class has its norms' eps and its attention's scale from its sizes, so a grown network that needs others (the eps of a
LayerNorm over more positions, say) cannot be put there as it is. But networks have symmetries: a residual stream may be
scaled where it is written, as the norm that reads it takes the factor out again. So the factor of every value is an unknown,
every ATen op an equation between logarithms, and each constant that differs a term; what the equations leave open is left
alone. What lives here: the equations and their solution. What does not: which constants differ (passes/into/constants.py).
"""
from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from torch import Tensor
from torch.fx import Node

from fxgrow.aten import BILINEAR, CONTRACTIONS, HOMOGENEOUS, NORMS, POWERS
from fxgrow.common import Refusal
from fxgrow.identity.trace import Trace
from fxgrow.identity.values import Val


class Equations:
    """Unknown logarithms, equalities between them, and sums of them that are numbers."""

    def __init__(self) -> None:
        self.leader: dict[Val, Val] = {}
        self.known: dict[Val, float] = {}
        self.sums: list[tuple[list[tuple[Val, float]], float, str]] = []

    def find(self, v: Val) -> Val:
        root = v
        while self.leader.get(root, root) is not root:
            root = self.leader[root]
        while self.leader.get(v, v) is not root:
            self.leader[v], v = root, self.leader[v]
        return root

    def equal(self, values: Iterable[Val], place: str) -> None:
        first, *rest = [self.find(v) for v in values]
        for other in rest:
            if first is not (other := self.find(other)):
                self.leader[other] = first
                if other in self.known:
                    self.fix(first, self.known.pop(other), place)

    def fix(self, v: Val, number: float, place: str) -> None:
        root = self.find(v)
        if abs(self.known.setdefault(root, number) - number) > 1e-12:
            raise Refusal(f"{place} would need a value at two scales")

    def sum(self, terms: list[tuple[Val, float]], number: float, place: str) -> None:
        """The sum of `coefficient * unknown` is `number`."""
        self.sums.append((terms, number, place))

    def solve(self, free: Iterable[Val]) -> None:
        """Finds all unknowns in sums. What they leave open is zero, those of `free` before others and the earliest first."""
        while True:
            known = len(self.known)
            self.sums = [each for terms in self.sums if (each := self._substituted(*terms)) is not None]
            if len(self.known) == known:
                break
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

    def _substituted(self, terms: list[tuple[Val, float]], number: float, place: str):
        """A sum without what is known; None: one unknown was left, and is known now."""
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
            raise Refusal(f"{place} would need a value at two scales")
        return None


def _pivots(matrix: np.ndarray, places: list[str]) -> dict[int, float]:
    """Gauss-Jordan elimination: the columns that the rows determine, and their values where all others are zero."""
    found: dict[int, int] = {}
    for column in range(matrix.shape[1] - 1):
        rest = [r for r in range(len(matrix)) if r not in found.values() and abs(matrix[r, column]) > 1e-9]
        if rest:
            row = max(rest, key=lambda r: abs(matrix[r, column]))
            matrix[row] /= matrix[row, column]
            others = np.arange(len(matrix)) != row
            matrix[others] -= np.outer(matrix[others, column], matrix[row])
            found[column] = row
    for r, row in enumerate(matrix):
        if r not in found.values() and abs(row[-1]) > 1e-9:
            raise Refusal(f"{places[r]} would need a value at two scales")
    return {column: float(matrix[row, -1]) for column, row in found.items()}


def factors(trace: Trace, ops: Iterable[Val], same: Iterable[tuple[Val, Val]], outputs: list[Val],
            change: Callable[[Val], float]) -> dict[str, float]:
    """The logarithm of the factor on each parameter and buffer, zeros left out.

    Args:
        trace: the network. ops: the results of its ops, in order.
        same: what comes out of parts whose ops are not there, and the same value as it goes in.
        outputs: values that keep their scale.
        change: of a norm, log sqrt(its eps there / its eps here); of a product or quotient with a plain number, log(there /
            here) of that number.

    Raises:
        Refusal: there are none.
    """
    equations = Equations()
    for v in outputs:
        equations.fix(v, 0.0, v.place)
    for pair in same:
        equations.equal(pair, pair[0].place)
    seen: dict[Val, None] = {}
    for v in ops:
        seen.update(dict.fromkeys([*v.ins, v]))
        _relate(equations, v, change)
    for v in seen:
        if not v.ins and v.source is None or not v.tensor.is_floating_point():
            equations.fix(v, 0.0, v.place)
    parameters = [v for v in trace.now.values() if v.source is not None]
    equations.solve(parameters)
    found = {v.source: equations.known.get(equations.find(v), 0.0) for v in parameters}
    return {name: log for name, log in found.items() if name is not None and abs(log) > 1e-15}


def _relate(equations: Equations, v: Val, change: Callable[[Val], float]) -> None:
    """What an op says of the scales of its result and of what it is given."""
    real = [i for i in v.ins if i.tensor.is_floating_point()]
    if not v.tensor.is_floating_point():
        return None
    if v.name in NORMS:
        return _relate_norm(equations, v, change)
    if v.name in HOMOGENEOUS and real and not (v.name == "constant_pad_nd" and v.arg(2, 0) != 0) or v.name in ("add", "sub") and (len(real) == 2 or v.arg(1) == 0):
        equations.equal([v, *real], v.place)
    elif v.name == "add" and len(real) == 1 and isinstance(v.arg(1), (int, float)):  # an eps
        equations.equal([v, *real], v.place)
        equations.fix(v, change(v), v.place)
    elif v.name in POWERS and len(real) == 1 and isinstance(power := POWERS[v.name] or v.arg(1), (int, float)):
        equations.sum([(v, 1), (real[0], -power)], 0.0, v.place)
    elif v.name in CONTRACTIONS:
        _, bias = CONTRACTIONS[v.name]
        offset = v.of[bias] if bias is not None and len(v.of) > bias else None
        equations.sum([(v, 1), *((i, -1) for i in real if i is not offset)], 0.0, v.place)
        if offset is not None:
            equations.equal([v, offset], v.place)
    elif v.name in BILINEAR:
        equations.sum([(v, 1), *((i, -1) for i in real)], change(v) if len(real) == 1 else 0.0, v.place)
    elif v.name == "div":
        equations.sum([(v, 1), (v.ins[0], -1), *((i, 1) for i in v.ins[1:])], -change(v) if len(real) == 1 else 0.0, v.place)
    elif v.name == "embedding":
        equations.equal([v, v.ins[0]], v.place)
    elif v.name not in ("empty", "new_empty") and not (v.at and v.name.startswith("max_pool")):
        for each in (v, *real):
            equations.fix(each, 0.0, v.place)


def _relate_norm(equations: Equations, v: Val, change: Callable[[Val], float]) -> None:
    if v.at:
        return
    weight, bias, mean, _ = (None if i is None or len(v.of) <= i else v.of[i] for i in NORMS[v.name])
    if v.name == "native_batch_norm":
        for each in (v.ins[0], *(i for i in v.of[3:5] if i is not None)):
            equations.fix(each, 0.0, v.place)
    else:
        equations.fix(v.ins[0], change(v), v.place)
    if weight is None:
        equations.fix(v, 0.0, v.place)
    equations.equal([i for i in (v, weight, bias) if i is not None], v.place)


def results(trace: Trace, output: Node) -> list[Val]:
    """The values that a graph gives."""
    return [trace.val(t) for node in output.all_input_nodes for t in _leaves(trace.values.get(node.name))]


def _leaves(value) -> list[Tensor]:
    if isinstance(value, (tuple, list)):
        return [t for v in value for t in _leaves(v)]
    return [value] if isinstance(value, Tensor) else []
