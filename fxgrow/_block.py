"""Blocks of a captured graph: finding the piece of graph below a module's name, taking a copy of it out, putting it in.

A block has one value in (beside others that it only reads, such as a mask) and one out. A `Piece` is a block on its own: a
small captured module whose layers already have the names that they are to have.
"""
from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from fxgrow._capture import capture, clone_structure, hold
from fxgrow._edit import Edit, copy_nodes
from fxgrow._identity import Trace, Val
from fxgrow._record import ParameterRecord
from fxgrow._region import below, boundary


class NoBlock(Exception):
    """A name is not that of a block; the message says why."""


@dataclass
class Block:
    """The nodes below a name, in order, the node that they get, and the one of them that others use."""
    path: str
    nodes: list[Node]
    x: Node
    out: Node

    def values(self, trace: Trace) -> tuple[Val, Val]:
        """What comes in, as the first of the nodes reads it, and what goes out."""
        reader = next(n for n in self.nodes if self.x in n.all_input_nodes)
        user = next((u for u in self.out.users if u not in self.nodes), None)
        given = trace.gives[self.out.name] if user is None else trace.reads[user.name, self.out.name]
        return trace.reads[reader.name, self.x.name], given


def find_out(path: str, trace: Trace) -> tuple[list[Node], Node]:
    """The nodes below `path`, in order, and the one of them that others use.

    Raises:
        NoBlock: nothing is there, or others use several of its values.
    """
    nodes = trace.below.get(path)
    if not nodes:
        raise NoBlock(f"{path} is inside a layer that is called as a whole, or never called: name the layer around it")
    _, outs = boundary(nodes)
    if len(outs) != 1 or not isinstance(trace.values[outs[0].name], Tensor):
        raise NoBlock(f"{path} gives {len(outs)} values, not one tensor")
    return nodes, outs[0]


def find_block(path: str, trace: Trace) -> Block:
    """The block below `path`.

    Raises:
        NoBlock: nothing is there, or it has several values in or out.
    """
    nodes, out = find_out(path, trace)
    given, _ = boundary(nodes)
    found = [i for i in given if isinstance(v := trace.values.get(i.name), Tensor) and v.is_floating_point()]
    alike = [i for i in found if trace.values[i.name].shape == trace.values[out.name].shape]
    candidates = alike or found
    if len(candidates) != 1:
        raise NoBlock(f"{path} is given {len(candidates)} values, not one tensor")
    return Block(path, nodes, candidates[0], out)


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


def put_in(edit: Edit, piece: Piece, after: Node, x: Node) -> tuple[Node, Node]:
    """Puts a piece into the graph behind `after`, on the value of `x`, whose users from there on get the piece's result.

    Returns:
        the last node, and that of the result.
    """
    for path in piece.paths:
        layer = piece.gm.get_submodule(path)
        like = edit._like
        place_behind(edit, path, layer.to(device=like.device))
        for name, tensor in [*layer.named_parameters(prefix=path), *layer.named_buffers(prefix=path)]:
            edit.record.parameters[name] = ParameterRecord.new(tensor.ndim)
    *nodes, _ = piece.gm.graph.nodes
    placeholders = [n for n in nodes if n.op == "placeholder"]
    env: dict[Node, Node] = dict(zip(placeholders, [x, *(edit.nodes[n.name] for n in piece.others)]))
    users, behind = list(x.users), after.next
    with edit.graph.inserting_before(behind):
        copy_nodes(nodes[len(placeholders):], edit.graph, env, lambda name: name)
    out = env[piece.out]
    order = {n: i for i, n in enumerate(edit.graph.nodes)}
    for user in users:
        if order[user] > order[after]:
            user.replace_input_with(x, out)
    return behind.prev, out


# --- names ----------------------------------------------------------------------------------------------------------


