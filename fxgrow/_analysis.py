"""Axis analysis: runs the captured graph on meta tensors and relates the axes of every tensor, ATen op by ATen op.

`analyse` gives the tape: which axis expression every parameter, value and graph node has, and one `Op` record for each
operation that touches a growable axis. What lives here: the dispatch mode and the records. What does not: what each
operation does (fxgrow/rules) and what new positions contain (fxgrow/_content.py).
"""
from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.fx.node import map_aggregate
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten

from fxgrow._axis import Atom, Fixed, Prod, atoms, concat, cut, freeze, is_fixed, product, resolve, unify, view
from fxgrow._capture import mentions, meta_twin, to_meta
from fxgrow._known import known
from fxgrow._memory import Memory, effects
from fxgrow._shapes import Shapes, Watching, compute
from fxgrow.errors import CaptureError
from fxgrow.layers import by_mode, fold_pairs

Rule = Callable[["Tape", Any, tuple, dict, Any], None]
RULES: dict[str, Rule] = {}
# Tensors made of one number. What is in an empty one before it is written may be taken for zeros.
CREATED = {"zeros": "zeros", "new_zeros": "zeros", "empty": "zeros", "new_empty": "zeros", "ones": "equal",
           "full": "equal", "new_ones": "equal", "new_full": "equal"}
