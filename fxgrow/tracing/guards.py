"""Guards: what a recording takes for granted of the sizes of its inputs becomes checks in the graph.

A recording that asked for sizes is replayed on longer inputs. Where it does the same, its sizes are free. A question that
then had another answer becomes a check where it was asked, and an axis along which it did something else one at the input.
"""
from __future__ import annotations

import operator
from collections import Counter, defaultdict
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

from fxgrow.aten import tree_flatten, tree_unflatten
from fxgrow.layers import insist
from fxgrow.tracing.recorder import Guard, Recorder
from fxgrow.tracing.replay import Differs, Replay, replay
from fxgrow.tracing.sizes import Number, plain

Axis = tuple[int, int]  # which leaf of the inputs, which dimension of it (-1: the number itself)
ADVICE = "capture it again with an example of this size"
WORDS = {operator.eq: "==", operator.ne: "!=", operator.lt: "<", operator.le: "<=", operator.gt: ">", operator.ge: ">="}


class _Raised(Exception):
    """The model raises for longer inputs; what it says is where a size became a plain number, if one did."""


class Inputs:
    """The inputs of a model as a flat list, and made longer along some axes."""

    def __init__(self, args: tuple, kwargs: dict):
        self.leaves, self.form = tree_flatten((args, kwargs))
        self.groups = self._groups()

    def _groups(self) -> list[list[Axis]]:
        """Return the axes, those together that have one size in several inputs (the batch of each)."""
        groups: dict[tuple, list[Axis]] = defaultdict(list)
        for i, leaf in enumerate(self.leaves):
            seen: Counter[int] = Counter()
            for dim, size in enumerate(leaf.shape if isinstance(leaf, Tensor) else [leaf] if type(leaf) is int else []):
                groups[isinstance(leaf, int), size, seen[size]].append((i, dim if isinstance(leaf, Tensor) else -1))
                seen[size] += 1
        return list(groups.values())

    def longer(self, groups: list[list[Axis]], factor: int = 1) -> tuple[tuple, dict]:
        """Return inputs on meta tensors with the axes of `groups` longer: each `factor` times its size, one more (0), or odd for even (1).

        Of steps and halves (`range(0, n, 2)`, `n // 2`) there are as many along an axis that is just one longer.
        """
        leaves = list(self.leaves)
        for i, dim in (axis for group in groups for axis in group):
            leaf = leaves[i]
            if dim < 0:
                leaves[i] = leaf * factor if factor > 1 else leaf + 1
            else:
                shape = list(leaf.shape)
                shape[dim] = shape[dim] * factor if factor > 1 else shape[dim] + 1 if not factor else 2 * shape[dim] + 1 + shape[dim] % 2
                leaves[i] = torch.empty(shape, dtype=leaf.dtype, device="meta")
        return tree_unflatten(leaves, self.form)


def guard_sizes(recording: Recorder, args: tuple, kwargs: dict) -> None:
    """Put checks into the graph of a recording for what it takes for granted of its inputs."""
    if recording.reads_sizes or recording.guards:
        inputs = Inputs(args, kwargs)
        for group, why in _fixed(recording, inputs).items():
            for axis in inputs.groups[group]:
                _check_axis(recording, inputs, axis, why)
    for guard in recording.guards:
        if (guard.decides or (guard.varies and not guard.loose)) and not guard.idle:
            _check_guard(recording.graph, guard)


def _fixed(recording: Recorder, inputs: Inputs) -> dict[int, str]:
    """Return the groups of axes along which the recording holds for one size only, each with the reason."""
    everything = list(range(len(inputs.groups)))
    by_dimension = sorted(everything, key=lambda g: all(dim != 1 for _, dim in inputs.groups[g]))  # channels, mostly
    free: set[int] = set()
    for left_out in (None, *by_dimension):
        tried = [g for g in everything if g != left_out]
        if tried and _same(recording, inputs, tried) == "":
            free = set(tried)
            break
    fixed = {}
    for g in everything:
        if g not in free:
            for factor in (1, 2, 0):  # not each fits everywhere: a picture whose sides are halved and doubled again
                why = _same(recording, inputs, [g], factor)
                if isinstance(why, str):
                    break
            if str(why):
                fixed[g] = str(why)
    return fixed


