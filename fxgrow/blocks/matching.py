"""Matching of two captured graphs: the larger is the smaller with blocks and layers in between that can be the identity.

Nodes are compared by the ATen ops that they run, with their numbers, and by where their inputs come from; sizes may grow.
What may stand in between (`Extra`) is found by asking each block of the larger graph for a start that makes it the identity
(fxgrow/identity/demands.py), and each layer with its norm and activation. What lives here: which node is which. What does
not: sizes (passes/into/growing.py) and numbers.
"""
from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass, field

from torch.fx import Node

from fxgrow.aten import NORMS, numbers_in
from fxgrow.blocks.extras import Extra, find_extras, rows, spread
from fxgrow.blocks.sides import SCALED, Side
from fxgrow.errors import GrowthError
from fxgrow.identity import Val


@dataclass
class Match:
    """Which node of the larger graph each of the smaller one is, and what stands in between."""
    nodes: dict[Node, Node]
    extras: list[Extra]


def match(small: Side, big: Side, place: str = "end") -> Match:
    """Finds the smaller graph in the larger one.

    place: where in a row of equal blocks new ones stand: `end` (behind the old ones), `spread` (evenly among them) or
    `interleave` (one behind each old one, the rest at the end).

    Raises:
        GrowthError: it is not there; what was reached in both, and why blocks that are too many cannot be the identity.
    """
    extras, refused = find_extras(big)
    found = _Alignment(small, big, extras, set()).run()
    if isinstance(found, Match) and place != "end":
        wanted = {e for row in rows(extras) for e in spread(big, row, found.extras, place)}
        again = _Alignment(small, big, extras, wanted).run()
        found = again if isinstance(again, Match) else found
    if not isinstance(found, Match):
        raise GrowthError(_explain(small, big, *found, refused))
    return found


@dataclass
class _State:
    """How far both graphs are read, and the choices left here."""
    at: tuple[int, int]
    moves: Iterator[Extra | None]
    undo: tuple[Node, dict] | None = None


@dataclass
class _Alignment:
    """A search with backtracking: the next node of the smaller graph is the next one of the larger, or an extra is left out.

    first: extras that are left out rather than matched, where both would do.
    """
    small: Side
    big: Side
    extras: list[Extra]
    first: set[Extra]
    nodes: dict[Node, Node] = field(default_factory=dict)
    around: dict[Node, Node | None] = field(default_factory=dict)  # what an extra gives: what it is given, or nothing
    skipped: list[Extra] = field(default_factory=list)

    def run(self) -> Match | tuple[int, int, str]:
        """The match; or how far it went in both, and why not further."""
        self.starts: dict[int, list[Extra]] = {}
        for extra in self.extras:
            self.starts.setdefault(extra.first, []).append(extra)
        failed: set[tuple[int, int]] = set()
        furthest, why = (0, 0), ""
        stack = [_State((0, 0), self._moves(0))]
        goal = len(self.small.nodes), len(self.big.nodes)
        while stack:
            state = stack[-1]
            self._take_back(state)
            if state.at == goal and self._same_result():
                return Match(dict(self.nodes), list(self.skipped))
            move = next(state.moves, "none")
            if move == "none":
                failed.add(state.at)
                stack.pop()
                continue
            i, k = state.at
            if isinstance(move, Extra):
                reached = i, move.last + 1
                if reached in failed:
                    continue
                self.around[move.out] = None if move.x is None else self._given(move.x)
                self.skipped.append(move)
                state.undo = move.out, self.around
            else:
                reason = self._differs(i, k)
                if reason is not None:
                    if state.at >= furthest:
                        furthest, why = state.at, reason
                    continue
                reached = i + 1, k + 1
                if reached in failed:
                    continue
                self.nodes[self.small.nodes[i]] = self.big.nodes[k]
                state.undo = self.small.nodes[i], self.nodes
            stack.append(_State(reached, self._moves(reached[1])))
        return (*furthest, why)

    def _moves(self, k: int) -> Iterator[Extra | None]:
        here = self.starts.get(k, [])
        return iter([*(e for e in here if e in self.first), None, *(e for e in here if e not in self.first)])

    def _take_back(self, state: _State) -> None:
        if state.undo is not None:
            key, known = state.undo
            del known[key]
            if known is self.around:
                self.skipped.pop()
            state.undo = None

    def _given(self, node: Node) -> Node | None:
        at: Node | None = self.big.resolve(node)
        while at in self.around:
            at = self.around[at]  # type: ignore[index]
        return at

    def _reads_alike(self, one: Node, two: Node) -> bool:
        """Whether two nodes read the same values, those left out of concatenations apart."""
        given = [self._given(n) for n in self.big.inputs(two)]
        return [self.nodes.get(n) for n in self.small.inputs(one)] == [n for n in given if n is not None]

    def _same_result(self) -> bool:
        one, two = (next(iter(s.gm.graph.find_nodes(op="output"))) for s in (self.small, self.big))
        return self._reads_alike(one, two)

    def _differs(self, i: int, k: int) -> str | None:
        """Why the i-th node of the smaller graph is not the k-th of the larger; None: it is."""
        if i == len(self.small.nodes) or k == len(self.big.nodes):
            return "one of them ends here"
        one, two = self.small.nodes[i], self.big.nodes[k]
        if (one.op == "placeholder") != (two.op == "placeholder"):
            return "one is an input of the model"
        if not self._reads_alike(one, two):
            return "they read other values"
        if one.target is operator.getitem and one.args[1:] != two.args[1:] and not self.small.trace.made.get(one.name):
            return "they take other parts"
        return _differ(self.small, one, self.big, two)


