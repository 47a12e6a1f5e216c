"""A value as large as the one that it is added to, also for inputs at which the sizes of both are rounded in other ways."""
import operator

import torch
import torch.nn.functional as F
from torch.fx import Node

from fxgrow.aten import Shapes
from fxgrow.graph import NodeRunner, meta_twin
from fxgrow.growth import Edit


def fitted(edit: Edit, z: Node, x: Node, y: Node, rank: int, before: Node) -> Node:
    """Return a node that gives `z`, in the space of `y` where inputs of some size let the two differ.

    Args:
        z, y: values that are made of `x`; their last `rank` axes are those of space.
        before: the node in front of which the new ones stand.
    """
    if not rank or not _may_differ(edit, z, x, y, rank):
        return z
    owner = z.meta.get("owner", "")
    shape = edit.call(before, getattr, y, "shape", owner=owner)
    space = edit.call(before, operator.getitem, shape, slice(-rank, None), owner=owner)
    return edit.call(before, F.interpolate, z, space, owner=owner)


def _may_differ(edit: Edit, z: Node, x: Node, y: Node, rank: int) -> bool:
    """Tell whether two values have other sizes for a somewhat larger `x`: until each rounding has had its turn."""
    given, gives = edit.values[x.name], edit.values[y.name]
    stride = max(-(-a // b) for a, b in zip(given.shape[-rank:], gives.shape[-rank:]))
    nodes, root = _between(edit, x, {z, y}), meta_twin(edit.gm)
    known = {n: edit.values[n.name] for n in edit.graph.nodes if n.name in edit.values and n not in nodes}
    for more in range(1, 2 + stride):
        runner = NodeRunner(nodes, root)
        longer = [*given.shape[:-rank], *(s + more for s in given.shape[-rank:])]
        runner.values |= {**known, x: torch.empty(longer, dtype=given.dtype, device="meta")}
        try:
            with Shapes():
                values = runner.run()
        except Exception:  # the model does not run there either
            continue
        if values[z].shape[-rank:] != values[y].shape[-rank:]:
            return True
    return False


def _between(edit: Edit, x: Node, last: set[Node]) -> list[Node]:
    """Return the nodes that a value goes through on its way to others, in order, and the tensors that these read."""
    reached, order = {x}, list(edit.graph.nodes)
    for node in order:
        if reached.intersection(node.all_input_nodes):
            reached.add(node)
    needed = set(last)
    for node in reversed(order):
        if node in needed:
            needed.update(n for n in node.all_input_nodes if n in reached or n.name not in edit.values)
    return [n for n in order if n in needed and n is not x]
