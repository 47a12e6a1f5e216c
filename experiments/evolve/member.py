"""A network of a population as data: where it comes from, what it costs, how well it does."""
from __future__ import annotations

import operator
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import networkx
from torch import nn
from torch.fx import GraphModule, Node
from torch.fx.node import map_aggregate

from fxgrow.graph import title


@dataclass(frozen=True)
class Member:
    """One network.

    parent: its number (None: the base network). step: the pass that made it, with its seed, as `build` takes it.
    graph: a hash of its structure. flops: of a forward pass for one sample. latency: milliseconds of that, if measured.
    """
    number: int
    round: int
    parent: int | None
    step: dict[str, Any] | None
    graph: str
    parameters: int
    flops: int
    latency: float | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Scored:
    """A member as it was after a training.

    archive: a hash of its file. accuracy, loss: on the validation part; correct: which of its samples it got right, as a
    string of 0 and 1. spent: FLOPs of this training. steps: of it.
    """
    member: Member
    round: int
    archive: str
    accuracy: float
    loss: float
    correct: str
    spent: int
    steps: int
    seconds: float

    @property
    def number(self) -> int:
        return self.member.number


def line(members: Mapping[int, Member], number: int) -> list[int]:
    """A member's ancestors, the base network first, and itself."""
    found = [number]
    while (parent := members[found[0]].parent) is not None:
        found.insert(0, parent)
    return found


def graph_hash(gm: GraphModule) -> str:
    """A hash of a captured module's structure: the same for networks that differ in names and numbers alone (Weisfeiler and
    Lehman's, as networkx computes it, over operations with their settings and the shapes of their parameters)."""
    graph, modules = networkx.DiGraph(), dict(gm.named_modules(remove_duplicate=False))
    for node in gm.graph.nodes:
        graph.add_node(node.name, label=_label(gm, modules, node))
    for node in gm.graph.nodes:
        for at, read in enumerate(node.all_input_nodes):
            graph.add_edge(read.name, node.name, label=str(at))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # hashes differ from those of networkx before 3.5
        return networkx.weisfeiler_lehman_graph_hash(graph, node_attr="label", edge_attr="label", iterations=4)


def _label(gm: GraphModule, modules: Mapping[str, nn.Module], node: Node) -> str:
    """A layer with its settings, or a call with its numbers; and the shapes of the parameters."""
    what, tensors = title(gm, node), []
    if node.op == "call_module":
        layer = modules[str(node.target)]
        what, tensors = f"{type(layer).__name__} {layer.extra_repr()}", list(layer.parameters())
    elif node.op == "get_attr":
        tensors = [operator.attrgetter(str(node.target))(gm)]
    given = map_aggregate((node.args, dict(node.kwargs)), lambda a: "_" if isinstance(a, Node) else a)
    return ascii(f"{what} {[tuple(getattr(t, 'shape', ())) for t in tensors]} {given}")  # networkx takes no others