def place_behind(edit: Edit, path: str, layer: nn.Module) -> None:
    """Registers a layer; one with a number stands behind the one with the number before."""
    edit.gm.add_submodule(path, layer)
    owner, _, last = path.rpartition(".")
    number = re.fullmatch(r"(.*?)(\d+)", last)
    children = edit.gm.get_submodule(owner)._modules
    if number is None:
        return
    before = number[1] + str(int(number[2]) - 1)
    if before in children:
        names = [n for n in children if n != last]
        names.insert(names.index(before) + 1, last)
        ordered = {n: children[n] for n in names}
        children.clear()
        children.update(ordered)


def next_names(edit: Edit, path: str, count: int) -> list[str]:
    """`count` names behind a layer or block: the numbers that follow it in a series (`layer3.3` behind `layer3.2`, taken or
    not), or names of their own (`Mixed_5d_2`)."""
    owner, stem, number = _parts(edit, path)
    if number is not None:
        return [f"{owner}{stem}{number + 1 + i}" for i in range(count)]
    names: list[str] = []
    at = 2
    while len(names) < count:
        if edit.free_name(f"{path}_{at}") == f"{path}_{at}":
            names.append(f"{path}_{at}")
        at += 1
    return names


def make_room(edit: Edit, path: str, count: int) -> None:
    """Moves what follows a layer or block in a series up by `count` (`layer3.3` becomes `layer3.4`: the record says so)."""
    owner, stem, number = _parts(edit, path)
    if number is None:
        return
    moving = {}
    for name in edit.gm.get_submodule(owner.rstrip("."))._modules:
        following = re.fullmatch(re.escape(stem) + r"(\d+)", name)
        if following and int(following[1]) > number:
            moving[name] = f"{stem}{int(following[1]) + count}"
    _rename(edit, owner, moving)


def _parts(edit: Edit, path: str) -> tuple[str, str, int | None]:
    """The name of a layer or block taken apart: what it is in, what stands before its number, and the number that it has in
    a series (None: it is in none)."""
    owner, dot, last = path.rpartition(".")
    found = re.fullmatch(r"(.*?)(\d+)", last)
    children = edit.gm.get_submodule(owner)._modules
    if found is None or last not in children or not _in_series(children, last, found[1]):
        return owner + dot, last, None
    return owner + dot, found[1], int(found[2])


def _in_series(children: dict, last: str, stem: str) -> bool:
    """Whether a name is one of a numbered list: a number alone, or that of a block like one beside it."""
    def form(module: nn.Module | None) -> list[str]:
        return [] if module is None else [n for n, _ in [*module.named_parameters(), *module.named_buffers()]]

    if not stem:
        return True
    numbered = [n for n in children if re.fullmatch(re.escape(stem) + r"\d+", n) and n != last]
    return any(children[last].children()) and any(form(children[n]) == form(children[last]) for n in numbered)


def _rename(edit: Edit, prefix: str, moving: dict[str, str]) -> None:
    """Gives the modules below `prefix` other names, in the graph and the record too."""
    if not moving:
        return
    children = edit.gm.get_submodule(prefix.rstrip("."))._modules
    for name in moving:
        path = prefix + name
        for tensor, value in [*children[name].named_parameters(prefix=path), *children[name].named_buffers(prefix=path)]:
            edit.record.parameters.setdefault(tensor, ParameterRecord.same(tensor, value.ndim))
    ordered = {moving.get(n, n): m for n, m in children.items()}
    children.clear()
    children.update(ordered)

    def new(name: str) -> str:
        rest = name.removeprefix(prefix)
        head, dot, tail = rest.partition(".")
        return f"{prefix}{moving[head]}{dot}{tail}" if name.startswith(prefix) and head in moving else name

    for outcome in edit.outcomes:
        outcome.name, outcome.producers = new(outcome.name), [new(n) for n in outcome.producers]
    edit.record.parameters = {new(n): p for n, p in edit.record.parameters.items()}
    edit.gm.meta["leaves"] = {new(n): why for n, why in edit.gm.meta.get("leaves", {}).items()}
    for node in edit.graph.nodes:
        if node.op in ("call_module", "get_attr"):
            node.target = new(str(node.target))
        if node.meta.get("owner"):
            node.meta["owner"] = new(node.meta["owner"])


