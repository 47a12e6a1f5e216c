"""Where to deepen: the stages, blocks and layers that a name means, and what goes behind each.

What lives here: finding places in a captured module whose values are known, and choosing the block for each. What does not:
the numbers that it starts with.
"""
from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from fxgrow.blocks import built, copied, ends, find_block, find_out
from fxgrow.common import Refusal
from fxgrow.errors import GrowthError
from fxgrow.graph import Captured, below, call_of, calls, inside, outer
from fxgrow.growth import Edit, Part, Piece, channel_axes
from fxgrow.identity import Demand, Trace
from fxgrow.passes.support import plain
from fxgrow.passes.support.blocks import build, conv
from fxgrow.record import Outcome


@dataclass
class Place:
    """One place to deepen at, behind the node `after`, on the value of `x`.

    base: the layer or block that the new one is called after. make: gives a piece of a name (or of several, one for each of
    `parts`). draw: whether its numbers are drawn anew. exact: why it is the identity as it is made; "": a start is sought.
    """
    base: str
    x: Node
    after: Node
    make: Callable[[Any], Piece]
    draw: bool = True
    exact: str = ""
    parts: list[str] = field(default_factory=list)


class Places:
    """Finds the places that `where` names, in a captured module whose values are known."""

    def __init__(self, gm: GraphModule, trace: Trace, block: str, method: str):
        self.gm, self.trace, self.kind, self.method = gm, trace, block, method
        self.modules = [n for n, _ in gm.named_modules(remove_duplicate=False) if n]
        self.blocks: dict[str, Part | str] = {}
        self.refused: list[Outcome] = []

    def find(self, where: list[str] | None) -> tuple[list[Place], list[Outcome]]:
        """The places, and what was named but is none."""
        found: list[Place] = []
        for pattern in where or [None]:  # type: ignore[list-item]
            if pattern in ("input", "output") and pattern not in self.modules:
                found.append(self._end(pattern))
                continue
            for path in self._matches(pattern) if pattern is not None else [""]:
                found += self._at(path)
        return [p for i, p in enumerate(found) if p.after not in [q.after for q in found[:i]]], self.refused

    def _matches(self, pattern: str) -> list[str]:
        """The outermost modules that a glob matches."""
        return outer(Edit.select(pattern, self.modules, "layer or block"))

    def _at(self, path: str) -> list[Place]:
        """The places that one name means: the ends of the stages in it, or the place behind it."""
        try:
            if self.kind != "clone" and path:
                return [self._behind(path)]
            runs = self._stages(path)
            if runs:
                return [self._behind(run[-1], _template(self.gm, self.trace, run)) for run in runs]
            return [self._behind(path)] if path else [self._last_layer("")]
        except (Refusal, GrowthError) as why:
            self.refused.append(Outcome(path or type(self.gm).__name__, 0, 0, [], reason=str(why)))
            return []

    # -- stages ------------------------------------------------------------------------------------------------------------

    def _block(self, path: str) -> Part | str:
        """The block below a path that can be the identity as it is, or why it cannot."""
        if path not in self.blocks:
            try:
                block = find_block(path, self.trace)
                x, out = ends(block, self.trace)
                if x.tensor.shape != out.tensor.shape:
                    raise Refusal(f"it turns {list(x.tensor.shape)} into {list(out.tensor.shape)}")
                Demand(x, lambda name: below(name, path)).identity(out)
                self.blocks[path] = block
            except Refusal as why:
                self.blocks[path] = str(why)
        return self.blocks[path]

    def _stages(self, path: str) -> list[list[str]]:
        """Runs of neighbouring blocks in numbered lists that keep the shape of one value, the deepest there are."""
        names = [n for n, _ in self.gm.get_submodule(path).named_children()]
        children = [f"{path}.{n}" if path else n for n in names]
        deeper = [run for child in children for run in self._stages(child)]
        if deeper or len({re.sub(r"\d+$", "", n) for n in names}) != 1 or not names[0][-1].isdigit():
            return deeper
        runs: list[list[str]] = []
        previous = None
        for child in children:
            block = self._block(child) if any(self.gm.get_submodule(child).children()) else ""
            if isinstance(block, Part):
                if previous is not None and block.takes is previous.gives:
                    runs[-1].append(child)
                else:
                    runs.append([child])
            previous = block if isinstance(block, Part) else None
        return runs

    # -- one place ---------------------------------------------------------------------------------------------------------

    def _behind(self, path: str, template: str | None = None) -> Place:
        """The place behind a block or layer."""
        if self.kind != "clone":
            nodes, out = find_out(path, self.trace)
            return self._built(self._last_child(path, out), out, nodes[-1])
        block = self._block(path)
        if isinstance(block, Part):
            source = self._block(template or path)
            assert isinstance(source, Part)
            return Place(path, block.gives, block.nodes[-1], lambda name: copied(self.gm, source, self.trace, name))
        if any(inside(c.node, path) and str(c.node.target) != path and c.name != path for c in calls(self.gm)):
            nodes, _ = find_out(path, self.trace)
            if any(n.op != "get_attr" and n.meta.get("owner") == path for n in nodes):
                return self._wrapped(path, find_block(path, self.trace))
        return self._last_layer(path)

    def _last_child(self, path: str, out: Node) -> str:
        """Of a stage, its last block, where blocks are numbered."""
        for name, _ in self.gm.get_submodule(path).named_children():
            if name.isdigit() and any(n is out for n in self.trace.below.get(f"{path}.{name}", ())):
                return f"{path}.{name}"
        return path

    def _built(self, base: str, x: Node, after: Node, name: str | None = None) -> Place:
        value = self.trace.values[x.name]
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise GrowthError(f"the value at {base} is not a tensor of numbers: name another place")
        last = channels_last(self.gm, x, value)

        def make(path: str) -> Piece:
            return built(build(name or self.kind, value.shape, last), path, value)

        return Place(base, x, after, make, draw=False)

    def _end(self, end: str) -> Place:
        """In front of everything, or behind it."""
        nodes = self.gm.graph.nodes
        if end == "input":
            x = next(n for n in nodes if n.op == "placeholder")
            after = [n for n in nodes if n.op == "placeholder"][-1]
        else:
            given = next(iter(self.gm.graph.find_nodes(op="output"))).args[0]
            found = [given] if isinstance(given, Node) else [v for v in (
                given.values() if isinstance(given, dict) else given if isinstance(given, (tuple, list)) else ())
                if isinstance(v, Node)]
            if not found or not isinstance(self.trace.values[found[0].name], Tensor):
                raise GrowthError("where='output': the model's first output is not a tensor; name its last layer instead")
            x = found[0]
            after = list(nodes)[-2]
        return self._built(end, x, after, "basic" if self.kind == "clone" else None)

    def _wrapped(self, path: str, block: Part) -> Place:
        """Behind a block without a skip path: a clone of it beside one, behind it a linear layer that starts at zero (and
        before it one that adapts the channels, where these differ)."""
        into, out = (v.tensor for v in ends(block, self.trace))
        last = channels_last(self.gm, block.gives, out)
        at = -1 if last else 1
        rank = 0 if last else max(out.ndim - 2, 0)
        shapes = [[s for i, s in enumerate(t.shape) if i != at % t.ndim] for t in (into, out)]
        if shapes[0] != shapes[1]:
            raise Refusal(f"it turns {list(into.shape)} into {list(out.shape)}, so a clone of it does not fit behind it")

        def make(name: str) -> Piece:
            def layer(graph: Graph, layers: nn.Module, called: str, value: Node, ins: int) -> Node:
                outs = out.shape[at] if called == "project" else into.shape[at]
                layers.add_module(called, conv(rank, ins, outs).to(out.dtype))
                made = graph.call_module(f"{name}.{called}", (value,))
                made.meta["owner"] = f"{name}.{called}"
                return made

            def wrap(graph: Graph, x: Node, body: Callable[[Node], Node], layers: nn.Module) -> Node:
                fits = into.shape == out.shape
                value = body(x if fits else layer(graph, layers, "adapt", x, out.shape[at]))
                total = graph.call_function(torch.add, (x, layer(graph, layers, "project", value, out.shape[at])))
                total.meta["owner"] = name
                return total

            piece = copied(self.gm, block, self.trace, name, wrap)
            Captured(piece.module).inputs = (out, *Captured(piece.module).inputs[1:])
            return piece

        return Place(path, block.gives, block.nodes[-1], make)

    def _last_layer(self, path: str) -> Place:
        """Behind the last layer with weights at or below a path (of the whole model: the last that is not its output), its
        norm and activation."""
        found = [c for c in calls(self.gm) if below(c.name, path) or inside(c.node, path)]
        ends = [(c, plain.unit(self.gm, self.trace, c)) for c in found]
        if not path:
            hidden = self._before_layers()
            ends = [(c, nodes) for c, nodes in ends if nodes[-1] in hidden]
        if not ends:
            raise GrowthError(f"{path or 'the model'} has no convolution or linear layer to insert behind")
        call, nodes = ends[-1]
        base = str(next((n.target for n in reversed(nodes) if n.op == "call_module"), call.name))
        series = base.rpartition(".")[2].isdigit()
        made = plain.like(self.gm, self.trace, call, nodes, self.method)
        return Place(base if series else call.name, nodes[-1], nodes[-1], made.piece, False, made.exact,
                     made.parts if series else [])

    def _before_layers(self) -> set[Node]:
        """The nodes that some layer with weights comes after."""
        layers, found = {c.node for c in calls(self.gm)}, set()
        for node in reversed(self.gm.graph.nodes):
            if any(u in found or u in layers for u in node.users):
                found.add(node)
        return found


