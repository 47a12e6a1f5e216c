"""The record of one tensor: where its old numbers went, which numbers are new, and how two growths become one."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor, nn

NamedParameters: TypeAlias = nn.Module | Iterable[tuple[str, nn.Parameter]]


@dataclass
class ParameterRecord:
    """One parameter or buffer of the grown model.

    source: the name that its old numbers have in the small model; None: every number is new.
    index: for each axis, the old position that each position holds or copies (-1: none); None where the axis is as it was.
    fresh: for each axis, whether a position is new (copies included); None where none is.
    shares: for each axis, the factor on each position (net2net shares a column among its copies); None where it is one.
    scale, shift: the factor on all old numbers, and the number that is added behind (w + 1 becomes twice as large so).
    """
    source: str | None
    index: list[Tensor | None]
    fresh: list[Tensor | None]
    shares: list[Tensor | None] = field(default_factory=list)
    scale: float = 1.0
    shift: float = 0.0

    def __post_init__(self):
        self.shares = list(self.shares) or [None] * len(self.index)

    @classmethod
    def same(cls, source: str, ndim: int) -> ParameterRecord:
        """Return the record of a tensor that is as it was, perhaps under another name."""
        return cls(source, [None] * ndim, [None] * ndim)

    @classmethod
    def new(cls, ndim: int) -> ParameterRecord:
        """Return the record of a tensor of which every number is new."""
        return cls(None, [None] * ndim, [None] * ndim)

    @property
    def unchanged(self) -> bool:
        """Tell whether every number is an old one, at its place."""
        maps = (*self.index, *self.fresh, *self.shares)
        return self.source is not None and self.scale == 1.0 and self.shift == 0.0 and all(m is None for m in maps)

    def fits(self, shape: Sequence[int], small: Sequence[int] | None = None) -> bool:
        """Tell whether a tensor of shape `small` (None: not known) can have become one of this shape in this way."""
        for maps in (self.index, self.fresh, self.shares):
            if len(maps) != len(shape) or any(m is not None and m.shape != (n,) for m, n in zip(maps, shape)):
                return False
        if self.source is None or small is None:
            return True
        return len(small) == len(shape) and all(map(_reads_within, self.index, shape, small))

    def then(self, later: ParameterRecord) -> ParameterRecord:
        """Return the record of this growth and a later one of the same tensor, whose `source` is this one's name."""
        if self.source is None or later.source is None:
            return ParameterRecord.new(len(later.index))
        index = [new if old is None else _read_at(old, new, -1) for old, new in zip(self.index, later.index)]
        fresh = [_joined(torch.logical_or, _read_at(old, i, False), new)
                 for old, new, i in zip(self.fresh, later.fresh, later.index)]
        shares = [_joined(torch.mul, _read_at(old, i, 1.0), new)
                  for old, new, i in zip(self.shares, later.shares, later.index)]
        return ParameterRecord(self.source, index, fresh, shares, self.scale * later.scale,
                               self.shift * later.scale + later.shift)


def names_by_tensor(named: Iterable[tuple[str, Tensor]]) -> dict[int, list[str]]:
    """Return all names of each tensor, by its id."""
    names: dict[int, list[str]] = {}
    for name, tensor in named:
        names.setdefault(id(tensor), []).append(name)
    return names


def new_numbers(entry: ParameterRecord, tensor: Tensor) -> Tensor:
    """Return a mask that is true where a number of the grown `tensor` is new; shape and device of `tensor`."""
    mask = torch.full(tensor.shape, entry.source is None, device=tensor.device)
    for dim, fresh in enumerate(entry.fresh):
        if fresh is not None:
            mask |= broadcast_along(fresh.to(tensor.device), dim, tensor.ndim)
    return mask


def broadcast_along(values: Tensor, dim: int, ndim: int) -> Tensor:
    """Return values of the positions of one axis, shaped to broadcast against a tensor of `ndim` axes."""
    return values.view(-1, *[1] * (ndim - dim - 1))


def _reads_within(index: Tensor | None, size: int, small: int) -> bool:
    if index is None:
        return size == small
    return not index.numel() or -1 <= int(index.min()) <= int(index.max()) < small


def _read_at(values: Tensor | None, index: Tensor | None, missing: float) -> Tensor | None:
    """Return what the old positions had, at the new ones."""
    if values is None or index is None:
        return values
    return torch.where(index >= 0, values[index.clamp_min(0)], torch.full_like(values[:1], missing))


def _joined(join: Callable[[Tensor, Tensor], Tensor], a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return join(a, b)
