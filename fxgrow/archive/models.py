"""Captured models as JSON and back: one graph over its modules, or an outer module with graphs in it."""
from __future__ import annotations

import warnings
from typing import Any

from torch import Tensor, nn
from torch.fx import Graph, GraphModule

from fxgrow.archive.graph import decode_graph, encode_graph
from fxgrow.archive.modules import Encoder
from fxgrow.archive.structure import usable_name
from fxgrow.archive.tree import Tree
from fxgrow.archive.values import decode, encode, fields
from fxgrow.common import one_line
from fxgrow.errors import ArchiveError
from fxgrow.graph import hold
from fxgrow.tracing import plain_attributes

PART = {"class": str, "nodes": list, "attributes": dict}


def class_name(model: nn.Module) -> str:
    """Return the name that a model's class gets in the file."""
    name = type(model).__name__
    return name if name.isidentifier() else "GraphModule"


def encode_model(model: nn.Module, encoder: Encoder) -> dict:
    """Return the class and the graph of a captured model, or the graphs of its parts.

    Raises:
        ArchiveError: a graph calls or is given something that a file cannot hold.
    """
    if isinstance(model, GraphModule):
        return {"class": class_name(model), "nodes": encode_graph(model), "parts": {}}
    parts = {path: {"class": class_name(gm), "nodes": encode_graph(gm), "attributes": encode(plain_attributes(gm))}
             for path, gm in encoder.graphs.items()}
    return {"class": class_name(model), "nodes": None, "parts": parts}


def decode_model(description: dict, data: dict[str, Tensor]) -> nn.Module:
    """Return the model that an archive describes.

    Raises:
        ArchiveError: the description is not one that `encode_model` and `Encoder.tree` write.
    """
    tree = decode_tree(description, data)
    if description["nodes"] is None:
        return _shell(tree, description["parts"])
    if description["parts"]:
        raise ArchiveError("a model is one graph or has parts, not both")
    return assemble(description["class"], tree.part(""), description["nodes"])


def decode_tree(description: dict, data: dict[str, Tensor]) -> Tree:
    """Return the modules and tensors that a description has below `modules`, `tensors`, `strides` and `meta`."""
    return Tree(description["modules"], description["tensors"], description["strides"], description["meta"], data)


def _shell(tree: Tree, parts: dict) -> nn.Module:
    """Return the outer module, each part in its places made a graph."""
    graphs: dict[int, nn.Module] = {}
    for path, entry in parts.items():
        name, nodes, attributes = fields(entry, f"part {path[:80]!r}", PART)
        part = tree.part(path)
        graphs[id(part.root)] = gm = assemble(name, part, nodes)
        attributes = decode(attributes)
        if not isinstance(attributes, dict) or not all(usable_name(n, GraphModule) for n in attributes):
            raise ArchiveError(f"part {path[:80]!r} has attributes that may hold code")
        vars(gm).update(attributes)
    if not graphs or not tree.is_layer_module(tree.root):
        raise ArchiveError("the model has neither a graph nor parts")
    for module in list(tree.root.modules()):
        module._modules.update({n: graphs[id(m)] for n, m in module._modules.items() if id(m) in graphs})
    return tree.root


def assemble(name: str, tree: Tree, nodes: list) -> GraphModule:
    """Return the GraphModule, its parts in the order they had (torch.fx alone orders them by use and drops the unused).

    Raises:
        ArchiveError: the class's name is no name, or the graph no program.
    """
    if not name.isidentifier():
        raise ArchiveError("the model's class name is not a name")
    graph = decode_graph(nodes, tree)
    gm: Any = hold(GraphModule(nn.Module(), Graph(), name), tree.root)
    gm.training = tree.root.training
    try:
        with warnings.catch_warnings():  # the source that torch.fx compiles is not the user's
            warnings.simplefilter("ignore", SyntaxWarning)
            gm.graph = graph
        graph.lint()
    except Exception as error:
        raise ArchiveError(f"the graph is not a program: {one_line(error)}") from error
    return gm
