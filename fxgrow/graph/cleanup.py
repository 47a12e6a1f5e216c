"""Small repairs of graphs: unused nodes, constants that are written to, copies of nodes."""
from collections.abc import Callable, Iterable
from typing import Any

from torch.fx import Graph, Node

from fxgrow.graph.names import CONSTANT, owner_of, rename
from fxgrow.graph.writes import memory_of, writes_in_place, written_argument
from fxgrow.layers import EFFECTS


def clean_trace(graph: Graph) -> None:
    """Renew the constants that a recorded graph writes to at each call, and drop its unused calls."""
    _renew_constants(graph)
    _remove_dead_code(graph)


def _renew_constants(graph: Graph) -> None:
    """Make a tensor that the forward makes and then writes to, perhaps through a view, anew wherever it is made."""
    written = [n for n in map(written_argument, graph.nodes) if n is not None]
    names, memories = {n.target for n in written}, {memory_of(n) for n in written} - {None}
    for node in list(graph.nodes):
        if node.op == "get_attr" and str(node.target).startswith(CONSTANT) and (
                node.target in names or memory_of(node) in memories):
            with graph.inserting_after(node):
                fresh = graph.call_method("clone", (node,))
            fresh.meta = _kept(node) | {"owner": owner_of(node)}
            node.replace_all_uses_with(fresh, lambda user, own=fresh: user is not own)


def _remove_dead_code(graph: Graph) -> None:
    """Drop what nobody uses and nothing depends on: unused pure calls (in-place ones and modules stay)."""
    for node in reversed(list(graph.nodes)):
        needed = node.op in ("placeholder", "output", "call_module") or node.target in EFFECTS or writes_in_place(node)
        if not (node.users or needed):
            graph.erase_node(node)


def copy_nodes(nodes: Iterable[Node], graph: Graph, env: dict[Node, Node], rename_to: Callable[[str], str]) -> None:
    """Copy nodes to where a graph is being added to.

    Args:
        env: for each node that they read, the copy; the copies are added.
        rename_to: gives the new name of what a node calls or reads, and of the module whose code it is.
    """
    for node in nodes:
        new = env[node] = graph.node_copy(node, lambda n: env[n])
        rename(new, rename_to)
        new.meta = _kept(node) | {"owner": rename_to(owner_of(node))}


def _kept(node: Node) -> dict[str, Any]:
    """Return what a copy of a node knows of it: the line of code that it is of."""
    return {"line": node.meta["line"]} if "line" in node.meta else {}