def _same(recording: Recorder, inputs: Inputs, groups: list[int], factor: int = 1) -> str | Exception:
    """Return "" where longer inputs are treated as the recording says, else why not; what the model raised for them as it is."""
    again = replay(recording, *inputs.longer([inputs.groups[g] for g in groups], factor))
    if isinstance(again, Differs):
        return str(again)
    if not isinstance(again, Replay):
        return _Raised(recording.escaped and f"a size becomes a plain number at {recording.escaped}")
    for node, _, before, now, line in again.differences:
        return f"`{node.name}` is given {before}, and {now} along a longer one, at {line}"
    return ""


def _check_axis(recording: Recorder, inputs: Inputs, axis: Axis, why: str) -> None:
    """Insist at the inputs that an axis has the size of the example."""
    graph, (leaf, dim) = recording.graph, axis
    stand = recording.stands[leaf]
    size = inputs.leaves[leaf]
    node = _node_of(graph, stand.origin if dim < 0 else recording.known[id(stand)])
    owner, found = node.meta["owner"], node
    last = max((n for n in graph.nodes if n.op == "placeholder" or n is node), key=list(graph.nodes).index)
    if dim >= 0:
        size = inputs.leaves[leaf].shape[dim]
        with graph.inserting_after(last):
            last = shape = graph.call_function(getattr, (node, "shape"))
        with graph.inserting_after(last):
            last = found = graph.call_function(operator.getitem, (shape, dim))
        shape.meta["owner"] = found.meta["owner"] = owner
    what = f"the value {size} of {node.name!r}" if dim < 0 else f"size {size} along axis {dim} of {node.name!r}"
    with graph.inserting_after(last):
        check = graph.call_function(insist, (found, size, f"this network was captured with {what}: {why}; {ADVICE}"))
    check.meta["owner"] = owner


def set_constant(node: Node, where: tuple, value: Node) -> None:
    """Put a value of the graph in the place of a constant among the arguments of a node."""
    def put(argument: Any, path: tuple) -> Any:
        if not path:
            return value
        if isinstance(argument, slice):
            parts = {part: getattr(argument, part) for part in ("start", "stop", "step")}
            return slice(*{**parts, path[0]: put(parts[path[0]], path[1:])}.values())
        if isinstance(argument, dict):
            return {**argument, path[0]: put(argument[path[0]], path[1:])}
        return type(argument)(put(a, path[1:]) if i == path[0] else a for i, a in enumerate(argument))

    if isinstance(where[0], int):
        node.args = put(tuple(node.args), where)
    else:
        node.kwargs = put(dict(node.kwargs), where)


def _node_of(graph: Graph, origin: Any) -> Node:
    """Return the node of an origin, adding that of an element right behind its base."""
    if isinstance(origin, Node):
        return origin
    if origin.node is None:
        base = _node_of(graph, origin.base)
        with graph.inserting_after(base):
            origin.node = graph.call_function(origin.get, (base, origin.key))
        origin.node.meta["owner"] = base.meta["owner"]
    return origin.node


def _check_guard(graph: Graph, guard: Guard) -> None:
    """Insist, behind what a question asked about, that its answer is the recorded one."""
    operands = [o if isinstance(o, Node) else _node_of(graph, o.origin) if isinstance(o, Number) else o for o in guard.operands]
    order = {node: i for i, node in enumerate(graph.nodes)}
    last = max((o for o in operands if isinstance(o, Node)), key=order.__getitem__)
    while last.next.op == "placeholder":
        last = last.next
    with graph.inserting_after(last):
        asked = graph.call_function(guard.operation, tuple(operands))
    with graph.inserting_after(asked):
        check = graph.call_function(insist, (asked, guard.answer, _sentence(guard)))
    asked.meta["owner"] = check.meta["owner"] = last.meta["owner"]


def _sentence(guard: Guard) -> str:
    left, *right = (o.name if isinstance(o, Node) else repr(plain(o)) for o in guard.operands)
    if isinstance(guard.operands[0], Node):
        return f"this network was captured with {left} = {right[0]}: capture it again with the value that you use"
    asked = f"{left} {WORDS.get(guard.operation, 'and')} {right[0]}" if right else left
    line = f" ({guard.line})" if guard.line else ""
    return f"this network was captured where `{asked}` was {guard.answer}{line}, and here it is not: {ADVICE}"
