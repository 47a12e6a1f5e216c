"""Changes between two models: what stands where, which numbers are new, and what that costs.

Operations are the same where their nodes have the same name and type: passes keep the names of nodes, so that a block that
has moved (`layer3.3` that is `layer3.4` now) is found again. Numbers are new by the growth record, or by the old sizes.
"""
from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.fx import GraphModule, Node

from fxgrow.common import render
from fxgrow.cost import count_flops
from fxgrow.errors import GrowthError
from fxgrow.graph import Captured, place_of, settings, skeleton, tensors_of, title
from fxgrow.record import Grown, GrowthRecord, captured, new_numbers, record_in


@dataclass
class Change:
    """Change of one operation or layer.

    status: "same", "grown" (it holds new numbers, or has other settings), "inserted" or "removed".
    name, was: its layer in the new and in the old model (empty where there is none). before, after: its settings.
    parameters, flops: before and after; flops are those of a forward and a backward pass. new: how many parameters are new.
    """
    name: str
    was: str
    kind: str
    status: str
    before: str = ""
    after: str = ""
    parameters: tuple[int, int] = (0, 0)
    new: int = 0
    flops: tuple[int, int] = (0, 0)

    def __iadd__(self, other: Change) -> Change:
        """Add another operation of the same layer."""
        self.status = self.status if self.status == other.status else "grown"
        self.parameters = (self.parameters[0] + other.parameters[0], self.parameters[1] + other.parameters[1])
        self.flops = (self.flops[0] + other.flops[0], self.flops[1] + other.flops[1])
        self.new += other.new
        return self


@dataclass
class Changes:
    """Changes of every layer of a model, to print or to read.

    layers: one Change for each layer that has parameters or costs FLOPs, in the order in which the new model runs them, then
    those that were removed. total: all of it. recorded: whether a growth record says which numbers are new.
    nodes: one Change for each node of `graph`, the new model's captured graph; after: the new model itself.
    """
    layers: list[Change]
    total: Change
    recorded: bool
    nodes: dict[str, Change] = field(repr=False)
    after: nn.Module = field(repr=False)
    graph: GraphModule = field(repr=False)

    def to_json(self) -> dict:
        """Return the changes of layers and their sum as data."""
        return {"recorded": self.recorded, "total": vars(self.total), "layers": [vars(c) for c in self.layers]}

    def table(self, every: bool = False):
        """Return a `rich` table: a row for each layer that changed (`every`: for each layer), and the sums."""
        from rich.table import Table
        table = Table(title="What changed", title_justify="left")
        for column in ("layer", "kind", "", "settings"):
            table.add_column(column, overflow="fold")
        for column in ("parameters", "new", "FLOPs, forward and backward"):
            table.add_column(column, justify="right", overflow="fold")
        for c in self.layers:
            if every or c.status != "same":
                table.add_row(*_cells(c))
        same = len([c for c in self.layers if c.status == "same"])
        table.add_section()
        table.add_row(*_cells(self.total)[:3], "" if every else f"{same} layers as they were", *_cells(self.total)[4:])
        return table

    def __str__(self) -> str:
        return render(self.table())


def find_changes(before: nn.Module | Grown, after: nn.Module | Grown | None = None, example_inputs=None) -> Changes:
    """Compare two models layer by layer; arguments and errors as for `fxgrow.diff`."""
    new = before if after is None else after
    record = new.record if isinstance(new, Grown) else record_in(new)
    if after is None and (record is None or "" not in record.origin):
        raise GrowthError("this model holds no record of the one that it grew from: give both models to diff")
    old: nn.Module | Grown = record.origin[""] if after is None else before  # type: ignore[union-attr]
    inputs = example_inputs if example_inputs is not None else _inputs(new) or _inputs(old)
    (_, theirs), (model, ours) = captured(old, inputs), captured(new, inputs)
    if record is not None and "" in record.origin and _shapes(record.origin[""]) != _shapes(theirs):
        record = None  # of another model
    return _Comparison(theirs, ours, record).changes(model)


def _inputs(model: nn.Module | Grown):
    return model.example_inputs if isinstance(model, Grown) else Captured(model).inputs


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(t.shape) for name, t in tensors_of(model).items()}


