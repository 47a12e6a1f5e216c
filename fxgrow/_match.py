"""Matching of two captured graphs: the larger is the smaller with blocks and layers in between that can be the identity.

Nodes are compared by the ATen ops that they run, with their numbers, and by where their inputs come from; sizes may grow.
What may stand in between (`Extra`) is found by asking each block of the larger graph for a start that makes it the identity
(fxgrow/_identity.py), and each layer with its norm and activation. What lives here: which node is which. What does not:
sizes (passes/into.py) and numbers.
"""
from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from torch import Tensor
from torch.fx import GraphModule, Node

from fxgrow._analysis import _place, numbers_in
from fxgrow._block import Block, NoBlock, find_block, find_out
from fxgrow._identity import CONTRACTIONS, NORMS, Demand, NoIdentity, Trace, Val, identity_layer, layer_norm
from fxgrow.errors import GrowthError

SCALED = ("mul", "div")  # by a plain number, which can be folded into weights


class Side:
    """One of the two graphs: its nodes that give tensors, in order, without those that do nothing in eval mode.

    same: nodes that give what another one gives. order: the place of each node.
    """

    def __init__(self, gm: GraphModule):
        self.gm, self.trace = gm, Trace(gm)
        self.nodes: list[Node] = []
        self.same: dict[Node, Node] = {}
        self.layers = dict(gm.named_modules())
        for node in gm.graph.nodes:
            value = self.trace.values.get(node.name)
            if node.op in ("get_attr", "output") or not _tensors(value):
                continue
            given = next((i for i in node.all_input_nodes if self._passes(i, node)), None)
            if given is not None:
                self.same[node] = self.resolve(given)
            else:
                self.nodes.append(node)
        self.order = {node: at for at, node in enumerate(self.nodes)}

    def _passes(self, given: Node, node: Node) -> bool:
        """Whether a node gives the very value that it is given."""
        gives, holds = self.trace.gives.get(node.name), self.trace.gives.get(given.name)
        return gives is not None and gives is holds and node.op != "placeholder" and given.op != "get_attr"

    def resolve(self, node: Node) -> Node:
        return self.same.get(node, node)

    def inputs(self, node: Node) -> list[Node]:
        """The nodes whose tensors a node reads, tensors of the model apart."""
        return [self.resolve(i) for i in node.all_input_nodes
                if i.op != "get_attr" and _tensors(self.trace.values.get(i.name))]

    def reads(self, node: Node) -> list[str]:
        """The tensors of the model that a node reads by name."""
        return [str(i.target) for i in node.all_input_nodes if i.op == "get_attr"]

    def tensors(self, node: Node) -> dict[str, Tensor]:
        """The parameters and buffers of the layer that a node calls, by their names in it."""
        if node.op != "call_module":
            return {}
        layer = self.layers[str(node.target)]
        return {**dict(layer.named_parameters()), **dict(layer.named_buffers())}

    def describe(self, node: Node) -> str:
        """A node for a reader: where it is and what it does."""
        kind = type(self.layers[str(node.target)]).__name__ if node.op == "call_module" else \
            getattr(node.target, "__name__", str(node.target))
        shape = tuple(getattr(self.trace.values[node.name], "shape", ()))
        return f"{_place(node)} ({kind}, gives {list(shape)})"


def _tensors(value) -> bool:
    return isinstance(value, Tensor) or isinstance(value, (tuple, list)) and any(isinstance(v, Tensor) for v in value)


@dataclass(eq=False)
class Extra:
    """A part of the larger graph that can be the identity: its nodes from `first` to `last` in the order of the side.

    block: it has a path of its own, and a skip path. Else it is a layer with its norm and activation, and no way around it.
    norms: of a block behind which a LayerNorm stands, as one stands in front of it: weight and bias of both. It is the
    identity if the norm in front has neither, and hands them on.
    joined: of a part that is no identity, but whose result is only ever concatenated with others, so that it can be left
    out: the axis.
    """
    path: str
    first: int
    last: int
    x: Node | None
    out: Node
    block: Block | None = None
    norms: tuple[tuple[str, str], tuple[str, str]] | None = None
    joined: int | None = None


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
        wanted = {e for row in _rows(extras) for e in _spread(big, row, found.extras, place)}
        again = _Alignment(small, big, extras, wanted).run()
        found = again if isinstance(again, Match) else found
    if not isinstance(found, Match):
        raise GrowthError(_explain(small, big, *found, refused))
    return found


# --- what can be the identity -----------------------------------------------------------------------------------------


def find_extras(side: Side) -> tuple[list[Extra], dict[tuple[int, int], str]]:
    """Every part that can be the identity; and for those blocks that cannot, by their first and last place, why."""
    found: dict[tuple[int, int], Extra] = {}
    refused: dict[tuple[int, int], str] = {}
    for path in side.trace.below:
        extra, why = _block(side, path)
        if extra is None or why:
            extra = _term(side, path) or extra
        if extra is None:
            continue
        if why and extra.joined is None:
            refused.setdefault((extra.first, extra.last), why)
        else:
            found.setdefault((extra.first, extra.last), extra)
    for layer in _layers(side):
        found.setdefault((layer.first, layer.last), layer)
    return sorted(found.values(), key=lambda e: (e.first, e.last)), refused