SHAPE_ONLY = {*CREATED, "zero", "fill", "zeros_like", "ones_like", "full_like", "empty_like", "new_empty_strided"}
FORMS = (AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError)
UNEVEN = "does not divide it evenly"
OUTPUT = "it is the model's output: name its layer in full to add outputs"


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Registers a function as the rule of the named ATen ops (`"add"` for every overload of `aten.add`)."""
    def register(fn: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, fn))
        return fn
    return register


class Value:
    """One version of a tensor: its axes, and the parameter or buffer it is, if it is one."""
    __slots__ = ("axes", "constant", "derived", "made", "op", "param_only", "places", "source")

    def __init__(self, axes: Sequence, source: str | None = None, param_only: bool = False):
        self.axes, self.source, self.param_only = tuple(axes), source, param_only
        self.op: Op | None = None
        self.constant: str | None = None  # "zeros" or "equal", of a tensor made of one number
        self.derived = False  # computed from growable axes, though it may have none left (a sum over them)
        self.made: Made | None = None

    def place(self) -> None:
        """Brings the axes to normal form and notes which dimensions hold each atom."""
        self.axes = tuple(map(resolve, self.axes))
        self.places: dict[Atom, list[int]] = {}
        for dim, axis in enumerate(self.axes):
            for atom in dict.fromkeys(atoms(axis)):
                self.places.setdefault(atom, []).append(dim)

    def __repr__(self):
        return f"{self.source or 'value'}[{', '.join(repr(resolve(a)) for a in self.axes)}]"


class Made(NamedTuple):
    """The ATen op that gave a value: its name, what it was given (tensors, their values; numbers), the graph node."""
    name: str
    ins: list[Value]
    numbers: list
    fx: str


@dataclass(eq=False)
class Op:
    """One operation on growable axes, as far as the contents of new positions are concerned.

    kind: `map` (acts on each position alone), `contract` (sums products over `reduced`), `reduce` (`how` over
    `reduced`), `norm` (normalises over `reduced`; `how`: layer, rms, or unit, to a vector of length one), `fold` (takes
    the difference of the pairs in `reduced`, and makes a new class of as many old positions, padded by zeros).
    fn: for `map`: linear | mul | div | odd | fn0 (f(0) = 0) | any.
    dmaps: for each input, input dimension -> output dimension; None where atoms alone tell.
    reduced: (input, dimension, axis) that disappear or are normalised over.
    pick: (atom told apart, its index in each output).
    """
    kind: str
    name: str
    node: str
    fx: str
    ins: list[Value]
    outs: list[Value]
    fn: str = "any"
    dmaps: list[dict[int, int] | None] = field(default_factory=list)
    reduced: list[tuple[int, int, Any]] = field(default_factory=list)
    how: str = ""
    pick: tuple[Atom, list[int]] | None = None
    const: bool = False
    extra: dict[str, Any] = field(default_factory=dict)

    def reduced_atoms(self) -> set[Atom]:
        return {a for _, _, e in self.reduced for a in atoms(e)}


class Tape(Watching):
    """Watches ATen ops and keeps the axes of every tensor they touch."""

    def __init__(self, copied: Collection[tuple[str, int]] = ()):
        super().__init__()
        self.copied = copied  # parameter axes whose every position may become k adjacent ones, and nothing else
        self.apart: dict[str, tuple[int, Atom]] = {}  # graph nodes that permute copies: the output axis, the copies
        self.values: dict[int, Value] = {}
        self.alive: list[Tensor] = []
        self.memory = Memory(self)
        self.ignored: set[int] = set()
        self.unread: dict[int, tuple[str, list]] = {}  # results without a rule of their own: frozen if they are read
        self.inner: dict[str, list[tuple[str, list, list]]] = {}  # graph node: the ATen ops in it, their results and numbers
        self.ops: list[Op] = []
        self.params: dict[str, Value] = {}
        self.node_values: dict[str, Any] = {}
        self.node = ""  # where we are, for reasons
        self.fx = ""  # the name of the graph node we are in
        self.shapes: dict[str, Any] = {}
        self.by_node: dict[str, list[Op]] = {}
        self.opened: set[Atom] = set()  # classes of outputs that may grow
        self.found: dict[Atom, str | None] = {}  # every class, and why it may not grow, as the analysis left them

    # -- what rules use ---------------------------------------------------------------------------------------------

    def of(self, tensor: Tensor) -> Value:
        """The value of a tensor; one never seen before has fixed axes."""
        value = self.values.get(id(tensor))
        if value is not None:
            return self.memory.fresh(id(tensor))
        name, axes = self.unread.pop(id(tensor), ("", ()))
        for axis in axes:
            self.freeze(axis, f"a result of {name} is used that is not followed")
        return self.set(tensor, [Fixed(s) for s in tensor.shape])

    def ignore(self, tensor: Tensor) -> None:
        """The rule of this op does not use an operand, rightly."""
        self.ignored.add(id(self.values.get(id(tensor))))

    def leave(self, tensor: Tensor, axes: Sequence, name: str) -> None:
        """A result that is seldom used: `axes` are frozen once it is."""
        self.values.pop(id(tensor), None)
        self.unread[id(tensor)] = name, list(axes)
        self.alive.append(tensor)

    def set(self, tensor: Tensor, axes: Sequence, param_only: bool = False) -> Value:
        value = Value([resolve(a) for a in axes], None, param_only)
        self.values[id(tensor)] = value
        self.alive.append(tensor)
        return value

    def unify(self, a, b, what: str) -> None:
        unify(a, b, f"{what} in {self.node}")

    def freeze(self, axis, reason: str) -> None:
        freeze(axis, f"{reason} in {self.node}")

    def view(self, dims: Sequence, sizes: Sequence[int], what: str) -> list:
        """`view`, or frozen axes where the structure forbids it."""
        out = view(dims, sizes)
        if out is None:
            for d in dims:
                self.freeze(d, f"{what} {UNEVEN}")
            out = [Fixed(s) for s in sizes]
        return [self._adjacent(e, dim) for dim, e in enumerate(out)] if self.copied else out

    def _adjacent(self, e, dim: int):
        """Where a permutation has left copies apart (`58*copies*2`), they are put side by side again: the node will be
        rewritten so that the copies take no part in it."""
        copies = [a for a in atoms(e) if a.size == 1]
        if not isinstance(e, Prod) or not copies or e.parts[-1] is copies[0] and len(e.parts) == 2:
            return e
        if len(copies) > 1 or not all(isinstance(p, Fixed) or p is copies[0] for p in e.parts):
            self.freeze(e, "copies are permuted together with other classes")
            return e
        self.apart[self.fx] = (dim, copies[0])
        return product((Fixed(e.size), copies[0]))

    def cut(self, axis, sizes: Sequence[int], what: str) -> list:
        pieces = cut(axis, sizes)
        if pieces is None:
            self.freeze(axis, f"{what} {UNEVEN}")
            pieces = [Fixed(s) for s in sizes]
        return pieces

    def record(self, kind: str, name: str, ins: Sequence[Value], outs: Sequence[Value], **more) -> Op | None:
        """Keeps an op for the content analysis, unless nothing in it can grow."""
        if all(is_fixed(a) for v in (*ins, *outs) for a in v.axes):
            return None
        op = Op(kind, name, self.node, self.fx, list(ins), list(outs), **more)
        param_only = bool(ins) and all(v.param_only for v in ins)
        for out in outs:
            out.op, out.param_only = op, param_only
        self.ops.append(op)
        self.by_node.setdefault(self.fx, []).append(op)
        return op

    # -- the mode ----------------------------------------------------------------------------------------------------

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = _tensors_in((*args, *kwargs.values()))
        out = compute(func, args, kwargs)
        name, view, written = effects(func)
        outs = _tensors_in((out,))
        if self.unread:
            for t in tensors:
                if id(t) in self.unread:
                    self.of(t)
        known = [v for t in tensors if (v := self.values.get(id(t)))]
        if any(v.derived or not all(map(is_fixed, v.axes)) for v in known) or name in ("expand", "repeat"):
            self._follow(name, tensors, args, kwargs, out, outs, view, written)
        else:
            for o in outs:
                self.values.pop(id(o), None)
            if name in CREATED and out.is_floating_point():
                self.set(out, [Atom(s) if s > 1 else Fixed(s) for s in out.shape]).constant = CREATED[name]
        numbers = numbers_in(name, args, kwargs)
        shapes = [None if id(o) in self.unread else self.values.get(id(o), tuple(o.shape)) for o in outs]
        self.inner.setdefault(self.fx, []).append((name, shapes, numbers))
        return out

    def _follow(self, name, tensors, args, kwargs, out, outs, view, written) -> None:
        """Applies the rule of an op. Whatever it does not say is frozen: operands it did not use, results it did not set."""
        called = name
        if written:
            name = name.rstrip("_")
            targets = [t for w in written for t in _tensors_in((kwargs[w] if isinstance(w, str) else args[w],))]
            before = [self.values.get(id(t)) for t in targets]
            kwargs = {k: v for k, v in kwargs.items() if k not in written}
            tensors = _tensors_in((*args[name == "copy":], *kwargs.values()))  # what is copied over does not matter
        fn = RULES.get("alias" if name == "detach" else name)
        start, reads = len(self.ops), name not in SHAPE_ONLY
        known = [self.of(t) if reads else self.values[id(t)] for t in tensors if id(t) in self.values]
        if fn is None or written and len(targets) > 1:
            self._opaque(f"no rule for {called if ':' in called else 'aten.' + called}", tensors, outs)
        else:
            try:
                fn(self, name, args, kwargs, out)
            except FORMS as why:  # a form that the rule does not foresee
                self._opaque(f"this form of {called} is not understood ({why or type(why).__name__})", tensors, outs)
        used = self.ignored.union(id(v) for op in self.ops[start:] for v in op.ins)
        for axis in (a for v in known if reads and id(v) not in used for a in v.axes):
            if not is_fixed(axis):
                self.freeze(axis, f"{name} uses it in a way that is not followed")
        of_params = len(known) == len(tensors) and all(v.param_only for v in known)  # else looked up by the data, say
        for o in outs:
            if value := self.values.get(id(o)):
                value.param_only, value.derived = value.param_only and of_params, True
                value.made = Made(name, known, [a for a in args if isinstance(a, (int, float))], self.fx)
            elif id(o) not in self.unread:
                self.leave(o, [a for v in known for a in v.axes], name)
        if written and len(targets) == 1:
            new = self.values.get(id(out)) or self.set(out, [Fixed(s) for s in out.shape])
            self.memory.written(targets[0], before[0], new)
        elif view:
            self.memory.viewed(name, tensors[0], outs)

    def _opaque(self, reason: str, tensors: Sequence[Tensor], outs: Sequence[Tensor]) -> None:
        for t in tensors:
            for axis in self.of(t).axes:
                self.freeze(axis, reason)
        for o in outs:
            self.set(o, [Fixed(s) for s in o.shape])

    def open(self, atom: Atom) -> None:
        """Lets a class of the model's outputs grow: more outputs were asked for."""
        atom.reason = None
        self.opened.add(atom)
        self.index()

    def as_found(self) -> bool:
        """Whether no class was opened, refined or frozen since the analysis."""
        return all(atom.bound is None and atom.reason == reason for atom, reason in self.found.items())

    def index(self) -> None:
        """Which ops and which parameter axes touch each atom, once all bindings are known."""
        from fxgrow._fuse import fuse
        fuse(self)
        self.params_of: dict[Atom, list[tuple[str, int]]] = {}
        self.ops_of: dict[Atom, list[Op]] = {}
        for name, value in self.params.items():
            for dim, axis in enumerate(value.axes):
                for atom in dict.fromkeys(atoms(axis)):
                    self.params_of.setdefault(atom, []).append((name, dim))
                    self.ops_of.setdefault(atom, [])
        placed: set[Value] = set()
        for op in self.ops:
            touched: dict[Atom, None] = {}
            for value in (*op.ins, *op.outs):
                if value not in placed:
                    placed.add(value)
                    value.place()
                touched.update(dict.fromkeys(value.places))
            for atom in touched:
                if atom.reason is None:
                    self.ops_of.setdefault(atom, []).append(op)

    # -- sources -----------------------------------------------------------------------------------------------------

    def add_param(self, name: str, tensor: Tensor) -> None:
        grows = tensor.is_floating_point()
        axes = [Fixed(s) if not grows or s == 1 else product((Fixed(s), Atom(1))) if (name, i) in self.copied else Atom(s)
                for i, s in enumerate(tensor.shape)]
        value = self.set(tensor, axes, param_only=True)
        value.source = name
        self.params[name] = value


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


