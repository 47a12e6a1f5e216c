"""Size arguments of calls, brought to the grown shapes.

What lives here: writing sizes into one node. What does not: finding the nodes that need it (sizes.py).
"""
from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_aggregate

from fxgrow.aten import CREATED
from fxgrow.axis import Tape
from fxgrow.rewrite.growth import GrownSizes

FILLS = {"full": 1, "new_full": 2}  # calls whose last argument is a number, no size


@dataclass
class _Call:
    """A call whose result has another shape than expected.

    shape: the expected one, or a list of those of its results. env: the value of each node that has run.
    """
    node: Node
    grown: GrownSizes
    shape: Any
    env: dict[Node, Any]

    def value(self, argument: Any) -> Any:
        """Return an argument, or the value of the node that it is."""
        return self.env[argument] if isinstance(argument, Node) else argument

    def numbers(self) -> list:
        """Return the sizes behind the first argument, which stand by themselves or in one sequence."""
        stated = self.node.args[1]
        return list(stated) if isinstance(stated, (list, tuple)) else list(self.node.args[1:])

    def write_numbers(self, numbers: list) -> None:
        """State other sizes behind the first argument, in the same form."""
        x, stated = self.node.args[:2]
        self.node.args = (x, type(stated)(numbers)) if isinstance(stated, (list, tuple)) else (x, *numbers)

    def bounds(self) -> list[tuple[int, int, int]]:
        """Return the dimension, start and stop of each slice in the call."""
        found = [self.grown.bounds(op) for op in self.grown.ops(self.node)]
        return [bounds for bounds in found if bounds is not None]


def write_sizes(node: Node, grown: GrownSizes, shape: Any, env: dict[Node, Any]) -> None:
    """Write the expected sizes into the arguments of a call that takes sizes; other calls stay as they are."""
    write, kind = FORMS.get(_name(node), (None, object))
    if write is not None and isinstance(shape, kind):
        write(_Call(node, grown, shape, env))


def keep_old_numbers(node: Node, tape: Tape, old: dict[str, Any]) -> None:
    """Give a node the old value of each number computed from a grown size, wherever it is no size (a scale, say).

    Args:
        old: the old values of numbers that have changed, by node.
    """
    changed = [n for n in node.all_input_nodes if n.name in old]
    before = tape.shapes.get(node.name)
    if not changed or node.op == "output" or isinstance(before, (int, float)):
        return
    name = _name(node)
    if name in FILLS:
        fill = node.kwargs.get("fill_value", node.args[-1])
        changed = [n for n in changed if n is fill]
    elif name in FORMS or name == "tile" or isinstance(node.target, types.BuiltinFunctionType) and isinstance(before, list):
        return
    node.args, node.kwargs = map_aggregate((node.args, node.kwargs), lambda x: old[x.name] if x in changed else x)


def _name(node: Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "").lstrip("_")


def _write_shape(call: _Call) -> None:
    """State the shape itself; a size that is right, or left open (-1), stays as it is stated."""
    args = call.node.args
    if len(args) < 2:
        return
    if isinstance(args[1], Node) and not isinstance(call.env[args[1]], int):  # all sizes at once
        call.node.args = (args[0], call.shape)
    else:
        call.write_numbers([n if call.value(n) in (-1, size) else size for n, size in zip(call.numbers(), call.shape)])


def _write_repeats(call: _Call) -> None:
    x = call.value(call.node.args[0])
    old = (1,) * (len(call.shape) - x.ndim) + tuple(x.shape)
    call.write_numbers([n if call.value(n) * size == new else new // size
                        for n, size, new in zip(call.numbers(), old, call.shape)])


def _write_unflatten(call: _Call) -> None:
    node = call.node
    stated = {**dict(zip(("input", "dim", "sizes"), node.args)), **node.kwargs}
    into = stated["sizes"]
    dim = stated["dim"] % (len(call.shape) - len(into) + 1)
    into = tuple(n if call.value(n) == -1 else size for n, size in zip(into, call.shape[dim:]))
    node.args, node.kwargs = (stated["input"], dim, into), {}


def _write_created(call: _Call) -> None:
    args = call.node.args
    at = int(_name(call.node).startswith("new_"))
    others = args[at + 1:] if isinstance(args[at], (tuple, list)) else ()
    call.node.args = (*args[:at], call.shape, *others)


def _write_pieces(call: _Call) -> None:
    """State the size of each piece, whatever the call cuts by."""
    node = call.node
    dim = node.kwargs.get("dim", node.args[2] if len(node.args) > 2 else 0)
    node.args, node.kwargs = (node.args[0], [shape[dim] for shape in call.shape], dim), {}
    node.target = "split" if node.op == "call_method" else torch.split


def _write_narrow(call: _Call) -> None:
    for _, start, stop in call.bounds():
        call.node.args = (*call.node.args[:2], start, stop - start, *call.node.args[4:])


def _write_index(call: _Call) -> None:
    x, index, *others = call.node.args
    index = _without_full_slices(index, call.grown.tape.shapes.get(x.name))
    for dim, start, stop in call.bounds():
        index = _with_slice(call, index, dim, start, stop)
    call.node.args = (x, index, *others)


def _without_full_slices(index: Any, shape: Any) -> Any:
    """Return an index with `:` for every slice over all of its dimension, which torch runs no op for."""
    items = list(index) if isinstance(index, tuple) else [index]
    if not isinstance(shape, tuple) or any(isinstance(i, (Node, Tensor)) for i in items):
        return index
    count, dim = len([i for i in items if i is not None]), 0
    for at, item in enumerate(items):
        if isinstance(item, slice) and item.start in (None, 0) and item.step in (None, 1) and item.stop == shape[dim]:
            items[at] = slice(None)
        if item is Ellipsis:
            dim += len(shape) - count + 1
        elif item is not None:
            dim += 1
    return tuple(items) if isinstance(index, tuple) else items[0]


def _with_slice(call: _Call, index: Any, dim: int, start: int, stop: int) -> Any:
    """Return an index with other bounds for the slice of dimension `dim`.

    Dimensions count as they do when it is the slice's turn: those selected before are gone, and new ones are there.
    """
    items = list(index) if isinstance(index, tuple) else [index]
    values = [call.value(item) for item in items]
    at = 0
    for k, value in enumerate(values):
        if isinstance(value, slice) and at == dim:
            items[k] = slice(start or None, stop, value.step)
        if value is Ellipsis:
            at += call.value(call.node.args[0]).ndim - sum(map(_dimensions_indexed, values))
        elif not isinstance(value, int):
            at += 1
    return tuple(items) if isinstance(index, tuple) else items[0]


def _dimensions_indexed(item: Any) -> int:
    if item is None or item is Ellipsis:
        return 0
    return item.ndim if isinstance(item, Tensor) and item.dtype is torch.bool else 1


# by the name of the call: how its sizes are written, and what describes them (a shape, or a list of shapes)
FORMS: dict[str, tuple[Callable[[_Call], None], type]] = {
    **dict.fromkeys(("view", "reshape", "expand", "broadcast_to"), (_write_shape, tuple)),
    **dict.fromkeys(CREATED, (_write_created, tuple)),
    **dict.fromkeys(("split", "chunk", "tensor_split", "split_with_sizes", "unsafe_chunk"), (_write_pieces, list)),
    **dict.fromkeys(("getitem", "setitem"), (_write_index, object)),
    "repeat": (_write_repeats, tuple), "unflatten": (_write_unflatten, tuple), "narrow": (_write_narrow, object)}
