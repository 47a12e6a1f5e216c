"""Residual streams cut into volumes: each skip path gets a node that folds the pairs of one volume and pads the next.

What lives here: putting idle nodes in, and taking out those that no growth needed. What does not: what they compute
(`fxgrow.layers.fold_pairs`), what they do to contents (contents/certify.py).
"""
from torch.fx import GraphModule, Node

from fxgrow.axis import Atom, Map, Tape, Value, is_fixed, resolve
from fxgrow.graph import clone_structure, written_argument
from fxgrow.layers import fold_pairs
from fxgrow.rewrite.growth import GrownSizes


def with_folds(gm: GraphModule, tape: Tape) -> GraphModule:
    """Return a copy whose skip paths all go through an idle `fold_pairs`, so that each volume is a class of its own."""
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
    """Return the operands of an addition that are used elsewhere too: they arrive by a skip path."""
    adds = [op for op in tape.by_node.get(node.name, ()) if isinstance(op, Map) and op.name == "add" and len(op.ins) == 2]
    if node.op == "call_module" or not adds:
        return []
    operands = [a for a in node.args[:2] if isinstance(a, Node) and isinstance(tape.node_values.get(a.name), Value)]
    if len(operands) < 2 or operands[0] is operands[1]:
        return []
    return [a for a in operands if len(a.users) > 1 and a.op != "get_attr" and not _read_later(a, node)]


def _read_later(x: Node, node: Node) -> bool:
    """Tell whether `node` writes to x, which is read after it: then x may not be exchanged for a copy."""
    written = written_argument(node)
    if written is None or written is not x:
        return False
    order = {n: i for i, n in enumerate(node.graph.nodes)}
    return any(order[user] > order[node] for user in x.users)


def drop_idle(gm: GraphModule, grown: GrownSizes) -> None:
    """Take out the nodes that fold nothing and pad nothing."""
    for node in list(gm.graph.nodes):
        if node.target is fold_pairs:
            x, dim, old, out = node.args
            if old == out == grown.of(grown.tape.node_values[x.name].axes[dim]):
                node.replace_all_uses_with(x)
                gm.graph.erase_node(node)
