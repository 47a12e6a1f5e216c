"""Blocks, parts of a network with one input and one output, found around a module; pieces copied from one or built."""
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from fxgrow.common import Refusal
from fxgrow.graph import Captured, below, boundary, clone_structure, copy_nodes, hold
from fxgrow.growth import Part, Piece
from fxgrow.identity import Trace, Val
from fxgrow.tracing import capture


def find_out(path: str, trace: Trace) -> tuple[list[Node], Node]:
    """Return the nodes below `path`, in order, and the one of them that others use, or raise a Refusal."""
    nodes = trace.below.get(path)
    if not nodes:
        raise Refusal(f"{path} is inside a layer that is called as a whole, or never called: name the layer around it")
    _, outs = boundary(nodes)
    if len(outs) != 1 or not isinstance(trace.values[outs[0].name], Tensor):
        raise Refusal(f"{path} gives {len(outs)} values, not one tensor")
    return nodes, outs[0]


def find_block(path: str, trace: Trace) -> Part:
    """Return the block below `path`, or raise a Refusal; of several values taken, the one of its output's shape counts."""
    nodes, out = find_out(path, trace)
    shape = trace.values[out.name].shape
    values = {n: trace.values.get(n.name) for n in boundary(nodes)[0]}
    ins = [n for n, value in values.items() if isinstance(value, Tensor) and value.is_floating_point()]
    candidates = [n for n in ins if trace.values[n.name].shape == shape] or ins
    if len(candidates) != 1:
        raise Refusal(f"{path} is given {len(candidates)} values, not one tensor")
    return Part(path, nodes, candidates[0], out)


def ends(part: Part, trace: Trace) -> tuple[Val, Val]:
    """Return the value that a part takes, as its first reader reads it, and the one that it gives, as others read it."""
    user = next((u for u in part.gives.users if u not in part.nodes), None)
    out = trace.gives[part.gives.name] if user is None else trace.reads[user.name, part.gives.name]
    return trace.reads[part.reader.name, part.takes.name], out  # type: ignore[union-attr]


def _assembled(modules: dict[str, nn.Module], graph: Graph, inputs: Iterable[Any]) -> GraphModule:
    """Return modules under their names with the graph that calls them, ready to be analysed."""
    root = GraphModule(nn.Module(), Graph())
    for path, module in modules.items():
        root.add_submodule(path, module)
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
    graph = Graph()
    x = graph.placeholder("x")
    known = {block.takes, *block.nodes}
    others = [i for i in dict.fromkeys(i for n in block.nodes for i in n.all_input_nodes) if i not in known]
    outer = {i: graph.placeholder(f"given_{k}") for k, i in enumerate(others)}

    def body(value: Node) -> Node:
        env = {block.takes: value, **outer}
        copy_nodes(block.nodes, graph, env, lambda n: path + n[len(block.name):] if below(n, block.name) else n)
        return env[block.gives]

    graph.output(body(x) if wrap is None else wrap(graph, x, body, source))
    inputs = [ends(block, trace)[0].tensor, *(trace.values[i.name] for i in others)]
    return Piece(_assembled({path: source}, graph, inputs), [path], others)


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
    return Piece(_assembled(modules, graph, Captured(gm).inputs), list(modules))