def _block(side: Side, path: str) -> tuple[Extra | None, str]:
    """What lies below a path, if it takes and gives one value of one shape; and why it cannot be the identity."""
    try:
        block = find_block(path, side.trace)
    except NoBlock:
        return None, ""
    span = _span(side, block.nodes)
    if span is None or not _alike(side, block.x, block.out):
        return None, ""
    x, out = block.values(side.trace)
    extra = Extra(path, *span, side.resolve(block.x), side.resolve(block.out), block)
    try:
        Demand(x, _owned(path)).identity(out)
    except NoIdentity as why:
        extra.norms = _norms(side, extra, x, out)
        if extra.norms is None:
            return extra, f"{path} cannot be the identity: {why}"
    return extra, ""


def _owned(path: str) -> Callable[[str], bool]:
    return lambda name: name.startswith(path + ".")


def _term(side: Side, path: str) -> Extra | None:
    """A part whose result is concatenated with others wherever it is used (a layer of a DenseNet, a branch)."""
    try:
        nodes, out = find_out(path, side.trace)
    except NoBlock:
        return None
    span, users = _span(side, nodes), _users(side, side.resolve(out))
    made = [side.trace.made.get(u.name, []) for u in users]
    if span is None or not users or any([v.name for v in each] != ["cat"] for each in made):
        return None
    dims = {each[0].arg(1, 0) % each[0].tensor.ndim for each in made}
    return Extra(path, *span, None, side.resolve(out), joined=dims.pop()) if len(dims) == 1 else None


def _norms(side: Side, extra: Extra, x: Val, out: Val) -> tuple[tuple[str, str], tuple[str, str]] | None:
    """The norms in front of a block and at its end, if it is the identity where the first has no weight and bias."""
    front, end = layer_norm(x), layer_norm(out)
    inside = set(side.nodes[extra.first:extra.last + 1])
    if front is None or end is None or extra.x is None or not _users(side, extra.x) <= inside:
        return None
    try:
        Demand(x, _owned(extra.path), normal=True).identity(out)
    except NoIdentity:
        return None
    return front, end


def _span(side: Side, nodes: list[Node]) -> tuple[int, int] | None:
    """The first and last place of nodes that follow each other without a gap."""
    places = sorted(side.order[n] for n in nodes if n in side.order)
    return (places[0], places[-1]) if places and places[-1] - places[0] == len(places) - 1 else None


def _alike(side: Side, x: Node, out: Node) -> bool:
    a, b = (side.trace.values.get(n.name) for n in (x, out))
    return isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape and b.is_floating_point()


def _layers(side: Side) -> Iterator[Extra]:
    """Layers, each with what follows it alone, that can give back what they are given (Chen 2015, eq. 4)."""
    for at, node in enumerate(side.nodes):
        if not any(v.name in CONTRACTIONS for v in side.trace.made.get(node.name, ())):
            continue
        given = side.inputs(node)
        if len(given) != 1 or given[0].name not in side.trace.gives:
            continue
        x, last, best = side.trace.reads.get((node.name, given[0].name), side.trace.gives[given[0].name]), at, None
        while True:
            out = side.nodes[last]
            if _alike(side, given[0], out):
                try:
                    identity_layer(x, side.trace.gives[out.name])
                    best = last
                except NoIdentity:
                    pass
            following = side.nodes[last + 1] if last + 1 < len(side.nodes) else None
            if following is None or side.inputs(following) != [out] or _users(side, out) != {following} or \
                    any(v.name in CONTRACTIONS for v in side.trace.made.get(following.name, ())):
                break
            last += 1
        if best is not None:
            yield Extra(_place(node), at, best, given[0], side.nodes[best])


def _users(side: Side, node: Node) -> set[Node]:
    """The nodes that read a value, those that pass it on left out."""
    found: set[Node] = set()
    queue = [node]
    while queue:
        for user in queue.pop().users:
            if user in side.same:
                queue.append(user)
            elif user in side.order or user.op == "output":
                found.add(user)
    return found


def _rows(extras: list[Extra]) -> Iterator[list[Extra]]:
    """Blocks of one numbered list, each next to the one before."""
    rows: dict[str, list[Extra]] = {}
    for extra in extras:
        numbered = re.fullmatch(r"(.*?)\d+", extra.path)
        if extra.block is not None and numbered:
            rows.setdefault(numbered[1], []).append(extra)
    yield from rows.values()


def _spread(side: Side, row: list[Extra], left_out: list[Extra], place: str) -> list[Extra]:
    """Which of a row are to be new, if as many are to be as are now."""
    count = sum(e in left_out for e in row)
    if not count:
        return []
    stem, number = re.fullmatch(r"(.*?)(\d+)", row[0].path).groups()  # type: ignore[union-attr]
    opened = f"{stem}{int(number) - 1}" in side.layers  # a block that is no part of the row opens the stage
    length = len(row) + opened
    if place == "spread":
        chosen = [-(-(i + 1) * length // count) - 1 for i in range(count)]
    else:
        behind = list(range(1, length, 2))[:count]
        chosen = [*behind, *(i for i in reversed(range(1, length)) if i not in behind)][:count]
    return [row[i - opened] for i in chosen]


# --- alignment --------------------------------------------------------------------------------------------------------


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
