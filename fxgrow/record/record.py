"""The growth record: where every old number went and which numbers are new.

What lives here: the data, and how two growths in a row become one. What follows from a record (optimizer states, the small
network back, shared storage) is in optimizers.py, freezing.py, shrinking.py and tying.py.
"""
from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.optim import Optimizer

from fxgrow.record.entries import Entries, NamedParameters, ParameterRecord
from fxgrow.record.freezing import Frozen, lr_scales, parameter_groups
from fxgrow.record.optimizers import migrate_optimizer, migrate_tensors
from fxgrow.record.shrinking import shrink


@dataclass
class GrowthRecord(Entries):
    """Where the numbers of a grown model come from.

    parameters: every parameter and buffer that is not as it was; all others are.
    lineage: the passes applied, in order.
    removed: names of parameters and buffers that the small model has and the grown one has not.
    certificate: what was done to each axis class and why that is exact, or why nothing was (`Outcome`s as data), in order.
    origin: the small model's graph and layers without numbers, by path (`""` if it was captured as a whole).
    """
    parameters: dict[str, ParameterRecord] = field(default_factory=dict)
    lineage: list[dict] = field(default_factory=list)
    removed: set[str] = field(default_factory=set)
    certificate: list[dict] = field(default_factory=list, repr=False, compare=False)
    origin: dict[str, nn.Module] = field(default_factory=dict, repr=False, compare=False)

    def then(self, later: GrowthRecord) -> GrowthRecord:
        """Return the record of this growth followed by a later one."""
        kept = {n: p for n, p in self.parameters.items() if n not in later.removed}
        chained = {n: p if p.source is None else self.entry(p.source, len(p.index)).then(p)
                   for n, p in later.parameters.items()}
        return GrowthRecord({**kept, **chained}, self.lineage + later.lineage,
                            (self.removed | later.removed) - later.parameters.keys(),
                            self.certificate + later.certificate, {**later.origin, **self.origin})

    # -- what follows from it ----------------------------------------------------------------------------------------

    def shrink(self, model: nn.Module) -> nn.Module:
        """Return the small network with the numbers that the grown `model` has now.

        Exact for r2r and netmorph, which leave old numbers as they are (a factor on norm weights is divided out). Under
        net2net a column that was shared out among copies is the sum of its shares, and of copied positions the first is
        taken. `model` is left as it is.

        Raises:
            GrowthError: a number of the small network is found nowhere; the tensor is named.
        """
        return shrink(self, model)

    def migrate_tensors(self, tensors: Mapping[str, Tensor], like: nn.Module | Mapping[str, Tensor] | None = None
                        ) -> dict[str, Tensor]:
        """Return tensors of the small model (an EMA copy of its numbers) as tensors of the grown one.

        Args:
            tensors: by the names of the small model; parameters, buffers or a whole state_dict.
            like: the grown model or its state_dict, for the new numbers; without it they are zeros, and tensors that are
                new altogether are left out, as their shapes are not known.

        Raises:
            GrowthError: a tensor has another shape than the small model's.
        """
        return migrate_tensors(self, tensors, like)

    def migrate_optimizer(self, optimizer: Optimizer, new_params: NamedParameters,
                          old_params: NamedParameters | None = None) -> Optimizer:
        """Return an optimizer of the same class for the grown model, with the state that the small model's has.

        Args:
            optimizer: the one that trained the small model. It is left as it is.
            new_params: the grown model, or (name, parameter) pairs of it.
            old_params: the small model, or such pairs; None: the optimizer has one group with the small model's parameters
                in their order (or was given named parameters).

        Raises:
            GrowthError: parameters cannot be told apart, or the optimizer keeps a state that does not belong to single
                numbers.
        """
        return migrate_optimizer(self, optimizer, new_params, old_params)

    def freeze_old(self, model: nn.Module) -> Frozen:
        """Keep every old number of the grown `model` as it is, whatever optimizer runs; running statistics too.

        Until `.remove()` of what this returns, or the end of a `with` block.
        """
        return Frozen(self, model)

    def lr_scales(self, model: nn.Module, *, new: float = 1.0, old: float = 1.0) -> dict[str, float | Tensor]:
        """Return, for each parameter of the grown `model`, how much faster its numbers are to learn.

        A factor, or a tensor of the parameter's shape where it holds old and new numbers. `fxgrow.scale_updates` makes an
        optimizer follow.
        """
        return lr_scales(self, model, new, old)

    def parameter_groups(self, model: nn.Module, lr: float, *, new: float = 1.0) -> list[dict]:
        """Return two groups for any optimizer: parameters with old numbers at `lr`, those that are new at `lr * new`."""
        return parameter_groups(self, model, lr, new)

    # -- for an archive ------------------------------------------------------------------------------------------------

    def to_tensors(self) -> dict[str, Tensor]:
        """Return the index maps, masks and shares, flat, for an archive."""
        return {f"{kind}/{dim}/{name}": t.contiguous() for name, p in self.parameters.items()
                for kind in ("index", "fresh", "shares") for dim, t in enumerate(getattr(p, kind)) if t is not None}

    def to_json(self) -> str:
        """Return everything that is neither a tensor nor the origin."""
        return json.dumps({"lineage": self.lineage, "removed": sorted(self.removed), "certificate": self.certificate,
                           "parameters": {n: {"source": p.source, "axes": len(p.index), "scale": p.scale}
                                          for n, p in self.parameters.items()}}, sort_keys=True)

    @classmethod
    def rebuild(cls, text: str, tensors: dict[str, Tensor]) -> GrowthRecord:
        """Return the record that gave this `to_json` and `to_tensors`."""
        data = json.loads(text)

        def maps(kind: str, name: str) -> list[Tensor | None]:
            return [tensors.get(f"{kind}/{dim}/{name}") for dim in range(data["parameters"][name]["axes"])]

        parameters = {name: ParameterRecord(p["source"], maps("index", name), maps("fresh", name), maps("shares", name),
                                            p["scale"]) for name, p in data["parameters"].items()}
        return cls(parameters, data["lineage"], set(data["removed"]), data.get("certificate", []))


def record_in(model: nn.Module) -> GrowthRecord | None:
    """Return the growth record that a grown or loaded model holds."""
    return getattr(model, "meta", {}).get("growth", {}).get("record")
