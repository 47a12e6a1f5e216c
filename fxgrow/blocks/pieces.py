"""Pieces, copied from a block or built of a module."""
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from fxgrow.blocks.finding import ends
from fxgrow.graph import Captured, below, clone_structure, copy_nodes, hold
from fxgrow.growth import Part, Piece
from fxgrow.identity import Trace
from fxgrow.tracing import capture


def _shell(modules: dict[str, nn.Module]) -> GraphModule:
    root = GraphModule(nn.Module(), Graph())
    for path, module in modules.items():
        root.add_submodule(path, module)
    return root


def _finish(root: GraphModule, graph: Graph, inputs: list[Any]) -> GraphModule:
    """Return `root` with a graph that is its own, ready to be analysed."""
    root._graph, graph.owning_module = graph, root
    Captured(root).inputs = tuple(inputs)
    root.recompile()
    return root


def copied(gm: GraphModule, block: Part, trace: Trace, path: str, wrap: Callable | None = None) -> Piece:
    """Return a copy of a block of `gm` under the name `path`, with the block's numbers.

    `wrap(graph, x, body, layers)` may put more around it: `body(x)` puts the copy itself in, and `layers` is the module at
    `path`, which takes further layers.
    """
    source = clone_structure(gm.get_submodule(block.name), lambda t: t.detach().clone())
    shell = _shell({path: source})
    graph = Graph()
    x = graph.placeholder("x")
    known = {block.takes, *block.nodes}
    others = [i for i in dict.fromkeys(i for n in block.nodes for i in n.all_input_nodes) if i not in known]
    outer = {i: graph.placeholder(f"given_{k}") for k, i in enumerate(others)}

    def renamed(name: str) -> str:
        return path + name[len(block.name):] if below(name, block.name) else name

    def body(value: Node) -> Node:
        env = {block.takes: value, **outer}
        copy_nodes(block.nodes, graph, env, renamed)
        return env[block.gives]

    graph.output(body(x) if wrap is None else wrap(graph, x, body, source))
    inputs = [ends(block, trace)[0].tensor, *(trace.values[i.name] for i in others)]
    return Piece(_finish(shell, graph, inputs), [path], others)


def built(module: nn.Module, names: str | dict[str, str], x: Tensor) -> Piece:
    """Return a module of our own as a piece, under one name or its parts each under theirs."""
    gm = capture(module.to(x.dtype), x)
    if isinstance(names, str):
        modules: dict[str, nn.Module] = {names: hold(nn.Module(), gm)}
    else:
        modules = {path: gm.get_submodule(part) for part, path in names.items()}

    def renamed(old: str) -> str:
        part, dot, rest = old.partition(".")
        return f"{names}.{old}".rstrip(".") if isinstance(names, str) else f"{names.get(part, '')}{dot}{rest}"

    graph = Graph()
    first, *nodes, output = gm.graph.nodes
    env = {first: graph.placeholder("x")}
    copy_nodes(nodes, graph, env, renamed)
    graph.output(env[output.args[0]])  # type: ignore[index]
    return Piece(_finish(_shell(modules), graph, list(Captured(gm).inputs)), list(modules))
