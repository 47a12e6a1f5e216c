"""Changes between two models: what stands where, which numbers are new, and what that costs.

Operations are the same where their nodes have the same name and type: passes keep the names of nodes, so that a block that
has moved (`layer3.3` that is `layer3.4` now) is found again. Numbers are new by the growth record, or by the old sizes.
"""
from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from fxgrow.common import render
from fxgrow.cost import count_flops
from fxgrow.errors import FxgrowError, GrowthError
from fxgrow.graph import Captured, place_of, settings, skeleton, tensors_of, title
from fxgrow.record import Grown, GrowthRecord, captured, new_numbers, record_in


@dataclass
class Change:
    """Change of one operation or layer.

    status: "same", "grown" (it holds new numbers, or has other settings), "shrunk" (it holds old numbers alone, and fewer of
    them), "inserted" or "removed".
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
        if self.status != other.status:
            self.status = "shrunk" if {self.status, other.status} <= {"same", "shrunk", "removed"} else "grown"
        self.parameters = self.parameters[0] + other.parameters[0], self.parameters[1] + other.parameters[1]
        self.flops = self.flops[0] + other.flops[0], self.flops[1] + other.flops[1]
        self.new += other.new
        return self


@dataclass
class WeightChange:
    """A parameter before (None: it was not there, or its numbers are not known) and after, and where its numbers are new."""
    name: str
    before: Tensor | None
    after: Tensor
    new: Tensor


@dataclass
class Changes:
    """Changes of every layer of a model, to print or to read.

    layers: one Change for each layer that has parameters or costs FLOPs, in the order in which the new model runs them, then
    those that were removed. total: all of it. recorded: whether a growth record says which numbers are new.
    nodes: one Change for each node of `graph`, the new model's captured graph; after: the new model itself.
    comparison: what it came from.
    """
    layers: list[Change]
    total: Change
    recorded: bool
    nodes: dict[str, Change] = field(repr=False)
    after: nn.Module = field(repr=False)
    graph: GraphModule = field(repr=False)
    comparison: _Comparison = field(repr=False)

    def weights(self) -> Iterator[WeightChange]:
        """Yield the parameters of layers that changed, in the order in which the new model runs them."""
        return self.comparison.weights(self)

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
    record = record_in(new)
    if after is None and (record is None or "" not in record.origin):
        raise GrowthError("this model holds no record of the one that it grew from: give both models to diff")
    old: nn.Module | Grown = record.origin[""] if after is None else before  # type: ignore[union-attr]
    inputs = example_inputs if example_inputs is not None else _inputs(new) or _inputs(old)
    (_, theirs), (model, ours) = captured(old, inputs), captured(new, inputs)
    origin = None if record is None else record.origin.get("")
    if origin is not None and _shapes(tensors_of(origin)) != _shapes(tensors_of(theirs)):
        record = None  # of another model
    return _Comparison(theirs, ours, record).changes(model)


def _inputs(model: nn.Module | Grown):
    return model.example_inputs if isinstance(model, Grown) else Captured(model).inputs


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(t.shape) for name, t in tensors.items()}


class _Side:
    """One of two captured models; `seen` has the parameters that were counted already."""

    def __init__(self, gm: GraphModule, training: bool):
        self.gm, self.tensors = gm, tensors_of(gm)
        self.names = {id(t): name for name, t in reversed(self.tensors.items())}
        self.costs = count_flops(skeleton(gm).train(training), Captured(gm).inputs).by_node()
        self.seen: set[int] = set()

    def facts(self, node: Node | None) -> tuple[str, str, str, dict[str, Tensor], int]:
        """Return the layer of a node, its type, settings, parameters and FLOPs of both passes; empty ones for no node."""
        if node is None:
            return "", "", "", {}, 0
        flops = self.costs[node.name].total if node.name in self.costs else 0
        return place_of(node), title(self.gm, node), settings(self.gm, node), self.held(node), flops

    def held(self, node: Node) -> dict[str, Tensor]:
        """Return the parameters of a layer by their names in it, or those that a function reads by their place."""
        if node.op == "call_module":
            prefix = f"{node.target}."
            names = {n.removeprefix(prefix): n for n in self.tensors if n.startswith(prefix)}
        else:
            names = {str(i): str(n.target) for i, n in enumerate(node.all_input_nodes) if n.op == "get_attr"}
        return {key: self.tensors[n] for key, n in names.items() if isinstance(self.tensors.get(n), nn.Parameter)}

    def once(self, held: Mapping[str, Tensor]) -> int:
        """Count the numbers of parameters that no node before has used."""
        mine = {id(t): t.numel() for t in held.values() if id(t) not in self.seen}
        self.seen.update(mine)
        return sum(mine.values())


class _Comparison:
    """Two captured models and, if the second grew from the first, its record."""

    def __init__(self, before: GraphModule, after: GraphModule, record: GrowthRecord | None):
        self.before, self.after = (_Side(gm, after.training) for gm in (before, after))  # both in one mode
        self.record = record
        self.entries = {} if record is None else {
            id(t): entry for t, entry in record.located(record.fitting(after)).values()}
        self.old = {node.name: node for node in before.graph.nodes}

    def changes(self, model: nn.Module) -> Changes:
        """Compare node by node, and sum up by layer; `model` is the new model itself."""
        partners = {node: self.partner(node) for node in self.after.gm.graph.nodes}
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
                layers[key] = replace(change)
            total += change
        return Changes(list(layers.values()), total, self.record is not None, nodes, model, self.after.gm, self)

    def weights(self, changes: Changes) -> Iterator[WeightChange]:
        """Yield the parameters of layers that changed; old numbers that only the new model has are taken out of it."""
        small, seen = self.numbers(changes.after), set()
        for node in self.after.gm.graph.nodes:
            old = self.partner(node)
            then = {} if old is None else self.before.held(old)
            for key, tensor in self.after.held(node).items():
                if id(tensor) in seen or changes.nodes[node.name].status == "same":
                    continue
                seen.add(id(tensor))
                was = then.get(key)
                numbers = was if was is None else small.get(self.before.names[id(was)], was)
                yield WeightChange(self.after.names[id(tensor)], None if numbers is None or numbers.is_meta else numbers,
                                   tensor, self.mask(tensor, was))

    def numbers(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the numbers of the old model that are in the new one, by name, where the old one has none of its own."""
        if self.record is None or not any(t.is_meta for t in self.before.tensors.values()):
            return {}
        try:
            return tensors_of(self.record.shrink(model))
        except FxgrowError:  # they are found nowhere
            return {}

    def mask(self, tensor: Tensor, old: Tensor | None) -> Tensor:
        """Return where the numbers of a parameter are new."""
        entry = self.entries.get(id(tensor))
        if entry is not None and not (entry.unchanged and old is not None and old.shape != tensor.shape):
            return new_numbers(entry, tensor)
        new = torch.ones(tensor.shape, dtype=torch.bool, device=tensor.device)
        if old is not None and old.ndim == tensor.ndim:
            new[tuple(slice(min(sizes)) for sizes in zip(old.shape, tensor.shape))] = False
        return new

    def partner(self, node: Node) -> Node | None:
        """Return the operation of the old model that a node of the new one was, if it was there."""
        old = self.old.get(node.name)
        return old if old is not None and title(self.before.gm, old) == title(self.after.gm, node) else None

    def change(self, new: Node | None, old: Node | None) -> Change:
        """Return what became of an operation; None: it is not there."""
        was, old_kind, before, then, old_flops = self.before.facts(old)
        name, kind, after, now, flops = self.after.facts(new)
        fresh = sum(self.fresh(t, then.get(key)) for key, t in now.items())
        if old is None or new is None:
            status = "inserted" if old is None else "removed"
        else:
            status = "same" if not fresh and before == after and _shapes(now) == _shapes(then) else "grown"
            if not fresh and _less(now, then):
                status = "shrunk"
        return Change(name, was, kind or old_kind, status, before, after, (self.before.once(then), self.after.once(now)),
                      fresh, (old_flops, flops))

    def fresh(self, tensor: Tensor, old: Tensor | None) -> int:
        """Count the new numbers of a parameter; each parameter is counted where it is first used."""
        if id(tensor) in self.after.seen:
            return 0
        entry = self.entries.get(id(tensor))
        if entry is not None and not (entry.unchanged and old is not None and old.shape != tensor.shape):
            return int(new_numbers(entry, tensor).sum())
        if old is None or old.ndim != tensor.ndim:
            return tensor.numel()
        return tensor.numel() - math.prod(map(min, old.shape, tensor.shape))


