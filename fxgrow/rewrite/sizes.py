"""Fitting: the rewritten graph runs once on meta tensors, and every size in it is compared with the analysis.

A node that disagrees gets its size arguments written out; one that still disagrees refuses the growth (`Refusal`), and
the caller leaves those classes alone. The ops inside a node are compared too: their sizes, and where slices start.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from fxgrow.aten import Shapes, effects, numbers_in, tensors_in
from fxgrow.axis import Atom, Sizes, Tape, Value, atoms, size_of
from fxgrow.common import Refusal
from fxgrow.graph import leaf_value, meta_twin, nested_shape, run_node
from fxgrow.rewrite.arguments import mend, pin_scalars


class _Watch(Shapes):
    """Keeps the ATen ops of a node, their sizes and their numbers."""

    def __init__(self):
        super().__init__()
        self.seen: list[tuple[str, list, list]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = super().__torch_dispatch__(func, types, args, kwargs)
        name = effects(func)[0]
        self.seen.append((name, [tuple(o.shape) for o in tensors_in((out,))], numbers_in(name, args, kwargs or {})))
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
        if not _agrees(expected, nested_shape(value)):
            return value, f"gives {nested_shape(value)} where {expected} is needed"
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
                        raise Refusal(f"{node.name} cannot take copies through the batch: {problem.splitlines()[0]}",
                                      classes=[a for a in sizes if a.size == 1])
                    continue
                pin_scalars(node, tape, scalars)
                expected = _expected(tape.node_values.get(node.name), tape.shapes.get(node.name), sizes)
                value, problem = attempt(node, env, expected)
                if problem:
                    mend(node, tape, sizes, expected, env)
                    value, problem = attempt(node, env, expected)
                if problem:
                    raise Refusal(f"{node.meta.get('owner') or node.target} ({node.name}) cannot take the new sizes: "
                                  f"{problem.splitlines()[0]}", classes=_atoms_at(tape, node, sizes) or list(sizes))
                if isinstance(value, Tensor) and not value.is_meta:
                    value = value.to("meta")
                env[node] = value
                if isinstance(value, (int, float)) and not isinstance(value, bool) and value != tape.shapes.get(node.name):
                    scalars[node.name] = tape.shapes.get(node.name)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
