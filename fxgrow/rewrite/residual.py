"""Residual streams cut into volumes: on each skip path goes a node that folds the pairs of one volume and pads the next.

What lives here: putting idle nodes in and taking those out again that no growth needed. What they compute is
`fxgrow.layers.fold_pairs`; what they do to contents is said in fxgrow/contents/certify.py.
"""
from __future__ import annotations

from torch.fx import GraphModule, Node

from fxgrow.axis import Atom, Tape, Value, is_fixed, resolve
from fxgrow.graph import clone_structure, writes_in_place
from fxgrow.layers import fold_pairs


def with_folds(gm: GraphModule, tape: Tape) -> GraphModule:
    """A copy in which every skip path goes through an idle `fold_pairs`, so that each volume is a class of its own."""
    new = clone_structure(gm)
    for node in list(new.graph.nodes):
        for x in _skips(node, tape):
            axes = tape.node_values[x.name].axes
            dims = [i for i, axis in enumerate(axes) if not is_fixed(axis)]
            if len(dims) != 1 or not isinstance(resolve(axes[dims[0]]), Atom):
                continue
            size = axes[dims[0]].size
            with new.graph.inserting_before(node):
                fold = new.graph.call_function(fold_pairs, (x, dims[0], size, size))
            fold.meta["owner"] = node.meta.get("owner", "")
            node.replace_input_with(x, fold)
    return new


def _skips(node: Node, tape: Tape) -> list[Node]:
    """The operands of an addition that are used elsewhere too: they arrive by a skip path."""
    adds = [op for op in tape.by_node.get(node.name, ()) if op.kind == "map" and op.name == "add" and len(op.ins) == 2]
    if node.op == "call_module" or not adds:
        return []
    given = [a for a in node.args[:2] if isinstance(a, Node)]
    if len(given) < 2 or given[0] is given[1] or not all(isinstance(tape.node_values.get(a.name), Value) for a in given):
        return []
    return [a for a in given if len(a.users) > 1 and a.op != "get_attr" and not _read_later(a, node)]


def _read_later(x: Node, node: Node) -> bool:
    """Whether `node` writes to x, which is read after it: then x may not be exchanged for a copy."""
    if not writes_in_place(node) or x is not node.args[0]:
        return False
    order = {n: i for i, n in enumerate(node.graph.nodes)}
    return any(order[user] > order[node] for user in x.users)


def drop_idle(gm: GraphModule, width_of) -> None:
    """Takes out the nodes that fold nothing and pad nothing; `width_of(node, dim)` is the size of what they get."""
    for node in list(gm.graph.nodes):
        if node.target is fold_pairs:
            x, dim, old, out = node.args
            if old == out == width_of(x, dim):
                node.replace_all_uses_with(x)
                gm.graph.erase_node(node)
