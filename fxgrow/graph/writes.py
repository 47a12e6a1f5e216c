"""Nodes that write to memory: in-place ops, and which memory a value lies in."""
from __future__ import annotations

from torch import Tensor, nn
from torch.fx import GraphModule, Node


def memory_of(node) -> int | None:
    """Which memory a node's value lies in: that of the tensor that it is a view of."""
    value = node.meta.get("val") if isinstance(node, Node) else None
    return value.untyped_storage()._cdata if isinstance(value, Tensor) else None


def writes_in_place(node: Node) -> bool:
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return node.op in ("call_function", "call_method") and (
        name in ("setitem", "iadd", "imul", "isub", "itruediv") or (name.endswith("_") and not name.endswith("__"))
        or node.kwargs.get("inplace") is True or "out" in node.kwargs)


def drops_in_place(gm: GraphModule, node: Node) -> bool:
    """Whether a node is a dropout that writes to its input, which in eval mode it only passes on."""
    if node.op == "call_module":
        layer = gm.get_submodule(str(node.target))
        return isinstance(layer, nn.modules.dropout._DropoutNd) and layer.inplace
    return node.op == "call_function" and "dropout" in getattr(node.target, "__name__", "") and (
        node.kwargs.get("inplace") is True or node.args[3:4] == (True,))