def channels_last(gm: GraphModule, node: Node, value: Tensor) -> bool:
    """Whether the channels of a value are its last axis: as its axes are made, or as the layer has it that takes it."""
    found = channel_axes(gm, node.name)
    if len(found) == 1:
        return found[0] == value.ndim - 1 and value.ndim > 2
    return not any(c.rank for u in node.users if (c := call_of(gm, u)) is not None) and value.ndim == 3


def _template(gm: GraphModule, trace: Trace, run: list[str]) -> str:
    """The block of a run that goes on with its pattern (shifted and unshifted windows in turn): the last but p - 1, p the
    least period of their forms."""
    forms = [_form(gm, trace, path) for path in run]
    for period in range(1, len(run) + 1):
        if all(a == b for a, b in zip(forms, forms[period:])):
            return run[-period] if period < len(run) or period <= 2 else run[-1]
    return run[-1]


def _form(gm: GraphModule, trace: Trace, path: str) -> list[tuple]:
    """What a block is made of: ops, layers and whole numbers, without names and rates."""
    def numbers(a) -> tuple:
        found: list[int] = []
        torch.fx.node.map_aggregate(a, lambda v: found.append(v) if isinstance(v, int) else None)
        return tuple(found)

    form = []
    for node in trace.below[path]:
        layer = gm.get_submodule(str(node.target)) if node.op == "call_module" else None
        what = str(node.target).removeprefix(path) if node.op == "get_attr" else str(node.target) if layer is None else \
            (type(layer), *re.findall(r"(?<![\d.])\d+(?![\d.])", layer.extra_repr()))
        form.append((node.op, what, numbers((node.args, node.kwargs))))
    return form