def _tensors_in(values) -> list[Tensor]:
    """The tensors among the arguments or results of an ATen op (which nest lists at most)."""
    found: list[Tensor] = []
    for v in values:
        if isinstance(v, Tensor):
            found.append(v)
        elif isinstance(v, (list, tuple)):
            found += _tensors_in(v)
    return found


# ATen ops that are told sizes, which may change: all of their numbers are sizes, or only some.
SIZED = {*CREATED, "view", "_unsafe_view", "expand", "repeat", "split", "split_with_sizes", "unsafe_split", "as_strided",
         "as_strided_", "unsafe_split_with_sizes", "native_layer_norm", "native_group_norm", "_fused_rms_norm",
         "new_empty_strided"}
SIZED -= {"full", "new_full"}


def numbers_in(name: str, args, kwargs) -> list:
    """The numbers that an ATen op is given and that must be the same in a grown graph (the start of a slice: as it is
    expected there)."""
    if name in SIZED:
        return []
    if name == "slice":
        dim, start, _, step = (list(args[1:]) + [0, None, None, 1][len(args) - 1:])
        return [dim, bound(start, args[0].shape[dim]), step]
    if name in ("full", "new_full"):
        args = args[-1:]
    elif name == "convolution":
        args = args[3:8]  # without the groups
    return [a for a in (*args, *kwargs.values()) if not _tensors_in((a,))]


