"""The tape: watches ATen ops while a network runs on meta tensors, and keeps the axes of every tensor."""
from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from fxgrow.aten import CREATED, SHAPE_ONLY, Recorded, Watching, all_numbers_in, compute, effects, tensors_in
from fxgrow.axis.algebra import NUMBERS, cut, refine, reshaped_together, unify, view
from fxgrow.axis.aliases import Aliases
from fxgrow.axis.expressions import LOOKUP, Atom, Fixed, Prod, Sum, atoms, freeze, is_fixed, product, resolve
from fxgrow.axis.values import UNEVEN, Map, Op, Value
from fxgrow.common import load_installed

Rule = Callable[[Any, Any, tuple, dict, Any], None]  # (tape, name, args, kwargs, out)
RULES: dict[str, Rule] = {}
FORMS = (AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError)


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a function as the axis rule of ops: `rule(tape, name, args, kwargs, out)`, `fxgrow.axis_rule` outside.

    names: `"add"` for every overload of `aten.add`, `"namespace::name"` for other libraries' ops.
    """
    def register(fn: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, fn))
        return fn
    return register


def _rule_of(name: str) -> Rule | None:
    """Return the rule of an ATen op; those of installed packages are looked at once an op has none."""
    if name not in RULES:
        load_installed("fxgrow.rules")
    return RULES.get(name)


class _Call(NamedTuple):
    """One ATen op as it is called, the tensors among what it is given, and its results."""
    name: str
    args: tuple
    kwargs: dict
    tensors: list[Tensor]
    out: Any
    outs: list[Tensor]


def _keep_ends(axis: Any, front: int, back: int, reason: str) -> None:
    """Freeze so many first and last positions of an axis, and leave those between them a class of their own."""
    axis = resolve(axis)
    rest = axis.size - front - back
    if rest == axis.size:
        return
    if isinstance(axis, Sum):
        before = 0
        for part in axis.parts:
            first, last = front - before, back - (axis.size - before - part.size)
            _keep_ends(part, min(max(first, 0), part.size), min(max(last, 0), part.size), reason)
            before += part.size
    elif not isinstance(axis, Atom) or axis.reason is not None or rest <= 1:
        freeze(axis, reason)
    else:
        runs = [(size, stays) for size, stays in ((front, True), (rest, False), (back, True)) if size]
        for piece, (_, stays) in zip(refine(axis, [size for size, _ in runs], Sum).parts, runs):
            if stays:
                freeze(piece, reason)


class Tape(Watching):
    """Watch ATen ops and keep the axes of every tensor they touch.

    values: of each tensor by its id. params: of parameters and buffers. node_values, shapes: of each graph node's result.
    ops: what the contents of new positions depend on, in order; by_node: by graph node.
    """

    def __init__(self, copied: Collection[tuple[str, int]] = (), inputs: tuple | None = None):
        super().__init__()
        self.inputs = inputs  # on meta tensors; None: the example's
        self.copied = copied  # parameter axes whose every position may become k adjacent ones, and nothing else
        self.apart: dict[str, tuple[int, Atom]] = {}  # graph nodes that permute copies: the output axis, the copies
        self.values: dict[int, Value] = {}
        self.alive: list[Tensor] = []
        self.aliases = Aliases(self)
        self.ignored: set[int] = set()
        self.unread: dict[int, tuple[str, list]] = {}  # results without a rule of their own: frozen if they are read
        self.inner: dict[str, list[tuple[str, list, list]]] = {}  # graph node: the ATen ops in it, their results and numbers
        self.ops: list[Op] = []
        self.params: dict[str, Value] = {}
        self.node_values: dict[str, Any] = {}
        self.node = self.fx = ""  # the graph node we are in: where it is, for reasons; its name
        self.bounds: dict[int, set[int]] = {}  # of what the node slices: where it is sliced, here or elsewhere, by dimension
        self.cause: Callable[[Any], str] = lambda axis: NUMBERS  # what an axis comes from that is no class
        self.shapes: dict[str, Any] = {}
        self.results: dict[str, Any] = {}  # what each graph node gave, on meta tensors
        self.by_node: dict[str, list[Op]] = {}
        self.chosen: dict[Value, tuple[Any, int | None, str]] = {}  # values at one position of an axis
        self.told_apart: dict[Any, tuple[int, int, str]] = {}  # how many first and last positions of an axis stay, and why
        self.given: list[Value] = []  # what the graph gives
        self.tables: list[tuple[Any, str]] = []  # axes that are looked up by number, and where
        self.lost: set[Value] = set()  # values read by ops whose results are not followed
        self.suspects: list[str] = []  # where a reshape may hold for the sizes of the example only
        self.single = False  # whether a recurrent layer saw one step: it never multiplied by a state but that of zeros
        self.opened: set[Atom] = set()  # classes of outputs that may grow
        self.found: dict[Atom, str | None] = {}  # every class, and why it may not grow, as the analysis left them

    def of(self, tensor: Tensor) -> Value:
        """Return the value of a tensor whose numbers are read; one never seen before has fixed axes."""
        value = self.peek(tensor)
        if value in self.chosen:
            self._tell_apart(*self.chosen.pop(value))
        return value

    def _tell_apart(self, axis: Any, index: int | None, reason: str) -> None:
        """Note that one position of an axis is read, counted from its beginning or end (None: that is not known)."""
        if index is None:
            freeze(axis, reason)
            return
        front, back, first = self.told_apart.get(axis, (0, 0, reason))
        self.told_apart[axis] = max(front, index + 1), max(back, -index), first

    def cut_off_ends(self) -> None:
        """Freeze the positions that are read alone, and those between them and the end they are counted from."""
        for axis, (front, back, reason) in self.told_apart.items():
            _keep_ends(axis, front, back, reason)

    def peek(self, tensor: Tensor) -> Value:
        """Return the value of a tensor, of which no more than the shape may be read."""
        value = self.values.get(id(tensor))
        if value is not None:
            return self.aliases.fresh(id(tensor))
        name, axes = self.unread.pop(id(tensor), ("", ()))
        self.freeze_all(axes, f"a result of {name} is used that is not followed")
        return self.set(tensor, [Fixed(s) for s in tensor.shape])

    def ignore(self, tensor: Tensor) -> None:
        """Say that the rule of this op does not use an operand, rightly."""
        self.ignored.add(id(self.values.get(id(tensor))))

    def freeze_if_read(self, tensor: Tensor, axes: Sequence, name: str) -> None:
        """Freeze `axes` as soon as an op reads `tensor`, such as the indices of a max."""
        self.values.pop(id(tensor), None)
        self.unread[id(tensor)] = name, list(axes)
        self.alive.append(tensor)

    def set(self, tensor: Tensor, axes: Sequence, param_only: bool = False) -> Value:
        """Give a tensor its axes."""
        value = Value([resolve(a) for a in axes], None, param_only)
        self.values[id(tensor)] = value
        self.alive.append(tensor)
        return value

    def unify(self, a, b, what: str) -> None:
        """Make two axes the same; `what` goes to the reason where that freezes them."""
        unify(a, b, f"{what} in {self.node}", self.cause)

    def freeze(self, axis, reason: str) -> None:
        """Let an axis never grow."""
        freeze(axis, f"{reason} in {self.node}")

    def looked_up(self, axis) -> None:
        """Let an axis whose positions are looked up by number grow by an extension alone; what reads it is followed."""
        self.tables.append((axis, f"{LOOKUP} in {self.node}"))

    def freeze_all(self, axes: Iterable, reason: str) -> None:
        """Let none of several axes ever grow."""
        for axis in axes:
            self.freeze(axis, reason)

    def view(self, dims: Sequence, sizes: Sequence[int], what: str) -> list:
        """Return the axes of a reshaped tensor; freeze them where the structure forbids to follow them."""
        out = view(dims, sizes)
        if out is None:
            out = [Fixed(s) for s in sizes]
            for before, after in reshaped_together([d.size for d in dims], sizes):
                pieces = view([dims[i] for i in before], [sizes[j] for j in after])
                if pieces is None:
                    self.freeze_all((dims[i] for i in before), f"{what} {UNEVEN}")
                for j, piece in zip(after, pieces or ()):
                    out[j] = piece
        return [self._adjacent(e, dim) for dim, e in enumerate(out)] if self.copied else out

    def _adjacent(self, e, dim: int):
        """Put copies side by side where a permutation has left them apart (`58*copies*2`).

        The node will be rewritten so that the copies take no part in it.
        """
        copies = [a for a in atoms(e) if a.size == 1]
        if not isinstance(e, Prod) or not copies or (e.parts[-1] is copies[0] and len(e.parts) == 2):
            return e
        if len(copies) > 1 or not all(isinstance(p, Fixed) or p is copies[0] for p in e.parts):
            self.freeze(e, "copies are permuted together with other classes")
            return e
        self.apart[self.fx] = (dim, copies[0])
        return product((Fixed(e.size), copies[0]))

    def cut(self, axis, sizes: Sequence[int], what: str) -> list:
        """Return the pieces of an axis; freeze it where its structure forbids to cut it so."""
        pieces = cut(axis, sizes)
        if pieces is None:
            self.freeze(axis, f"{what} {UNEVEN}")
            pieces = [Fixed(s) for s in sizes]
        return pieces

    def record(self, role: type[Op], name: str, ins: Sequence[Value], outs: Sequence[Value], **more) -> None:
        """Keep an op for the content analysis, unless nothing in it can grow."""
        if all(is_fixed(a) for v in (*ins, *outs) for a in v.axes):
            return
        op = role(name, self.node, self.fx, list(ins), list(outs), **more)
        param_only = bool(ins) and all(v.param_only for v in ins)
        for out in outs:
            out.op, out.param_only = op, param_only
        self.ops.append(op)
        self.by_node.setdefault(self.fx, []).append(op)

    def map(self, name: str, ins: Sequence[Value], out: Tensor, axes: Sequence, dmaps: Sequence | None = None,
            fn: str = "linear", **more) -> None:
        """Give a result its axes and keep the op that made it position by position; `dmaps`: if dimensions move."""
        same = {i: i for i in range(len(axes))}
        self.record(Map, name, ins, [self.set(out, axes)], dmaps=dmaps or [same] * len(ins), fn=fn, **more)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = tensors_in((*args, *kwargs.values()))
        out = compute(func, args, kwargs)
        name, view, written = effects(func)
        outs = tensors_in((out,))
        for t in tensors:
            if id(t) in self.unread:
                self.of(t)
        known = [self.values[id(t)] for t in tensors if id(t) in self.values]
        if any(v.derived or not all(map(is_fixed, v.axes)) for v in known) or name in ("expand", "repeat"):
            call = _Call(name, args, kwargs, tensors, out, outs)
            if written:
                self._follow_write(call, written)
            else:
                self._follow(call)
                if view:
                    self.aliases.viewed(name, tensors[0], outs)
        else:
            for o in outs:
                self.values.pop(id(o), None)
            if name in CREATED and (out.is_floating_point() or out.is_complex()):
                self.set(out, [Atom(s) if s > 1 else Fixed(s) for s in out.shape]).constant = CREATED[name]
        numbers = all_numbers_in(name, args, kwargs)
        shapes = [None if id(o) in self.unread else self.values.get(id(o), tuple(o.shape)) for o in outs]
        self.inner.setdefault(self.fx, []).append((name, shapes, numbers))
        return out

    def _follow_write(self, call: _Call, written: Sequence[int | str]) -> None:
        """Apply the rule of the op without the writing, then tell all that looks at the memory."""
        targets = [t for w in written for t in tensors_in((call.kwargs[w] if isinstance(w, str) else call.args[w],))]
        before = [self.values.get(id(t)) for t in targets]
        name, kwargs = call.name.rstrip("_"), {k: v for k, v in call.kwargs.items() if k not in written}
        read = call.args[1:] if name == "copy" else call.args  # what is copied over does not matter
        tensors = tensors_in((*read, *kwargs.values()))
        self._follow(_Call(name, call.args, kwargs, tensors, call.out, call.outs), call.name, len(targets))
        if len(targets) == 1:
            new = self.values.get(id(call.out)) or self.set(call.out, [Fixed(s) for s in call.out.shape])
            self.aliases.written(targets[0], before[0], new)

    def _follow(self, call: _Call, called: str = "", targets: int = 1) -> None:
        """Apply the rule of an op; freeze what it does not say: operands it did not use, results it did not set."""
        name, called = call.name, called or call.name
        reads, start = name not in SHAPE_ONLY, len(self.ops)
        known = [self.of(t) if reads else self.values[id(t)] for t in call.tensors if id(t) in self.values]
        fn = _rule_of("alias" if name == "detach" else name)
        if fn is None or targets > 1:
            self._opaque(f"no rule for {called if ':' in called else 'aten.' + called}", call)
        else:
            try:
                fn(self, name, call.args, call.kwargs, call.out)
            except FORMS as why:  # a form that the rule does not foresee
                self._opaque(f"this form of {called} is not understood ({why or type(why).__name__})", call)
        if reads:
            used = self.ignored.union(id(v) for op in self.ops[start:] for v in op.ins)
            for value in known:
                if id(value) not in used:
                    self.freeze_all(value.axes, f"{name} uses it in a way that is not followed")
        self._note_results(call, known)

    def _note_results(self, call: _Call, known: list[Value]) -> None:
        of_params = len(known) == len(call.tensors) and all(v.param_only for v in known)  # else looked up by the data, say
        for o in call.outs:
            if value := self.values.get(id(o)):
                value.param_only, value.derived = value.param_only and of_params, True
                more = (call.kwargs[k] for k in ("alpha", "rounding_mode") if call.kwargs.get(k) is not None)
                value.made = value.made or Recorded(call.name, self.node, self.fx, args=(*call.args, *more), ins=known)
            elif id(o) not in self.unread:
                self.freeze_if_read(o, [a for v in known for a in v.axes], call.name)
            if id(o) in self.unread:
                self.lost.update(known)

    def _opaque(self, reason: str, call: _Call) -> None:
        for t in call.tensors:
            self.freeze_all(self.of(t).axes, reason)
        for o in call.outs:
            self.set(o, [Fixed(s) for s in o.shape])

    def open(self, atom: Atom) -> None:
        """Let a class of the model's outputs grow: more outputs were asked for."""
        atom.reason = None
        self.opened.add(atom)
        self.index()

    def as_found(self) -> bool:
        """Return whether no class was opened, refined or frozen since the analysis."""
        return all(atom.bound is None and atom.reason == reason for atom, reason in self.found.items())

    def index(self) -> None:
        """List the ops and parameter axes that touch each atom, once all bindings are known."""
        known: dict[Any, Any] = {}
        for value in {*self.params.values(), *(v for op in self.ops for v in (*op.ins, *op.outs))}:
            value.place(known)
        self.params_of: dict[Atom, list[tuple[str, int]]] = {}
        for name, value in self.params.items():
            for atom, dims in value.places.items():
                self.params_of.setdefault(atom, []).extend((name, dim) for dim in dims)
        self.ops_of: dict[Atom, list[Op]] = {atom: [] for atom in self.params_of}
        for op in self.ops:
            for atom in dict.fromkeys(a for v in (*op.ins, *op.outs) for a in v.places):
                if atom.reason is None:
                    self.ops_of.setdefault(atom, []).append(op)

    def add_param(self, name: str, tensor: Tensor) -> None:
        """Give a parameter or buffer an atom for each axis that may grow."""
        axes: list[Fixed | Atom | Prod] = [Fixed(size) for size in tensor.shape]
        for dim, size in enumerate(tensor.shape):
            if (tensor.is_floating_point() or tensor.is_complex()) and size > 1:
                axes[dim] = product((axes[dim], Atom(1))) if (name, dim) in self.copied else Atom(size)
        value = self.params[name] = self.set(tensor, axes, param_only=True)
        value.source = name
