"""Matching of two captured graphs: the larger is the smaller with blocks and layers in between that can be the identity.

Nodes are compared by the ATen ops that they run, with their numbers, and by where their inputs come from; sizes may grow.
"""
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.fx import Node

from fxgrow.aten import CONTRACTIONS, NORMS, numbers_in
from fxgrow.blocks.extras import Extra, Span, find_extras, spread
from fxgrow.blocks.sides import SCALED, Side, users_of
from fxgrow.errors import GrowthError
from fxgrow.graph import place_of
from fxgrow.identity import Val

PLAIN = ("t", "view", "_unsafe_view")  # what a linear layer does beside its product


@dataclass
class Match:
    """Pairs each node of the smaller graph with one of the larger, and names what stands in between."""
    nodes: dict[Node, Node]
    extras: list[Extra]


def match(small: Side, big: Side, place: str = "end") -> Match:
    """Find the smaller graph in the larger one, or raise a GrowthError that says how far both agree, and why no further.

    place: where in a row of equal blocks new ones stand: `end` (behind the old ones), `spread` (evenly among them) or
    `interleave` (one behind each old one, the rest at the end).
    """
    extras, refused = find_extras(big)
    starts: dict[int, list[Extra]] = {}
    for extra in extras:
        starts.setdefault(extra.span[0], []).append(extra)
    alignment = _Alignment(small, big, starts)
    found = alignment.run()
    if found is None:
        raise GrowthError(_explain(alignment, refused))
    if place == "end":
        return found
    return _Alignment(small, big, starts, spread(big, extras, found.extras, place)).run() or found


Position = tuple[int, int]  # how many nodes of the smaller and of the larger graph are read


@dataclass
class _State:
    """A position, the move that led there (None: two nodes are the same), and the moves left."""
    at: Position
    move: Extra | None
    moves: Iterator[Extra | None]


@dataclass
class _Alignment:
    """A search with backtracking: the next nodes of both graphs are the same, or an extra of the larger is left out."""
    small: Side
    big: Side
    starts: dict[int, list[Extra]]  # by place in the larger graph, the extras that begin there
    preferred: set[Extra] = field(default_factory=set)  # extras that are left out rather than matched, where both would do
    nodes: dict[Node, Node] = field(default_factory=dict)
    around: dict[Node, Node | None] = field(default_factory=dict)  # what an extra gives: what it takes, or nothing
    skipped: list[Extra] = field(default_factory=list)
    dead_ends: set[Position] = field(default_factory=set)
    furthest: Position = (0, 0)
    reason: str = ""  # why it went no further than that

    def run(self) -> Match | None:
        """Return the match; None, with `furthest` and `reason`: there is none."""
        goal = len(self.small.nodes), len(self.big.nodes)
        outputs = [next(iter(side.gm.graph.find_nodes(op="output"))) for side in (self.small, self.big)]
        stack = [_State((0, 0), None, self._moves(0))]
        while stack:
            state = stack[-1]
            if state.at == goal and self._reads_alike(*outputs):
                return Match(self.nodes, self.skipped)
            following = self._advance(state)
            if following is not None:
                stack.append(following)
                continue
            self.dead_ends.add(state.at)
            stack.pop()
            if state.move is not None:
                self.around.popitem()
                self.skipped.pop()
            elif stack:
                self.nodes.popitem()
        return None

    def _moves(self, place: int) -> Iterator[Extra | None]:
        """Return what may come next at a place in the larger graph: an extra to leave out, or (None) a node to match."""
        here = self.starts.get(place, [])
        return iter([*(e for e in here if e in self.preferred), None, *(e for e in here if e not in self.preferred)])

    def _advance(self, state: _State) -> _State | None:
        """Make the next move that does not end at once."""
        i, k = state.at
        for move in state.moves:
            reason = self._difference(i, k) if move is None else None
            reached = (i + 1, k + 1) if move is None else (i, move.span[1] + 1)
            if reason is not None:
                if not self.reason or (i, -k) > (self.furthest[0], -self.furthest[1]):  # with the least left out
                    self.furthest, self.reason = state.at, reason
            elif reached not in self.dead_ends:
                if move is None:
                    self.nodes[self.small.nodes[i]] = self.big.nodes[k]
                else:
                    self.around[self.big.resolve(move.gives)] = None if move.takes is None else self._source(move.takes)
                    self.skipped.append(move)
                return _State(reached, move, self._moves(reached[1]))
        return None

    def _source(self, node: Node) -> Node | None:
        """Return where a value comes from, with all that is left out being the identity."""
        at: Node | None = self.big.resolve(node)
        while at in self.around:
            at = self.around[at]  # type: ignore[index]
        return at

    def _reads_alike(self, one: Node, two: Node) -> bool:
        """Return whether two nodes read the same values, those left out of concatenations apart."""
        sources = [self._source(n) for n in self.big.inputs(two)]
        return [self.nodes.get(n) for n in self.small.inputs(one)] == [n for n in sources if n is not None]

    def _difference(self, i: int, k: int) -> str | None:
        """Return why the i-th node of the smaller graph is not the k-th of the larger (None: it is)."""
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
    """Return why two nodes do not compute the same, sizes and constants that weights can absorb aside."""
    ours, theirs = small.trace.made.get(one.name, []), big.trace.made.get(two.name, [])
    if gains_bias(ours, theirs):
        ours, theirs = ours[-1:], theirs[-1:]
    elif [v.name for v in ours] != [w.name for w in theirs]:
        return _other_work(small.types(one), ours, big.types(two), theirs)
    tensors, grown = small.tensors(one), big.tensors(two)
    missing = tensors.keys() - grown.keys()
    if missing or len(small.reads(one)) != len(big.reads(two)):
        return f"it has tensors that the big one's has not ({', '.join(sorted(missing)) or 'read by name'})"
    for v, w in zip(ours, theirs):
        if _shrinks(v.tensor, w.tensor):
            return f"a size shrinks, from {list(v.tensor.shape)} to {list(w.tensor.shape)}"
        reason = None if v.name != w.name or (_is_eps(small, one, v) and _is_eps(big, two, w)) else _numbers_differ(v, w)
        if reason is not None:
            return reason
    return next((f"{name} shrinks, from {list(tensor.shape)} to {list(grown[name].shape)}"
                 for name, tensor in tensors.items() if _shrinks(tensor, grown[name])), None)


