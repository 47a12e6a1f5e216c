"""Putting pieces into a captured graph behind a node, and the names that their layers get in it."""
import itertools
import re

from torch import nn
from torch.fx import Node

from fxgrow.graph import Captured, copy_nodes, named_tensors, rename
from fxgrow.growth import Edit, Piece
from fxgrow.record import ParameterRecord

NUMBERED = re.compile(r"(.*?)(\d+)")


def put_in(edit: Edit, piece: Piece, after: Node, x: Node) -> tuple[Node, Node]:
    """Put a piece behind `after`, on the value of `x`, whose later users get its result; return the last node and that."""
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
    place, numbered = edit.gm.get_submodule(owner), NUMBERED.fullmatch(last)
    before = f"{numbered[1]}{int(numbered[2]) - 1}" if numbered else None
    if before in place._modules:
        names = [n for n in place._modules if n != last]
        names.insert(names.index(before) + 1, last)
        place._modules = {n: place._modules[n] for n in names}


def next_names(edit: Edit, path: str, count: int) -> list[str]:
    """Return `count` names that follow a layer's in a series (`layer3.3`, taken or not), or of their own (`Mixed_5d_2`)."""
    owner, stem, number = _split(edit, path)
    if number is not None:
        return [f"{owner}{stem}{number + 1 + i}" for i in range(count)]
    names = (f"{path}_{i}" for i in itertools.count(2))
    return list(itertools.islice((n for n in names if edit.free_name(n) == n), count))


def make_room(edit: Edit, path: str, count: int) -> None:
    """Move what follows a layer or block in a series up by `count` (`layer3.3` becomes `layer3.4`: the record says so)."""
    owner, stem, number = _split(edit, path)
    if number is None:
        return
    children = edit.gm.get_submodule(owner.rstrip("."))._modules
    numbered = (re.fullmatch(re.escape(stem) + r"(\d+)", name) for name in children)
    moving = {match[0]: f"{stem}{int(match[1]) + count}" for match in numbered if match and int(match[1]) > number}
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
    if not stem:
        return True
    numbered = [m for n, m in children.items() if m is not None and n != last and re.fullmatch(re.escape(stem) + r"\d+", n)]
    names, *others = ([n for n, _ in named_tensors(m)] for m in (children[last], *numbered))
    return any(children[last].children()) and names in others


def _rename(edit: Edit, prefix: str, moving: dict[str, str]) -> None:
    """Give the modules below `prefix` other names, in the graph and the record too."""
    place = edit.gm.get_submodule(prefix.rstrip("."))
    for name in moving:
        for path, tensor in named_tensors(place._modules[name], prefix + name):
            edit.record.parameters.setdefault(path, ParameterRecord.same(path, tensor.ndim))
    place._modules = {moving.get(n, n): m for n, m in place._modules.items()}

    def new(name: str) -> str:
        head, dot, tail = name.removeprefix(prefix).partition(".")
        return f"{prefix}{moving[head]}{dot}{tail}" if name.startswith(prefix) and head in moving else name

    for outcome in edit.outcomes:
        outcome.name, outcome.producers = new(outcome.name), [new(n) for n in outcome.producers]
    edit.record.parameters = {new(n): p for n, p in edit.record.parameters.items()}
    facts = Captured(edit.gm)
    facts.leaves = {new(n): why for n, why in facts.leaves.items()}
    for node in edit.graph.nodes:
        rename(node, new)
        if node.meta.get("owner"):
            node.meta["owner"] = new(node.meta["owner"])
