"""Copies that a permutation would part: the nodes around it are written so that copies stay together."""
from __future__ import annotations

from torch.fx import GraphModule, Node

from fxgrow.axis import Atom, Sizes, Tape, Value, atoms, resolve
from fxgrow.common import Refusal
from fxgrow.layers import fold_copies, unfold_copies


def keep_copies_together(gm: GraphModule, tape: Tape, sizes: Sizes) -> None:
    """Where k adjacent copies would be parted (a channel shuffle), they go through the permutation in the batch."""
    for node in list(gm.graph.nodes):
        dim, copies = tape.apart.get(node.name, (0, None))
        if copies is None or resolve(copies) not in sizes:
            continue
        source, at = _before_permutation(tape, node, resolve(copies))
        if at == 0 or dim == 0:
            raise Refusal(f"{node.name} permutes the copies of positions with the batch", classes=[resolve(copies)])
        region = _between(source, node)
        with gm.graph.inserting_after(source):
            folded = gm.graph.call_function(fold_copies, (source, at, resolve(tape.node_values[source.name].axes[at]).size))
        with gm.graph.inserting_after(node):
            result = gm.graph.call_function(unfold_copies, (node, dim, source))
        node.replace_all_uses_with(result, lambda user, own=result: user is not own)
        moved: dict[Node, Node] = {source: folded}
        for old in region:
            with gm.graph.inserting_before(node):
                moved[old] = gm.graph.node_copy(old, lambda n: moved.get(n, n))
        result.update_arg(0, moved[node])
        for new in (result, *moved.values()):
            new.meta["folded"] = True
        for old in reversed(region):
            if not old.users:
                gm.graph.erase_node(old)


def _before_permutation(tape: Tape, node: Node, copies: Atom) -> tuple[Node, int]:
    """The value whose whole axis, copies adjacent, the nodes up to `node` permute; and that axis."""
    total = next(resolve(a).size for a in tape.node_values[node.name].axes if copies in atoms(a))
    while True:
        values = {n: v for n in node.all_input_nodes if isinstance(v := tape.node_values.get(n.name), Value)}
        if len(values) != 1:
            raise Refusal(f"{node.name} permutes the copies of several values", classes=[copies])
        (node, value), = values.items()
        for at, axis in enumerate(value.axes):
            if copies in atoms(axis) and resolve(axis).size == total:
                return node, at


def _between(source: Node, end: Node) -> list[Node]:
    """The nodes that lead from `source` to `end`, which is the last of them."""
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
