"""Axis expressions: an axis is an atom, a row-major product (`heads*head_dim`) or a sum (`conv1 + conv2`, a concatenation).

A fixed number stands for positions that never grow; splitting an atom refines it wherever it occurs.
What does not live here: how expressions are made equal, cut and reshaped (algebra.py).
"""
from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from math import prod
from typing import Any

Sizes = dict["Atom", int]  # the new sizes of atoms that grow
OUTPUT = "it is the model's output: name its layer in full to add outputs"
KEPT = "the forward keeps it as an attribute, which is read as the output is"
LOOKUP = "its positions are looked up by number (embedding)"


class Fixed:
    """`size` positions that never grow."""
    __slots__ = ("size",)

    def __init__(self, size: int):
        self.size = size

    def __repr__(self):
        return str(self.size)


class Atom:
    """A growable run of positions. `reason` says why it may not grow; `bound` is what it was refined or unified to."""
    __slots__ = ("bound", "hint", "reason", "serial", "size")
    _serials = itertools.count()
    bindings = 0  # how many there have been: what normal forms were computed under

    def __init__(self, size: int, hint: str = "", reason: str | None = None):
        self.size, self.hint, self.reason = size, hint, reason
        self.bound: Fixed | Atom | Prod | Sum | None = None
        self.serial = next(Atom._serials)

    def bind(self, e: Fixed | Atom | Prod | Sum) -> None:
        """Let the atom stand for an expression from here on."""
        self.bound = e
        Atom.bindings += 1

    def __repr__(self):
        return f"{self.hint or 'a'}{self.serial}:{self.size}" if self.bound is None else repr(self.bound)


class _Compound:
    """Parts, and the normal form and atoms as they were after `known` bindings."""
    __slots__ = ("held", "known", "normal", "parts", "size")
    measure: Callable[..., int]  # the size of a whole with parts of these sizes
    neutral: int  # the size of a part that changes nothing

    def __init__(self, parts: Sequence):
        self.parts = tuple(parts)
        self.size = self.measure(p.size for p in self.parts)
        self.known = -1
        self.normal: Any = None
        self.held: tuple[Atom, ...] | None = None


class Prod(_Compound):
    """Row-major product of at least two factors."""
    __slots__ = ()
    measure, neutral = staticmethod(prod), 1

    def __repr__(self):
        return "*".join(f"({p})" if isinstance(p, Sum) else repr(p) for p in self.parts)


class Sum(_Compound):
    """Concatenation of at least two segments."""
    __slots__ = ()
    measure, neutral = staticmethod(sum), 0

    def __repr__(self):
        return " + ".join(map(repr, self.parts))


def resolve(e):
    """Follow every binding of an expression: its normal form (flat, no factors of one, fixed neighbours merged)."""
    while type(e) is Atom:
        if e.bound is None:
            return e
        e = e.bound
    if type(e) is Fixed:
        return e
    if e.known != Atom.bindings:
        e.normal = _normal_form(e.parts, type(e))
        e.held, e.known = None, Atom.bindings
        if isinstance(e.normal, _Compound):
            e.normal.normal, e.normal.held, e.normal.known = e.normal, None, Atom.bindings
    return e.normal


def interned(e, known: dict[Any, Any]):
    """Return the normal form of an expression, the same object for equal ones: the one that is in `known`."""
    e = resolve(e)
    if not isinstance(e, _Compound):
        return e
    if id(e) not in known:
        key = type(e), tuple([p.size if type(p) is Fixed else interned(p, known) for p in e.parts])
        known[id(e)] = known.setdefault(key, e), e  # which keeps it alive, and its id its own
    return known[id(e)][0]


def product(parts: Iterable):
    """Return the normal form of a product."""
    return _normal_form(parts, Prod)


def concat(parts: Iterable):
    """Return the normal form of a sum."""
    return _normal_form(parts, Sum)


def _normal_form(parts: Iterable, kind: type[_Compound]):
    flat: list = []
    for part in map(resolve, parts):
        for p in part.parts if isinstance(part, kind) else (part,):
            if p.size == kind.neutral and not is_copies(p):
                continue
            if flat and isinstance(p, Fixed) and isinstance(flat[-1], Fixed):
                flat[-1] = Fixed(kind.measure((flat[-1].size, p.size)))
            else:
                flat.append(p)
    if not flat:
        return Fixed(kind.neutral)
    return kind(flat) if len(flat) > 1 else flat[0]


def atoms(e) -> tuple[Atom, ...]:
    """Return every atom of an expression, in order, repeats included."""
    e = resolve(e)
    if not isinstance(e, _Compound):
        return (e,) if isinstance(e, Atom) else ()
    if e.held is None:
        e.held = tuple(a for p in e.parts for a in atoms(p))
    return e.held


def is_copies(e) -> bool:
    """Return whether a part is an atom of one: the copies that each position may get."""
    e = resolve(e)
    return isinstance(e, Atom) and e.size == 1


def is_fixed(e) -> bool:
    """Return whether no position of the expression may grow."""
    return None not in [a.reason for a in atoms(e)]


def size_of(e, sizes: Sizes) -> int:
    """Return the size of an axis expression once atoms have grown."""
    e = resolve(e)
    return e.measure(size_of(p, sizes) for p in e.parts) if isinstance(e, _Compound) else sizes.get(e, e.size)


def freeze(e, reason: str) -> None:
    """Forbid growth of every atom in the expression; the first reason stays."""
    for a in atoms(e):
        a.reason = a.reason or reason


def to_number(e) -> None:
    """Make the atoms of an expression plain numbers, for an axis that is no class at all (a kernel's extent)."""
    for a in atoms(e):
        a.bind(Fixed(a.size))
