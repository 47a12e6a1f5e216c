"""The axis analysis: runs a captured graph on meta tensors and relates the axes of every tensor, ATen op by ATen op.

What does not live here: what each operation does (rules/) and what new positions contain (fxgrow/contents).
"""
import contextlib
import operator
from collections.abc import Callable, Collection, Iterator
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.overrides import TorchFunctionMode

from fxgrow.aten import JOIN, Recorded, tree_flatten, tree_leaves, tree_unflatten
from fxgrow.axis import rules  # noqa: F401  (registers the rules)
from fxgrow.axis.algebra import NUMBERS
from fxgrow.axis.expressions import KEPT, OUTPUT, Atom, Fixed, Prod, atoms, freeze, is_fixed, resolve
from fxgrow.axis.norms import fuse
from fxgrow.axis.standardise import fuse_centring
from fxgrow.axis.tape import RULES, Tape
from fxgrow.axis.values import UNEVEN, Fold
from fxgrow.errors import CaptureError
from fxgrow.graph import (
    Captured,
    MetaRunner,
    below,
    line_of_code,
    location_of,
    mentions,
    meta_twin,
    named_tensors,
    nested_shape,
    remembered,
    run_shapes,
    set_mode,
    tensors_of,
    to_meta,
)
from fxgrow.layers import fold_pairs, keep
from fxgrow.tracing import Axes, Inputs, axes_of


class _Whole(TorchFunctionMode):
    """Hand whole functions to their rule that torch would take apart before an ATen op is seen."""

    def __init__(self, tape: Tape):
        super().__init__()
        self.tape = tape

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (torch.rms_norm, F.rms_norm):
            arguments = dict(zip(("input", "normalized_shape", "weight", "eps"), args), **kwargs)
            x, shape, weight = arguments["input"], arguments["normalized_shape"], arguments.get("weight")
            if tuple(x.shape[-len(shape):]) == tuple(shape) and (weight is None or tuple(weight.shape) == tuple(shape)):
                out = x.new_empty(x.shape)
                RULES["rms_norm"](self.tape, "rms_norm", (x, shape, weight), {}, out)
                return out
        return func(*args, **kwargs)  # which raises where the shapes do not fit


def _may_call_whole(gm: GraphModule) -> bool:
    """Return whether a function of `_Whole` may be called: by the graph, by a layer, or inside what was kept whole."""
    return any(node.op == "call_function" and node.target in (torch.rms_norm, F.rms_norm) for node in gm.graph.nodes) or \
        any(isinstance(m, nn.RMSNorm) or mentions(type(m), "rms_norm") for m in gm.modules())  # type: ignore[arg-type]


def analyse(gm: GraphModule) -> Tape:
    """Return the tape of a captured module: the axis expression of every parameter, buffer, value and graph node.

    An unknown operation raises nothing: what is not understood is frozen, with the reason. Axes that some reshape or
    cut does not divide evenly (the odd halves of a channel shuffle) are analysed again with positions that only grow
    into k adjacent ones each. Where a recurrent layer takes one step of the example, longer inputs are analysed.
    """
    return remembered(gm, "axes", _analyse, Tape.as_found)


def _analyse(gm: GraphModule) -> Tape:
    tape, inputs, uneven = _run(gm), None, set()
    if tape.single:
        inputs = _longer_inputs(gm)
        tape = _run(gm, (), inputs)
    for name, value in tape.params.items():
        uneven |= {(name, dim) for dim, axis in enumerate(value.axes)
                   if is_fixed(axis) and any(UNEVEN in str(a.reason) for a in atoms(axis))}
    if uneven:
        tape = _run(gm, uneven, inputs)
    if tape.suspects:
        _freeze_what_other_sizes_deny(gm, tape, None if inputs else _longer_inputs(gm))
    return tape


def _freeze_what_other_sizes_deny(gm: GraphModule, tape: Tape, inputs: tuple | None) -> None:
    """Freeze the classes that a reshape takes apart otherwise for these inputs of another size."""
    known, elsewhere = _forms(tape), _forms(_run(gm, tape.copied, inputs))
    for (name, dim), form in known.items():
        if form != elsewhere[name, dim]:
            freeze(tape.params[name].axes[dim], f"{tape.suspects[0]} takes it apart by a size of the input")
    _finish(tape)


