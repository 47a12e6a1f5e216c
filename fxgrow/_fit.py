"""Fitting: the rewritten graph runs once on meta tensors, and every size in it is compared with the analysis.

A node that disagrees gets its size arguments written out; one that still disagrees refuses the growth (`Refused`), and
the caller leaves those classes alone. The ops inside a node are compared too: their sizes, and where slices start.
"""
from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from fxgrow._analysis import CREATED, Tape, Value, _shape_of, _tensors_in, numbers_in, run_node
from fxgrow._axis import Atom, Sizes, atoms, size_of
from fxgrow._capture import leaf_value, meta_twin
from fxgrow._memory import effects
from fxgrow._shapes import Shapes


class Refused(Exception):
    """A node cannot take its new sizes; `atoms` are the classes to leave alone."""

    def __init__(self, reason: str, found: Sequence[Atom]):
        super().__init__(reason)
        self.atoms = list(found)


SIZED_CALLS = {*CREATED, "view", "reshape", "expand", "repeat", "unflatten", "split", "chunk", "tensor_split", "narrow",
               "split_with_sizes", "broadcast_to", "tile", "getitem", "setitem"}
FILLS = {"full": 1, "new_full": 2}  # where the number stands that is no size


class _Watch(Shapes):
    """Keeps the ATen ops of a node, their sizes and their numbers."""

    def __init__(self):
        super().__init__()
        self.seen: list[tuple[str, list, list]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = super().__torch_dispatch__(func, types, args, kwargs)
        name = effects(func)[0]
        self.seen.append((name, [tuple(o.shape) for o in _tensors_in((out,))], numbers_in(name, args, kwargs or {})))
        return out


def _differs(before: Sequence[tuple[str, list, list]], seen: Sequence[tuple[str, list, list]], sizes: Sizes,
             known: bool) -> str:
    """The first op inside a node that has other sizes or numbers than expected. Torch's own functions and layers are
    `known` to do the same by other ops."""
    before, seen = ([op for op in ops if op[0] not in ("detach", "alias", "lift_fresh")] for ops in (before, seen))
    if [name for name, *_ in before] != [name for name, *_ in seen]:
        return "" if known else "it does other things at another size"
    for (name, values, old), (_, shapes, new) in zip(before, seen):
        expected = [tuple(size_of(a, sizes) for a in v.axes) if isinstance(v, Value) else s if v is None else v
                    for v, s in zip(values, shapes)]
        if name == "slice" and isinstance(values[0], Value) and values[0].op and "slice" in values[0].op.extra:
            _, pieces, at = values[0].op.extra["slice"]
            old = [old[0], sum(size_of(p, sizes) for p in pieces[:at]), old[2]]
        if expected != shapes:
            return f"{name} gives {shapes} inside where {expected} is needed"
        if not _equal(old, new):
            return f"{name} is given {new} inside where {old} is needed"
    return ""


def _equal(a, b) -> bool:
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(_equal, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return a == b or math.isclose(a, b, rel_tol=1e-12)
    return a == b


def _name(node: Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "").lstrip("_")


def _expected(value, shape, sizes: Sizes):
    """The new shape of a value; a tensor that the analysis does not follow keeps its old one."""
    if isinstance(value, Value):
        return tuple(size_of(a, sizes) for a in value.axes)
    if isinstance(value, list):
        return [_expected(v, s, sizes) for v, s in zip(value, shape)]
    return shape if isinstance(shape, tuple) else None


def _agrees(expected, got) -> bool:
    if expected is None:
        return True
    if isinstance(expected, list):
        return isinstance(got, (list, tuple)) and all(_agrees(e, g) for e, g in zip(expected, got))
    return tuple(expected) == tuple(got) if isinstance(got, tuple) else False


def _atoms_at(tape: Tape, node: Node, sizes: Sizes) -> list[Atom]:
    """The grown classes a node touches."""
    found = {a for op in tape.by_node.get(node.name, ()) for v in (*op.ins, *op.outs) for e in v.axes for a in atoms(e)}
    for n in (node, *node.all_input_nodes):
        values = tape.node_values.get(n.name)
        for v in values if isinstance(values, list) else [values]:
            if isinstance(v, Value):
                found |= {a for axis in v.axes for a in atoms(axis)}
    return [a for a in found if a in sizes]


def fit(gm: GraphModule, tape: Tape, sizes: Sizes) -> None:
    """Runs the graph on meta tensors, mending size arguments, until every shape is the expected one."""
    root = meta_twin(gm).eval()
    modules = dict(root.named_modules(remove_duplicate=False))
    by_name = {n.name: n for n in gm.graph.nodes}
    scalars: dict[str, Any] = {}

    def attempt(node: Node, env: dict, expected=None) -> tuple[Any, str]:
        watch.seen = []
        try:
            value = run_node(by_name[node.name], env, root, modules, leaf_value)
        except Exception as error:  # any failure of a meta run means: these sizes do not fit
            return None, f"{type(error).__name__}: {error}"
        if not _agrees(expected, _shape_of(value)):
            return value, f"gives {_shape_of(value)} where {expected} is needed"
        known = node.op != "call_module" or type(modules[str(node.target)]).__module__.startswith(("torch.nn.", "fxgrow."))
        if by_name[node.name].meta.get("rescaled"):
            return value, ""
        return value, _differs(tape.inner.get(node.name, ()), watch.seen, sizes, known)

    env: dict[Node, Any] = {}
    inputs = iter(gm.meta["example_inputs"])
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), _Watch() as watch:
            for node in list(gm.graph.nodes):
                if node.op == "placeholder":
                    env[node] = next(inputs)
                    continue
                if node.meta.get("folded"):
                    env[node], problem = attempt(node, env)
                    if problem:
                        raise Refused(f"{node.name} cannot take copies through the batch: {problem.splitlines()[0]}",
                                      [a for a in sizes if a.size == 1])
                    continue
                _pin_scalars(node, tape, scalars)
                expected = _expected(tape.node_values.get(node.name), tape.shapes.get(node.name), sizes)
                value, problem = attempt(node, env, expected)
                if problem:
                    _mend(node, tape, sizes, expected, env)
                    value, problem = attempt(node, env, expected)
                if problem:
                    raise Refused(f"{node.meta.get('owner') or node.target} ({node.name}) cannot take the new sizes: "
                                  f"{problem.splitlines()[0]}", _atoms_at(tape, node, sizes) or list(sizes))
                if isinstance(value, Tensor) and not value.is_meta:
                    value = value.to("meta")
                env[node] = value
                if isinstance(value, (int, float)) and not isinstance(value, bool) and value != tape.shapes.get(node.name):
                    scalars[node.name] = tape.shapes.get(node.name)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _pin_scalars(node: Node, tape: Tape, scalars: dict[str, Any]) -> None:
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


def _mend(node: Node, tape: Tape, sizes: Sizes, expected, env: dict) -> None:
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