def bound(start: int | None, size: int) -> int:
    """The start of a slice as a position."""
    return 0 if start is None else max(start + size, 0) if start < 0 else min(start, size)


def run_node(node: Node, env: dict[Node, Any], root: nn.Module, modules: dict[str, nn.Module],
             leaf=lambda m, args, kwargs: m(*args, **kwargs)):
    """One node of a graph on the values in `env` (shapes and scalars as in the captured program); `modules` are those of
    `root`, by name."""
    args = map_aggregate(node.args, lambda a: env[a] if isinstance(a, Node) else a)
    kwargs = map_aggregate(node.kwargs, lambda a: env[a] if isinstance(a, Node) else a)
    if node.op == "get_attr":
        return operator.attrgetter(node.target)(root)
    if node.op == "call_module":
        return leaf(modules[node.target], args, kwargs)
    if node.op == "call_method":
        return getattr(args[0], node.target)(*args[1:], **kwargs)
    if node.op == "output":
        return args[0]
    return node.target(*args, **kwargs)


def run_meta(gm: GraphModule, visit: Callable[[Node, Any, dict], None], before: Callable[[Node], None] | None = None,
             root: nn.Module | None = None) -> dict[Node, Any]:
    """Runs the graph in eval mode on meta tensors of the example inputs' shapes, freeing nothing."""
    root = meta_twin(gm).eval() if root is None else root
    modules = dict(root.named_modules(remove_duplicate=False))
    inputs = iter(gm.meta["example_inputs"])
    env: dict[Node, Any] = {}
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            for node in gm.graph.nodes:
                if before:
                    before(node)
                try:
                    env[node] = value = next(inputs) if node.op == "placeholder" else run_node(node, env, root, modules)
                except Exception as error:
                    raise CaptureError(f"{_place(node)} cannot run without data: {type(error).__name__}: {error}") from error
                if isinstance(value, Tensor) and not value.is_meta and node.op != "get_attr":
                    env[node] = value.to("meta")  # made of plain numbers, on the device that is the default
                visit(node, env[node], env)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return env


