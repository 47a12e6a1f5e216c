"""Pieces: modules to be put into a graph, copied from a block or built."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from fxgrow.blocks.block import Block
from fxgrow.graph import below, clone_structure, copy_nodes, hold
from fxgrow.identity import Trace
from fxgrow.tracing import capture


@dataclass
class Piece:
    """A block on its own, to be put in: `gm` has its layers under their new names and takes `x` first, then `others`.

    paths: where its layers are; own: the names of its tensors.
    """
    gm: GraphModule
    paths: list[str]
    others: list[Node] = field(default_factory=list)

    @property
    def out(self) -> Node:
        """The node of `gm` whose value goes out."""
        return next(iter(self.gm.graph.find_nodes(op="output"))).args[0]  # type: ignore[return-value]

    def tensors(self) -> dict[str, Tensor]:
        return {**dict(self.gm.named_parameters()), **dict(self.gm.named_buffers())}


def _shell(modules: dict[str, nn.Module]) -> GraphModule:
    root = GraphModule(nn.Module(), Graph())
    for path, module in modules.items():
        root.add_submodule(path, module)
    return root


def _finish(root: GraphModule, graph: Graph, inputs: list[Any], class_name: str = "Piece") -> GraphModule:
    """`root` with a graph that is its own, ready to be analysed."""
    root._graph, graph.owning_module = graph, root
    root.meta["example_inputs"] = tuple(inputs)
    root.recompile()
    return root


def copied(gm: GraphModule, block: Block, trace: Trace, path: str, wrap: Callable | None = None) -> Piece:
    """A copy of a block of `gm` under the name `path`, its numbers those of the block.

    `wrap(graph, x, body, layers)` may put more around it: `body(x)` puts the copy itself in, and `layers` is the module at
    `path`, which takes further layers.
    """
    source = clone_structure(gm.get_submodule(block.path), lambda t: t.detach().clone())
    shell = _shell({path: source})
    graph = Graph()
    x = graph.placeholder("x")
    known = {block.x, *block.nodes}
    others = [i for i in dict.fromkeys(i for n in block.nodes for i in n.all_input_nodes) if i not in known]
    outer = {i: graph.placeholder(f"given_{k}") for k, i in enumerate(others)}

    def body(value: Node) -> Node:
        env = {block.x: value, **outer}
        copy_nodes(block.nodes, graph, env, lambda name: path + name[len(block.path):] if below(name, block.path) else name)
        return env[block.out]

    graph.output(body(x) if wrap is None else wrap(graph, x, body, source))
    inputs = [block.values(trace)[0].tensor, *(trace.values[i.name] for i in others)]
    return Piece(_finish(shell, graph, inputs), [path], others)


def built(module: nn.Module, names: str | dict[str, str], x: Tensor) -> Piece:
    """A module of our own as a piece, under one name or its parts each under theirs."""
    gm = capture(module.to(x.dtype), x)
    if isinstance(names, str):
        shell = _shell({names: hold(nn.Module(), gm)})
    else:
        shell = _shell({path: gm.get_submodule(part) for part, path in names.items()})

    def named(old: str) -> str:
        part, dot, rest = old.partition(".")
        return f"{names}.{old}".rstrip(".") if isinstance(names, str) else f"{names.get(part, '')}{dot}{rest}"

    graph = Graph()
    first, *nodes, output = gm.graph.nodes
    env = {first: graph.placeholder("x")}
    copy_nodes(nodes, graph, env, named)
    graph.output(env[output.args[0]])  # type: ignore[index]
    paths = [names] if isinstance(names, str) else list(names.values())
    return Piece(_finish(shell, graph, list(gm.meta["example_inputs"])), paths)
