"""Values and ops on the tape: the axes of one tensor, and what one operation does to the contents of positions."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from fxgrow.axis.algebra import Atom, atoms, resolve

UNEVEN = "does not divide it evenly"
OUTPUT = "it is the model's output: name its layer in full to add outputs"


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
