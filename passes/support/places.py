"""Where to deepen: the stages, blocks and layers that a name means, and what goes behind each."""
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from fxgrow.blocks import built, copied, ends, find_block, find_out
from fxgrow.common import Refusal
from fxgrow.errors import GrowthError
from fxgrow.graph import Call, Captured, below, call_of, calls, computes, inside
from fxgrow.growth import Part, Piece, channel_axes, outermost
from fxgrow.identity import Trace
from fxgrow.passes.support import plain
from fxgrow.passes.support.blocks import build
from fxgrow.passes.support.joined import Joined, joined
from fxgrow.passes.support.layers import conv
from fxgrow.passes.support.stages import Stages
from fxgrow.record import Outcome


class Norms(NamedTuple):
    """Weight and bias of the norm in front of a new block, and those of the block's last norm, by their names in it."""
    front: Sequence[str]
    last: Sequence[str]


@dataclass
class Place:
    """One place to deepen at, behind the node `after`, on the value of `x`.

    base: the layer or block that the new one is called after. make: gives a piece of a name (or of several, one for each of
    `parts`). draw: whether its numbers are drawn anew. exact: why it is the identity as it is made; "": a start is sought.
    norms: of a block that ends in a norm and follows one, which hands on its weight and bias.
    joined: where its result is concatenated behind that of the block before it.
    """
    base: str
    x: Node
    after: Node
    make: Callable[[Any], Piece]
    draw: bool = True
    exact: str = ""
    parts: list[str] = field(default_factory=list)
    norms: Norms | None = None
    joined: Joined | None = None

    def piece(self, names: list[str]) -> Piece:
        """Make a piece under one name, or with its parts each under one."""
        return self.make(dict(zip(self.parts, names)) if self.parts else names[0])


