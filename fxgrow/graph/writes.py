"""Writes: which nodes write to memory, to whose, and whose memory is written to later."""
from __future__ import annotations

import operator
from typing import Any

from torch import Tensor, nn
from torch.fx import GraphModule, Node

from fxgrow.aten import Shapes, storage_of
from fxgrow.graph.running import MetaRunner

IN_PLACE_OPERATORS = {"iadd", "iand", "iconcat", "ifloordiv", "ilshift", "imatmul", "imod", "imul", "ior", "ipow", "irshift",
                      "isub", "itruediv", "ixor"}
KEYWORDS = (operator.and_, operator.or_, operator.not_, operator.is_)  # their names end as those of what writes in place


def writes_in_place(node: Node) -> bool:
    """Tell whether a node calls a function or method that writes to one of its arguments."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return node.op in ("call_function", "call_method") and node.target not in KEYWORDS and (
        name == "setitem" or name in IN_PLACE_OPERATORS or (name.endswith("_") and not name.endswith("__"))
        or node.kwargs.get("inplace") is True or "out" in node.kwargs)


def written_argument(node: Node) -> Node | None:
    """Return the node whose value this one writes to, if it writes in place."""
    written = node.kwargs.get("out", node.args[0] if node.args else None) if writes_in_place(node) else None
    return written if isinstance(written, Node) else None


def memory_of(node: Any) -> int | None:
    """Identify the memory that a recorded node's value lies in, if it is a tensor."""
    value = node.meta.get("val") if isinstance(node, Node) else None
    return storage_of(value) if isinstance(value, Tensor) else None


def values_and_writes(gm: GraphModule) -> tuple[dict[str, Any], dict[str, bool]]:
    """Return every node's value on meta tensors, by name, and of tensors whether they are written to after the node."""
    runner = _VersionRunner(gm)
    with Shapes():
        values = {node.name: value for node, value in runner.run().items()}
    return values, {name: values[name]._version > version for name, version in runner.versions.items()}


class _VersionRunner(MetaRunner):
    """Note the version of each tensor when its node has run."""

    def __init__(self, gm: GraphModule):
        super().__init__(gm)
        self.versions: dict[str, int] = {}

    def after(self, node: Node, value: Any) -> Any:
        value = super().after(node, value)
        if isinstance(value, Tensor):
            if self._drops_in_place(node):
                value.zero_()  # as it does in training; there is no data here
            self.versions[node.name] = value._version
        return value

    def _drops_in_place(self, node: Node) -> bool:
        """Tell whether a node is a dropout that writes to its input, which in eval mode it only passes on."""
        if node.op == "call_module":
            layer = self.modules[str(node.target)]
            return isinstance(layer, nn.modules.dropout._DropoutNd) and layer.inplace
        return node.op == "call_function" and "dropout" in getattr(node.target, "__name__", "") and (
            node.kwargs.get("inplace") is True or node.args[3:4] == (True,))
