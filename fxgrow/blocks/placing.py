"""Blocks of a captured graph: finding the piece of graph below a module's name, taking a copy of it out, putting it in.

A block has one value in (beside others that it only reads, such as a mask) and one out. A `Piece` is a block on its own: a
small captured module whose layers already have the names that they are to have.
"""
from __future__ import annotations

import re

from torch import nn
from torch.fx import Node

from fxgrow.graph import Captured, copy_nodes
from fxgrow.growth import Edit, Piece
from fxgrow.record import ParameterRecord


def put_in(edit: Edit, piece: Piece, after: Node, x: Node) -> tuple[Node, Node]:
    """Puts a piece into the graph behind `after`, on the value of `x`, whose users from there on get the piece's result.

    Returns:
        the last node, and that of the result.
    """
    for path in piece.paths:
        layer = piece.module.get_submodule(path)
        like = edit._like
        place_behind(edit, path, layer.to(device=like.device))
        for name, tensor in [*layer.named_parameters(prefix=path), *layer.named_buffers(prefix=path)]:
            edit.record.parameters[name] = ParameterRecord.new(tensor.ndim)
    *nodes, _ = piece.module.graph.nodes
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
    Captured(edit.gm).leaves = {new(n): why for n, why in Captured(edit.gm).leaves.items()}
    for node in edit.graph.nodes:
        if node.op in ("call_module", "get_attr"):
            node.target = new(str(node.target))
        if node.meta.get("owner"):
            node.meta["owner"] = new(node.meta["owner"])