class Places:
    """Finds the places that `where` names, in a captured module whose values are known."""

    def __init__(self, gm: GraphModule, trace: Trace, block: str, method: str):
        self.gm, self.trace, self.kind, self.method = gm, trace, block, method
        self.modules = [n for n, _ in gm.named_modules(remove_duplicate=False) if n]
        self.stages = Stages(gm, trace)
        self.refused: list[Outcome] = []

    def find(self, where: list[str] | None) -> tuple[list[Place], list[Outcome]]:
        """Return the places, and what was named but is none."""
        found = self._at("") if where is None else []
        for pattern in where or ():
            if pattern in ("input", "output") and pattern not in self.modules:
                kind = "basic" if self.kind == "clone" else self.kind
                inputs = self.gm.graph.find_nodes(op="placeholder")
                x, after = (inputs[0], inputs[-1]) if pattern == "input" else self._output()
                found.append(self._built(pattern, x, after, kind))
            else:
                for path in outermost(pattern, self.modules, "layer or block"):
                    found += self._at(path)
        first = {place.after: place for place in reversed(found)}
        return [place for place in found if first[place.after] is place], self.refused

    def _at(self, path: str) -> list[Place]:
        """Return the places that one name means: the ends of the stages in it, or the place behind it."""
        try:
            if self.kind != "clone" and path:
                return [self._behind(path)]
            runs = self.stages.below(path)
            if runs:
                return [self._behind(run[-1], _template(self.gm, self.trace, run)) for run in runs]
            if path:
                return [self._behind(path)]
            self.refused += [Outcome(name, 0, 0, [], reason=f"no block like it goes behind it: {why}")
                             for name, why in self.stages.passed_over.items()]
            return [self._last_layer("")]
        except (Refusal, GrowthError) as why:
            self.refused.append(Outcome(path or type(self.gm).__name__, 0, 0, [], reason=str(why)))
            return []

    def _behind(self, path: str, template: str | None = None) -> Place:
        """Return the place behind a block or layer."""
        if self.kind != "clone":
            nodes, out = find_out(path, self.trace)
            names = [f"{path}.{n}" for n, _ in self.gm.get_submodule(path).named_children() if n.isdigit()]
            base = next((name for name in names if out in self.trace.below.get(name, ())), path)  # a stage's last block
            return self._built(base, out, nodes[-1], self.kind)
        block, source = self.stages.block(path), self.stages.block(template or path)
        if block is not None and source is not None:
            front, last = (self.stages.norms.get(name) for name in (path, source.name))
            norms = Norms(front, tuple(n[len(source.name):] for n in last)) if front and last else None
            if norms is not None or not last:
                return Place(path, block.gives, block.nodes[-1], lambda name: copied(self.gm, source, self.trace, name),
                             norms=norms, joined=joined(self.gm, self.trace, block))
        spread = self.stages.spread(path)
        if spread:
            return self._wrapped(spread[0])
        if any(inside(c.node, path) and str(c.node.target) != path and c.name != path for c in calls(self.gm)):
            nodes, _ = find_out(path, self.trace)
            if any(n.op != "get_attr" and n.meta.get("owner") == path for n in nodes):
                return self._wrapped(find_block(path, self.trace))
        return self._last_layer(path)

    def _built(self, base: str, x: Node, after: Node, kind: str) -> Place:
        """Return a place for a block that is built new."""
        value = self.trace.values[x.name]
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise GrowthError(f"the value at {base} is not a tensor of numbers: name another place")
        last = channels_last(self.gm, x, value)
        return Place(base, x, after, lambda path: built(build(kind, value.shape, last), path, value), draw=False)

    def _output(self) -> tuple[Node, Node]:
        """Return the node of the first of the model's outputs, and the last node behind which something can go."""
        *_, last, output = self.gm.graph.nodes
        given = output.args[0]
        values = list(given.values()) if isinstance(given, dict) else given
        found = [v for v in (values if isinstance(values, (tuple, list)) else [values]) if isinstance(v, Node)]
        if not found or not isinstance(self.trace.values[found[0].name], Tensor):
            raise GrowthError("where='output': the model's first output is not a tensor; name its last layer instead")
        return found[0], last

    def _wrapped(self, block: Part) -> Place:
        """Return the place behind a block without a skip path, for a clone of it beside one.

        Behind the clone is a linear layer that starts at zero, and before it one that adapts the channels where they differ.
        """
        into, out = (v.tensor for v in ends(block, self.trace))
        last = channels_last(self.gm, block.gives, out)
        at = -1 if last else 1
        rank = 0 if last else max(out.ndim - 2, 0)
        shapes = [[s for i, s in enumerate(t.shape) if i != at % t.ndim] for t in (into, out)]
        if shapes[0] != shapes[1]:
            raise Refusal(f"it turns {list(into.shape)} into {list(out.shape)}, so a clone of it does not fit behind it")

        def make(name: str) -> Piece:
            def layer(graph: Graph, layers: nn.Module, called: str, value: Node, outs: int) -> Node:
                layers.add_module(called, conv(rank, out.shape[at], outs).to(out.dtype))
                node = graph.call_module(f"{name}.{called}", (value,))
                node.meta["owner"] = f"{name}.{called}"
                return node

            def wrap(graph: Graph, x: Node, body: Callable[[Node], Node], layers: nn.Module) -> Node:
                value = body(x if into.shape == out.shape else layer(graph, layers, "adapt", x, into.shape[at]))
                projected = layer(graph, layers, "project", value, out.shape[at])
                total = graph.call_function(torch.add, (x, projected))
                total.meta["owner"] = name
                return total

            piece = copied(self.gm, block, self.trace, name, wrap)
            Captured(piece.module).inputs = (out, *Captured(piece.module).inputs[1:])
            return piece

        return Place(block.name, block.gives, block.nodes[-1], make)

    def _last_layer(self, path: str) -> Place:
        """Return the place behind the last layer with weights at or below a path, its norm and its activation.

        Of the whole model (""), it is the last layer that is not the output.
        """
        found = [c for c in calls(self.gm) if below(c.name, path) or inside(c.node, path)]
        units = [(c, plain.unit(self.gm, self.trace, c)) for c in found]
        if not path:
            layers, hidden = {c.node for c in found}, set()  # nodes that some layer with weights comes after
            for node in reversed(self.gm.graph.nodes):
                if any(u in hidden or u in layers for u in node.users):
                    hidden.add(node)
            units = [(c, nodes) for c, nodes in units if nodes[-1] in hidden]
        if not units:
            raise GrowthError(self._no_layer(path, found))
        call, nodes = units[-1]
        base = str(next((n.target for n in reversed(nodes) if n.op == "call_module"), call.name))
        series = base.rpartition(".")[2].isdigit()
        make, exact, parts = plain.like(self.gm, self.trace, call, nodes, self.method)
        return Place(base if series else call.name, nodes[-1], nodes[-1], make, False, exact, parts if series else [])


    def _no_layer(self, path: str, layers: list[Call]) -> str:
        """Say why there is no layer to insert behind."""
        place, reasons = path or "the model", []
        computed = [str(n.target) for n in self.gm.graph.nodes if computes(self.gm, n) and below(str(n.target), path)]
        whole = [name for name in Captured(self.gm).leaves if below(name, path) or below(path, name)]
        others = [(name, m) for name, m in self.gm.named_modules() if below(name, path)
                  and isinstance(m, (nn.RNNBase, nn.Embedding, nn.MultiheadAttention))]
        bent = [name for name, m in others if isinstance(m, nn.RNNBase) and "RELU" not in m.mode]
        if layers:
            reasons.append(f"{listing([c.name for c in layers])} gives its output: name it to insert behind it")
        if computed:
            reasons.append(f"the weight of {listing(computed)} is computed from others, so a layer like it is not known")
        if whole:
            reasons.append(f"{listing(whole)} is kept whole ({Captured(self.gm).leaves[whole[0]]})")
        if others:
            odd = listing([f"{name} ({type(m).__name__})" for name, m in others])
            reasons.append(f"{odd} is no convolution and no linear layer")
        if bent:
            reasons.append(f"no weights make one more layer of {listing(bent)} the identity, since all that it gives went "
                           "through tanh")
        return f"{place} has no hidden layer to insert behind: {'; '.join(reasons)}" if reasons else \
            f"{place} has no convolution or linear layer to insert behind"


