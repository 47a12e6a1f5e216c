"""Growths of classes: how many positions each gets, how tensors are extended, and the sizes that follow."""
from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from fxgrow.axis import Atom, Contract, Map, Normalise, Op, Sizes, Tape, Value, size_of
from fxgrow.contents import Certificate, Content

GROUPS: dict[type, tuple[str, int]] = {Contract: ("groups", 6), Normalise: ("num_groups", 1)}  # where calls state them


@dataclass(frozen=True)
class Drawn:
    """New positions that are drawn straight into their places: the same numbers times each sign in turn.

    draw: from a shape, the next numbers, in memory that the ones after them may take. The positions are drawn in order, and
        may be so in several parts.
    """
    draw: Callable[[Sequence[int]], Tensor]
    signs: tuple[int, ...] = (1,)


New = Tensor | tuple[Tensor, ...] | Drawn | None  # positions: of several tensors in turn, drawn in place, or zeros
Extend = Callable[[Content, Tensor, int, "Growth", tuple[str, int]], tuple[Tensor, New]]
Contents = dict[Atom, Any]  # a `Content`, or a `ByPart` of several
Fill = Callable[[Atom, Content, Tensor, int], tuple[Tensor, New]]


@dataclass
class Growth:
    """One atom grown from its size to `size` positions, old ones first, by the contents of a certificate.

    source: for each new position, the old one that copies copy; shares: the share of each position in its old one.
    kind: growths of one kind extend a tensor alike (None: only this one does so).
    """
    atom: Atom
    size: int
    certificate: Certificate
    extend: Extend
    source: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    shares: Tensor = field(default_factory=lambda: torch.ones(0))
    method: str = ""
    note: str = ""
    kind: Hashable = None


def contents_by_tensor(growths: Sequence[Growth]) -> dict[str, dict[int, Contents]]:
    """Return, for each parameter or buffer that grows and each of its dimensions, the contents of the grown atoms."""
    places: dict[str, dict[int, Contents]] = {}
    for g in growths:
        for (name, dim), content in g.certificate.contents.items():
            places.setdefault(name, {}).setdefault(dim, {})[g.atom] = content
    return places


@dataclass
class GrownSizes:
    """Sizes of all in a graph once classes have grown: `tape` is its analysis before, `sizes` has those of the classes."""
    tape: Tape
    sizes: Sizes

    def of(self, axis) -> int:
        """Return the new size of an axis."""
        return size_of(axis, self.sizes)

    def shape(self, value: Value) -> tuple[int, ...]:
        """Return the new shape of a value."""
        return tuple(map(self.of, value.axes))

    def value(self, node: Node) -> Value | None:
        """Return the axes of a node's result, where it is one tensor that the analysis follows."""
        value = self.tape.node_values.get(node.name)
        return value if isinstance(value, Value) else None

    def ops(self, node: Node) -> Sequence[Op]:
        """Return the ops inside a node that act on classes."""
        return self.tape.by_node.get(node.name, ())

    def shapes(self, value: Any, old: Any) -> Any:
        """Return the new shape of a result, or a list of shapes; the old one where the analysis does not follow it."""
        if isinstance(value, list):
            return [self.shapes(v, o) for v, o in zip(value, old)]
        if isinstance(value, Value):
            return self.shape(value)
        return old if isinstance(old, tuple) else None

    def bounds(self, op: Op) -> tuple[int, int, int] | None:
        """Return the dimension that a slice cuts, and its new start and stop; None of another op."""
        if not isinstance(op, Map) or op.cut is None:
            return None
        dim, pieces, at = op.cut
        start = sum(map(self.of, pieces[:at]))
        return dim, start, start + self.of(pieces[at])

    def slices(self, node: Node) -> Iterator[tuple[int, int, int]]:
        """Return the dimension, start and stop of each slice in a node."""
        return filter(None, map(self.bounds, self.ops(node)))
