"""Axis classes as a user sees them: names, sizes, producers and consumers."""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from fxgrow.axis.algebra import Atom, Prod, atoms, resolve
from fxgrow.axis.tape import Tape
from fxgrow.axis.values import Contract, Op, Value


@dataclass
class AxisClass:
    """One class of positions that grow together.

    producers and consumers are the layers whose output or input axis it is; carriers the parameters in between.
    """
    atom: Atom
    name: str
    size: int
    producers: list[str]
    consumers: list[str]
    carriers: list[str] = field(default_factory=list)
    role: str = ""

    @property
    def reason(self) -> str | None:
        return self.atom.reason


def layer_of(param: str) -> str:
    """The layer a parameter belongs to: `a.b.weight` -> `a.b`."""
    return param.rpartition(".")[0] or param


def source_of(value: Value) -> str | None:
    """The parameter a value is a plain view of."""
    while value.source is None:
        if value.op is None or not value.param_only or len(value.op.ins) != 1:
            return None
        value = value.op.ins[0]
    return value.source


def _roles(op: Op) -> Iterable[tuple[Atom, str]]:
    """Telling names for the factors of a product: heads and groups outside, their widths inside."""
    if not isinstance(op, Contract) or not op.reduced:
        return
    inner = op.reduced_atoms()
    products = not any(v.param_only for v in op.ins)
    grouped = op.groups is not None and resolve(op.groups).size > 1 and \
        any(isinstance(resolve(v.axes[d]), Prod) for v, (_, d, _) in zip(op.ins, op.reduced))
    if products:
        yield from ((a, "head_dim") for a in inner)
        yield from ((a, "heads") for a in set(atoms(op.ins[0].axes[0])) & set(atoms(op.ins[1].axes[0])))
    elif grouped:
        yield from ((a, "group_width") for a in inner)
        yield from ((a, "groups") for a in atoms(op.groups))


def classes(tape: Tape) -> list[AxisClass]:
    """Every axis class that some parameter has, in the order of the model."""
    found: dict[Atom, AxisClass] = {}
    for atom, places in tape.params_of.items():
        found[atom] = AxisClass(atom, "", atom.size, [], [], [p for p, _ in places])
    for op in tape.ops:
        if isinstance(op, Contract):
            for i, value in enumerate(op.ins):
                name = source_of(value) if value.param_only else None
                if name is None:
                    continue
                inner = {d: set(atoms(e)) for j, d, e in op.reduced if j == i}
                for d, axis in enumerate(value.axes):
                    for atom in set(atoms(axis)) & found.keys():
                        into = found[atom].consumers if atom in inner.get(d, ()) else found[atom].producers
                        if layer_of(name) not in into:
                            into.append(layer_of(name))
        elif op.name == "embedding" and op.ins[0].source:
            for atom in set(atoms(op.ins[0].axes[1])) & found.keys():
                found[atom].producers.append(layer_of(op.ins[0].source))
        for atom, role in _roles(op):
            if atom in found and not found[atom].role:
                found[atom].role = role
    for atom, c in found.items():
        if atom.size == 1:
            c.role = "copies"
    _name(found, tape)
    return list(found.values())


def _name(found: dict[Atom, AxisClass], tape: Tape) -> None:
    taken: dict[str, int] = {}
    for c in found.values():
        base = c.producers[0] if c.producers else layer_of(c.carriers[0])
        name = f"{base}:{c.role}" if c.role else base
        taken[name] = taken.get(name, 0) + 1
        c.name = name if taken[name] == 1 else f"{name}#{taken[name]}"


def growable(tape: Tape) -> list[AxisClass]:
    return [c for c in classes(tape) if c.reason is None]
