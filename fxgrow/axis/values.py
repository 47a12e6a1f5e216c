"""Values and ops on the tape: the axes of one tensor, and what one operation does to the contents of positions."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fxgrow.aten import Recorded
from fxgrow.axis.expressions import Atom, atoms, interned, resolve

UNEVEN = "does not divide it evenly"


class Value:
    """One version of a tensor: its axes, and the parameter or buffer it is, if it is one."""
    __slots__ = ("axes", "constant", "derived", "made", "op", "param_only", "places", "source")

    def __init__(self, axes: Sequence, source: str | None = None, param_only: bool = False):
        self.axes, self.source, self.param_only = tuple(axes), source, param_only
        self.op: Op | None = None
        self.constant: str | None = None  # "zeros" or "equal", of a tensor made of one number
        self.derived = False  # computed from growable axes, though it may have none left (a sum over them)
        self.made: Recorded | None = None
        self.places: dict[Atom, list[int]] = {}

    def place(self, known: dict[Any, Any]) -> None:
        """Brings the axes to normal form (equal ones to one of `known`) and notes which dimensions hold each atom."""
        self.axes = tuple([interned(axis, known) for axis in self.axes])
        self.places = {}
        for dim, axis in enumerate(self.axes):
            for atom in dict.fromkeys(atoms(axis)):
                self.places.setdefault(atom, []).append(dim)

    def __repr__(self):
        return f"{self.source or 'value'}[{', '.join(repr(resolve(a)) for a in self.axes)}]"


@dataclass(eq=False)
class Op:
    """One operation on growable axes, as far as the contents of new positions are concerned.

    name, node, fx: the ATen op; where it is, in words; the name of the graph node that runs it.
    dmaps: for each input, input dimension -> output dimension; None where atoms alone tell.
    reduced: (input, dimension, axis) that disappear or are normalised over.
    """
    name: str
    node: str
    fx: str
    ins: list[Value]
    outs: list[Value]
    dmaps: list[dict[int, int] | None] = field(default_factory=list)
    reduced: list[tuple[int, int, Any]] = field(default_factory=list)

    def reduced_atoms(self) -> set[Atom]:
        """Return the classes in the axes that are reduced."""
        return {a for _, _, e in self.reduced for a in atoms(e)}


@dataclass(eq=False)
class Map(Op):
    """Acts on each position alone.

    fn: linear | mul | div | odd | fn0 (f(0) = 0) | any. const: a number that is the same everywhere is added.
    joined: each output position is that of one input (a concatenation, a write), not a sum of all.
    cut: of a slice, the dimension, the pieces that it is cut into, and which of them is taken.
    pick: (atom told apart, its index in each output).
    """
    fn: str = "any"
    const: bool = False
    joined: bool = False
    cut: tuple[int, list, int] | None = None
    pick: tuple[Atom, list[int]] | None = None


@dataclass(eq=False)
class Contract(Op):
    """Sums products over `reduced`. groups: of a convolution, the axis of its groups."""
    groups: Any = None


@dataclass(eq=False)
class Reduce(Op):
    """Takes the `how` (sum, mean, max, norm, ...) over `reduced`. fn: as for `Map`, of what is kept."""
    how: str = ""
    fn: str = "any"


@dataclass(eq=False)
class Normalise(Op):
    """Normalises over `reduced`; how: layer, rms, or unit (to a vector of length one).

    groups: of a group norm, the axis of its groups.
    correction: what is subtracted from the count of numbers where their variance is taken (None: it is taken elsewhere).
    """
    how: str = ""
    correction: int | None = 0
    groups: Any = None


@dataclass(eq=False)
class Fold(Op):
    """Takes the difference of the pairs in `reduced`; makes a class of as many old positions, padded by zeros."""


@dataclass(eq=False)
class Near(Op):
    """Makes each position of dimension `dim` of those around it too, and of zeros beyond the ends."""
    dim: int = 0
    fn: str = "linear"
