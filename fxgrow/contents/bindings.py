"""Which content the new positions of each parameter and value hold, as far as that is settled, and the certificate of it."""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import prod

from fxgrow.axis import Atom, Map, Normalise, Op, Prod, Reduce, Sum, Tape, Value, atoms, resolve, view_groups
from fxgrow.common import Refusal
from fxgrow.contents.kinds import CONST, NIL, PAIR, SPREAD, ZERO, ByPart, Content, Known, Tag, Var

Flip = tuple[str, int, tuple[Atom, int] | None]  # a parameter axis, and one position of a told-apart atom in it


@dataclass(frozen=True)
class Power:
    """A factor k ** copies * u ** samples with k = m/n and u = (m - 1)/(n - 1), for n positions that become m."""
    copies: float = 0.0
    samples: float = 0.0

    def __bool__(self) -> bool:
        return bool(self.copies or self.samples)

    def plus(self, other: Power) -> Power:
        """Return the factor that both make together."""
        return Power(self.copies + other.copies, self.samples + other.samples)

    def times(self, exponent: float) -> Power:
        """Return the factor to the power of a number."""
        return Power(self.copies * exponent, self.samples * exponent)

    def of(self, n: int, m: int) -> float:
        """Return the factor for n positions that become m."""
        return (m / n) ** self.copies * ((m - 1) / max(n - 1, 1)) ** self.samples


NONE = Power()


@dataclass(frozen=True)
class Scaling:
    """A factor on a parameter to which the model adds `shift` before it uses it: on the sum of both."""
    power: Power
    shift: float = 0.0


@dataclass(frozen=True)
class Norm:
    """A norm whose statistics change from n to m positions: weight * (n/m) ** power, and, if it has an eps, that * n/m."""
    op: Op
    weight: str | None
    power: float = 0.5
    eps: bool = True


@dataclass(frozen=True)
class Rows:
    """The rows of a parameter that are normalised, each by itself: `kept` are the dimensions that tell them apart.

    centred: their mean is taken out; correction: what is subtracted from their count in the variance, if that is taken.
    """
    kept: tuple[int, ...]
    centred: bool = True
    correction: int | None = None


@dataclass
class Certificate:
    """Proves that one class grows exactly: the content of each parameter axis, and what else has to change."""
    atom: Atom
    base: Content
    contents: dict[tuple[str, int], Known] = field(default_factory=dict)
    uniform: str = ""  # the op for whose sake every position must be copied equally often
    norms: list[Norm] = field(default_factory=list)
    weights: dict[tuple[str, int], tuple[str, int]] = field(default_factory=dict)  # averages weighted by a layer scale
    scales: set[tuple[str, int]] = field(default_factory=set)
    rows: dict[tuple[str, int], Rows] = field(default_factory=dict)  # of parameter axes that are normalised over
    factors: dict[str, Scaling] = field(default_factory=dict)  # on all numbers of parameters
    numbers: dict[str, Power] = field(default_factory=dict)  # on the number that a graph node adds
    late: list[str] = field(default_factory=list)  # parameters whose new positions get no gradient in the first two steps

    @property
    def in_pairs(self) -> bool:
        """Return whether only an even number of new positions is exact."""
        return self.base == PAIR or SPREAD in self.contents.values()


