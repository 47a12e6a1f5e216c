"""Blocks: parts of a network with one input and one output, found around a module."""
from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.fx import Node

from fxgrow.common import Refusal
from fxgrow.graph import boundary
from fxgrow.identity import Trace, Val


@dataclass
class Block:
    """The nodes below a name, in order, the node that they get, and the one of them that others use."""
    path: str
    nodes: list[Node]
    x: Node
    out: Node

    def values(self, trace: Trace) -> tuple[Val, Val]:
        """What comes in, as the first of the nodes reads it, and what goes out."""
        reader = next(n for n in self.nodes if self.x in n.all_input_nodes)
        user = next((u for u in self.out.users if u not in self.nodes), None)
        given = trace.gives[self.out.name] if user is None else trace.reads[user.name, self.out.name]
        return trace.reads[reader.name, self.x.name], given


def find_out(path: str, trace: Trace) -> tuple[list[Node], Node]:
    """The nodes below `path`, in order, and the one of them that others use.

    Raises:
        Refusal: nothing is there, or others use several of its values.
    """
    nodes = trace.below.get(path)
    if not nodes:
        raise Refusal(f"{path} is inside a layer that is called as a whole, or never called: name the layer around it")
    _, outs = boundary(nodes)
    if len(outs) != 1 or not isinstance(trace.values[outs[0].name], Tensor):
        raise Refusal(f"{path} gives {len(outs)} values, not one tensor")
    return nodes, outs[0]


def find_block(path: str, trace: Trace) -> Block:
    """The block below `path`.

    Raises:
        Refusal: nothing is there, or it has several values in or out.
    """
    nodes, out = find_out(path, trace)
    given, _ = boundary(nodes)
    found = [i for i in given if isinstance(v := trace.values.get(i.name), Tensor) and v.is_floating_point()]
    alike = [i for i in found if trace.values[i.name].shape == trace.values[out.name].shape]
    candidates = alike or found
    if len(candidates) != 1:
        raise Refusal(f"{path} is given {len(candidates)} values, not one tensor")
    return Block(path, nodes, candidates[0], out)
