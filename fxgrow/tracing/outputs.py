"""Two outputs side by side: how far apart they are, and what in them could not be compared.

What lives here: rules for values of every kind. What does not: running the models that give them.
"""
from __future__ import annotations

import enum
import pathlib
import types
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx.immutable_collections import immutable_dict, immutable_list

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
INF = float("inf")
LANGUAGE = {"builtins", "collections", "abc", "typing"}
PLAIN = (str, bytes, type(None), type, enum.Enum, torch.dtype, torch.device, torch.layout, range, slice, set, frozenset,
         pathlib.PurePath)
ONE_MODEL, OTHER_SHAPE = "internal state of one model only", "internal state of another shape"


def tolerance_of(dtype: torch.dtype) -> float:
    """Return how far apart two numbers of a type may be, relative to the largest; 0 where it is no floating one."""
    real = dtype.to_real() if dtype.is_complex else dtype
    return TOLERANCE.get(real, torch.finfo(real).eps if real.is_floating_point else 0.0)


@dataclass
class Difference:
    """Distance of two outputs. An infinite one stands for anything that is no distance between two numbers.

    errors: the largest of each output (in words), relative to its largest number. beyond: the outputs that are farther apart
    than their tolerance, and what the error is relative to. unlike: whether they are infinitely far apart. met: "numbers",
    "nan" and "empty", as far as there were outputs with such. notes: what differs otherwise, and what could not be compared.
    pairs: the floating tensors that were compared, cut to a common shape.
    """
    absolute: float = 0.0
    errors: dict[str, float] = field(default_factory=dict)
    beyond: dict[str, str] = field(default_factory=dict)
    unlike: bool = False
    met: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    pairs: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    @property
    def relative(self) -> float:
        """Return the largest error."""
        return INF if self.unlike else max(self.errors.values(), default=0.0)

    @property
    def equal(self) -> bool:
        """Tell whether all is equal, each number within the tolerance of its output."""
        return not self.unlike and not self.beyond

    def add(self, other: Difference) -> None:
        """Take in another distance: the larger of both counts."""
        self.absolute, self.unlike = max(self.absolute, other.absolute), self.unlike or other.unlike
        self.errors |= {place: max(error, self.errors.get(place, 0.0)) for place, error in other.errors.items()}
        self.beyond |= other.beyond
        self.met |= other.met
        self.notes += [note for note in other.notes if note not in self.notes]
        self.pairs += other.pairs

    def never(self, why: str) -> None:
        """Make the two outputs unequal, infinitely far apart."""
        self.add(Difference(INF, unlike=True, notes=[why]))

    def apart(self, gap: float, whole: float, allowed: float, place: str, what: str = "largest number") -> None:
        """Take in a difference, to be judged in relation to a whole (the largest number of an output, say)."""
        relative = gap / whole if whole else gap
        self.add(Difference(gap, {place: relative}, {} if relative <= allowed else {place: what}))


def compare_outputs(ours: Any, theirs: Any, tolerance: float, *, extended: bool = False, strict: bool = True,
                    place: str = "the output") -> Difference:
    """Compare what two models gave.

    Args:
        ours, theirs: any values; objects are compared attribute by attribute.
        tolerance: of the models' own type, which an output of a more exact type has too.
        extended: `theirs` may have more positions along any axis of a tensor; the first are compared.
        strict: the classes of containers must agree, and a tensor of another shape is a difference (else it is noted).
        place: of the output, in words.
    """
    comparison = _Comparison(tolerance, extended, strict)
    comparison.compare(ours, theirs, place)
    return comparison.found


