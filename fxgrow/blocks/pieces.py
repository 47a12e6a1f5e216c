"""Blocks, parts of a network with one input and one output, found around a module; pieces copied from one or built."""
import contextlib
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

from fxgrow.common import Refusal
from fxgrow.graph import (
    Captured,
    below,
    boundary,
    clone_structure,
    copy_nodes,
    form_of,
    hold,
    layer_forms,
    owner_of,
    tensors_of,
)
from fxgrow.growth import Part, Piece
from fxgrow.identity import Trace, Val
from fxgrow.tracing import capture

MOST_AROUND = 12  # nodes of a loop in front of a block, and behind it, that may be of the block


def find_out(path: str, trace: Trace) -> tuple[list[Node], Node]:
    """Return the nodes below `path`, in order, and the one of them that others use, or raise a Refusal."""
    nodes = trace.below.get(path)
    if not nodes:
        raise Refusal(f"{path} is inside a layer that is called as a whole, or never called: name the layer around it")
    return nodes, _only_out(path, nodes, trace)


def _only_out(path: str, nodes: list[Node], trace: Trace) -> Node:
    _, outs = boundary(nodes)
    if len(outs) != 1 or not isinstance(trace.values[outs[0].name], Tensor):
        raise Refusal(f"{path} gives {len(outs)} values, not one tensor")
    return outs[0]


def find_block(path: str, trace: Trace, last: bool = False) -> Part:
    """Return the block below `path`, or raise a Refusal; of several values taken, the one of its output's shape counts.

    last: of several such (an encoder's result beside what the block goes on from), take the one that was made last.
    """
    return _part(path, find_out(path, trace)[0], trace, last)


def _elsewhere(path: str, nodes: list[Node]) -> dict[str, nn.Module]:
    """Return the layers that nodes of a block call and that lie outside of it, by name."""
    called = {str(n.target): n.graph.owning_module for n in nodes if n.op == "call_module"}
    return {n: gm.get_submodule(n) for n, gm in called.items() if gm is not None and not below(n, path)}


def _part(path: str, nodes: list[Node], trace: Trace, last: bool = False) -> Part:
    nodes = [n for n in nodes if n.op != "get_attr" or below(str(n.target), path)]  # a mask of the whole model is given
    with_numbers = next((n for n, layer in _elsewhere(path, nodes).items() if tensors_of(layer)), None)
    if with_numbers is not None:
        raise Refusal(f"{path} calls {with_numbers}, whose numbers others share")
    out = _only_out(path, nodes, trace)
    shape = trace.values[out.name].shape
    values = {n: trace.values.get(n.name) for n in boundary(nodes)[0]}
    ins = [n for n, v in values.items() if isinstance(v, Tensor) and v.is_floating_point() and n.op != "get_attr"]
    alike = [n for n in ins if trace.values[n.name].shape == shape]
    if last and len(alike) > 1:
        alike = [max(alike, key=list(out.graph.nodes).index)]
    candidates = alike or ins
    if len(candidates) != 1:
        raise Refusal(f"{path} is given {len(candidates)} values, not one tensor")
    return Part(path, nodes, candidates[0], out)


def find_spread(path: str, trace: Trace, graph: Graph) -> list[Part]:
    """Return what may be the block whose layers are below `path` and whose code is that of a loop around it, least first.

    Besides its layers it has nodes of that loop in between, in front and behind, up to where one value goes on.
    """
    gm: Any = graph.owning_module
    order = [n for n in graph.nodes if n.op not in ("get_attr", "output")]
    layers = [n for n in trace.below.get(path, ()) if n.op != "get_attr"]
    tensors = [n for n in trace.below.get(path, ()) if n.op == "get_attr"]
    places = [i for i, n in enumerate(order) if n in set(layers)]
    found: dict[tuple[Node, Node], Part] = {}

    def is_of_loop(node: Node) -> bool:
        if node.op == "call_module" and (below(str(node.target), path) or tensors_of(gm.get_submodule(str(node.target)))):
            return False  # (a dropout that all blocks share is of the loop)
        return node.op != "placeholder" and below(path, owner_of(node)) and owner_of(node) != path

    if not places or not all(n in set(layers) or is_of_loop(n) for n in order[places[0]:places[-1] + 1]):
        return []
    starts = [places[0]]
    while starts[-1] and is_of_loop(order[starts[-1] - 1]) and len(starts) < MOST_AROUND:
        starts.append(starts[-1] - 1)
    ends_at = [places[-1]]
    while ends_at[-1] + 1 < len(order) and is_of_loop(order[ends_at[-1] + 1]) and len(ends_at) < MOST_AROUND:
        ends_at.append(ends_at[-1] + 1)
    for end in ends_at:
        for start in starts:
            with contextlib.suppress(Refusal):
                part = _part(path, [*tensors, *order[start:end + 1]], trace)
                if not _is_fed_besides(part):
                    found.setdefault((part.takes, part.gives), part)  # type: ignore[arg-type]
    return list(found.values())


