"""The growth record: where every old number went, which numbers are new, how two growths in a row become one."""
from __future__ import annotations

import json
from dataclasses import dataclass, field

from torch import Tensor, nn

from fxgrow.record import freezing, optimizers, schedulers, shrinking, tensors
from fxgrow.record.entries import ParameterRecord
from fxgrow.record.matching import Entries

MAPS = ("index", "fresh", "shares")  # of a ParameterRecord, one tensor or none for each axis
MOST_AXES = 64  # that a tensor of torch can have

@dataclass
class GrowthRecord(Entries):
    """Tells where the numbers of a grown model come from.

    parameters: every parameter and buffer that is not as it was; all others are.
    lineage: the passes applied, in order.
    removed: names of parameters and buffers that the small model has and the grown one has not.
    certificate: what was done to each axis class and why that is exact, or why nothing was (`Outcome`s as data), in order.
    origin: the small model's graph and layers without numbers, by path (`""` if it was captured as a whole).
    outside: the shapes of the small model's tensors outside of these, if it was captured in parts.
    """
    parameters: dict[str, ParameterRecord] = field(default_factory=dict)
    lineage: list[dict] = field(default_factory=list)
    removed: set[str] = field(default_factory=set)
    certificate: list[dict] = field(default_factory=list, repr=False, compare=False)
    origin: dict[str, nn.Module] = field(default_factory=dict, repr=False, compare=False)
    outside: dict[str, list[int]] = field(default_factory=dict, repr=False)

    def then(self, later: GrowthRecord) -> GrowthRecord:
        """Return the record of this growth followed by a later one."""
        kept = {n: p for n, p in self.parameters.items() if n not in later.removed}
        chained = {n: p if p.source is None else self.entry(p.source, len(p.index)).then(p)
                   for n, p in later.parameters.items()}
        known = self.origin or not self.lineage  # else of the first model nothing is known but what grew
        origin = {**later.origin, **self.origin} if known and "" not in self.origin else self.origin
        outside = self.outside if self.lineage else later.outside
        return GrowthRecord({**kept, **chained}, self.lineage + later.lineage,
                            (self.removed | later.removed) - later.parameters.keys(),
                            self.certificate + later.certificate, origin, outside)

    # what follows from a record stands in files of its own
    shrink, freeze_old = shrinking.shrink, freezing.freeze_old
    migrate_tensors, migrate_optimizer = tensors.migrate_tensors, optimizers.migrate_optimizer
    migrate_scheduler = schedulers.migrate_scheduler
    lr_scales, parameter_groups = freezing.lr_scales, freezing.parameter_groups

    def to_tensors(self) -> dict[str, Tensor]:
        """Return the index maps, masks and shares, flat, for an archive."""
        return {f"{kind}/{dim}/{name}": t.contiguous() for name, p in self.parameters.items()
                for kind in MAPS for dim, t in enumerate(getattr(p, kind)) if t is not None}

    def to_json(self) -> str:
        """Return everything that is neither a tensor nor the origin."""
        return json.dumps({"lineage": self.lineage, "removed": sorted(self.removed), "certificate": self.certificate,
                           **({"outside": self.outside} if self.outside else {}),
                           "parameters": {n: {"source": p.source, "axes": len(p.index), "scale": p.scale,
                                              **({"shift": p.shift} if p.shift else {})}
                                          for n, p in self.parameters.items()}}, sort_keys=True)

    @classmethod
    def rebuild(cls, text: str, tensors: dict[str, Tensor]) -> GrowthRecord:
        """Return the record that gave this `to_json` and `to_tensors`."""
        data = json.loads(text)
        parameters: dict[str, ParameterRecord] = {}
        for name, p in data["parameters"].items():
            if not 0 <= p["axes"] <= MOST_AXES:
                raise ValueError(f"{name} has {p['axes']} axes")
            index, fresh, shares = ([tensors.get(f"{kind}/{dim}/{name}") for dim in range(p["axes"])] for kind in MAPS)
            parameters[name] = ParameterRecord(p["source"], index, fresh, shares, p["scale"], p.get("shift", 0.0))
        return cls(parameters, data["lineage"], set(data["removed"]), data.get("certificate", []),
                   outside=data.get("outside", {}))


def describe_step(step: dict) -> str:
    """Return a pass of the lineage on one line: its name, where, by which method, its other settings, the seed."""
    rest = dict(step)
    name, where, method, seed = (rest.pop(k, None) for k in ("pass", "where", "method", "seed"))
    places = [where] if isinstance(where, str) else where or []
    words = [str(name or "a pass without a name"), ", ".join(map(str, places)) or "everywhere"]
    if method:
        words.append(f"by {method}")
    settings = [f"{k} {_shown(v)}" for k, v in rest.items() if v not in (None, [], "")]
    if seed is not None:
        settings.append(f"seed {seed}")
    return " ".join(words) + (f" ({', '.join(settings)})" if settings else "")


def _shown(value) -> str:
    if isinstance(value, (list, tuple)):
        return "x".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