class _Comparison:
    """Two captured models and, if the second grew from the first, its record."""

    def __init__(self, before: GraphModule, after: GraphModule, record: GrowthRecord | None):
        self.before, self.after, self.record = before, after, record
        self.tensors = {id(gm): tensors_of(gm) for gm in (before, after)}
        self.entries = {} if record is None else {
            id(t): entry for t, entry in record.located(dict(after.named_parameters(remove_duplicate=False))).values()}
        self.costs = {id(gm): count_flops(skeleton(gm).train(after.training), Captured(gm).inputs).by_node()
                      for gm in (before, after)}  # both in one mode
        self.old = {node.name: node for node in before.graph.nodes}
        self.seen: dict[int, set[int]] = {id(before): set(), id(after): set()}

    def changes(self, model: nn.Module) -> Changes:
        """Compare node by node, and sum up by layer; `model` is the new model itself."""
        partners = {node: self.partner(node) for node in self.after.graph.nodes}
        nodes = {node.name: self.change(node, old) for node, old in partners.items()}
        stayed = set(partners.values())
        gone = [self.change(None, node) for node in self.old.values() if node not in stayed]
        layers: dict[tuple[str, str, str], Change] = {}
        total = Change("total", "total", "", "same")
        for change in (*nodes.values(), *gone):
            if not any((*change.parameters, *change.flops)):
                continue
            key = change.name, change.was, change.kind
            if key in layers:
                layers[key] += change
            else:
                layers[key] = Change(**vars(change))
            total += change
        return Changes(list(layers.values()), total, self.record is not None, nodes, model, self.after)

    def partner(self, node: Node) -> Node | None:
        """Return the operation of the old model that a node of the new one was, if it was there."""
        old = self.old.get(node.name)
        return old if old is not None and title(self.before, old) == title(self.after, node) else None

    def change(self, new: Node | None, old: Node | None) -> Change:
        """Return what became of an operation; None: it is not there."""
        now, then = self.held(self.after, new), self.held(self.before, old)
        fresh = sum(self.fresh(t, then.get(key)) for key, (_, t) in now.items())
        before, after = _settings(self.before, old), _settings(self.after, new)
        if old is None:
            status = "inserted"
        elif new is None:
            status = "removed"
        else:
            status = "grown" if fresh or before != after or _sizes(now) != _sizes(then) else "same"
        node, gm = (old, self.before) if new is None else (new, self.after)
        assert node is not None
        return Change(_layer(new), _layer(old), title(gm, node), status, before, after,
                      (self.once(self.before, then), self.once(self.after, now)), fresh,
                      (self.cost(self.before, old), self.cost(self.after, new)))

    def held(self, gm: GraphModule, node: Node | None) -> dict[str, tuple[str, Tensor]]:
        """Return the parameters of a layer by their names in it, or those that a function reads by their place."""
        tensors = self.tensors[id(gm)]
        if node is None:
            return {}
        if node.op == "call_module":
            prefix = f"{node.target}."
            names = {n.removeprefix(prefix): n for n in tensors if n.startswith(prefix)}
        else:
            names = {str(i): str(n.target) for i, n in enumerate(node.all_input_nodes) if n.op == "get_attr"}
        return {key: (n, tensors[n]) for key, n in names.items() if isinstance(tensors.get(n), nn.Parameter)}

    def fresh(self, tensor: Tensor, old: tuple[str, Tensor] | None) -> int:
        """Count the new numbers of a parameter; each parameter is counted where it is first used."""
        if id(tensor) in self.seen[id(self.after)]:
            return 0
        entry = self.entries.get(id(tensor))
        if entry is not None and not (entry.unchanged and old is not None and old[1].shape != tensor.shape):
            return int(new_numbers(entry, tensor).sum())
        if old is None or old[1].ndim != tensor.ndim:
            return tensor.numel()
        return tensor.numel() - math.prod(min(a, b) for a, b in zip(old[1].shape, tensor.shape))

    def once(self, gm: GraphModule, held: Mapping[str, tuple[str, Tensor]]) -> int:
        """Count the numbers of parameters that no node before has used."""
        seen = self.seen[id(gm)]
        mine = {id(t): t.numel() for _, t in held.values() if id(t) not in seen}
        seen.update(mine)
        return sum(mine.values())

    def cost(self, gm: GraphModule, node: Node | None) -> int:
        """Return a node's FLOPs of a forward and a backward pass."""
        cost = self.costs[id(gm)].get(node.name) if node is not None else None
        return cost.total if cost is not None else 0


def _sizes(held: Mapping[str, tuple[str, Tensor]]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(t.shape) for key, (_, t) in held.items()}


def _settings(gm: GraphModule, node: Node | None) -> str:
    return "" if node is None else settings(gm, node)


def _layer(node: Node | None) -> str:
    return "" if node is None else place_of(node)


def _cells(change: Change) -> list[str]:
    name = change.name or change.was
    moved = f" (was {change.was})" if change.was and change.name and change.was != change.name else ""
    words = change.after if change.before in ("", change.after) or not change.after else f"{change.before} ⇒ {change.after}"
    return [name + moved, change.kind, change.status, words or change.before, _pair(*change.parameters),
            f"{change.new:,}" if change.new else "", _pair(*change.flops)]


def _pair(before: int, after: int) -> str:
    return f"{before:,}" if before == after else f"{before:,} ⇒ {after:,}"


def mark(change: Change) -> tuple:
    """Return what repetitions in a picture must have in common."""
    return change.status, change.before, change.after, change.new, change.parameters