def _is_fed_besides(part: Part) -> bool:
    """Tell whether a part is also given something that is computed from what it takes: then it is the end of a block."""
    others, reached = boundary(part.nodes)[0], {part.takes}
    node, first = part.takes.next, min(n for n in part.nodes if n.op != "get_attr")  # type: ignore[union-attr]
    while node is not first:
        if not reached.isdisjoint(node.all_input_nodes):
            reached.add(node)
        node = node.next
    return not (reached - {part.takes}).isdisjoint(others)


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


def likeness(block: Part, trace: Trace) -> tuple:
    """Return what all blocks have in common whose copies compute the same, their numbers aside."""
    gm: Any = block.nodes[0].graph.owning_module
    known = {block.takes: "x", **{node: at for at, node in enumerate(block.nodes)}}
    others: dict[Node, str] = {}

    def relative(name: str) -> str:
        return f"*{name[len(block.name):]}" if below(name, block.name) else name

    def stand(node: Node) -> tuple:
        return "node", known[node] if node in known else others.setdefault(node, f"given {len(others)}")

    nodes = [(n.op, relative(n.target) if isinstance(n.target, str) else n.target, repr(map_arg((n.args, n.kwargs), stand)),
              relative(owner_of(n))) for n in block.nodes]
    elsewhere = _elsewhere(block.name, block.nodes).values()
    layers = [layer_forms(layer, {}) for layer in (gm.get_submodule(block.name), *elsewhere)]
    x, given = ends(block, trace)[0], [form_of(trace.values[node.name]) for node in others]
    return nodes, layers, form_of(x.tensor), x.range, given, known[block.gives]


def copied(gm: GraphModule, block: Part, trace: Trace, path: str, wrap: Callable | None = None) -> Piece:
    """Return a copy of a block of `gm` under the name `path`, with the block's numbers.

    `wrap(graph, x, body, layers)` may put more around it: `body(x)` puts the copy itself in, and `layers` is the module at
    `path`, which takes further layers.
    """
    own = gm.get_submodule(block.name)
    source = clone_structure(own, lambda t: t.detach().clone())
    elsewhere = _elsewhere(block.name, block.nodes)
    shared = {n: f"{path}.{name}" for name, inner in own.named_modules(remove_duplicate=False)
              for n, layer in elsewhere.items() if inner is layer and not tensors_of(layer)}  # a shared activation

    def renamed(name: str) -> str:
        return path + name[len(block.name):] if below(name, block.name) else shared.get(name, name)

    graph = Graph()
    x = graph.placeholder("x")
    known = {block.takes, *block.nodes}
    others = [i for i in dict.fromkeys(i for n in block.nodes for i in n.all_input_nodes) if i not in known]
    outer = {i: graph.placeholder(f"given_{k}") for k, i in enumerate(others)}

    def body(value: Node) -> Node:
        env = {block.takes: value, **outer}
        copy_nodes(block.nodes, graph, env, renamed)
        return env[block.gives]

    graph.output(body(x) if wrap is None else wrap(graph, x, body, source))
    inputs = [ends(block, trace)[0].tensor, *(trace.values[i.name] for i in others)]
    around = {n: layer for n, layer in elsewhere.items() if n not in shared}
    return Piece(_assembled({**around, path: source}, graph, inputs), [path], others)


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
