"""Sizes that the arguments of a call state, brought to the grown shape."""
from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from fxgrow.aten import CREATED
from fxgrow.axis import Sizes, Tape, size_of

SIZED_CALLS = {*CREATED, "view", "reshape", "expand", "repeat", "unflatten", "split", "chunk", "tensor_split", "narrow",
               "split_with_sizes", "broadcast_to", "tile", "getitem", "setitem"}
FILLS = {"full": 1, "new_full": 2}  # where the number stands that is no size


def _name(node: Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "").lstrip("_")


def pin_scalars(node: Node, tape: Tape, scalars: dict[str, Any]) -> None:
    """A number computed from a size that has grown keeps its old value wherever it is not a size (a scale, say)."""
    changed = [n for n in node.all_input_nodes if n.name in scalars]
    if not changed or node.op == "output" or isinstance(tape.shapes.get(node.name), (int, float)):
        return
    name = _name(node)
    if name in FILLS:
        fill = node.kwargs.get("fill_value", node.args[-1])
        changed = [n for n in changed if n is fill]
    elif name in SIZED_CALLS or isinstance(node.target, type(operator.add)) and isinstance(tape.shapes.get(node.name), list):
        return
    for n in changed:
        def swap(a, old=n):
            return torch.fx.node.map_aggregate(a, lambda x: scalars[old.name] if x is old else x)
        node.args, node.kwargs = swap(node.args), swap(node.kwargs)


def mend(node: Node, tape: Tape, sizes: Sizes, expected, env: dict) -> None:
    """Writes the expected sizes into the arguments of a call that takes sizes."""
    name = _name(node)
    args = list(node.args)

    def now(a):
        return env[a] if isinstance(a, Node) else a

    if name in ("view", "reshape", "expand", "broadcast_to") and isinstance(expected, tuple) and len(args) > 1:
        spread = not isinstance(args[1], (list, tuple))
        if isinstance(args[1], Node) and not isinstance(env[args[1]], int):
            args = [args[0], tuple(expected)]
        else:
            given = args[1:] if spread else list(args[1])
            written = [g if now(g) in (-1, e) else e for g, e in zip(given, expected)]
            args = [args[0], *written] if spread else [args[0], type(args[1])(written)]
    elif name == "repeat" and isinstance(expected, tuple):
        spread = not isinstance(args[1], (list, tuple))
        given = args[1:] if spread else list(args[1])
        old = (1,) * (len(expected) - env[args[0]].ndim) + tuple(env[args[0]].shape)
        written = [g if now(g) * o == e else e // o for g, o, e in zip(given, old, expected)]
        args = [args[0], *written] if spread else [args[0], tuple(written)]
    elif name == "unflatten" and isinstance(expected, tuple):
        named = {**dict(zip(("dim", "sizes"), args[1:])), **{k: v for k, v in node.kwargs.items() if k != "input"}}
        dim, into = named["dim"], named["sizes"]
        dim %= len(expected) - len(into) + 1
        into = tuple(g if now(g) == -1 else e for g, e in zip(into, expected[dim:]))
        args, node.kwargs = [*(args or [node.kwargs["input"]])[:1], dim, into], {}
    elif name in CREATED and isinstance(expected, tuple):
        first = int(name.startswith("new_"))
        args = [*args[:first], tuple(expected), *(args[first + 1:] if isinstance(args[first], (tuple, list)) else ())]
    elif name in ("split", "chunk", "tensor_split", "split_with_sizes", "unsafe_chunk") and isinstance(expected, list):
        dim = node.kwargs.get("dim", args[2] if len(args) > 2 else 0)
        args = [args[0], [e[dim] for e in expected], dim]
        node.target = "split" if node.op == "call_method" else torch.split
        node.kwargs = {}
    elif name in ("getitem", "setitem", "narrow"):
        if name != "narrow":
            args[1] = _whole_slices(args[1], tape.shapes.get(args[0].name))
        for op in tape.by_node.get(node.name, ()):
            if "slice" in op.extra:
                dim, pieces, at = op.extra["slice"]
                start = sum(size_of(p, sizes) for p in pieces[:at])
                _mend_slice(node, args, dim, start, start + size_of(pieces[at], sizes), env)
    node.args = tuple(args)


def _whole_slices(index, shape):
    """The index with every slice up to the very end of its dimension (which is no op: torch leaves it out) as `:`."""
    items, dim = list(index) if isinstance(index, tuple) else [index], 0
    if not isinstance(shape, tuple) or any(isinstance(i, (Node, Tensor)) for i in items):
        return index
    for k, item in enumerate(items):
        if isinstance(item, slice) and item.start in (None, 0) and item.step in (None, 1) and item.stop == shape[dim]:
            items[k] = slice(None)
        dim += len(shape) - len([i for i in items if i is not None]) + 1 if item is Ellipsis else item is not None
    return tuple(items) if isinstance(index, tuple) else items[0]


def _mend_slice(node: Node, args: list, dim: int, start: int, stop: int, env: dict) -> None:
    """Writes the bounds of the slice that cuts dimension `dim`, as counted when it is its turn: dimensions that are
    selected before are gone by then, and new ones are there."""
    if _name(node) == "narrow":
        args[2:4] = [start, stop - start]
        return
    index = list(args[1]) if isinstance(args[1], tuple) else [args[1]]
    values = [env[i] if isinstance(i, Node) else i for i in index]
    used = sum(v.ndim if isinstance(v, Tensor) and v.dtype is torch.bool else 1
               for v in values if v is not None and v is not Ellipsis)
    at = 0
    for k, value in enumerate(values):
        if isinstance(value, slice) and at == dim:
            index[k] = slice(start or None, stop, value.step)
        at += env[args[0]].ndim - used if value is Ellipsis else not isinstance(value, int)
    args[1] = tuple(index) if isinstance(args[1], tuple) else index[0]
