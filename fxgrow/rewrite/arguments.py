"""Size arguments of calls, brought to the grown shapes.

What lives here: writing sizes into one node. What does not: finding the nodes that need it (sizes.py).
"""
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_aggregate

from fxgrow.aten import CREATED
from fxgrow.axis import Tape
from fxgrow.rewrite.growth import GrownSizes


def write_sizes(node: Node, grown: GrownSizes, shape: Any, env: dict[Node, Any]) -> None:
    """Write sizes into a call that takes them, by the expected shape of its result (or a list) and the values so far."""
    write, described_by = FORMS.get(_name(node), (None, object))
    if write is not None and isinstance(shape, described_by):
        write(node, grown, shape, lambda argument: env[argument] if isinstance(argument, Node) else argument)


def keep_old_numbers(node: Node, tape: Tape, old: dict[str, Any]) -> None:
    """Give a node the `old` values, by name, of numbers made of a grown size, where they are no sizes (scales, say)."""
    changed = [n for n in node.all_input_nodes if n.name in old]
    before = tape.shapes.get(node.name)
    if not changed or node.op == "output" or isinstance(before, (int, float)):
        return
    name = _name(node)
    if name in ("full", "new_full"):  # the last argument is a number, no size
        fill = node.kwargs.get("fill_value", node.args[-1])
        changed = [n for n in changed if n is fill]
    elif name in FORMS or name == "tile" or (
            isinstance(node.target, types.BuiltinFunctionType) and isinstance(before, list)):
        return
    node.args, node.kwargs = map_aggregate((node.args, node.kwargs), lambda x: old[x.name] if x in changed else x)


def _name(node: Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "").lstrip("_")


# --- the forms: each takes a call, the grown sizes, the expected shape, and a function from an argument to its value ------

def _write_shape(node: Node, grown: GrownSizes, shape: tuple[int, ...], value: Callable) -> None:
    """State the shape itself; a size that is right, or left open (-1), stays as it is stated."""
    if len(node.args) < 2:
        return
    if isinstance(node.args[1], Node) and not isinstance(value(node.args[1]), int):  # all sizes at once
        node.args = (node.args[0], shape)
    else:
        _restate(node, lambda sizes: [n if value(n) in (-1, size) else size for n, size in zip(sizes, shape)])


def _write_repeats(node: Node, grown: GrownSizes, shape: tuple[int, ...], value: Callable) -> None:
    x = value(node.args[0])
    old = (1,) * (len(shape) - x.ndim) + tuple(x.shape)
    _restate(node, lambda counts: [n if value(n) * size == new else new // size for n, size, new in zip(counts, old, shape)])


def _restate(node: Node, new: Callable[[Any], list]) -> None:
    """Exchange the numbers behind the first argument, which stand by themselves or in one sequence, for `new` of them."""
    x, *stated = node.args
    sequence = stated[0]
    node.args = (x, type(sequence)(new(sequence))) if isinstance(sequence, (list, tuple)) else (x, *new(stated))


def _write_unflatten(node: Node, grown: GrownSizes, shape: tuple[int, ...], value: Callable) -> None:
    stated = {**dict(zip(("input", "dim", "sizes"), node.args)), **node.kwargs}
    dim = stated["dim"] % (len(shape) - len(stated["sizes"]) + 1)
    sizes = tuple(n if value(n) == -1 else size for n, size in zip(stated["sizes"], shape[dim:]))
    node.args, node.kwargs = (stated["input"], dim, sizes), {}


def _write_created(node: Node, grown: GrownSizes, shape: tuple[int, ...], value: Callable) -> None:
    at = int(_name(node).startswith("new_"))
    others = node.args[at + 1:] if isinstance(node.args[at], (tuple, list)) else ()
    node.args = (*node.args[:at], shape, *others)


def _write_pieces(node: Node, grown: GrownSizes, shapes: list[tuple[int, ...]], value: Callable) -> None:
    """State the size of each piece, whatever the call cuts by."""
    dim = node.kwargs.get("dim", node.args[2] if len(node.args) > 2 else 0)
    node.args, node.kwargs = (node.args[0], [shape[dim] for shape in shapes], dim), {}
    node.target = "split" if node.op == "call_method" else torch.split


def _write_narrow(node: Node, grown: GrownSizes, shape: Any, value: Callable) -> None:
    for _, start, stop in grown.slices(node):
        node.args = (*node.args[:2], start, stop - start, *node.args[4:])


def _write_index(node: Node, grown: GrownSizes, shape: Any, value: Callable) -> None:
    x, index, *others = node.args
    items = list(index) if isinstance(index, tuple) else [index]
    _open_full_slices(items, grown.tape.shapes.get(x.name))
    for dim, start, stop in grown.slices(node):
        _bound_slice(items, [value(item) for item in items], value(x).ndim, dim, start, stop)
    node.args = (x, tuple(items) if isinstance(index, tuple) else items[0], *others)


def _open_full_slices(items: list, shape: Any) -> None:
    """Write `:` for every slice over all of its dimension, which torch runs no op for."""
    if not isinstance(shape, tuple) or any(isinstance(i, (Node, Tensor)) for i in items):
        return
    count, dim = len([i for i in items if i is not None]), 0
    for at, item in enumerate(items):
        if isinstance(item, slice) and item.start in (None, 0) and item.step in (None, 1) and item.stop == shape[dim]:
            items[at] = slice(None)
        if item is Ellipsis:
            dim += len(shape) - count + 1
        elif item is not None:
            dim += 1


def _bound_slice(items: list, values: list, ndim: int, dim: int, start: int, stop: int) -> None:
    """Write the bounds of the slice of dimension `dim` into an index, whose items have these values."""
    at = 0  # dimensions as they are at the slice's turn: those selected before are gone, and new ones are there
    for k, value in enumerate(values):
        if isinstance(value, slice) and at == dim:
            items[k] = slice(start or None, stop, value.step)
        if value is Ellipsis:
            at += ndim - sum(map(_dimensions_indexed, values))
        elif not isinstance(value, int):
            at += 1


def _dimensions_indexed(item: Any) -> int:
    if item is None or item is Ellipsis:
        return 0
    return item.ndim if isinstance(item, Tensor) and item.dtype is torch.bool else 1


# by the name of the call: how its sizes are written, and what they are (a shape, or a list of shapes)
FORMS: dict[str, tuple[Callable[..., None], type]] = {
    **dict.fromkeys(("view", "reshape", "expand", "broadcast_to"), (_write_shape, tuple)),
    **dict.fromkeys(CREATED, (_write_created, tuple)),
    **dict.fromkeys(("split", "chunk", "tensor_split", "split_with_sizes", "unsafe_chunk"), (_write_pieces, list)),
    **dict.fromkeys(("getitem", "setitem"), (_write_index, object)),
    "repeat": (_write_repeats, tuple), "unflatten": (_write_unflatten, tuple), "narrow": (_write_narrow, object)}
