"""Axis classes as a user sees them: names, sizes, producers and consumers."""
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from fxgrow.axis.expressions import Atom, Prod, atoms, resolve
from fxgrow.axis.tape import Tape
from fxgrow.axis.values import Contract, Value


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
        """Return why the class may not grow, if it may not."""
        return self.atom.reason


def layer_of(param: str) -> str:
    """Return the layer that a parameter belongs to: `a.b.weight` -> `a.b`, one of a parametrization too."""
    layer, _, parametrized = param.partition(".parametrizations.")
    return layer if parametrized else param.rpartition(".")[0] or param


def source_of(value: Value) -> str | None:
    """Return the parameter that a value is a plain view of."""
    while value.source is None:
        if value.op is None or not value.param_only or len(value.op.ins) != 1:
            return None
        value = value.op.ins[0]
    return value.source


def classes(tape: Tape) -> list[AxisClass]:
    """Return every axis class that some parameter has, in the order of the model."""
    roles: dict[Atom, str] = {}
    by_atom = {atom: AxisClass(atom, "", atom.size, [], [], [param for param, _ in places])
               for atom, places in tape.params_of.items()}
    for op in tape.ops:
        if isinstance(op, Contract):
            _note_layers(op, by_atom)
            for atom, role in _roles(op):
                roles.setdefault(atom, role)
        elif op.name == "embedding" and op.ins[0].source:
            for atom in set(atoms(op.ins[0].axes[1])) & by_atom.keys():
                by_atom[atom].producers.append(layer_of(op.ins[0].source))
    taken: Counter[str] = Counter()
    for atom, c in by_atom.items():
        c.role = "copies" if atom.size == 1 else roles.get(atom, "")
        name = c.producers[0] if c.producers else layer_of(c.carriers[0])
        name += f":{c.role}" if c.role else ""
        taken[name] += 1
        c.name = name if taken[name] == 1 else f"{name}#{taken[name]}"
    return list(by_atom.values())


def _note_layers(op: Contract, by_atom: dict[Atom, AxisClass]) -> None:
    """Note the layers of a contraction's parameters: consumers of the classes that it sums over, producers of the others."""
    for i, value in enumerate(op.ins):
        params = _params_of(value)
        inner = {d: set(atoms(axis)) for j, d, axis in op.reduced if j == i}
        for d, axis in enumerate(value.axes if params else ()):
            for atom in set(atoms(axis)) & by_atom.keys():
                layers = by_atom[atom].consumers if atom in inner.get(d, ()) else by_atom[atom].producers
                own = dict.fromkeys(layer_of(p) for p in params if p in by_atom[atom].carriers)
                layers += [layer for layer in own if layer not in layers]


def _params_of(value: Value) -> list[str]:
    """Return the parameters that a value is computed from alone: of a plain view one, of a normed weight all."""
    found: dict[str, None] = {}
    seen, waiting = set(), [value] if value.param_only else []
    while waiting:
        value = waiting.pop()
        if value.source is not None:
            found[value.source] = None
        elif value.op is not None and id(value.op) not in seen:
            seen.add(id(value.op))
            waiting += reversed(value.op.ins)
    return list(found)


def _roles(op: Contract) -> Iterable[tuple[Atom, str]]:
    """Yield telling names for the factors of a product: heads and groups outside, their widths inside."""
    inner = op.reduced_atoms()
    if not any(v.param_only for v in op.ins):
        yield from ((a, "head_dim") for a in inner)
        yield from ((a, "heads") for a in set(atoms(op.ins[0].axes[0])) & set(atoms(op.ins[1].axes[0])))
    elif op.groups is not None and resolve(op.groups).size > 1 and \
            any(isinstance(resolve(v.axes[d]), Prod) for v, (_, d, _) in zip(op.ins, op.reduced)):
        yield from ((a, "group_width") for a in inner)
        yield from ((a, "groups") for a in atoms(op.groups))


def growable(tape: Tape) -> list[AxisClass]:
    """Return the axis classes that may grow."""
    return [c for c in classes(tape) if c.reason is None]