class _Comparison:
    """A walk through two values at once; `found` is what it has come to."""

    def __init__(self, tolerance: float, extended: bool, strict: bool, inside: bool = False):
        self.tolerance, self.extended, self.strict = tolerance, extended, strict
        self.inside = inside  # an object that keeps state, where other sizes are set down in `growth`
        self.growth: set[bool] = set()  # True: the second is larger somewhere, False: smaller
        self.unlike = False  # whether two values differ in more than numbers and sizes
        self.found = Difference()
        self.seen: dict[tuple[int, int], Any] = {}  # pairs of objects that were compared, or are about to be

    def compare(self, a: Any, b: Any, place: str) -> None:
        """Compare two values of any kind."""
        kind = _kind(a)
        if kind != _kind(b):
            if _keeps_state(b if a is None else a) and (a is None or b is None):
                self.found.notes.append(f"{place} was not compared: {ONE_MODEL}")
            else:
                self._unlike(a, b, place)
        elif kind in ("tensor", "array", "plain", "number"):
            getattr(self, f"_{kind}")(a, b, place)
        elif (id(a), id(b)) not in self.seen:
            self.seen[id(a), id(b)] = a, b
            if self.strict and _class_of(a) != _class_of(b) and not (kind == "mapping" and _are_kin(a, b)):
                self._unlike(a, b, place)
            else:
                getattr(self, f"_{kind}")(a, b, place)

    def _unlike(self, a: Any, b: Any, place: str) -> None:
        """Set down that two values differ in kind, type or shape."""
        self.unlike = True
        self.found.never(f"{place} differs: it is {_described(a)} of the first model, and {_described(b)} of the second")

    # --- numbers ---

    def _tensor(self, a: Tensor, b: Tensor, place: str) -> None:
        plain = a.layout is b.layout is torch.strided and not (a.is_nested or b.is_nested)
        if self.extended and plain and a.ndim == b.ndim:
            b = b[tuple(map(slice, a.shape))]
        if a.is_meta or b.is_meta:
            self.found.never(f"{place} lies on the meta device and has no numbers to compare")
        elif (a.dtype, a.layout, a.is_nested) != (b.dtype, b.layout, b.is_nested):
            self._unlike(a, b, place)
        elif a.is_nested:
            self.compare(list(a.unbind()), list(b.unbind()), place)
        elif a.shape != b.shape:
            if self.inside and a.ndim == b.ndim:
                self.growth |= {m > n for n, m in zip(a.shape, b.shape) if n != m}
            elif self.strict:
                self._unlike(a, b, place)
            else:
                self.found.notes.append(f"{place} was not compared: it has another shape")
        elif a.is_floating_point() or a.is_complex() or a.is_quantized:
            if a.dtype.itemsize > 1:
                self.found.pairs.append((a, b))
            self._floats(_dense(a), _dense(b), max(tolerance_of(a.dtype), self.tolerance), place)
        else:
            self._whole(torch.equal(_dense(a), _dense(b)), a.numel(), place)

    def _floats(self, x: Tensor, y: Tensor, allowed: float, place: str) -> None:
        """Compare floating numbers; NaN and infinity must be at the same places."""
        if x.is_complex():
            x, y = torch.view_as_real(x.resolve_conj()), torch.view_as_real(y.resolve_conj())
        x, y = x.to(torch.float64), y.to(torch.float64)
        finite = x.isfinite() & y.isfinite()
        if not same_oddities(x, y):
            self.found.never(f"{place} has NaN or infinity where that of the other model has something else")
            return
        self.found.met.add("empty" if not x.numel() else "nan" if x.isnan().all() else "numbers")
        if finite.any():
            gap = float((x - y)[finite].abs().max())
            self.found.apart(gap, float(x[finite].abs().max()), allowed, place)

    def _whole(self, equal: bool, count: int, place: str) -> None:
        """Set down whether whole numbers or truth values are equal."""
        self.found.met.add("numbers" if count else "empty")
        if not equal:
            self.found.never(f"{place} differs, and is made of whole numbers or truth values")

    def _number(self, a: complex, b: complex, place: str) -> None:
        if type(a) is not type(b):
            self._unlike(a, b, place)
        elif isinstance(a, (float, complex)):
            wide = torch.complex128 if isinstance(a, complex) else torch.float64
            self._tensor(torch.tensor(a, dtype=wide), torch.tensor(b, dtype=wide), place)
        else:
            self._whole(a == b, 1, place)

    def _array(self, a: Any, b: Any, place: str) -> None:
        a, b = np.array(a), np.array(b)
        if a.dtype != b.dtype:
            self._unlike(a, b, place)
        elif isinstance(getattr(torch, a.dtype.name, None), torch.dtype):
            self._tensor(torch.from_numpy(a), torch.from_numpy(b), place)
        else:
            self._whole(bool(np.array_equal(a, b)), a.size, place)

    # --- what holds them ---

    def _mapping(self, a: Mapping, b: Mapping, place: str) -> None:
        """Compare two dictionaries and the like, whose keys must come in one order."""
        lone = [key for one, other in ((a, b), (b, a)) for key in one if key not in other and _keeps_state(one[key])]
        self.found.notes += [f"{place}[{key!r}] was not compared: {ONE_MODEL}" for key in lone]
        ours, theirs = ([key for key in keys if key not in lone] for keys in (a, b))
        if self.inside and len(ours) != len(theirs) and (set(ours) <= set(theirs) or set(theirs) <= set(ours)):
            self.growth.add(len(theirs) > len(ours))
        elif ours != theirs:
            self.found.never(f"{place} differs: it has {', '.join(map(str, ours))} in the first model, and "
                             f"{', '.join(map(str, theirs))} in the second")
        else:
            for key in ours:
                self.compare(a[key], b[key], f"{place}[{key!r}]")
            self._attributes(a, b, place, skip={*map(str, a), *map(str, b)})

    def _sequence(self, a: Any, b: Any, place: str) -> None:
        ours, theirs = list(a), list(b)
        if len(ours) != len(theirs) and self.inside:
            self.growth.add(len(theirs) > len(ours))
            return
        if len(ours) != len(theirs):
            without = [[v for v in values if not _keeps_state(v)] for values in (ours, theirs)]
            for one, two in ((without[0], theirs), without):
                if len(one) == len(two):
                    ours, theirs = one, two
                    self.found.notes.append(f"{place} holds what was not compared: {ONE_MODEL}")
                    break
        if len(ours) != len(theirs):
            self.found.never(f"{place} differs: it is {len(ours)} values of the first model, {len(theirs)} of the second")
            return
        names = [f".{name}" for name in getattr(a, "_fields", ())] or [f"[{i}]" for i in range(len(ours))]
        for name, x, y in zip(names, ours, theirs):
            self.compare(x, y, place + name)
        self._attributes(a, b, place)

    def _record(self, a: Any, b: Any, place: str) -> None:
        names = {f.name for v in (a, b) for f in fields(v)}
        for name in sorted(names):
            self.compare(getattr(a, name, None), getattr(b, name, None), f"{place}.{name}")
        self._attributes(a, b, place, skip=names)

    def _attributes(self, a: Any, b: Any, place: str, skip: Collection[str] = ()) -> None:
        """Compare what two objects hold besides their items."""
        ours, theirs = dict(_held(a)), dict(_held(b))
        for name in sorted((ours.keys() | theirs.keys()) - set(skip) if self.strict else ()):
            self.compare(ours.get(name), theirs.get(name), f"{place}.{name}")

    # --- words and objects ---

    def _plain(self, a: Any, b: Any, place: str) -> None:
        if not _same(a, b):
            self._unlike(a, b, place)

    def _object(self, a: Any, b: Any, place: str) -> None:
        """Compare two objects of no known kind: what they hold, or, where that cannot be seen, by `==`."""
        if not dict(_held(a)) and not dict(_held(b)):
            if not _same(a, b):
                self.found.never(f"{place} could not be compared: nothing is known of {_described(a)}")
        elif not self.inside and _keeps_state(a):
            self._state(a, b, place)
        elif a is not b:
            self._attributes(a, b, place)

    def _state(self, a: Any, b: Any, place: str) -> None:
        """Compare two objects that keep state, as far as they are of one size: growth makes them larger."""
        inner = _Comparison(self.tolerance, self.extended, self.strict, inside=True)
        inner.seen = self.seen
        inner._attributes(a, b, place)
        if len(inner.growth) == 1 and not inner.unlike:
            self.found.notes.append(f"{place} was not compared: {OTHER_SHAPE}")
            return
        if inner.growth:
            inner.found.never(f"{place} differs in number or shape")
        inner.found.pairs.clear()
        self.found.add(inner.found)