def _longer_inputs(gm: GraphModule) -> tuple:
    """Return inputs on meta tensors twice as large along each axis along which the graph takes such."""
    inputs: Inputs = Captured(gm).inputs, {}
    for axes, *_ in axes_of(inputs):
        for places in (axes.places, *(frozenset([place]) for place in axes.places)):
            longer = Axes(axes.size, places, axes.size).of(inputs)
            try:
                run_shapes(gm, longer[0])
            except CaptureError:
                continue
            inputs = longer
            break
    return inputs[0]


def _forms(tape: Tape) -> dict[tuple[str, int], str]:
    """Return how each axis of the parameters is made of classes, which are numbered as they come."""
    numbers: dict[Atom, int] = {}
    return {(name, dim): _form(axis, numbers) for name, value in tape.params.items() for dim, axis in enumerate(value.axes)}


def _form(axis: Any, numbers: dict[Atom, int]) -> str:
    axis = resolve(axis)
    if isinstance(axis, Atom):
        return f"{numbers.setdefault(axis, len(numbers))}:{axis.size}{'' if axis.reason is None else ' fixed'}"
    if isinstance(axis, Fixed):
        return str(axis.size)
    return f"{type(axis).__name__}({', '.join(_form(part, numbers) for part in axis.parts)})"


def _run(gm: GraphModule, copied: Collection[tuple[str, int]] = (), inputs: tuple | None = None) -> Tape:
    twin = set_mode(meta_twin(gm), False)
    tape = Tape(copied, inputs)
    tensors = named_tensors(twin)
    for name, tensor in tensors:
        tape.add_param(name, tensor)
    targets = {str(node.target) for node in gm.graph.nodes if node.op in ("call_module", "get_attr")}
    used = {id(t) for name, t in tensors_of(twin).items()  # by any of its names
            if not targets.isdisjoint(accumulate(name.split("."), "{}.{}".format))}
    for name, tensor in tensors:
        if id(tensor) not in used:
            for axis in tape.params[name].axes:
                freeze(axis, "the model never uses it")
    with _Whole(tape) if _may_call_whole(gm) else contextlib.nullcontext(), tape:
        _AxisRunner(gm, twin, tape, inputs).run()
    tape.cut_off_ends()
    fuse(tape)
    fuse_centring(tape)
    _finish(tape)
    return tape


def _finish(tape: Tape) -> None:
    tape.index()
    tape.found = {atom: atom.reason for atom in (*tape.params_of, *tape.ops_of)}


