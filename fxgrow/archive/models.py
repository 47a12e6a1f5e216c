"""Captured models as JSON and back: one graph over its modules, or an outer module with graphs in it; and their inputs.

What a file cannot hold, and whatever in a file is not as it would have been written, is refused with an ArchiveError.
"""
from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule

from fxgrow.archive.graph import decode_graph, encode_graph
from fxgrow.archive.modules import Encoder
from fxgrow.archive.structure import usable_name
from fxgrow.archive.tree import Tree
from fxgrow.archive.values import Convert, Unencodable, decode, encode, fields
from fxgrow.common import one_line
from fxgrow.errors import ArchiveError
from fxgrow.graph import Captured, hold, to_meta
from fxgrow.tracing import plain_attributes

PART = {"class": str, "nodes": list, "attributes": dict}


def class_name(model: nn.Module) -> str:
    """Return the name that a model's class gets in the file."""
    name = type(model).__name__
    return name if name.isidentifier() else "GraphModule"


def encode_model(model: nn.Module, encoder: Encoder) -> dict:
    """Return the class and the graph of a captured model, or the graphs of its parts."""
    if isinstance(model, GraphModule):
        return {"class": class_name(model), "nodes": encode_graph(model), "parts": {}}
    parts = {path: {"class": class_name(gm), "nodes": encode_graph(gm), "attributes": encode(plain_attributes(gm))}
             for path, gm in encoder.graphs.items()}
    return {"class": class_name(model), "nodes": None, "parts": parts}


def decode_model(description: dict, data: dict[str, Tensor]) -> nn.Module:
    """Return the model that an archive describes."""
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
        Captured(gm).inputs = ()
    if not graphs or not tree.is_layer_module(tree.root):
        raise ArchiveError("the model has neither a graph nor parts")
    for module in list(tree.root.modules()):
        module._modules.update({n: graphs[id(m)] for n, m in module._modules.items() if id(m) in graphs})
    return tree.root


def assemble(name: str, tree: Tree, nodes: list) -> GraphModule:
    """Return the GraphModule, its parts in the order they had (torch.fx alone orders them by use and drops the unused)."""
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


def encode_inputs(inputs: tuple) -> Any:
    """Return example inputs as JSON, without their numbers."""
    return encoded("an example input", to_meta(inputs), _shape)


def encoded(what: str, value: Any, special=lambda value: None) -> Any:
    """Return `encode(value, special)`; `what` names the value in the ArchiveError of one that a file cannot hold."""
    try:
        return encode(value, special)
    except (Unencodable, RecursionError) as error:
        raise ArchiveError(f"{what} holds a {one_line(error)}, which an archive cannot hold") from None


def _shape(value: Any) -> dict | None:
    if isinstance(value, Tensor):
        return {"tensor": [list(value.shape), encode(value.dtype)]}
    return None


def decode_facts(inputs: Any, leaves: dict) -> tuple[tuple, dict[str, str]]:
    """Return the inputs of a captured model as meta tensors, and the layers that capture kept whole."""
    example = decode(inputs, {"tensor": _meta_tensor})
    if not isinstance(example, tuple) or not all(isinstance(v, str) for v in leaves.values()):
        raise ArchiveError("the model's inputs are not described")
    return example, leaves


def _meta_tensor(content: Any, inner: Convert) -> Tensor:
    size, kind = content
    dtype = inner(kind)
    if not isinstance(dtype, torch.dtype):
        raise ArchiveError("an example input has no type")
    return torch.empty(inner({"size": size}), dtype=dtype, device="meta")
