"""Blocks: parts of a network with one input and one output, found around a module."""
from torch import Tensor
from torch.fx import Node

from fxgrow.common import Refusal
from fxgrow.graph import boundary
from fxgrow.growth import Part
from fxgrow.identity import Trace, Val


def find_out(path: str, trace: Trace) -> tuple[list[Node], Node]:
    """Return the nodes below `path`, in order, and the one of them that others use.

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


def find_block(path: str, trace: Trace) -> Part:
    """Return the block below `path`: of several values that it takes, the one of its output's shape.

    Raises:
        Refusal: nothing is there, or it has several values in or out.
    """
    nodes, out = find_out(path, trace)
    shape = trace.values[out.name].shape
    ins = [n for n in boundary(nodes)[0] if _is_real(trace.values.get(n.name))]
    candidates = [n for n in ins if trace.values[n.name].shape == shape] or ins
    if len(candidates) != 1:
        raise Refusal(f"{path} is given {len(candidates)} values, not one tensor")
    return Part(path, nodes, candidates[0], out)


def _is_real(value) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def ends(part: Part, trace: Trace) -> tuple[Val, Val]:
    """Return the value that a part takes, as its first reader reads it, and the one that it gives, as others read it."""
    user = next((u for u in part.gives.users if u not in part.nodes), None)
    out = trace.gives[part.gives.name] if user is None else trace.reads[user.name, part.gives.name]
    return trace.reads[part.reader.name, part.takes.name], out  # type: ignore[union-attr]