def run_shapes(gm: GraphModule, visit: Callable[[Node, Any, dict], None] = lambda *_: None) -> dict[Node, Any]:
    """`run_meta` for those who watch no ops, several times as fast."""
    root = meta_twin(gm).eval()
    with Shapes():
        return run_meta(gm, visit, root=root)


def analyse(gm: GraphModule) -> Tape:
    """The axes of every parameter, buffer and value of a captured module. Never raises for an unknown operation: what
    is not understood is frozen, with the reason. Axes that some reshape or cut does not divide evenly (the odd halves
    of a channel shuffle) are analysed again with positions that only grow into k adjacent ones each."""
    return known(gm, "axes", _analyse, Tape.as_found)


def _analyse(gm: GraphModule) -> Tape:
    tape = _run(gm)
    uneven = {(name, dim) for name, value in tape.params.items() for dim, axis in enumerate(value.axes)
              if is_fixed(axis) and any(UNEVEN in str(a.reason) for a in atoms(axis))}
    return _run(gm, uneven) if uneven else tape


def _run(gm: GraphModule, copied: Collection[tuple[str, int]] = ()) -> Tape:
    import fxgrow.rules  # noqa: F401  (registers the rules)

    twin = meta_twin(gm).eval()
    tape = Tape(copied)
    for name, tensor in [*twin.named_parameters(), *twin.named_buffers()]:
        tape.add_param(name, tensor)
    constants: dict[Any, Tensor] = {}

    def before(node: Node) -> None:
        tape.node, tape.fx = _place(node), node.name

    def visit(node: Node, value, env) -> None:
        if node.op == "get_attr" and isinstance(value, Tensor) and not value.is_meta:
            env[node] = constants.setdefault(node.target, to_meta(value))
        if node.target is fold_pairs and (idle := env[node.args[0]]) is value:
            env[node] = _volume(tape, idle, node.args[1])
        if node.target is by_mode:
            train = map_aggregate(node.args[1], lambda a: env[a] if isinstance(a, Node) else a)
            env[node] = _either(tape, train, value)
        tape.node_values[node.name] = _values_of(tape, env[node])
        tape.shapes[node.name] = _shape_of(env[node])
        if node.op == "output":
            for t in tree_flatten(value)[0]:
                if isinstance(t, Tensor):
                    for axis in tape.of(t).axes:
                        freeze(axis, OUTPUT)

    targets = {str(node.target) for node in gm.graph.nodes if node.op in ("call_module", "get_attr")}
    for name, value in tape.params.items():
        parts = name.split(".")
        if not any(".".join(parts[:i + 1]) in targets for i in range(len(parts))):
            for axis in value.axes:
                freeze(axis, "the model never uses it")
    with _Whole(tape) if _may_call_whole(gm) else contextlib.nullcontext(), tape:
        run_meta(gm, visit, before, twin)
    tape.index()
    tape.found = {atom: atom.reason for atom in (*tape.params_of, *tape.ops_of)}
    return tape