def _less(now: Mapping[str, Tensor], then: Mapping[str, Tensor]) -> bool:
    """Tell whether tensors are smaller than they were, and none is larger in any axis."""
    fewer = sum(t.numel() for t in now.values()) < sum(t.numel() for t in then.values())
    return fewer and all(key in then and then[key].ndim == t.ndim and all(map(operator.le, t.shape, then[key].shape))
                         for key, t in now.items())


def _cells(change: Change) -> list[str]:
    name = change.name or change.was
    moved = f" (was {change.was})" if change.was and change.name and change.was != change.name else ""
    words = change.after if change.before in ("", change.after) or not change.after else f"{change.before} ⇒ {change.after}"
    return [name + moved, change.kind, change.status, words or change.before, _pair(*change.parameters),
            f"{change.new:,}" if change.new else "", _pair(*change.flops)]


def _pair(before: int, after: int) -> str:
    return f"{before:,}" if before == after else f"{before:,} ⇒ {after:,}"


def summed(changes: Sequence[Change]) -> Change:
    """Return the first of several changes with the status and numbers of all."""
    total = replace(changes[0])
    for change in changes[1:]:
        total += change
    return total


def mark(change: Change) -> tuple:
    """Return what repetitions in a picture must have in common."""
    return change.status, change.before, change.after, change.new, change.parameters
