"""Joins: the `by_mode` nodes at which the two branches of `if self.training` meet."""
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.fx import Graph, Node

from fxgrow.layers import by_mode


def is_join(node: Node) -> bool:
    """Tell whether a node gives one value in train mode and another in eval mode."""
    return node.target is by_mode


def add_join(graph: Graph, owner: str, train_value: Any, eval_value: Any) -> Node:
    """Add a node that chooses between two arguments by the mode of the module `owner`."""
    node = graph.call_function(by_mode, (mode_flag(graph, owner), train_value, eval_value))
    node.meta["owner"] = owner
    return node


def mode_flag(graph: Graph, owner: str) -> Node:
    """Add a node that reads `training` of the module `owner`."""
    return graph.get_attr(f"{owner}.training" if owner else "training")


def branch_taken(join: Node, modules: Mapping[str, nn.Module]) -> Any:
    """Return the argument that a join chooses in the mode that `modules` (by name) are in."""
    flag, train_value, eval_value = join.args
    if isinstance(flag, Node):
        flag = modules[str(flag.target).rpartition(".")[0]].training
    return train_value if flag else eval_value