def _differ(small: Side, one: Node, big: Side, two: Node) -> str | None:
    """Why two nodes do not compute the same, sizes and foldable constants aside."""
    a, b = small.trace.made.get(one.name, []), big.trace.made.get(two.name, [])
    if [v.name for v in a] != [v.name for v in b]:
        return "they compute other things"
    missing = small.tensors(one).keys() - big.tensors(two).keys()
    if missing or len(small.reads(one)) != len(big.reads(two)):
        return f"it has tensors that the big one's has not ({', '.join(sorted(missing)) or 'read by name'})"
    for v, w in zip(a, b):
        if v.tensor.ndim != w.tensor.ndim or any(m < n for n, m in zip(v.tensor.shape, w.tensor.shape)):
            return f"a size shrinks, from {list(v.tensor.shape)} to {list(w.tensor.shape)}"
        if (reason := _numbers_differ(v, w)) is not None:
            return reason
    for name, tensor in small.tensors(one).items():
        other = big.tensors(two)[name]
        if tensor.ndim != other.ndim or any(m < n for n, m in zip(tensor.shape, other.shape)):
            return f"{name} shrinks, from {list(tensor.shape)} to {list(other.shape)}"
    return None


def _numbers_differ(v: Val, w: Val) -> str | None:
    if v.name in NORMS or v.name in SCALED:
        return None
    a, b = numbers_in(v.name, v.args, {}), numbers_in(w.name, w.args, {})
    if v.name == "convolution" and (kernels := [taps(x) for x in (v, w)])[0] != kernels[1]:
        spare = [(m - n) * d for n, m, d in zip(*kernels, a[2])]
        if len(kernels[0]) != len(kernels[1]) or min(spare) < 0 or any(s % 2 for s in spare) or \
                list(b[1]) != [p + s // 2 for p, s in zip(a[1], spare)]:
            return f"a kernel of {kernels[0]} with padding {a[1]} is no part of one of {kernels[1]} with {b[1]}"
        a, b = [a[0], *a[2:]], [b[0], *b[2:]]
    return None if a == b else f"{v.name.strip('_')} has {a} in one and {b} in the other"


def taps(v: Val) -> list[int]:
    """The kernel of a convolution."""
    return list(v.ins[1].tensor.shape[2:])


def _explain(small: Side, big: Side, i: int, k: int, why: str,
             refused: dict[tuple[int, int], str]) -> str:
    def shown(side: Side, at: int) -> str:
        return side.describe(side.nodes[at]) if at < len(side.nodes) else "the end"

    near = [text for (first, last), text in sorted(refused.items()) if first <= k <= last and last > first][:1]
    return f"the small model is no part of the big one: {shown(small, i)} has no counterpart, as the big one has " \
        f"{shown(big, k)} there: {why}" + "".join(f"; {text}" for text in near)
