"""Places in a captured graph that something is put behind or around: a layer, one call, or all that lies below a module.

What lives here: finding them by name, what goes in and comes out, and which axis the channels are on. What does not: what
is put there.
"""
from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.passes.infra.pass_base import PassResult

from fxgrow.aten import tree_leaves
from fxgrow.axis import Value, analyse, atoms, classes
from fxgrow.common import Refusal
from fxgrow.graph import boundary, outer
from fxgrow.growth.edit import Edit
from fxgrow.record import Outcome


@dataclass
class Region:
    """Some nodes of the original graph, in its order; what it says of nodes are those of the copy.

    name: as `where` names it. home: the module that new layers belong to: the one named, or the one around a layer or call.
    """
    edit: Edit
    name: str
    home: str
    nodes: list[Node]

    @property
    def gives(self) -> Node:
        """The one node whose value, a floating tensor, is used outside."""
        return self._one(boundary(self.nodes)[1], "gives")

    @property
    def takes(self) -> Node:
        """The one node outside whose value, a floating tensor, is used inside."""
        return self._one(boundary(self.nodes)[0], "takes")

    @property
    def reader(self) -> Node:
        """The first node inside that uses what the region takes."""
        return self.edit.nodes[next(n for n in self.nodes if self.takes.name in (i.name for i in n.all_input_nodes)).name]

    def value(self, node: Node) -> Tensor:
        """What a node gives, on the meta device."""
        return self.edit.values[node.name]

    def below(self, name: str) -> str:
        """A path in the home."""
        return f"{self.home}.{name}".lstrip(".")

    def _one(self, nodes: list[Node], verb: str) -> Node:
        nodes = [n for n in nodes if any(isinstance(v, Tensor) for v in tree_leaves(self.value(n)))]
        if len(nodes) != 1:
            names = f" ({', '.join(n.name for n in nodes[:4])})" if nodes else ""
            raise Refusal(f"it {verb} {len(nodes) or 'no'} tensors{names}, not one: name a part of it that {verb} one")
        value = self.value(nodes[0])
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise Refusal(f"what it {verb} ({nodes[0].name}) is no tensor of real numbers")
        return self.edit.nodes[nodes[0].name]

    @property
    def channels(self) -> int:
        """The axis of what it gives that some layer makes: neither the batch nor space nor time."""
        found = channel_axes(self.edit.before, self.gives.name)
        if len(found) == 1:
            return found[0]
        if self.value(self.gives).ndim == 2:
            return 1
        raise Refusal(f"which axis of {self.gives.name} its channels are on is not clear: {len(found) or 'none'} of them "
                      f"{'is' if len(found) < 2 else 'are'} made by layers")


def channel_axes(gm: GraphModule, node: str) -> list[int]:
    """The axes of what a node gives that some layer makes: one, where it is clear which its channels are on."""
    axes, made = _channels(gm)
    return [d for d, axis in enumerate(axes.get(node, ())) if d and made.intersection(atoms(axis))]


_KNOWN: weakref.WeakKeyDictionary[GraphModule, tuple[dict, set]] = weakref.WeakKeyDictionary()


def _channels(gm: GraphModule) -> tuple[dict, set]:
    """The axes of every node's value, and all that some layer makes."""
    if gm not in _KNOWN:
        tape = analyse(gm)
        _KNOWN[gm] = ({n: v.axes for n, v in tape.node_values.items() if isinstance(v, Value)},
                      {c.atom for c in classes(tape) if c.producers})
    return _KNOWN[gm]


def regions(edit: Edit) -> dict[str, list[Region]]:
    """Every place by name: a module (all nodes below it), a layer (each call of it alone), a call (`module:node`)."""
    found: dict[str, list[Region]] = {}
    for node in edit.before.graph.nodes:
        owner = node.meta.get("owner") or ""
        if node.op == "call_module":
            path = str(node.target)
            owner = path.rpartition(".")[0]
            found.setdefault(path, []).append(Region(edit, path, owner, [node]))
        elif node.op in ("call_function", "call_method"):
            if isinstance(edit.values[node.name], Tensor):
                name = f"{owner}:{node.name}" if owner else node.name
                found.setdefault(name, []).append(Region(edit, name, owner, [node]))
        else:
            continue
        while owner:
            found.setdefault(owner, [Region(edit, owner, owner, [])])[0].nodes.append(node)
            owner = owner.rpartition(".")[0]
    return found


def select(edit: Edit, where: str | Sequence[str], what: str) -> list[Region]:
    """What globs name, in the order of the graph; of places within each other that one glob matches, the outermost.

    Raises:
        SelectionError: a glob matches nothing.
    """
    known = regions(edit)
    chosen: dict[str, list[Region]] = {}
    for pattern in [where] if isinstance(where, str) else where:
        chosen.update({n: known[n] for n in outer(edit.select(pattern, known, what))})
    order = {node: i for i, node in enumerate(edit.before.graph.nodes)}
    return sorted((r for found in chosen.values() for r in found), key=lambda r: order[r.nodes[-1]])


def apply(edit: Edit, where: str | Sequence[str], what: str, put: Callable[[Region], Outcome]) -> PassResult:
    """Calls `put` for each place that is named, the last first (what it puts behind a place is what the next one takes), and
    keeps the reasons of those where nothing can be put.

    Raises:
        SelectionError: nothing is named so, or nothing could be put anywhere.
    """
    for region in reversed(select(edit, where, what)):
        try:
            if edit.read_elsewhere(region.gives):
                raise Refusal("the memory of what it gives is written to later and read under another name")
            edit.outcomes.insert(0, put(region))
        except Refusal as why:
            edit.outcomes.insert(0, Outcome(region.name, 0, 0, [region.name], reason=str(why)))
    edit.insist(where)
    return edit.finish()


def read_parameter(edit: Edit, before: Node, name: str) -> Node:
    """A node in front of `before` that reads a parameter."""
    with edit.graph.inserting_before(before):
        node = edit.graph.get_attr(name)
    node.meta["owner"] = name.rpartition(".")[0]
    return node


def kept(edit: Edit, before: Node, node: Node) -> Node:
    """The value of a node as it is in front of `before`: a copy, if something writes to it later."""
    return edit.call(before, ".clone", node, owner=before.meta.get("owner", "")) if edit.written(node) else node
