"""Shared memory: what a write through one tensor does to the others that look at the same numbers.

Below autograd a view does not know its base, so both are taken from the annotations of op schemas. A view that keeps
whole dimensions of its base (a slice, a selected place, a permutation) can be written through: the base then holds the
written contents there and its own elsewhere, and other such views are read anew. Behind any other view of written
memory the numbers are unknown, and its axes are frozen. What lives here: who shares memory. What does not: any rule.
"""
from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fxgrow._axis import freeze

if TYPE_CHECKING:
    from fxgrow._analysis import Tape, Value

WHOLE = {"slice", "select", "unsqueeze", "squeeze", "transpose", "permute", "t", "alias", "split", "split_with_sizes",
         "unbind", "narrow"}  # views in which every dimension of the base is itself, a part of itself, or gone


@functools.cache
def effects(func) -> tuple[str, bool, tuple]:
    """Of an ATen overload: its name, whether its result is a view, and the positions or names of what it writes."""
    schema = func._schema
    namespace, _, name = schema.name.partition("::")
    written = tuple(a.name if a.kwarg_only else i for i, a in enumerate(schema.arguments)
                    if a.alias_info is not None and a.alias_info.is_write)
    view = not written and any(r.alias_info is not None for r in schema.returns)
    return name if namespace == "aten" else schema.name, view, () if "batch_norm" in name else written


class Memory:
    """Views and their bases, by the identity of tensors that the tape keeps alive."""

    def __init__(self, tape: Tape):
        self.tape = tape
        self.bases: dict[int, tuple[int, dict[int, int] | None]] = {}  # view: its base; view dimension -> base dimension
        self.sharing: dict[int, list[int]] = {}
        self.stale: set[int] = set()  # views whose base was written since
        self.lost: dict[int, int] = {}  # tensors written through a view that is not understood: that view

    def viewed(self, name: str, source: Tensor, outs: Iterable[Tensor]) -> None:
        base, inner = self.bases.get(id(source), (id(source), {i: i for i in range(source.ndim)}))
        for out in outs:
            value, dims = self.tape.values.get(id(out)), None
            if name in WHOLE and inner is not None and value is not None and value.op is not None:
                dims = {j: inner[i] for i, j in (value.op.dmaps[0] or {}).items() if i in inner}
            self.bases[id(out)] = base, dims
            self.sharing.setdefault(base, []).append(id(out))

    def fresh(self, tensor: Tensor, value: Value) -> Value:
        """The value of a tensor as it is now, after writes through others."""
        key = id(tensor)
        base, dims = self.bases.get(key, (key, None))
        if key in self.lost or key in self.stale and (dims is None or base not in self.tape.values):
            self._freeze(value)
        elif key in self.stale:
            self.stale.discard(key)
            whole = self.tape.values[base]
            value = self._joined("read again", [whole], value.axes, [{i: j for j, i in dims.items()}])  # type: ignore
            self.tape.values[key] = value
        return value

    def written(self, target: Tensor, old: Value | None, new: Value) -> None:
        """`target`, whose value was `old`, now has the value `new`."""
        tape, key = self.tape, id(target)
        base, dims = self.bases.get(key, (key, None))
        whole = tape.values.get(base) if base != key else old
        tape.values[key] = new
        if any(v is not None and v.source for v in (old, whole)):
            for axis in new.axes:
                tape.freeze(axis, "a parameter is written in place")
        if base in self.lost:
            self._freeze(new)
            self._freeze(tape.values[self.lost[base]])
        self.stale.update(v for v in self.sharing.get(base, ()) if v != key)
        self.stale.discard(key)
        if base == key or whole is None:
            return
        if dims is None:  # from here on, it is the base of what is made of it
            others = {base, *self.sharing.pop(base, ())} - {key}
            self.lost.update(dict.fromkeys(others, key))
            del self.bases[key]
        else:
            same = {i: i for i in range(len(whole.axes))}
            tape.values[base] = self._joined("write", [whole, new], whole.axes, [same, dims])

    def _freeze(self, value: Value) -> None:
        for axis in value.axes:
            freeze(axis, f"a view of it was written in place before {self.tape.node}")

    def _joined(self, name: str, ins: list[Value], axes: Sequence, dmaps: list[Any]) -> Value:
        """A value that holds, at each position, what one of the others holds there."""
        from fxgrow._analysis import Value
        value = Value(axes, None, all(v.param_only for v in ins))
        value.derived = True
        self.tape.record("map", name, ins, [value], fn="linear", dmaps=dmaps, extra={"cat": 0})
        return value