class Bindings:
    """The contents of one atom's new positions; `out` is the certificate that they become.

    Args:
        base: the content that parameters produce, `flips` aside, whose parameters produce its complement.
        exact: refuse what would change the function; otherwise only fill the tensors.
        scaling: let weights that are no norm's take factors back, too.
        zeroed: the parameter axes whose new positions are zeros.
    """

    def __init__(self, tape: Tape, atom: Atom, base: Content, flips: Iterable[Flip] = (), exact: bool = True,
                 scaling: bool = False, zeroed: Iterable[tuple[str, int]] = ()):
        self.tape, self.atom, self.base, self.exact, self.scaling = tape, atom, base, exact, scaling
        self.flips, self.zeroed = set(flips), set(zeroed)
        self.tags: dict[tuple[Value, int], Tag] = {}
        self.out = Certificate(atom, base)
        self.behind: dict[Var, Known] = {}  # contents behind a norm of a parameter's rows
        self.measured: dict[tuple[str, int], Reduce] = {}  # parameter axes over which mean or variance is taken by itself
        self.doubts: list[Op] = []  # products of zeros, and functions without a slope there: none learns by them
        self.powers: dict[Value, Power] = {}  # the factors on values
        self.means: dict[Value, Value] = {}  # the means over the class: of what
        self.asked = False  # whether something over the class asks for zeros or averages

    def dims(self, value: Value) -> Sequence[int]:
        """Return the dimensions of a value that hold the class."""
        return value.places.get(self.atom, ())

    def tag(self, value: Value, dim: int) -> Tag:
        """Return the content of a dimension, or the parameter whose content it is."""
        if value.source is not None:
            return self.settled(Var(value.source, dim))
        tag = self.tags.get((value, dim))
        if tag is None and value.constant:
            return NIL if value.constant == "zeros" else CONST
        if tag is None:
            raise Refusal("its content is not known here")
        return self.settled(tag) if isinstance(tag, Var) else tag

    def settled(self, var: Var) -> Tag:
        """Return the content of a parameter, if it is settled."""
        return self.behind.get(var, var) if var.norm else self.out.contents.get((var.source, var.dim), var)

    def produced(self, var: Var) -> Known:
        """Return what a parameter produces: the base, or its complement where a product of two values asks for it."""
        parts = [part for source, dim, part in self.flips if (source, dim) == (var.source, var.dim)]
        if not parts:
            return self.base
        if parts[0] is None or None in parts:
            return self.base.complement
        atom = parts[0][0]
        turned = {part[1] for part in parts if part is not None and part[0] is atom}
        return ByPart(atom, tuple(self.base.complement if i in turned else self.base for i in range(atom.size)))

    def bind(self, var: Var, content: Known = CONST) -> Known:
        """Settle the content of a parameter; a constant one is what it produces."""
        if (var.source, var.dim) in self.zeroed:
            content = ZERO
        elif content == CONST:
            content = self.produced(var)
        if isinstance(content, ByPart) and content.atom not in atoms(self.tape.params[var.source].axes[var.dim]):
            raise Refusal(f"{var.source} would need several contents at once")
        if self.out.contents.get((var.source, var.dim), content) != content:
            raise Refusal(f"{var.source} would have to be its own complement")
        self.out.contents[var.source, var.dim] = content
        return content

    def bind_all(self, value: Value, content: Content) -> None:
        """Settle the content of every dimension of a parameter that holds the class."""
        for dim in self.dims(value):
            tag = self.tag(value, dim)
            if isinstance(tag, Var):
                self.bind(tag, content)
            elif tag != content:
                raise Refusal(f"{value.source or 'a parameter'} is shared and would need two contents")

    def give(self, op: Op, dim: int, tag: Tag) -> None:
        """Say what an op's results hold; one that picks a part of a told-apart atom has that part's content."""
        tags = [tag] * len(op.outs)
        if isinstance(tag, ByPart) and isinstance(op, Map) and op.pick and op.pick[0] is tag.atom:
            tags = [tag.contents[k] for k in op.pick[1]]
        for out, each in zip(op.outs, tags):
            if isinstance(each, ByPart) and not any(each.atom in atoms(a) for a in out.axes):
                raise Refusal(f"contents of several kinds meet in {op.node}")
            self.tags[out, dim] = each

    def sources(self, op: Op, out_dim: int) -> list[tuple[int, int]]:
        """Return the (input, dimension) pairs of this class that arrive at an output dimension."""
        gone = set() if isinstance(op, Normalise) else {(i, d) for i, d, e in op.reduced if self.atom in atoms(e)}
        return [(i, d) for i, (value, dmap) in enumerate(zip(op.ins, op.dmaps))
                for d in (self._reshaped(op, value, out_dim) if dmap is None else self.dims(value))
                if (i, d) not in gone and (dmap is None or dmap.get(d) == out_dim)]

    def _reshaped(self, op: Op, value: Value, out_dim: int) -> Sequence[int]:
        """Return the dimensions of this class that a reshape brings to an output dimension."""
        dims = self.dims(value)
        if len(dims) < 2 or prod(a.size for a in value.axes) != prod(a.size for a in op.outs[0].axes):
            return dims
        return [d for here, there in view_groups(value, op.outs[0]) if out_dim in there for d in dims if d in here]

    def is_alone(self, axis) -> bool:
        """Return whether an axis is this class and nothing else."""
        return resolve(axis) is self.atom

    def is_covered(self, axis) -> bool:
        """Return whether duplicating the atom duplicates every position of the axis."""
        axis = resolve(axis)
        if isinstance(axis, Prod):
            return any(map(self.is_covered, axis.parts))
        if isinstance(axis, Sum):
            return all(map(self.is_covered, axis.parts))
        return axis is self.atom
