"""Names of nodes: the layer that one calls, the module whose code it is, what lies below a module."""
from __future__ import annotations

from collections.abc import Sequence

from torch.fx import Node


def place_of(node: Node) -> str:
    """Where in the model a node is: the layer that it calls, or the module whose code it is."""
    return str(node.target) if node.op == "call_module" else node.meta.get("owner") or ""


def path_of(node: Node) -> str:
    """What a node calls or reads, or the module whose code it is."""
    return str(node.target) if node.op == "get_attr" else place_of(node)


def prefixes(path: str) -> list[str]:
    """A path and all that it lies below, the outermost first; none for the whole model."""
    parts = path.split(".") if path else []
    return [".".join(parts[:i + 1]) for i in range(len(parts))]


def location_of(node: Node) -> str:
    """Where a node is, in words."""
    place = place_of(node)
    return place if node.op == "call_module" else f"{place}:{node.name}" if place else node.name


def below(path: str, root: str) -> bool:
    """Whether a name is `root` or lies below it (`""`: the whole model)."""
    return path == root or path.startswith(root + ".") or not root


def inside(node: Node, path: str) -> bool:
    """Whether a node calls or reads what is below a path, or is of the code of a module there."""
    return node.op not in ("placeholder", "output") and bool(path_of(node)) and below(path_of(node), path)


def boundary(nodes: Sequence[Node]) -> tuple[list[Node], list[Node]]:
    """The nodes outside whose values are used inside (tensors of the model apart), and those inside whose values are used
    outside."""
    known = set(nodes)
    ins = dict.fromkeys(i for n in nodes for i in n.all_input_nodes if i not in known and i.op != "get_attr")
    return list(ins), [n for n in nodes if n.op != "get_attr" and not known.issuperset(n.users)]


def outer(names: Sequence[str]) -> list[str]:
    """The names that lie below no other one of them (calls of a module, `module:node`, lie below it)."""
    return [n for n in names if not any(n.startswith((o + ".", o + ":")) for o in names)]
