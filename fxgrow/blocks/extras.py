"""Extra parts of the bigger network: what it has between two places that the smaller one has not."""
from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor
from torch.fx import Node

from fxgrow.aten import CONTRACTIONS
from fxgrow.blocks.block import Block, find_block, find_out
from fxgrow.blocks.sides import Side, users_of
from fxgrow.common import Refusal
from fxgrow.graph import location_of
from fxgrow.identity import Demand, Val, identity_layer, layer_norm


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
    except Refusal:
        return None, ""
    span = _span(side, block.nodes)
    if span is None or not _alike(side, block.x, block.out):
        return None, ""
    x, out = block.values(side.trace)
    extra = Extra(path, *span, side.resolve(block.x), side.resolve(block.out), block)
    try:
        Demand(x, _owned(path)).identity(out)
    except Refusal as why:
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
    except Refusal:
        return None
    span, users = _span(side, nodes), users_of(side, side.resolve(out))
    made = [side.trace.made.get(u.name, []) for u in users]
    if span is None or not users or any([v.name for v in each] != ["cat"] for each in made):
        return None
    dims = {each[0].arg(1, 0) % each[0].tensor.ndim for each in made}
    return Extra(path, *span, None, side.resolve(out), joined=dims.pop()) if len(dims) == 1 else None


def _norms(side: Side, extra: Extra, x: Val, out: Val) -> tuple[tuple[str, str], tuple[str, str]] | None:
    """The norms in front of a block and at its end, if it is the identity where the first has no weight and bias."""
    front, end = layer_norm(x), layer_norm(out)
    inside = set(side.nodes[extra.first:extra.last + 1])
    if front is None or end is None or extra.x is None or not users_of(side, extra.x) <= inside:
        return None
    try:
        Demand(x, _owned(extra.path), normal=True).identity(out)
    except Refusal:
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
                except Refusal:
                    pass
            following = side.nodes[last + 1] if last + 1 < len(side.nodes) else None
            if following is None or side.inputs(following) != [out] or users_of(side, out) != {following} or \
                    any(v.name in CONTRACTIONS for v in side.trace.made.get(following.name, ())):
                break
            last += 1
        if best is not None:
            yield Extra(location_of(node), at, best, given[0], side.nodes[best])


def rows(extras: list[Extra]) -> Iterator[list[Extra]]:
    """Blocks of one numbered list, each next to the one before."""
    rows: dict[str, list[Extra]] = {}
    for extra in extras:
        numbered = re.fullmatch(r"(.*?)\d+", extra.path)
        if extra.block is not None and numbered:
            rows.setdefault(numbered[1], []).append(extra)
    yield from rows.values()


def spread(side: Side, row: list[Extra], left_out: list[Extra], place: str) -> list[Extra]:
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
