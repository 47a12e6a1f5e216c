"""Folds: nodes that are put in where positions must be added up, or copies kept together, behind a growth.

What does not live here: what they compute (`fxgrow/layers.py`), what they do to contents (contents/certify.py).
"""
from torch.fx import GraphModule, Node

from fxgrow.axis import Atom, Map, Tape, Value, atoms, is_fixed, resolve
from fxgrow.common import Refusal
from fxgrow.graph import clone_structure, owner_of, written_argument
from fxgrow.layers import fold_copies, fold_pairs, unfold_copies
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
            fold.meta["owner"] = owner_of(node)
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
    if written_argument(node) != x:
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


def keep_copies_together(gm: GraphModule, grown: GrownSizes) -> None:
    """Move k adjacent copies into the batch for every permutation that would part them (a channel shuffle)."""
    for node in list(gm.graph.nodes):
        dim, copies = grown.tape.apart.get(node.name, (0, None))
        atom = None if copies is None else resolve(copies)
        if atom in grown.sizes:
            _permute_without(atom, node, dim, grown.tape)


def _permute_without(copies: Atom, node: Node, dim: int, tape: Tape) -> None:
    """Run the nodes that lead to a permutation again for values whose copies lie in the batch, or refuse the growth."""
    graph = node.graph
    source, at = _before_permutation(tape, node, copies)
    if at == 0 or dim == 0:
        raise Refusal("it permutes the copies of positions with the batch; class left unchanged", node.name, [copies])
    path = _between(source, node)
    with graph.inserting_after(source):
        folded = graph.call_function(fold_copies, (source, at, resolve(tape.node_values[source.name].axes[at]).size))
    with graph.inserting_after(node):
        result = graph.call_function(unfold_copies, (node, dim, source))
    node.replace_all_uses_with(result, lambda user: user is not result)
    moved: dict[Node, Node] = {source: folded}
    with graph.inserting_before(node):
        for old in path:
            moved[old] = graph.node_copy(old, lambda n: moved.get(n, n))
    result.update_arg(0, moved[node])
    for new in (result, *moved.values()):
        new.meta["folded"] = True
    for old in reversed(path):
        if not old.users:
            graph.erase_node(old)


def _before_permutation(tape: Tape, node: Node, copies: Atom) -> tuple[Node, int]:
    """Return the value whose whole axis, copies adjacent, the nodes up to `node` permute; and that axis."""
    total = next(resolve(a).size for a in tape.node_values[node.name].axes if copies in atoms(a))
    while True:
        sources = [n for n in node.all_input_nodes if isinstance(tape.node_values.get(n.name), Value)]
        if len(sources) != 1:
            raise Refusal("it permutes the copies of several values; class left unchanged", node.name, [copies])
        node, = sources
        for at, axis in enumerate(tape.node_values[node.name].axes):
            if copies in atoms(axis) and resolve(axis).size == total:
                return node, at


def _between(source: Node, end: Node) -> list[Node]:
    """Return the nodes that lead from `source` to `end`, which is the last of them."""
    nodes, after, before = list(source.graph.nodes), {source}, {end}
    span = nodes[nodes.index(source) + 1:nodes.index(end) + 1]
    for node in span:
        if after.intersection(node.all_input_nodes):
            after.add(node)
    for node in reversed(span):
        if node in before:
            before.update(node.all_input_nodes)
    return [n for n in span if n in after and n in before]