def same_oddities(x: Tensor, y: Tensor) -> bool:
    """Tell whether NaN and infinity are at the same places of two tensors."""
    return bool(((x.isfinite() & y.isfinite()) | (x == y) | (x.isnan() & y.isnan())).all())


def _kind(value: Any) -> str:
    """Return the name of the rule that compares a value."""
    for kind, classes in KINDS.items():
        if isinstance(value, classes):
            return kind
    return "record" if is_dataclass(value) and not isinstance(value, type) else "object"


KINDS: dict[str, Any] = {"tensor": Tensor, "array": (np.ndarray, np.generic), "plain": PLAIN,
                         "number": (int, float, complex), "mapping": Mapping, "sequence": (tuple, list, deque)}


def _dense(tensor: Tensor) -> Tensor:
    """Return a tensor's plain numbers, in memory of the CPU."""
    value = tensor.detach().cpu()
    if value.is_quantized:
        return value.dequantize()
    return value if value.layout is torch.strided else value.to_dense()


def _are_kin(a: Mapping, b: Mapping) -> bool:
    """Tell whether two mappings are of different classes that a library derives from one of its own."""
    bases = [{base for base in type(v).__mro__ if base.__module__.partition(".")[0] not in LANGUAGE} for v in (a, b)]
    return bool((bases[0] & bases[1]) - {type(a), type(b)})


def _class_of(value: Any) -> Any:
    """Return what the classes of two containers must have in common; a class made in a forward is one by its name."""
    cls = {immutable_list: list, immutable_dict: dict}.get(type(value), type(value))
    return cls.__module__, cls.__qualname__


def _held(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the attributes that an object itself holds."""
    yield from getattr(value, "__dict__", {}).items()
    for cls in type(value).__mro__:
        slots = vars(cls).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                yield name, getattr(value, name)


def _keeps_state(value: Any) -> bool:
    """Tell whether a value is an object with methods of its own that holds tensors, as a cache does.

    Containers and objects that only hold values are none: what they hold is an output.
    """
    if _kind(value) != "object" or isinstance(value, types.ModuleType):
        return False
    defined = [item for cls in type(value).__mro__[:-1] for item in vars(cls).items()]
    return any(callable(m) and not name.startswith("_") for name, m in defined) and _holds_tensor(value, set())


def _holds_tensor(value: Any, seen: set[int]) -> bool:
    """Tell whether a tensor is anywhere in a value."""
    if isinstance(value, Tensor):
        return True
    if id(value) in seen or isinstance(value, (*PLAIN, int, float, complex)):
        return False
    seen.add(id(value))
    inside = [v for _, v in _held(value)]
    if isinstance(value, Mapping):
        inside += value.values()
    elif isinstance(value, (tuple, list, deque)):
        inside += value
    return any(_holds_tensor(v, seen) for v in inside)


def _same(a: Any, b: Any) -> bool:
    """Tell whether two values are one, or `==` says a plain True."""
    try:
        return a is b or (a == b) is True
    except Exception:
        return False


def _described(value: Any) -> str:
    """Say in a few words what a value is."""
    if isinstance(value, (Tensor, np.ndarray)):
        return f"{str(value.dtype).removeprefix('torch.')} of shape {list(value.shape)}"
    if isinstance(value, (*PLAIN, int, float, complex)):
        return repr(value)[:40]
    return f"a {type(value).__name__}"
