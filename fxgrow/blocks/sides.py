"""One side of a match: a captured network, what its nodes compute, and its tensors."""
import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from fxgrow.aten import tree_leaves
from fxgrow.graph import location_of, named_tensors
from fxgrow.identity import Trace

SCALED = ("mul", "div")  # by a plain number, which can be folded into weights


class Side:
    """One of the two graphs: its nodes that give tensors, in order, without those that do nothing in eval mode."""

    def __init__(self, gm: GraphModule):
        self.gm, self.trace = gm, Trace.of(gm)
        self.nodes: list[Node] = []
        self.same: dict[Node, Node] = {}  # nodes that give what another one gives
        self.layers = dict(gm.named_modules())
        for node in gm.graph.nodes:
            if node.op in ("get_attr", "output") or not _holds_tensors(self.trace.values.get(node.name)):
                continue
            passed_on = next((i for i in node.all_input_nodes if self._passes(i, node)), None)
            if passed_on is not None:
                self.same[node] = self.resolve(passed_on)
            else:
                self.nodes.append(node)
        self.order = {node: at for at, node in enumerate(self.nodes)}

    def _passes(self, taken: Node, node: Node) -> bool:
        """Return whether a node gives the very value that it takes."""
        gives, holds = self.trace.gives.get(node.name), self.trace.gives.get(taken.name)
        return gives is not None and gives is holds and node.op != "placeholder" and taken.op != "get_attr"

    def resolve(self, node: Node) -> Node:
        """Return the node that makes a value, for one that only passes it on."""
        return self.same.get(node, node)

    def inputs(self, node: Node) -> list[Node]:
        """Return the nodes whose tensors a node reads, tensors of the model apart."""
        return [self.resolve(i) for i in node.all_input_nodes
                if i.op != "get_attr" and _holds_tensors(self.trace.values.get(i.name))]

    def reads(self, node: Node) -> list[str]:
        """Return the names of the model's tensors that a node reads by name."""
        return [str(i.target) for i in node.all_input_nodes if i.op == "get_attr"]

    def tensors(self, node: Node) -> dict[str, Tensor]:
        """Return the parameters and buffers of the layer that a node calls, by their names in it."""
        if node.op != "call_module":
            return {}
        layer = self.layers[str(node.target)]
        return dict(named_tensors(layer))

    def types(self, node: Node) -> list[torch.dtype]:
        """Return the types of the model's tensors that a node or its layer reads."""
        read = (self.trace.values[i.name] for i in node.all_input_nodes if i.op == "get_attr")
        return [t.dtype for t in (*read, *self.tensors(node).values()) if isinstance(t, Tensor)]

    def describe(self, node: Node) -> str:
        """Return where a node is and what it does, in words."""
        if node.op == "call_module":
            kind = type(self.layers[str(node.target)]).__name__
        else:
            kind = getattr(node.target, "__name__", str(node.target))
        shape = tuple(getattr(self.trace.values[node.name], "shape", ()))
        return f"{location_of(node)} ({kind}, gives {list(shape)})"


def _holds_tensors(value) -> bool:
    return any(isinstance(v, Tensor) for v in tree_leaves(value))


def users_of(side: Side, node: Node) -> set[Node]:
    """Return the nodes that read a value, those that pass it on left out."""
    found: set[Node] = set()
    queue = [node]
    while queue:
        for user in queue.pop().users:
            if user in side.same:
                queue.append(user)
            elif user in side.order or user.op == "output":
                found.add(user)
    return found