def _volume(tape: Tape, x: Tensor, dim: int) -> Tensor:
    """Behind an idle fold: a value of which one axis is a class of its own."""
    value, out = tape.of(x), x.new_empty(x.shape)
    axes = [Atom(a.size) if i == dim else a for i, a in enumerate(value.axes)]
    tape.record("fold", "fold_pairs", [value], [tape.set(out, axes)], reduced=[(0, dim, value.axes[dim])],
                dmaps=[{i: i for i in range(out.ndim) if i != dim}], extra={"dim": dim})
    return out


def _either(tape: Tape, train_value, eval_value):
    """The join of two branches: equal shapes become one value; what differs keeps its size."""
    if isinstance(train_value, Tensor) and isinstance(eval_value, Tensor) and train_value.shape == eval_value.shape:
        ins = [tape.of(train_value), tape.of(eval_value)]
        for a, b in zip(*(v.axes for v in ins)):
            tape.unify(a, b, "the two branches of `training`")
        out = torch.empty_like(eval_value)
        same = {i: i for i in range(out.ndim)}
        tape.record("map", "by_mode", ins, [tape.set(out, ins[0].axes)], fn="linear", dmaps=[same, same])
        return out
    for t in tree_flatten((train_value, eval_value))[0]:
        if isinstance(t, Tensor):
            for axis in tape.of(t).axes:
                tape.freeze(axis, "its use depends on the mode (train or eval)")
    return eval_value


def place_of(node: Node) -> str:
    """Where in the model a node is: the layer that it calls, or the module whose code it is."""
    return str(node.target) if node.op == "call_module" else node.meta.get("owner") or ""


def path_of(node: Node) -> str:
    """What a node calls or reads, or the module whose code it is."""
    return str(node.target) if node.op == "get_attr" else place_of(node)


def prefixes(path: str) -> list[str]:
    """A path and all that it lies below, the outermost first; none for the whole model."""
    parts = path.split(".") if path else []
    return [".".join(parts[:i + 1]) for i in range(len(parts))]


def _place(node: Node) -> str:
    """Where a node is, in words."""
    place = place_of(node)
    return place if node.op == "call_module" else f"{place}:{node.name}" if place else node.name


def _values_of(tape: Tape, value):
    if isinstance(value, Tensor):
        return tape.values.get(id(value))
    if isinstance(value, (tuple, list)) and not isinstance(value, torch.Size):
        return [_values_of(tape, v) for v in value]
    return None


def _shape_of(value):
    """Shapes of tensors, and scalars as they are: what a rewritten graph is compared with."""
    if isinstance(value, Tensor):
        return tuple(value.shape)
    if isinstance(value, (tuple, list)):
        return [_shape_of(v) for v in value]
    return value if isinstance(value, (int, float, bool)) else None


__all__ = ["Atom", "Fixed", "Op", "RULES", "Tape", "Value", "analyse", "concat", "product", "rule", "run_meta",
           "run_node"]
