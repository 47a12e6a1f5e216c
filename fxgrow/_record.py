"""The growth record: where every old number went and which numbers are new."""
from __future__ import annotations

import json
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class ParameterRecord:
    """One parameter or buffer of the grown model.

    index: for each axis, the old position each position holds or copies (-1: new); None where the axis did not grow.
    fresh: for each axis, whether a position is new (copies included); None where the axis did not grow.
    scale: the factor applied to the old numbers.
    """
    index: list[Tensor | None]
    fresh: list[Tensor | None]
    scale: float = 1.0


@dataclass
class GrowthRecord:
    """For every parameter and buffer that grew: its axes' index maps and scale, and the passes applied, in order."""
    parameters: dict[str, ParameterRecord] = field(default_factory=dict)
    lineage: list[dict] = field(default_factory=list)

    def new_mask(self, name: str, tensor: Tensor) -> Tensor:
        """True where a number of the grown `tensor` is new; shape of `tensor`."""
        mask = torch.zeros(tensor.shape, dtype=torch.bool)
        entry = self.parameters.get(name)
        for dim, fresh in enumerate(entry.fresh if entry else []):
            if fresh is not None:
                mask |= fresh.view(-1, *[1] * (tensor.ndim - dim - 1))
        return mask

    def then(self, later: GrowthRecord) -> GrowthRecord:
        """This growth followed by a later one."""
        parameters = dict(self.parameters)
        for name, new in later.parameters.items():
            old = parameters.get(name)
            parameters[name] = new if old is None else ParameterRecord(
                [_chain(a, b) for a, b in zip(old.index, new.index)],
                [_chain_fresh(a, b, i) for a, b, i in zip(old.fresh, new.fresh, new.index)], old.scale * new.scale)
        return GrowthRecord(parameters, self.lineage + later.lineage)

    def to_tensors(self) -> dict[str, Tensor]:
        """The index maps and masks, flat, for an archive."""
        return {f"{kind}/{dim}/{name}": t.contiguous() for name, p in self.parameters.items()
                for kind, maps in (("index", p.index), ("fresh", p.fresh)) for dim, t in enumerate(maps) if t is not None}

    def to_json(self) -> str:
        """Everything that is not a tensor."""
        return json.dumps({"lineage": self.lineage, "parameters": {
            n: {"axes": len(p.index), "scale": p.scale} for n, p in self.parameters.items()}}, sort_keys=True)

    @classmethod
    def rebuild(cls, text: str, tensors: dict[str, Tensor]) -> GrowthRecord:
        """The inverse of `to_json` and `to_tensors`."""
        data = json.loads(text)
        parameters = {name: ParameterRecord([tensors.get(f"index/{d}/{name}") for d in range(p["axes"])],
                                            [tensors.get(f"fresh/{d}/{name}") for d in range(p["axes"])], p["scale"])
                      for name, p in data["parameters"].items()}
        return cls(parameters, data["lineage"])


def _chain(old: Tensor | None, new: Tensor | None) -> Tensor | None:
    if old is None or new is None:
        return new if old is None else old
    return torch.where(new >= 0, old[new.clamp_min(0)], new)


def _chain_fresh(old: Tensor | None, new: Tensor | None, index: Tensor | None) -> Tensor | None:
    if old is None or new is None or index is None:
        return new if old is None else old
    return new | ((index >= 0) & old[index.clamp_min(0)])
