"""Aliases: tensors that look at the same memory, and what a write through one does to the others.

Below autograd a view does not know its base, so both are taken from the annotations of op schemas. A view that keeps
whole dimensions of its base (a slice, a selected place, a permutation) can be written through: the base then holds the
written contents there and its own elsewhere, and other such views are read anew. Behind any other view of written
memory the numbers are unknown, and its axes are frozen.
"""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from torch import Tensor

from fxgrow.aten import DIMENSION_VIEWS, Recorded
from fxgrow.axis.expressions import freeze
from fxgrow.axis.values import Map, Op, Value


class Values(Protocol):
    """The part of a tape that shared memory needs: the value of each tensor by its id, and where the run is."""
    values: dict[int, Value]
    node: str

    def record(self, role: type[Op], name: str, ins: Sequence[Value], outs: Sequence[Value], **more: Any) -> None:
        """Keep an op."""


class Aliases:
    """Views of views and writes to them, by the identity of tensors that the tape keeps alive."""

    def __init__(self, tape: Values):
        self.tape = tape
        self.parents: dict[int, tuple[int, dict[int, int] | None]] = {}  # view: what it looks at; its dimensions there
        self.children: dict[int, list[int]] = {}
        self.stale: set[int] = set()  # views of what was written since
        self.lost: dict[int, int] = {}  # tensors written through a view that is not understood: that view

    def viewed(self, name: str, source: Tensor, outs: Iterable[Tensor]) -> None:
        """Note that an op gave views of a tensor."""
        for out in outs:
            if out is source:
                continue
            value, dims = self.tape.values.get(id(out)), None
            if name in DIMENSION_VIEWS and value is not None and value.op is not None:
                dims = {j: i for i, j in (value.op.dmaps[0] or {}).items()}
            self.parents[id(out)] = id(source), dims
            self.children.setdefault(id(source), []).append(id(out))

    def fresh(self, key: int) -> Value:
        """Return the value of a tensor as it is now, after writes through others."""
        value = self.tape.values[key]
        if key in self.lost:
            self._freeze(value)
        elif key in self.stale:
            self.stale.discard(key)
            parent, dims = self.parents[key]
            if dims is None or parent not in self.tape.values:
                self._freeze(value)
            else:
                same = {i: j for j, i in dims.items()}
                value = self.tape.values[key] = self._joined("read again", [self.fresh(parent)], value.axes, [same])
        return value

    def written(self, target: Tensor, old: Value | None, new: Value) -> None:
        """Note that `target`, whose value was `old`, has the value `new`, and so what it is a view of."""
        values, key = self.tape.values, id(target)
        values[key] = new
        self.stale.discard(key)
        self.stale.update(self._below(key))
        while True:
            if key in self.lost:
                self._freeze(new)
                self._freeze(values[self.lost[key]])
            if old is not None and old.source:
                self._freeze(new, f"{old.source} is written in place in {self.tape.node}, from all positions of it")
            parent, dims = self.parents.get(key, (None, None))
            if parent is None or parent not in values:
                return
            old = self.fresh(parent)
            if dims is None:
                break
            same = {i: i for i in range(len(old.axes))}
            values[parent] = new = self._joined("write", [old, new], old.axes, [same, dims])
            self.stale.update(self._below(parent, but=key))
            key = parent
        self.children[parent].remove(key)
        del self.parents[key]  # it stands alone from here on
        while parent in self.parents:
            parent = self.parents[parent][0]
        self.stale.update(self._below(parent))
        for other in (parent, *self._below(parent)):
            self.lost[other] = key

    def _below(self, key: int, but: int | None = None) -> Iterable[int]:
        for child in self.children.get(key, ()):
            if child != but:
                yield child
                yield from self._below(child)

    def _freeze(self, value: Value, reason: str = "") -> None:
        for axis in value.axes:
            freeze(axis, reason or f"a view of it was written in place before {self.tape.node}")

    def _joined(self, name: str, ins: list[Value], axes: Sequence, dmaps: list[Any]) -> Value:
        """Return a value that holds, at each position, what one of the others holds there."""
        value = Value(axes, None, all(v.param_only for v in ins))
        value.derived, value.made = True, Recorded(name, self.tape.node, ins=ins)
        self.tape.record(Map, name, ins, [value], fn="linear", dmaps=dmaps, joined=True)
        return value
