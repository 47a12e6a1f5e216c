"""The record of one tensor: where its old numbers went, which numbers are new, and how two growths become one."""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor, nn

from fxgrow.errors import GrowthError
from fxgrow.graph import tensors_of

Named: TypeAlias = "nn.Module | Iterable[tuple[str, nn.Parameter]]"


@dataclass
class ParameterRecord:
    """One parameter or buffer of the grown model.

    source: the name that its old numbers have in the small model; None: every number is new.
    index: for each axis, the old position that each position holds or copies (-1: none); None where the axis is as it was.
    fresh: for each axis, whether a position is new (copies included); None where none is.
    shares: for each axis, the factor on each position (net2net shares a column among its copies); None where it is one.
    scale: the factor on all old numbers.
    """
    source: str | None
    index: list[Tensor | None]
    fresh: list[Tensor | None]
    shares: list[Tensor | None] = field(default_factory=list)
    scale: float = 1.0

    def __post_init__(self):
        self.shares = list(self.shares) or [None] * len(self.index)

    @classmethod
    def same(cls, source: str, ndim: int) -> ParameterRecord:
        """A tensor that is as it was, perhaps under another name."""
        return cls(source, [None] * ndim, [None] * ndim)

    @classmethod
    def new(cls, ndim: int) -> ParameterRecord:
        """A tensor of which every number is new."""
        return cls(None, [None] * ndim, [None] * ndim)

    @property
    def unchanged(self) -> bool:
        """Whether every number is an old one, at its place."""
        maps = (*self.index, *self.fresh, *self.shares)
        return self.source is not None and self.scale == 1.0 and all(m is None for m in maps)

    def misfit(self, shape: Sequence[int], small: Sequence[int] | None) -> bool:
        """Whether a grown tensor of this shape, from one of the shape `small` (None: not known), has another record."""
        if any(len(maps) != len(shape) or any(m is not None and m.shape != (n,) for m, n in zip(maps, shape))
               for maps in (self.index, self.fresh, self.shares)):
            return True
        if self.source is None or small is None:
            return False
        return len(small) != len(shape) or any(
            was != n if m is None else m.numel() > 0 and not -1 <= int(m.min()) <= int(m.max()) < was
            for m, n, was in zip(self.index, shape, small))

    def then(self, later: ParameterRecord) -> ParameterRecord:
        """This growth, and a later one of the same tensor (whose `source` is this one's name)."""
        if self.source is None or later.source is None:
            return ParameterRecord.new(len(later.index))
        return ParameterRecord(self.source, [_chain(a, b) for a, b in zip(self.index, later.index)],
                               [_or(_follow(a, i, False), b) for a, b, i in zip(self.fresh, later.fresh, later.index)],
                               [_times(_follow(a, i, 1.0), b) for a, b, i in zip(self.shares, later.shares, later.index)],
                               self.scale * later.scale)


class Entries:
    """The entries of a growth record: a `ParameterRecord` for each tensor that is not as it was.

    parameters, removed, origin: as for `GrowthRecord`, which adds how the growth came about.
    """
    parameters: dict[str, ParameterRecord]
    removed: set[str]
    origin: dict[str, nn.Module]

    def entry(self, name: str, ndim: int) -> ParameterRecord:
        """The record of one parameter or buffer of the grown model."""
        return self.parameters.get(name) or ParameterRecord.same(name, ndim)

    def located(self, tensors: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, ParameterRecord]]:
        """Each tensor of the grown model once, with its record; of the names of a tied one, that which has a record. What
        was put into the model since (another head) is new.

        Raises:
            GrowthError: a tensor has another shape than the record says.
        """
        names: dict[int, list[str]] = {}
        for name, tensor in tensors.items():
            names.setdefault(id(tensor), []).append(name)
        small = tensors_of(self.origin[""]).keys() if "" in self.origin else tensors.keys()
        found = {}
        for known in names.values():
            name = next((n for n in known if n in self.parameters), next((n for n in known if n in small), known[0]))
            plain = name.replace(".parametrizations.", ".").removesuffix(".original").removesuffix("_tied.new")
            if plain != name and plain in self.parameters:
                raise GrowthError(f"{plain} is computed from other parameters (of a tied network, say), so its old and new "
                                  "numbers are not told apart: call fxgrow.untie first, or use the parent's parameters")
            tensor = tensors[name]
            entry = self.entry(name, tensor.ndim) if name in self.parameters or name in small else \
                ParameterRecord.new(tensor.ndim)
            if entry.misfit(tensor.shape, None):
                raise GrowthError(f"{name} is {list(tensor.shape)}, which does not fit its growth record: give the model "
                                  "that the record is about")
            found[name] = tensor, entry
        return found

    def new_mask(self, name: str, tensor: Tensor) -> Tensor:
        """True where a number of the grown `tensor` is new; shape of `tensor`."""
        return new_numbers(self.entry(name, tensor.ndim), tensor)


def new_numbers(entry: ParameterRecord, tensor: Tensor) -> Tensor:
    """True where a number of the grown `tensor` is new; shape and device of `tensor`."""
    mask = torch.full(tensor.shape, entry.source is None, device=tensor.device)
    for dim, fresh in enumerate(entry.fresh):
        if fresh is not None:
            mask |= broadcast_along(fresh.to(tensor.device), dim, tensor.ndim)
    return mask


def broadcast_along(values: Tensor, dim: int, ndim: int) -> Tensor:
    """Values of the positions of one axis, shaped to broadcast against a tensor of `ndim` axes."""
    return values.view(-1, *[1] * (ndim - dim - 1))


def _chain(old: Tensor | None, new: Tensor | None) -> Tensor | None:
    """Where positions come from over two growths."""
    return new if old is None else _follow(old, new, -1)


def _follow(values: Tensor | None, index: Tensor | None, missing) -> Tensor | None:
    """What the old positions had, at the new ones."""
    if values is None or index is None:
        return values
    return torch.where(index >= 0, values[index.clamp_min(0)], torch.full_like(values[:1], missing))


def _or(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a | b


def _times(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a * b
