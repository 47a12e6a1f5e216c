"""The growth record: where every old number went and which numbers are new.

What lives here: the data, and how two growths in a row become one. What follows from a record (optimizer states, the small
network back, shared storage) is in fxgrow/_migrate.py, _freeze.py, _shrink.py and _tie.py.
"""
from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor, nn

from fxgrow.errors import GrowthError

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from fxgrow._freeze import Frozen

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


@dataclass
class GrowthRecord:
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

    def then(self, later: GrowthRecord) -> GrowthRecord:
        """This growth followed by a later one."""
        kept = {n: p for n, p in self.parameters.items() if n not in later.removed}
        chained = {n: p if p.source is None else self.entry(p.source, len(p.index)).then(p)
                   for n, p in later.parameters.items()}
        return GrowthRecord({**kept, **chained}, self.lineage + later.lineage,
                            (self.removed | later.removed) - later.parameters.keys(),
                            self.certificate + later.certificate, {**later.origin, **self.origin})

    # -- what follows from it ----------------------------------------------------------------------------------------

    def shrink(self, model: nn.Module) -> nn.Module:
        """The small network back, with the numbers that the grown `model` has now.

        Exact for r2r and netmorph, which leave old numbers as they are (a factor on norm weights is divided out). Under
        net2net a column that was shared out among copies is the sum of its shares, and of copied positions the first is
        taken. `model` is left as it is.

        Raises:
            GrowthError: a number of the small network is found nowhere; the tensor is named.
        """
        from fxgrow._shrink import shrink
        return shrink(self, model)

    def migrate_tensors(self, tensors: Mapping[str, Tensor], like: nn.Module | Mapping[str, Tensor] | None = None
                        ) -> dict[str, Tensor]:
        """Tensors of the small model (an EMA copy of its numbers) as tensors of the grown one.

        Args:
            tensors: by the names of the small model; parameters, buffers or a whole state_dict.
            like: the grown model or its state_dict, for the new numbers; without it they are zeros, and tensors that are
                new altogether are left out, as their shapes are not known.

        Raises:
            GrowthError: a tensor has another shape than the small model's.
        """
        from fxgrow._migrate import migrate_tensors
        return migrate_tensors(self, tensors, like)

    def migrate_optimizer(self, optimizer: Optimizer, new_params: Named, old_params: Named | None = None) -> Optimizer:
        """An optimizer of the same class for the grown model, with the state that the small model's has.

        Args:
            optimizer: the one that trained the small model. It is left as it is.
            new_params: the grown model, or (name, parameter) pairs of it.
            old_params: the small model, or such pairs; None: the optimizer has one group with the small model's parameters
                in their order (or was given named parameters).

        Raises:
            GrowthError: parameters cannot be told apart, or the optimizer keeps a state that does not belong to single
                numbers.
        """
        from fxgrow._migrate import migrate_optimizer
        return migrate_optimizer(self, optimizer, new_params, old_params)

    def freeze_old(self, model: nn.Module) -> Frozen:
        """Keeps every old number of the grown `model` as it is, whatever optimizer runs, until `.remove()` or the end of
        a `with` block. Running statistics of old positions are kept as well."""
        from fxgrow._freeze import Frozen
        return Frozen(self, model)

    def lr_scales(self, model: nn.Module, *, new: float = 1.0, old: float = 1.0) -> dict[str, float | Tensor]:
        """For each parameter of the grown `model`, how much faster its numbers are to learn: a factor, or a tensor of the
        parameter's shape where it holds old and new numbers. `fxgrow.scale_updates` makes an optimizer follow."""
        from fxgrow._freeze import lr_scales
        return lr_scales(self, model, new, old)

    def parameter_groups(self, model: nn.Module, lr: float, *, new: float = 1.0) -> list[dict]:
        """Two groups for any optimizer: parameters that hold old numbers at `lr`, those that are new at `lr * new`."""
        from fxgrow._freeze import parameter_groups
        return parameter_groups(self, model, lr, new)

    # -- for an archive ------------------------------------------------------------------------------------------------

    def to_tensors(self) -> dict[str, Tensor]:
        """The index maps, masks and shares, flat, for an archive."""
        return {f"{kind}/{dim}/{name}": t.contiguous() for name, p in self.parameters.items()
                for kind in ("index", "fresh", "shares") for dim, t in enumerate(getattr(p, kind)) if t is not None}

    def to_json(self) -> str:
        """Everything that is neither a tensor nor the origin."""
        return json.dumps({"lineage": self.lineage, "removed": sorted(self.removed), "certificate": self.certificate,
                           "parameters": {n: {"source": p.source, "axes": len(p.index), "scale": p.scale}
                                          for n, p in self.parameters.items()}}, sort_keys=True)

    @classmethod
    def rebuild(cls, text: str, tensors: dict[str, Tensor]) -> GrowthRecord:
        """The inverse of `to_json` and `to_tensors`."""
        data = json.loads(text)

        def maps(kind: str, name: str) -> list[Tensor | None]:
            return [tensors.get(f"{kind}/{dim}/{name}") for dim in range(data["parameters"][name]["axes"])]

        parameters = {name: ParameterRecord(p["source"], maps("index", name), maps("fresh", name), maps("shares", name),
                                            p["scale"]) for name, p in data["parameters"].items()}
        return cls(parameters, data["lineage"], set(data["removed"]), data.get("certificate", []))


def record_in(model: nn.Module) -> GrowthRecord | None:
    """The growth record that a grown or loaded model holds."""
    return getattr(model, "meta", {}).get("growth", {}).get("record")


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer under every name that it has."""
    return {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))}


def new_numbers(entry: ParameterRecord, tensor: Tensor) -> Tensor:
    """True where a number of the grown `tensor` is new; shape and device of `tensor`."""
    mask = torch.full(tensor.shape, entry.source is None, device=tensor.device)
    for dim, fresh in enumerate(entry.fresh):
        if fresh is not None:
            mask |= along(fresh.to(tensor.device), dim, tensor.ndim)
    return mask


def along(values: Tensor, dim: int, ndim: int) -> Tensor:
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