def channels_last(gm: GraphModule, node: Node, value: Tensor) -> bool:
    """Return whether the channels of a value are its last axis: as its axes say, or the layer that takes it."""
    found = channel_axes(gm, node.name)
    if len(found) == 1:
        return found[0] == value.ndim - 1 and value.ndim > 2
    takers = [call_of(gm, user) for user in node.users]
    return value.ndim == 3 and not any(call.rank for call in takers if call is not None)


def _template(gm: GraphModule, trace: Trace, run: list[str]) -> str:
    """Return the block of a run that goes on with its pattern (shifted and unshifted windows in turn).

    It is the last but p - 1, p the least period of their forms.
    """
    forms = [[(node.op, _kind(gm, node, path), _integers(node)) for node in trace.below[path]] for path in run]
    for period in range(1, len(run) + 1):
        if all(a == b for a, b in zip(forms, forms[period:])):
            return run[-period] if period < len(run) or period <= 2 else run[-1]
    return run[-1]


def _kind(gm: GraphModule, node: Node, path: str) -> Any:
    """Return what a node of a block calls or reads, without names and rates."""
    if node.op == "get_attr":
        return str(node.target).removeprefix(path)
    if node.op != "call_module":
        return str(node.target)
    layer = gm.get_submodule(str(node.target))
    return type(layer), *re.findall(r"(?<![\d.])\d+(?![\d.])", layer.extra_repr())


def _integers(node: Node) -> list[int]:
    found: list[int] = []
    torch.fx.node.map_aggregate((node.args, node.kwargs), lambda v: found.append(v) if isinstance(v, int) else None)
    return found


def listing(names: list[str]) -> str:
    """Return some names, and how many more there are."""
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown
