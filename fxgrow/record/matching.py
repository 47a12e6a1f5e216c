"""The gate: which tensors of what a user gives are those of a record, whatever is wrapped around them.

Names and shapes must be the record's. What torch.compile, DataParallel, an averaged model or a module of one's own puts in
front of the names is found out. Where nothing is found that is an error, since what a record does not know counts as new.
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Size, Tensor, nn

from fxgrow.errors import GrowthError
from fxgrow.graph import find_module, shards_in, tensors_of
from fxgrow.record.entries import ParameterRecord, names_by_tensor, new_numbers

BESIDE = "/"  # in front of the names of tensors that a model does not have that the record is about
Given: TypeAlias = "nn.Module | Mapping[str, Tensor] | Iterable[tuple[str, Tensor]]"


class Expected(NamedTuple):
    """What a record says of a tensor: how it became what it is, from what shape, and whether a model must have it."""
    entry: ParameterRecord
    small: Sequence[int] | None
    needed: bool = True


class Entries:
    """A `ParameterRecord` for each tensor that is not as it was; the fields are those of `GrowthRecord`."""
    parameters: dict[str, ParameterRecord]
    lineage: list[dict]
    removed: set[str]
    origin: dict[str, nn.Module]
    outside: dict[str, list[int]]

    def entry(self, name: str, ndim: int) -> ParameterRecord:
        """Return the record of one parameter or buffer of the grown model."""
        return self.parameters.get(name) or ParameterRecord.same(name, ndim)

    def small(self) -> dict[str, Tensor]:
        """Return the tensors of the small model, without numbers, as far as the record knows them."""
        around = {n: torch.empty(shape, device="meta") for n, shape in self.outside.items()}
        return around | {n: t for origin in self.origin.values() for n, t in tensors_of(origin).items()}

    def covers(self, name: str) -> bool:
        """Tell whether the record knows all tensors at the place of a name."""
        return bool(self.outside) or any(not path or name.startswith(path + ".") for path in self.origin)

    def knows(self, name: str) -> bool:
        """Tell whether a tensor of this name is one of the grown model; what was put into it since is not."""
        if name in self.parameters or not self.covers(name):
            return True
        return name not in self.removed and (name in self.outside or any(_holds(o, name) for o in self.origin.values()))

    def aliases(self) -> dict[str, str]:
        """Return the names of tied tensors that have no record, each with the one that has."""
        aliases: dict[str, str] = {}
        for names in names_by_tensor(self.small().items()).values():
            recorded = [n for n in names if n in self.parameters]
            if recorded:
                aliases |= {n: recorded[0] for n in names if n not in self.parameters and n not in self.removed}
        return aliases

    def grown_side(self) -> Side:
        """Return what the grown model must be like."""
        small, lasting, aliases = self.small(), self._lasting(), self.aliases()
        expected = {}
        for name in dict.fromkeys([*small, *self.parameters]):
            entry = self.parameters.get(aliases.get(name, name))
            if entry is None and name in self.removed:
                continue
            entry = entry or ParameterRecord.same(name, small[name].ndim)
            shape = None if entry.source is None or entry.source not in small else small[entry.source].shape
            expected[name] = Expected(entry, shape, entry.source is None or entry.source in lasting or not small)
        return Side(self, "the grown model", expected)

    def small_side(self) -> Side:
        """Return what the small model must be like."""
        lasting = self._lasting()
        return Side(self, "the small model", {n: Expected(ParameterRecord.same(n, t.ndim), t.shape, n in lasting)
                                              for n, t in self.small().items()})

    def _lasting(self) -> set[str]:
        """Return the names of the small model's tensors that state_dicts hold; others a class may not have as buffers."""
        return {*self.outside, *(n for origin in self.origin.values() for n in origin.state_dict())}

    def located(self, given: Given) -> dict[str, tuple[Tensor, ParameterRecord]]:
        """Return each tensor that is given once, with its record; what was put into the model since, or around it, is new.

        Of the names of a tied tensor, that which has a record counts. A GrowthError says how a model is not the record's.
        """
        tensors = _tensors(given)
        keys = self.grown_side().keys(given if isinstance(given, nn.Module) else tensors)
        located = {}
        for names in names_by_tensor(tensors.items()).values():
            name = next((n for n in names if keys[n] in self.parameters), None) \
                or next((n for n in names if not keys[n].startswith(BESIDE)), names[0])
            tensor, beside = tensors[name], keys[name].startswith(BESIDE)
            located[name] = tensor, ParameterRecord.new(tensor.ndim) if beside else self.entry(keys[name], tensor.ndim)
        return located

    def fitting(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the parameters of the grown model without those that were exchanged since for others of another size."""
        expected = self.grown_side().expected
        return {name: t for name, t in model.named_parameters(remove_duplicate=False)
                if name not in expected or expected[name].entry.fits(t.shape, expected[name].small)}

    def new_mask(self, name: str, tensor: Tensor) -> Tensor:
        """Return a mask that is true where a number of the grown `tensor` is new; shape of `tensor`."""
        if self.knows(name):
            entry = self.entry(name, tensor.ndim)
        else:
            inner = next((n for n in _ends(name) if self.knows(n)), None)
            if inner is not None:
                raise GrowthError(f"the grown model has no {name}, but {inner}: give that name")
            entry = ParameterRecord.new(tensor.ndim)
        if not entry.fits(tensor.shape):
            raise GrowthError(f"{name} is {list(tensor.shape)}, which does not fit its growth record")
        return new_numbers(entry, tensor)


class Side:
    """The small or the grown model of a record, as it must be."""

    def __init__(self, record: Entries, what: str, expected: Mapping[str, Expected]):
        self.record, self.what, self.expected = record, what, expected

    def prefix_in(self, given: Given) -> str:
        """Return what stands in front of the model's names in what is given (`""`: nothing), or raise a GrowthError.

        Of names with tensors some may be left out, but not all.
        """
        tensors, whole = _tensors(given), isinstance(given, nn.Module)
        fault = self._fault(tensors, "", whole)
        if fault is None:
            return ""
        faults = {p: self._fault(tensors, p, whole) for p in self._prefixes(tensors)}
        fitting: dict[int, str] = {}
        for prefix in (p for p, why in faults.items() if why is None):
            fitting.setdefault(self._first(tensors, prefix), prefix)  # a module under two names is one
        if len(fitting) == 1:
            return next(iter(fitting.values()))
        if fitting:
            places = " and ".join(p.removesuffix(".") for p in fitting.values())
            raise GrowthError(f"{self.what} of the growth record is there {len(fitting)} times, as {places}: give one of "
                              "them")
        if faults and not any(n in self.expected for n in tensors):
            prefix, fault = next(iter(faults.items()))
            fault = f"in {prefix.removesuffix('.')}, {fault}"
        chain = "; it leads from the first model to the last, grown.step is the record of the last growth alone" \
            if len(self.record.lineage) > 1 else ""
        raise GrowthError(f"this is not {self.what} that the growth record is about: {fault}{chain}")

    def keys(self, given: Given) -> dict[str, str]:
        """Return the model's own name for each that is given; of what is beside it the name with `BESIDE` in front."""
        tensors, prefix = _tensors(given), self.prefix_in(given)
        inside = {n: n[len(prefix):] for n in tensors if n.startswith(prefix)}
        ours = {n: k for n, k in inside.items() if k in self.expected or not self.record.covers(k)}
        return {n: ours.get(n, BESIDE + n) for n in tensors}

    def _first(self, tensors: Mapping[str, Tensor], prefix: str) -> int:
        return next(id(tensors[prefix + n]) for n in self.expected if prefix + n in tensors)

    def _prefixes(self, tensors: Mapping[str, Tensor]) -> list[str]:
        return list(dict.fromkeys(n.removesuffix(end) for n in tensors for end in _ends(n) if end in self.expected))

    def _fault(self, tensors: Mapping[str, Tensor], prefix: str, whole: bool) -> str | None:
        """Return why tensors are not the model's, or None."""
        if self.expected and not whole and not any(prefix + n in tensors for n in self.expected):
            return f"there is no {next(iter(self.expected))}"
        for name, (entry, small, needed) in self.expected.items():
            tensor = tensors.get(prefix + name)
            if tensor is None:
                if whole and needed:
                    return _missing(prefix + name, tensors)
            elif not entry.fits(tensor.shape, small):
                return _misfit(name, tensor.shape, entry, small)
        return None


def _missing(name: str, tensors: Mapping[str, Tensor]) -> str:
    for other in tensors:
        whole = other.replace(".parametrizations.", ".").removesuffix("_tied.new")
        if whole != other and (whole == name or whole.startswith(f"{name}.original")):
            return (f"{name} is computed from other parameters (of a tied network, say), so its old and new numbers are not "
                    "told apart: call fxgrow.untie first, or use the parent's parameters")
    return f"there is no {name}"


def _misfit(name: str, shape: Size, entry: ParameterRecord, small: Sequence[int] | None) -> str:
    came = "" if small is None or list(small) == list(shape) else f" (in the small model it is {list(small)})"
    return f"{name} is {list(shape)}, which does not fit its growth record{came}"


def _tensors(given: Given) -> Mapping[str, Tensor]:
    given = given if isinstance(given, (nn.Module, Mapping)) else dict(given)
    if sharded := shards_in(given):
        raise GrowthError(sharded)
    return tensors_of(given) if isinstance(given, nn.Module) else given


def _ends(name: str) -> list[str]:
    """Return what is behind each dot of a name, the longest first."""
    return [name[i + 1:] for i, c in enumerate(name) if c == "."]


def _holds(model: nn.Module, name: str) -> bool:
    owner, _, attribute = name.rpartition(".")
    place = find_module(model, owner)
    return place is not None and (attribute in place._parameters or attribute in place._buffers)
