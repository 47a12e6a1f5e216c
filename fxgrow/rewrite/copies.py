"""Copies that a permutation would part: they go through it in the batch."""
from torch.fx import GraphModule, Node

from fxgrow.axis import Atom, Tape, Value, atoms, resolve
from fxgrow.common import Refusal
from fxgrow.layers import fold_copies, unfold_copies
from fxgrow.rewrite.growth import GrownSizes


def keep_copies_together(gm: GraphModule, grown: GrownSizes) -> None:
    """Move k adjacent copies into the batch for every permutation that would part them (a channel shuffle).

    Raises:
        Refusal: the batch is permuted too, or the copies are those of several values.
    """
    for node in list(gm.graph.nodes):
        dim, copies = grown.tape.apart.get(node.name, (0, None))
        atom = None if copies is None else resolve(copies)
        if atom in grown.sizes:
            _permute_without(atom, node, dim, grown.tape)


def _permute_without(copies: Atom, node: Node, dim: int, tape: Tape) -> None:
    """Run the nodes that lead to a permutation again for values whose copies lie in the batch."""
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
    after, node, order = {source}, source.next, []
    while True:
        if after.intersection(node.all_input_nodes):
            after.add(node)
            order.append(node)
        if node is end:
            break
        node = node.next
    needed = {end}
    for node in reversed(order):
        if node in needed:
            needed.update(node.all_input_nodes)
    return [n for n in order if n in needed]