class _AxisRunner(MetaRunner):
    """Run a captured graph, telling the tape which node runs and what its value is."""
    both_modes = True

    def __init__(self, gm: GraphModule, root: nn.Module, tape: Tape, inputs: tuple | None):
        super().__init__(gm, root, inputs)
        self.tape = tape
        self.constants: dict[Any, Tensor] = {}
        self.of_inputs: dict[Any, Any] = {}  # numbers: whether they come from sizes that never grow, such as the inputs'
        self.bindings = 0
        tape.cause = self._cause

    def _cause(self, axis: Any) -> str:
        """Say what an axis comes from that the node is given and that is no class: an input, or where it is computed."""
        def read(node: Node, holds: Callable[[Any], bool]) -> list[Node]:
            return [n for n in node.all_input_nodes if any(map(holds, self._axes_of(n)))]

        def is_so_long(other: Any) -> bool:
            return isinstance(resolve(other), Fixed) and other.size == axis.size

        source = self.running
        found = read(source, lambda other: other is axis) or read(source, is_so_long)
        while found:
            source = found[0]
            found = read(source, is_so_long)
        if source is self.running:
            return NUMBERS
        made_of = [source]
        for node in made_of:
            made_of += [n for n in node.all_input_nodes if n not in made_of and self._axes_of(n)]
        line = line_of_code(source) or location_of(source)
        inputs = [str(n.target) for n in made_of if n.op == "placeholder"]
        if not inputs:
            return f"a table that the forward computes at {line}"
        if any(n.op == "get_attr" or (n.op == "call_module" and any(True for _ in self.modules[str(n.target)].parameters()))
               for n in made_of):
            return f"a size of the model's input, or one written in the code, at {line}"
        return f"the model's input {inputs[0]!r}" + ("" if source.op == "placeholder" else ", in another form")

    def _axes_of(self, node: Node) -> list[Any]:
        """Return the axes of the tensors that a node gives."""
        return [a for t in tree_leaves(self.values.get(node)) if isinstance(t, Tensor)
                for a in getattr(self.tape.values.get(id(t)), "axes", map(Fixed, t.shape))]

    def before(self, node: Node) -> None:
        """Tell the tape which node runs, and where what it slices is sliced."""
        self.running = node
        self.tape.node, self.tape.fx = location_of(node), node.name
        self.tape.bounds = {}
        if node.target is operator.getitem and isinstance(value := self.values.get(node.args[0]), Tensor):
            for user in node.args[0].users:
                for dim, ends in _sliced(user, value.ndim) if user.target is operator.getitem else ():
                    self.tape.bounds.setdefault(dim, set()).update(ends)
        self.bindings = Atom.bindings

    def call_module(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Call a layer, noting a recurrent one that sees one step."""
        if isinstance(module, nn.RNNBase):
            given = [v for v in tree_leaves((args, kwargs)) if isinstance(v, Tensor)][0]
            self.tape.single |= given.ndim > 1 and given.shape[given.ndim == 3 and module.batch_first] == 1
        return super().call_module(module, args, kwargs)

    def join(self, node: Node) -> Any:
        """Return what stands for the values of both modes."""
        _, train_value, eval_value = self.look_up(node.args)
        return _join(self.tape, train_value, eval_value)

    def join_modes(self, node: Node, in_train: Any, in_eval: Any) -> Any:
        """Return what stands for what a layer gives in both modes; where it cannot run in one, nothing of it grows."""
        (trained, form), (evaluated, other) = tree_flatten(in_train), tree_flatten(in_eval)
        if form == other and (in_train is None) is (in_eval is None):
            ops = list(self.tape.inner.get(node.name, ()))  # a join is no op of the layer
            joined = tree_unflatten([_join(self.tape, a, b) for a, b in zip(trained, evaluated)], form)
            self.tape.inner[node.name] = ops
            return joined
        held = [axis for name, value in self.tape.params.items() if below(name, str(node.target)) for axis in value.axes]
        seen = _axes_in(self.tape, (self.look_up(node.args), self.look_up(node.kwargs), in_train, in_eval))
        self.tape.freeze_all((*held, *seen), "its use depends on the mode (train or eval), or on the data")
        return in_eval

    def after(self, node: Node, value: Any) -> Any:
        """Return the value; constants of the model are on meta tensors, one for all reads of each."""
        value = super().after(node, value)
        if node.op == "get_attr" and isinstance(value, Tensor) and not value.is_meta:
            value = self.constants.setdefault(node.target, to_meta(value))
        if node.target is fold_pairs and self.values[node.args[0]] is value:
            value = _idle_fold(self.tape, value, node.args[1])
        self.tape.node_values[node.name] = _values_of(self.tape, value)
        self.tape.shapes[node.name] = nested_shape(value)
        self.tape.results[node.name] = value
        if node.op == "output":
            for axis, why in [*self.tape.tables, *((axis, OUTPUT) for axis in _axes_in(self.tape, value))]:
                freeze(axis, why)
            self.tape.given = [self.tape.of(leaf) for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
        if node.target is keep:
            self.tape.freeze_all(_axes_in(self.tape, self.look_up(node.args[2])), KEPT)
        if type(value) in (int, torch.Size):
            self._note_origin(node, value)
        elif Atom.bindings != self.bindings and self._may_split_by_inputs(node, value):
            self.tape.suspects.append(location_of(node))
        return value

    def _note_origin(self, node: Node, value: Any) -> None:
        """Take down which sizes come from axes that never grow, and what is computed from such."""
        source = node.args[0] if node.args else None
        read = self.values.get(source) if isinstance(source, Node) else None
        if isinstance(read, Tensor):
            fixed = tuple(map(is_fixed, self.tape.peek(read).axes))
            dim = node.args[1] if len(node.args) > 1 else None
            self.of_inputs[node] = fixed if isinstance(value, torch.Size) else fixed[dim] if isinstance(dim, int) else True
        elif node.target is operator.getitem and isinstance(self.of_inputs.get(source), tuple) and \
                isinstance(node.args[1], (int, slice)):
            self.of_inputs[node] = self.of_inputs[source][node.args[1]]
        else:
            self.of_inputs[node] = any(self.of_inputs.get(n) not in (None, False) for n in node.all_input_nodes)

    def _may_split_by_inputs(self, node: Node, value: Any) -> bool:
        """Tell whether a node that splits classes may do so at a size of the inputs, or together with one."""
        if node.op == "call_module" or not isinstance(value, Tensor):
            return self.is_unknown(node)
        sizes = [size for a in node.args[1:] for size in (a if isinstance(a, (tuple, list)) else (a,))]
        aligned = sizes if len(sizes) == value.ndim else [None] * value.ndim
        return any((isinstance(size, Node) and self.of_inputs.get(size) is True) or _holds_numbers(axis)
                   for size, axis in zip(aligned, self.tape.of(value).axes) if not is_fixed(axis))


def _sliced(node: Node, ndim: int) -> Iterator[tuple[int, list[int]]]:
    """Yield the dimensions that an indexing by slices alone takes parts of, with the bounds that are written as numbers."""
    index = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
    if not all(part is ... or isinstance(part, slice) for part in index):
        return
    for i, part in enumerate(index):
        if part is not ...:
            yield ndim - len(index) + i if ... in index[:i] else i, [b for b in (part.start, part.stop) if type(b) is int]


def _holds_numbers(axis: Any) -> bool:
    """Tell whether a product has factors that are no classes."""
    axis = resolve(axis)
    return isinstance(axis, Prod) and any(isinstance(part, Fixed) for part in axis.parts)


def _idle_fold(tape: Tape, x: Tensor, dim: int) -> Tensor:
    """Return the value behind a fold that does nothing yet; its folded axis is a class of its own."""
    value, out = tape.of(x), x.new_empty(x.shape)
    axes = [Atom(a.size) if i == dim else a for i, a in enumerate(value.axes)]
    tape.record(Fold, "fold_pairs", [value], [tape.set(out, axes)], reduced=[(0, dim, value.axes[dim])],
                dmaps=[{i: i for i in range(out.ndim) if i != dim}])
    return out


def _join(tape: Tape, train_value: Any, eval_value: Any) -> Any:
    """Join the values of two branches: equal shapes become one value; what differs keeps its size."""
    if isinstance(train_value, Tensor) and isinstance(eval_value, Tensor) and train_value.shape == eval_value.shape:
        ins = [tape.of(train_value), tape.of(eval_value)]
        for a, b in zip(*(v.axes for v in ins)):
            tape.unify(a, b, "the two branches of `training`")
        out = torch.empty_like(eval_value)
        tape.map(JOIN, ins, out, ins[0].axes)
        joined = tape.of(out)
        joined.derived, joined.made = any(v.derived for v in ins), Recorded(JOIN, tape.node, ins=ins)
        return out
    tape.freeze_all(_axes_in(tape, (train_value, eval_value)), "its use depends on the mode (train or eval), or on the data")
    return eval_value


def _axes_in(tape: Tape, tree: Any) -> Iterator:
    return (axis for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) for axis in tape.of(leaf).axes)


def _values_of(tape: Tape, value: Any) -> Any:
    """Return the value of a tensor; those of a list's tensors, in a list; None for anything else."""
    if isinstance(value, Tensor):
        return tape.values.get(id(value))
    if isinstance(value, (tuple, list)) and not isinstance(value, torch.Size):
        return [_values_of(tape, v) for v in value]
    return None
