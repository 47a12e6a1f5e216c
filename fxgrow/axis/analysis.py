"""Axis analysis: runs the captured graph on meta tensors and relates the axes of every tensor, ATen op by ATen op.

`analyse` gives the tape: which axis expression every parameter, value and graph node has, and one `Op` record for each
operation that touches a growable axis. What lives here: the dispatch mode and the records. What does not: what each
operation does (fxgrow/axis/rules) and what new positions contain (fxgrow/contents/certify.py).
"""
from __future__ import annotations

import contextlib
from collections.abc import Collection
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.overrides import TorchFunctionMode

from fxgrow.aten import JOIN, tree_flatten
from fxgrow.axis import rules  # noqa: F401  (registers the rules)
from fxgrow.axis.algebra import Atom, atoms, freeze, is_fixed
from fxgrow.axis.norms import fuse
from fxgrow.axis.registry import RULES
from fxgrow.axis.tape import Tape
from fxgrow.axis.values import OUTPUT, UNEVEN, Fold, Map
from fxgrow.graph import MetaRunner, location_of, mentions, meta_twin, nested_shape, remembered, to_meta
from fxgrow.layers import fold_pairs


class _Whole(TorchFunctionMode):
    """Functions that torch takes apart before an ATen op is seen, and that a rule understands as a whole."""

    def __init__(self, tape: Tape):
        super().__init__()
        self.tape = tape

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func not in (torch.rms_norm, F.rms_norm):
            return func(*args, **kwargs)
        given = dict(zip(("input", "normalized_shape", "weight", "eps"), args), **kwargs)
        x, shape, weight = given["input"], given["normalized_shape"], given.get("weight")
        if weight is not None and tuple(weight.shape) != tuple(shape) or tuple(x.shape[-len(shape):]) != tuple(shape):
            return func(*args, **kwargs)  # which raises
        out = x.new_empty(x.shape)
        RULES["rms_norm"](self.tape, "rms_norm", (x, shape, weight), {}, out)
        return out


def _may_call_whole(gm: GraphModule) -> bool:
    """Whether a function of `_Whole` may be called: by the graph, by a layer, or inside what was not traced."""
    return any(node.op == "call_function" and node.target in (torch.rms_norm, F.rms_norm) for node in gm.graph.nodes) or \
        any(isinstance(m, nn.RMSNorm) or mentions(type(m), "rms_norm") for m in gm.modules())  # type: ignore[arg-type]


def analyse(gm: GraphModule) -> Tape:
    """The axes of every parameter, buffer and value of a captured module. Never raises for an unknown operation: what
    is not understood is frozen, with the reason. Axes that some reshape or cut does not divide evenly (the odd halves
    of a channel shuffle) are analysed again with positions that only grow into k adjacent ones each."""
    return remembered(gm, "axes", _analyse, Tape.as_found)


def _analyse(gm: GraphModule) -> Tape:
    tape = _run(gm)
    uneven = {(name, dim) for name, value in tape.params.items() for dim, axis in enumerate(value.axes)
              if is_fixed(axis) and any(UNEVEN in str(a.reason) for a in atoms(axis))}
    return _run(gm, uneven) if uneven else tape


def _run(gm: GraphModule, copied: Collection[tuple[str, int]] = ()) -> Tape:
    twin = meta_twin(gm).eval()
    tape = Tape(copied)
    for name, tensor in [*twin.named_parameters(), *twin.named_buffers()]:
        tape.add_param(name, tensor)
    targets = {str(node.target) for node in gm.graph.nodes if node.op in ("call_module", "get_attr")}
    for name, value in tape.params.items():
        parts = name.split(".")
        if not any(".".join(parts[:i + 1]) in targets for i in range(len(parts))):
            for axis in value.axes:
                freeze(axis, "the model never uses it")
    with _Whole(tape) if _may_call_whole(gm) else contextlib.nullcontext(), tape:
        _AxisRunner(gm, twin, tape).run()
    fuse(tape)
    tape.index()
    tape.found = {atom: atom.reason for atom in (*tape.params_of, *tape.ops_of)}
    return tape


class _AxisRunner(MetaRunner):
    """Run a captured graph, telling the tape which node runs and what its value is."""

    def __init__(self, gm: GraphModule, root: nn.Module, tape: Tape):
        super().__init__(gm, root)
        self.tape = tape
        self.constants: dict[Any, Tensor] = {}

    def before(self, node: Node) -> None:
        """Tell the tape which node runs."""
        self.tape.node, self.tape.fx = location_of(node), node.name

    def join(self, node: Node) -> Any:
        """Return what stands for the values of both modes."""
        _, train_value, eval_value = self.look_up(node.args)
        return _either(self.tape, train_value, eval_value)

    def after(self, node: Node, value: Any) -> Any:
        """Return the value; constants of the model are on meta tensors, one for all reads of each."""
        value = super().after(node, value)
        if node.op == "get_attr" and isinstance(value, Tensor) and not value.is_meta:
            value = self.constants.setdefault(node.target, to_meta(value))
        if node.target is fold_pairs and self.values[node.args[0]] is value:
            value = _volume(self.tape, value, node.args[1])
        self.tape.node_values[node.name] = _values_of(self.tape, value)
        self.tape.shapes[node.name] = nested_shape(value)
        if node.op == "output":
            for t in tree_flatten(value)[0]:
                if isinstance(t, Tensor):
                    for axis in self.tape.of(t).axes:
                        freeze(axis, OUTPUT)
        return value


def _volume(tape: Tape, x: Tensor, dim: int) -> Tensor:
    """Behind an idle fold: a value of which one axis is a class of its own."""
    value, out = tape.of(x), x.new_empty(x.shape)
    axes = [Atom(a.size) if i == dim else a for i, a in enumerate(value.axes)]
    tape.record(Fold, "fold_pairs", [value], [tape.set(out, axes)], reduced=[(0, dim, value.axes[dim])],
                dmaps=[{i: i for i in range(out.ndim) if i != dim}])
    return out


def _either(tape: Tape, train_value, eval_value):
    """The join of two branches: equal shapes become one value; what differs keeps its size."""
    if isinstance(train_value, Tensor) and isinstance(eval_value, Tensor) and train_value.shape == eval_value.shape:
        ins = [tape.of(train_value), tape.of(eval_value)]
        for a, b in zip(*(v.axes for v in ins)):
            tape.unify(a, b, "the two branches of `training`")
        out = torch.empty_like(eval_value)
        same = {i: i for i in range(out.ndim)}
        tape.record(Map, JOIN, ins, [tape.set(out, ins[0].axes)], fn="linear", dmaps=[same, same])
        return out
    for t in tree_flatten((train_value, eval_value))[0]:
        if isinstance(t, Tensor):
            for axis in tape.of(t).axes:
                tape.freeze(axis, "its use depends on the mode (train or eval)")
    return eval_value


def _values_of(tape: Tape, value):
    if isinstance(value, Tensor):
        return tape.values.get(id(value))
    if isinstance(value, (tuple, list)) and not isinstance(value, torch.Size):
        return [_values_of(tape, v) for v in value]
    return None
