"""Size arguments of calls, brought to the grown shapes.

What lives here: writing sizes into one node. What does not: finding the nodes that need it (sizes.py).
"""
import operator
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from fxgrow.aten import CREATED
from fxgrow.rewrite.growth import GrownSizes
from fxgrow.rewrite.numbers import Numbers

FILLS = {"full", "new_full"}  # calls whose last argument is a number, no size
INDEXING = ("getitem", "setitem")


def write_sizes(node: Node, grown: GrownSizes, shape: Any, numbers: Numbers) -> None:
    """Write sizes into a call that takes them, by the expected shape of its result (or a list)."""
    write, described_by = FORMS.get(_name(node), (None, object))
    if write is not None and isinstance(shape, described_by):
        write(node, grown, shape, numbers)


def keep_old_numbers(node: Node, numbers: Numbers) -> None:
    """Give a node the old value of each number computed from a grown size, wherever it is no size (a scale, say)."""
    before, name = numbers.before(node), _name(node)
    if isinstance(before, (int, float)) or numbers.old.keys().isdisjoint(node.all_input_nodes):
        return
    if name in INDEXING:
        x, index, *others = node.args
        items = [i if isinstance(i, slice) else numbers.as_before(i, node) for i in _items(index)]
        node.args = (x, tuple(items) if isinstance(index, tuple) else items[0], *numbers.as_before(others, node))
    elif name in FILLS and "fill_value" in node.kwargs:
        node.update_kwarg("fill_value", numbers.as_before(node.kwargs["fill_value"], node))
    elif name in FILLS:
        node.args = (*node.args[:-1], numbers.as_before(node.args[-1], node))
    elif name not in FORMS and name != "tile" and not (
            isinstance(node.target, types.BuiltinFunctionType) and isinstance(before, list)):
        node.args, node.kwargs = numbers.as_before((node.args, node.kwargs), node)


def _name(node: Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "").lstrip("_")


# --- the forms: each takes a call, the grown sizes, the expected shape, and a function from an argument to its value ------

def _write_shape(node: Node, grown: GrownSizes, shape: tuple[int, ...], numbers: Numbers) -> None:
    """State the shape itself; a size that is right, or left open (-1), stays as it is stated."""
    at = 0 if _name(node) in CREATED and not _name(node).startswith("new_") else 1
    if len(node.args) > at:
        _state(node, at, [numbers.fit(n, size, dim, node)
                          for dim, (n, size) in enumerate(zip(_stated(node, at, len(shape), numbers), shape))])


def _write_repeats(node: Node, grown: GrownSizes, shape: tuple[int, ...], numbers: Numbers) -> None:
    x = numbers.value(node.args[0])
    old = (1,) * (len(shape) - x.ndim) + tuple(x.shape)
    _state(node, 1, [numbers.fit(n, new // size, dim, node)
                     for dim, (n, size, new) in enumerate(zip(_stated(node, 1, len(shape), numbers), old, shape))])


def _write_interleaved(node: Node, grown: GrownSizes, shape: tuple[int, ...], numbers: Numbers) -> None:
    if "output_size" in node.kwargs:
        dim = node.kwargs.get("dim", node.args[2] if len(node.args) > 2 else None) or 0  # None: all positions in a row
        node.update_kwarg("output_size", numbers.fit(node.kwargs["output_size"], shape[dim], dim, node))


def _stated(node: Node, at: int, count: int, numbers: Numbers) -> list:
    """Return the sizes from an argument on, which stand by themselves, in one sequence, or are what one node gives."""
    first = node.args[at]
    if isinstance(first, Node) and not isinstance(numbers.value(first), int):
        first = tuple(numbers.call(operator.getitem, (first, i), node) for i in range(count))
        node.args = (*node.args[:at], first, *node.args[at + 1:])
    return list(first) if isinstance(first, (list, tuple)) else list(node.args[at:])


def _state(node: Node, at: int, sizes: list) -> None:
    """Write sizes where others are stated."""
    first = node.args[at]
    stated = (type(first)(sizes), *node.args[at + 1:]) if isinstance(first, (list, tuple)) else sizes
    node.args = (*node.args[:at], *stated)


def _write_unflatten(node: Node, grown: GrownSizes, shape: tuple[int, ...], numbers: Numbers) -> None:
    stated = {**dict(zip(("input", "dim", "sizes"), node.args)), **node.kwargs}
    dim = stated["dim"] % (len(shape) - len(stated["sizes"]) + 1)
    sizes = tuple(numbers.fit(n, shape[at], at, node) for at, n in enumerate(stated["sizes"], dim))
    node.args, node.kwargs = (stated["input"], dim, sizes), {}


def _write_pieces(node: Node, grown: GrownSizes, shapes: list[tuple[int, ...]], numbers: Numbers) -> None:
    """State the size of each piece, whatever the call cuts by; one size where all are equal."""
    dim = node.kwargs.get("dim", node.args[2] if len(node.args) > 2 else 0)
    sizes = [shape[dim] for shape in shapes]
    node.args, node.kwargs = (node.args[0], sizes if len(set(sizes)) > 1 else sizes[0], dim), {}
    node.target = "split" if node.op == "call_method" else torch.split


def _write_narrow(node: Node, grown: GrownSizes, shape: Any, numbers: Numbers) -> None:
    for dim, start, stop in grown.slices(node):
        bounds = [numbers.bound(*pair, dim, node) for pair in zip(node.args[2:4], (start, stop - start))]
        node.args = (*node.args[:2], *bounds, *node.args[4:])


def _write_index(node: Node, grown: GrownSizes, shape: Any, numbers: Numbers) -> None:
    x, index, *others = node.args
    items = _items(index)
    _open_full_slices(items, grown.tape.shapes.get(x.name))
    for dim, start, stop in grown.slices(node):
        _bound_slice(items, node, numbers, dim, start, stop)
    node.args = (x, tuple(items) if isinstance(index, tuple) else items[0], *others)


def _items(index: Any) -> list:
    return list(index) if isinstance(index, tuple) else [index]


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


def _bound_slice(items: list, node: Node, numbers: Numbers, dim: int, start: int, stop: int) -> None:
    """Write the bounds of the slice of dimension `dim` into the items of an index."""
    values, ndim = [numbers.value(item) for item in items], numbers.value(node.args[0]).ndim
    at = 0  # dimensions as they are at the slice's turn: those selected before are gone, and new ones are there
    for k, value in enumerate(values):
        if isinstance(value, slice) and at == dim:
            first = numbers.bound(items[k].start, start or None, dim, node)
            items[k] = slice(first, numbers.bound(items[k].stop, stop, dim, node), value.step)
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
    **dict.fromkeys(("view", "reshape", "expand", "broadcast_to", *CREATED), (_write_shape, tuple)),
    **dict.fromkeys(("split", "chunk", "tensor_split", "split_with_sizes", "unsafe_chunk"), (_write_pieces, list)),
    **dict.fromkeys(INDEXING, (_write_index, object)),
    "repeat": (_write_repeats, tuple), "repeat_interleave": (_write_interleaved, tuple),
    "unflatten": (_write_unflatten, tuple), "narrow": (_write_narrow, object)}
