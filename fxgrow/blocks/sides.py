"""One side of a match: a captured network, what its nodes compute, and its tensors."""
from __future__ import annotations

from torch import Tensor
from torch.fx import GraphModule, Node

from fxgrow.graph import location_of
from fxgrow.identity import Trace

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
        return f"{location_of(node)} ({kind}, gives {list(shape)})"


def _tensors(value) -> bool:
    return isinstance(value, Tensor) or isinstance(value, (tuple, list)) and any(isinstance(v, Tensor) for v in value)


def users_of(side: Side, node: Node) -> set[Node]:
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
