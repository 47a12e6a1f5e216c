"""Putting blocks into a captured graph, and the names that they get in it.

A `Piece` is put in behind a node; its layers already have the names that they are to have.
"""
import re

from torch import nn
from torch.fx import Node

from fxgrow.graph import Captured, copy_nodes
from fxgrow.growth import Edit, Piece
from fxgrow.record import ParameterRecord

NUMBERED = re.compile(r"(.*?)(\d+)")


def put_in(edit: Edit, piece: Piece, after: Node, x: Node) -> tuple[Node, Node]:
    """Put a piece into the graph behind `after`, on the value of `x`, whose users from there on get the piece's result.

    Returns:
        the last node, and that of the result.
    """
    for path in piece.paths:
        layer = piece.module.get_submodule(path)
        _register(edit, path, layer.to(device=edit.like.device))
        edit.record_new(path, layer)
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


def _register(edit: Edit, path: str, layer: nn.Module) -> None:
    """Register a layer; one with a number stands behind the one with the number before."""
    edit.gm.add_submodule(path, layer)
    owner, _, last = path.rpartition(".")
    children = edit.gm.get_submodule(owner)._modules
    numbered = NUMBERED.fullmatch(last)
    before = f"{numbered[1]}{int(numbered[2]) - 1}" if numbered else None
    if before in children:
        names = [n for n in children if n != last]
        names.insert(names.index(before) + 1, last)
        _reorder(children, {n: children[n] for n in names})


def _reorder(children: dict, ordered: dict) -> None:
    children.clear()
    children.update(ordered)


def next_names(edit: Edit, path: str, count: int) -> list[str]:
    """Return `count` names behind a layer or block.

    They follow it in a series (`layer3.3` behind `layer3.2`, taken or not), or are names of their own (`Mixed_5d_2`).
    """
    owner, stem, number = _split(edit, path)
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
    """Move what follows a layer or block in a series up by `count` (`layer3.3` becomes `layer3.4`: the record says so)."""
    owner, stem, number = _split(edit, path)
    if number is None:
        return
    moving = {}
    for name in edit.gm.get_submodule(owner.rstrip("."))._modules:
        following = re.fullmatch(re.escape(stem) + r"(\d+)", name)
        if following and int(following[1]) > number:
            moving[name] = f"{stem}{int(following[1]) + count}"
    if moving:
        _rename(edit, owner, moving)


def _split(edit: Edit, path: str) -> tuple[str, str, int | None]:
    """Return the module that a layer is in, its name before the number, and its number in a series (None: in none)."""
    owner, dot, last = path.rpartition(".")
    numbered = NUMBERED.fullmatch(last)
    children = edit.gm.get_submodule(owner)._modules
    if numbered is None or last not in children or not _in_series(children, last, numbered[1]):
        return owner + dot, last, None
    return owner + dot, numbered[1], int(numbered[2])


def _in_series(children: dict, last: str, stem: str) -> bool:
    """Return whether a name is one of a numbered list: a number alone, or that of a block like one beside it."""
    def tensors(module: nn.Module | None) -> list[str]:
        return [] if module is None else [n for n, _ in [*module.named_parameters(), *module.named_buffers()]]

    if not stem:
        return True
    numbered = [n for n in children if re.fullmatch(re.escape(stem) + r"\d+", n) and n != last]
    return any(children[last].children()) and any(tensors(children[n]) == tensors(children[last]) for n in numbered)


def _rename(edit: Edit, prefix: str, moving: dict[str, str]) -> None:
    """Give the modules below `prefix` other names, in the graph and the record too."""
    children = edit.gm.get_submodule(prefix.rstrip("."))._modules
    for name in moving:
        path = prefix + name
        for tensor, value in [*children[name].named_parameters(prefix=path), *children[name].named_buffers(prefix=path)]:
            edit.record.parameters.setdefault(tensor, ParameterRecord.same(tensor, value.ndim))
    _reorder(children, {moving.get(n, n): m for n, m in children.items()})

    def new(name: str) -> str:
        head, dot, tail = name.removeprefix(prefix).partition(".")
        return f"{prefix}{moving[head]}{dot}{tail}" if name.startswith(prefix) and head in moving else name

    for outcome in edit.outcomes:
        outcome.name, outcome.producers = new(outcome.name), [new(n) for n in outcome.producers]
    edit.record.parameters = {new(n): p for n, p in edit.record.parameters.items()}
    facts = Captured(edit.gm)
    facts.leaves = {new(n): why for n, why in facts.leaves.items()}
    for node in edit.graph.nodes:
        if node.op in ("call_module", "get_attr"):
            node.target = new(str(node.target))
        if node.meta.get("owner"):
            node.meta["owner"] = new(node.meta["owner"])
