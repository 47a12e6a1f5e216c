"""Extra parts of the bigger network: what it has between two places that the smaller one has not."""
import re
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor
from torch.fx import Node

from fxgrow.aten import CONTRACTIONS
from fxgrow.blocks.pieces import ends, find_block, find_out
from fxgrow.blocks.sides import Side, users_of
from fxgrow.common import Refusal
from fxgrow.graph import location_of
from fxgrow.growth import Part
from fxgrow.identity import Demand, Val, identity_layer, layer_norm

Norms = tuple[tuple[str, str], tuple[str, str]]  # weight and bias of a LayerNorm in front of a block and of one behind it
Span = tuple[int, int]  # the places of the first and the last node of a part in the order of the side


@dataclass(eq=False, kw_only=True)
class Extra(Part):
    """A part of the larger graph that the smaller one may lack: it can be the identity, or left out of concatenations."""
    span: Span
    is_block: bool = False  # it has a name of its own and a skip path; else it is a layer with its norm and activation
    norms: Norms | None = None  # around a block that is the identity only if the first hands its weight and bias on


def find_extras(side: Side) -> tuple[list[Extra], dict[Span, str]]:
    """Return every part that may be lacking; and why blocks that keep their shape cannot be the identity."""
    found: dict[Span, Extra] = {}
    refused: dict[Span, str] = {}
    for path in side.trace.below:
        block, why = _block(side, path)
        extra = block if block is not None and not why else _concatenated(side, path)
        if extra is not None:
            found.setdefault(extra.span, extra)
        elif block is not None:
            refused.setdefault(block.span, why)
    for layer in _layers(side):
        found.setdefault(layer.span, layer)
    return sorted(found.values(), key=lambda e: e.span), refused


def _block(side: Side, path: str) -> tuple[Extra | None, str]:
    """Return the block below a path, if it keeps the shape of one value; and why it cannot be the identity ("": it can)."""
    try:
        block = find_block(path, side.trace, last=True)
    except Refusal:
        return None, ""
    span = _span(side, block.nodes)
    if span is None or not _alike(side, block.takes, block.gives):
        return None, ""
    x, out = ends(block, side.trace)
    extra = Extra(**vars(block), span=span, is_block=True)
    try:
        Demand(x, lambda name: name.startswith(path + ".")).identity(out)
    except Refusal as why:
        extra.norms = _norms(side, extra, x, out)
        if extra.norms is None:
            return extra, f"{path} cannot be the identity: {why}"
    return extra, ""


def _concatenated(side: Side, path: str) -> Extra | None:
    """Return a part whose result is concatenated wherever it is used (a layer of a DenseNet, a branch)."""
    try:
        nodes, out = find_out(path, side.trace)
    except Refusal:
        return None
    span, users = _span(side, nodes), users_of(side, side.resolve(out))
    made = [side.trace.made.get(u.name, []) for u in users]
    if span is None or not users or any([op.name for op in ops] != ["cat"] for ops in made):
        return None
    axes = {ops[0].arg(1, 0) % ops[0].tensor.ndim for ops in made}
    return Extra(path, nodes, None, side.resolve(out), concat_axis=axes.pop(), span=span) if len(axes) == 1 else None


def _norms(side: Side, block: Extra, x: Val, out: Val) -> Norms | None:
    """Return the norms in front of a block and at its end, if it is the identity where the first has no weight and bias."""
    front, end = layer_norm(x), layer_norm(out)
    inside = set(side.nodes[block.span[0]:block.span[1] + 1])
    if front is None or end is None or not users_of(side, side.resolve(block.takes)) <= inside:
        return None
    try:
        Demand(x, lambda name: name.startswith(block.name + "."), normal=True).identity(out)
    except Refusal:
        return None
    return front, end


def _span(side: Side, nodes: list[Node]) -> Span | None:
    """Return the first and last place of nodes that follow each other without a gap."""
    places = sorted(side.order[n] for n in nodes if n in side.order)
    return (places[0], places[-1]) if places and places[-1] - places[0] == len(places) - 1 else None


def _alike(side: Side, x: Node, out: Node) -> bool:
    a, b = (side.trace.values.get(n.name) for n in (x, out))
    return isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape and b.is_floating_point()


def _layers(side: Side) -> Iterator[Extra]:
    """Yield layers, each with what follows it alone, that can give back what they are given (Chen 2015, eq. 4)."""
    trace = side.trace
    for at, node in enumerate(side.nodes):
        ins = side.inputs(node)
        if not _contracts(side, node) or len(ins) != 1 or ins[0].name not in trace.gives:
            continue
        x = trace.reads.get((node.name, ins[0].name), trace.gives[ins[0].name])
        places = [p for p in _followers(side, at) if _can_give_back(side, ins[0], x, side.nodes[p])]
        if places:
            nodes = side.nodes[at:places[-1] + 1]
            yield Extra(location_of(node), nodes, ins[0], nodes[-1], span=(at, places[-1]))


def _contracts(side: Side, node: Node) -> bool:
    return any(op.name in CONTRACTIONS for op in side.trace.made.get(node.name, ()))


def _followers(side: Side, at: int) -> Iterator[int]:
    """Yield the place of a layer, and those of the nodes that alone follow it, up to the next layer."""
    yield at
    while at + 1 < len(side.nodes):
        node, after = side.nodes[at:at + 2]
        if side.inputs(after) != [node] or users_of(side, node) != {after} or _contracts(side, after):
            return
        at += 1
        yield at


def _can_give_back(side: Side, taken: Node, x: Val, out: Node) -> bool:
    try:
        return _alike(side, taken, out) and identity_layer(x, side.trace.gives[out.name]) is not None
    except Refusal:
        return False


def spread(side: Side, extras: list[Extra], left_out: list[Extra], place: str) -> set[Extra]:
    """Return the blocks that are to be new, of each numbered list as many as are now, where `place` says."""
    rows: dict[str, list[Extra]] = {}
    for extra in extras:
        numbered = re.fullmatch(r"(.*?)\d+", extra.name)
        if extra.is_block and numbered:
            rows.setdefault(numbered[1], []).append(extra)
    return {block for stem, row in rows.items() for block in _spread(side, stem, row, left_out, place)}


def _spread(side: Side, stem: str, row: list[Extra], left_out: list[Extra], place: str) -> list[Extra]:
    count = sum(1 for block in row if block in left_out)
    if not count:
        return []
    number = int(row[0].name.removeprefix(stem))
    opening = 1 if f"{stem}{number - 1}" in side.layers else 0  # a block that is no part of the row opens the stage
    length = len(row) + opening
    if place == "spread":
        chosen = [-(-(i + 1) * length // count) - 1 for i in range(count)]
    else:
        behind = list(range(1, length, 2))[:count]
        chosen = [*behind, *(i for i in reversed(range(1, length)) if i not in behind)][:count]
    return [row[i - opening] for i in chosen]
