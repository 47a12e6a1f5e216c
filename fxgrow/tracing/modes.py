"""Traces in train and eval mode, merged into one graph that follows `train()` and `eval()`."""
from __future__ import annotations

import difflib
from collections.abc import Iterator

from torch import nn
from torch.fx import Graph, Node
from torch.fx.node import map_aggregate

from fxgrow.graph import memory_of, mentions, writes_in_place
from fxgrow.layers import by_mode
from fxgrow.tracing.tracer import LeafNeeded, MetaTracer, keep_opaque, trace


def trace_modes(twin: nn.Module, inputs: tuple, leaves: dict[str, str], settled: bool) -> Graph:
    """The graph of one trace, or of one in each mode where the mode matters."""
    if not _mode_matters(twin):
        return trace(twin.eval(), inputs, leaves, settled)
    while True:
        train = trace(twin.train(), inputs, leaves)
        found = len(leaves)
        evaluation = trace(twin.eval(), inputs, leaves)
        if len(leaves) > found:  # a leaf found in the second trace holds for the first
            continue
        try:
            return _merge_modes(train, evaluation)
        except LeafNeeded as stop:
            keep_opaque(twin, leaves, stop)


def _mode_matters(twin: nn.Module) -> bool:
    tracer = MetaTracer({})
    leaf_below: set[str] = set()
    for path, module in twin.named_modules():
        if path and (tracer.is_leaf_module(module, path) or path.rpartition(".")[0] in leaf_below):
            leaf_below.add(path)
        elif not type(module).__module__.startswith("torch.nn") and mentions(type(module)):  # type: ignore[arg-type]
            return True
    return False


def _merge_modes(train: Graph, evaluation: Graph) -> Graph:
    """One graph out of the two traces: flags that differ read `module.training`, values that differ go by mode."""
    merged = Graph()
    of_train: dict[Node, Node] = {}
    of_eval: dict[Node, Node] = {}

    def flag(node: Node) -> Node:
        owner = node.meta.get("owner", "")
        return merged.get_attr(f"{owner}.training" if owner else "training")

    def choice(node: Node, train_value, eval_value) -> Node:
        made = merged.call_function(by_mode, (flag(node), train_value, eval_value))
        made.meta["owner"] = node.meta.get("owner", "")
        return made

    def join(node: Node, a, b):
        """The argument of a node that both traces have: `a` as the train trace gives it, `b` as the eval trace does."""
        if isinstance(a, Node) and isinstance(b, Node) and of_train[a] is of_eval[b]:
            return of_train[a]
        if isinstance(a, Node) or isinstance(b, Node):
            values = (of_train[a] if isinstance(a, Node) else a, of_eval[b] if isinstance(b, Node) else b)
            return choice(node, *values)
        if type(a) is type(b) and isinstance(a, (tuple, list)) and len(a) == len(b):
            return type(a)(join(node, x, y) for x, y in zip(a, b))
        if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
            return {k: join(node, a[k], b[k]) for k in a}
        if isinstance(a, slice) and isinstance(b, slice):
            return slice(*(join(node, getattr(a, f), getattr(b, f)) for f in ("start", "stop", "step")))
        if type(a) is type(b) and a == b:
            return a
        if a is True and b is False:
            return flag(node)
        train_value = map_aggregate(a, lambda x: of_train[x] if isinstance(x, Node) else x)
        eval_value = map_aggregate(b, lambda x: of_eval[x] if isinstance(x, Node) else x)
        return choice(node, train_value, eval_value)

    def spare_other_mode(only: Node, node: Node) -> None:
        """Both branches run in both modes: what one of them writes in place is a copy in the other mode."""
        if only.args[0].op != "get_attr":  # type: ignore[union-attr]
            raise LeafNeeded(only.meta.get("owner", ""), f"{only.name} writes in place in one mode only")
        with merged.inserting_before(node):
            written = node.args[0]
            spare = merged.call_method("clone", (written,))
            spare.meta["owner"] = only.meta.get("owner", "")
            node.update_arg(0, choice(only, *((written, spare) if only in of_train else (spare, written))))

    pairs = list(_align(list(train.nodes), list(evaluation.nodes)))
    common = {memory_of(n) for a, b in pairs for n in (a, b) if n and (a and b or n.op == "get_attr")}
    for a, b in pairs:
        if a is not None and b is not None:
            args = join(a, a.args, b.args)
            kwargs = join(a, a.kwargs, b.kwargs)
            node = merged.create_node(a.op, a.target, args, kwargs, a.name)
            of_train[a] = of_eval[b] = node
        else:
            only, mapping = (a, of_train) if a is not None else (b, of_eval)
            node = mapping[only] = merged.node_copy(only, lambda n: mapping[n])
            if writes_in_place(only) and memory_of(only.args[0]) in common:  # type: ignore[union-attr]
                spare_other_mode(only, node)
        node.meta = dict((b if a is None else a).meta)  # type: ignore[union-attr]  # not both are None
    return merged


def _align(left: list[Node], right: list[Node]) -> Iterator[tuple[Node | None, Node | None]]:
    """The two traces side by side: equal operations in equal order are paired, the others stand alone."""
    matcher = difflib.SequenceMatcher(None, [_key(n) for n in left], [_key(n) for n in right], autojunk=False)
    for tag, i1, i2, j1, j2 in matcher.get_opcodes():
        if tag == "equal":
            yield from zip(left[i1:i2], right[j1:j2])
        else:
            yield from ((n, None) for n in left[i1:i2])
            yield from ((None, n) for n in right[j1:j2])


def _key(node: Node):
    return (node.op, str(node.target), node.meta.get("owner", "")) if node.op != "output" else ("output", "", "")
