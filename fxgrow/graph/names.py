"""Names of nodes: the layer that one calls, the module whose code it is, what lies below a module."""
from collections.abc import Callable, Sequence

from torch.fx import Node

from fxgrow.layers import keep

CONSTANT = "_tensor_constant"  # the names that torch.fx gives to tensors which a forward makes of plain numbers


def owner_of(node: Node) -> str:
    """Return the path of the module whose code a node is, `""` for the model itself."""
    return node.meta.get("owner") or ""


def place_of(node: Node) -> str:
    """Return the layer that a node calls, or the module whose code it is."""
    return str(node.target) if node.op == "call_module" else owner_of(node)


def path_of(node: Node) -> str:
    """Return what a node calls or reads, or the module whose code it is."""
    return str(node.target) if node.op == "get_attr" else place_of(node)


def home_of(node: Node) -> str:
    """Return what a node calls or reads, or the module whose code it is where that is not its own (a shared activation)."""
    path, owner = path_of(node), owner_of(node)
    return path if below(path, owner) else owner


def prefixes(path: str) -> list[str]:
    """Return a path and all that it lies below, the outermost first; none for the whole model."""
    parts = path.split(".") if path else []
    return [".".join(parts[:i + 1]) for i in range(len(parts))]


def location_of(node: Node) -> str:
    """Name the place of a node in messages: `layer`, `module:node` or `node`."""
    place = place_of(node)
    if node.op == "call_module":
        return place
    return f"{place}:{node.name}" if place else node.name


def short_line(filename: str, number: int) -> str:
    """Name a line of code: the file with its folder, and the number."""
    return f"{'/'.join(filename.rsplit('/', 2)[-2:])}:{number}"


def line_of_code(node: Node) -> str:
    """Return the line that the node was recorded of, `""` where that is not known."""
    return short_line(*node.meta["line"]) if "line" in node.meta else ""


def below(path: str, root: str) -> bool:
    """Tell whether a name is `root` or lies below it (`""`: the whole model)."""
    return path == root or path.startswith(root + ".") or not root


def rename(node: Node, new: Callable[[str], str]) -> None:
    """Let a node call, read or keep what has another name now."""
    if node.op in ("call_module", "get_attr"):
        node.target = new(str(node.target))
    elif node.target is keep:
        node.args = (new(str(node.args[0])), *node.args[1:])


def inside(node: Node, path: str) -> bool:
    """Tell whether a node calls or reads what is below a path, or is of the code of a module there."""
    return node.op not in ("placeholder", "output") and bool(path_of(node)) and below(path_of(node), path)


def boundary(nodes: Sequence[Node]) -> tuple[list[Node], list[Node]]:
    """Return the nodes outside whose values are used inside, and those inside whose values are used outside.

    Tensors of the model are left out.
    """
    within = set(nodes)
    ins = dict.fromkeys(i for n in nodes for i in n.all_input_nodes if i not in within and i.op != "get_attr")
    return list(ins), [n for n in nodes if n.op != "get_attr" and not within.issuperset(n.users)]


def outer(names: Sequence[str]) -> list[str]:
    """Return the names that lie below no other one of them (calls of a module, `module:node`, lie below it)."""
    return [n for n in names if not any(n.startswith((o + ".", o + ":")) for o in names)]
