"""The growth record: where every old number went and which numbers are new.

What lives here: the data, and how two growths in a row become one. What follows from a record (optimizer states, the small
network back, shared storage) is in fxgrow/_migrate.py, _freeze.py, _shrink.py and _tie.py.
"""
from __future__ import annotations

import json
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


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

    def then(self, later: ParameterRecord) -> ParameterRecord:
        """This growth, and a later one of the same tensor (whose `source` is this one's name)."""
        if self.source is None or later.source is None:
            return ParameterRecord.new(len(later.index))
        return ParameterRecord(self.source, [_chain(a, b) for a, b in zip(self.index, later.index)],
                               [_or(_follow(a, i, False), b) for a, b, i in zip(self.fresh, later.fresh, later.index)],
                               [_times(_follow(a, i, 1.0), b) for a, b, i in zip(self.shares, later.shares, later.index)],
                               self.scale * later.scale)


@dataclass
class GrowthRecord:
    """Where the numbers of a grown model come from.

    parameters: every parameter and buffer that is not as it was; all others are.
    lineage: the passes applied, in order.
    removed: names of parameters and buffers that the small model has and the grown one has not.
    origin: the small model's graph and layers without numbers, by path (`""` if it was captured as a whole).
    """
    parameters: dict[str, ParameterRecord] = field(default_factory=dict)
    lineage: list[dict] = field(default_factory=list)
    removed: set[str] = field(default_factory=set)
    origin: dict[str, nn.Module] = field(default_factory=dict, repr=False, compare=False)

    def entry(self, name: str, ndim: int) -> ParameterRecord:
        """The record of one parameter or buffer of the grown model."""
        return self.parameters.get(name) or ParameterRecord.same(name, ndim)

    def new_mask(self, name: str, tensor: Tensor) -> Tensor:
        """True where a number of the grown `tensor` is new; shape of `tensor`."""
        entry = self.entry(name, tensor.ndim)
        mask = torch.full(tensor.shape, entry.source is None)
        for dim, fresh in enumerate(entry.fresh):
            if fresh is not None:
                mask |= fresh.view(-1, *[1] * (tensor.ndim - dim - 1))
        return mask

    def then(self, later: GrowthRecord) -> GrowthRecord:
        """This growth followed by a later one."""
        kept = {n: p for n, p in self.parameters.items() if n not in later.removed}
        chained = {n: p if p.source is None else self.entry(p.source, len(p.index)).then(p)
                   for n, p in later.parameters.items()}
        return GrowthRecord({**kept, **chained}, self.lineage + later.lineage,
                            (self.removed | later.removed) - later.parameters.keys(), self.origin or later.origin)

    def to_tensors(self) -> dict[str, Tensor]:
        """The index maps, masks and shares, flat, for an archive."""
        return {f"{kind}/{dim}/{name}": t.contiguous() for name, p in self.parameters.items()
                for kind in ("index", "fresh", "shares") for dim, t in enumerate(getattr(p, kind)) if t is not None}

    def to_json(self) -> str:
        """Everything that is neither a tensor nor the origin."""
        return json.dumps({"lineage": self.lineage, "removed": sorted(self.removed), "parameters": {
            n: {"source": p.source, "axes": len(p.index), "scale": p.scale} for n, p in self.parameters.items()}},
            sort_keys=True)

    @classmethod
    def rebuild(cls, text: str, tensors: dict[str, Tensor]) -> GrowthRecord:
        """The inverse of `to_json` and `to_tensors`."""
        data = json.loads(text)
        parameters = {name: ParameterRecord(p["source"], *([tensors.get(f"{kind}/{d}/{name}") for d in range(p["axes"])]
                                                           for kind in ("index", "fresh", "shares")), p["scale"])
                      for name, p in data["parameters"].items()}
        return cls(parameters, data["lineage"], set(data["removed"]))


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