def _other_work(kept: list[torch.dtype], ours: Sequence[Val], wanted: list[torch.dtype], theirs: Sequence[Val]) -> str:
    """Say how two nodes differ that run other ops: by the types of the tensors that they read, by a bias, or wholly."""
    if {*kept} != {*wanted} and kept and wanted:
        return f"its tensors are {kept} in the small model and {wanted} in the big one: make both with the same dtype"
    return "the big one's has no bias" if gains_bias(theirs, ours) else "they compute other things"


def gains_bias(ours: Sequence[Val], theirs: Sequence[Val]) -> bool:
    """Tell whether two nodes are linear layers, of which the second alone has a bias."""
    one, two = {v.name for v in ours}, {w.name for w in theirs}
    return "mm" in one <= {"mm", *PLAIN} and "addmm" in two <= {"addmm", *PLAIN}


def _shrinks(one: Tensor, two: Tensor) -> bool:
    return one.ndim != two.ndim or any(m < n for n, m in zip(one.shape, two.shape))


def _is_eps(side: Side, node: Node, v: Val) -> bool:
    """Tell whether an op adds the eps of a norm that is written out: a number, to what a root alone is taken of."""
    ops = [op.name for user in users_of(side, node) for op in side.trace.made.get(user.name, [])[:1]]
    return v.name == "add" and isinstance(v.arg(1), (int, float)) and bool(ops) and {*ops} <= {"rsqrt", "sqrt"}


def _numbers_differ(v: Val, w: Val) -> str | None:
    if v.name in NORMS or v.name in SCALED:
        return None
    ours, theirs = numbers_in(v.name, v.args, {}), numbers_in(w.name, w.args, {})
    if v.name == "slice" and v.arg(1, 0) == w.arg(1, 0) and v.arg(4, 1) == w.arg(4, 1) and _size_along(v) < _size_along(w):
        return None  # the parts of an axis that grows: their sizes follow from the parameters'
    if v.name == "convolution" and taps(v) != taps(w):
        (stride, padding, dilation, *rest), (their_stride, wider, *their_rest) = ours, theirs
        spare = [(m - n) * d for n, m, d in zip(taps(v), taps(w), dilation)]
        middle = [p + s // 2 for p, s in zip(padding, spare)]  # p' = p + d (k' - k) / 2 on each axis
        if len(taps(v)) != len(taps(w)) or any(s < 0 or s % 2 for s in spare) or list(wider) != middle:
            return f"a kernel of {taps(v)} with padding {padding} is no part of one of {taps(w)} with {wider}"
        ours, theirs = [stride, dilation, *rest], [their_stride, *their_rest]
    return None if ours == theirs else f"{v.name.strip('_')} has {ours} in one and {theirs} in the other"


def _size_along(v: Val) -> int:
    """Return the size of what a slice cuts."""
    return v.ins[0].tensor.shape[v.arg(1, 0)]


def taps(v: Val) -> list[int]:
    """Return the kernel size of a convolution."""
    return list(v.ins[1].tensor.shape[2:])


def _explain(alignment: _Alignment, refused: dict[Span, str]) -> str:
    i, k = alignment.furthest
    if norm := _lacked_norm(alignment, i, k):
        return norm
    spare = [extra.span for extras in alignment.starts.values() for extra in extras if extra.is_block]
    near = next((f"; {why}" for (first, last), why in sorted(refused.items()) if first <= k <= last and last > first
                 and not any(start <= first and last <= end for start, end in spare)), "")
    one, other = (side.describe(side.nodes[at]) if at < len(side.nodes) else "the end"
                  for side, at in ((alignment.small, i), (alignment.big, k)))
    return f"the small model is no part of the big one: {one} has no counterpart, as the big one has {other} there: " \
        f"{alignment.reason}{near}"


def _lacked_norm(alignment: _Alignment, i: int, k: int) -> str:
    """Say so where the larger graph has a norm that the smaller one has not at this place ("": it is something else)."""
    ours, theirs = (side.nodes[at] if at < len(side.nodes) else None
                    for side, at in ((alignment.small, i), (alignment.big, k)))
    if theirs is None or not _is_norm(alignment.big, theirs) or (ours is not None and _is_norm(alignment.small, ours)):
        return ""
    path = place_of(theirs)
    return f"the small model has no norm where the big one has {path}: it " \
        "divides by what its input gives, and no numbers undo that, so take a class without it"


def _is_norm(side: Side, node: Node) -> bool:
    """Tell whether a node is of a module that is a norm: it divides by a root of what it takes."""
    path = place_of(node)
    inside = [node] if node.op == "call_module" else side.trace.below.get(path, ())
    ops = {v.name for n in inside for v in side.trace.made.get(n.name, ())}
    return bool(path) and bool(ops & {*NORMS, "rsqrt"}) and not ops & {*CONTRACTIONS}
