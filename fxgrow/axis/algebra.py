"""The axis algebra: which positions of which axes must exist together.

An axis is an expression over *atoms*: an atom of some size, a row-major product (`heads*head_dim`) or a sum
(`conv1 + conv2`, a concatenation). Operations relate axes: equal axes are unified, reshapes split and merge factors.
A fixed number stands for positions that never grow. Splitting an atom refines it wherever it occurs. What lives here:
expressions, `unify`, `view`, `cut`. What does not: knowledge of any operation, or of what grown positions contain.
"""
from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from math import prod
from typing import Any

Axis = "Fixed | Atom | Prod | Sum"
Sizes = dict["Atom", int]  # the new sizes of atoms that grow


class Mismatch(Exception):
    """Two expressions cannot be brought to a common form; the caller freezes both."""


class Fixed:
    """`size` positions that never grow."""
    __slots__ = ("size",)

    def __init__(self, size: int):
        self.size = size

    def __repr__(self):
        return str(self.size)


class Atom:
    """A growable run of positions. `reason` says why it may not grow; `bound` is what it was refined or unified to."""
    __slots__ = ("_bound", "hint", "reason", "serial", "size")
    _serials = itertools.count()
    bindings = 0  # how many there have been: what normal forms were computed under

    def __init__(self, size: int, hint: str = "", reason: str | None = None):
        self.size, self.hint, self.reason = size, hint, reason
        self._bound: Fixed | Atom | Prod | Sum | None = None
        self.serial = next(Atom._serials)

    @property
    def bound(self):
        return self._bound

    @bound.setter
    def bound(self, e):
        self._bound = e
        Atom.bindings += 1

    def __repr__(self):
        return f"{self.hint or 'a'}{self.serial}:{self.size}" if self.bound is None else repr(self.bound)


class _Compound:
    """Parts, and the normal form and atoms as they were after `known` bindings."""
    __slots__ = ("held", "known", "normal", "parts", "size")

    def __init__(self, parts: Sequence):
        self.parts = tuple(parts)
        self.known = -1
        self.normal: Any = None
        self.held: tuple[Atom, ...] | None = None


class Prod(_Compound):
    """Row-major product of at least two factors."""
    __slots__ = ()

    def __init__(self, parts: Sequence):
        super().__init__(parts)
        self.size = prod(p.size for p in parts)

    def __repr__(self):
        return "*".join(f"({p})" if isinstance(p, Sum) else repr(p) for p in self.parts)


class Sum(_Compound):
    """Concatenation of at least two segments."""
    __slots__ = ()

    def __init__(self, parts: Sequence):
        super().__init__(parts)
        self.size = sum(p.size for p in parts)

    def __repr__(self):
        return " + ".join(map(repr, self.parts))


def resolve(e):
    """The expression with every binding followed, in normal form (flat, no factors of one, fixed neighbours merged)."""
    if isinstance(e, Fixed):
        return e
    if isinstance(e, Atom):
        while e._bound is not None and isinstance(e._bound, Atom):
            e = e._bound
        return e if e._bound is None else resolve(e._bound)
    if e.known != Atom.bindings:
        e.normal = product(e.parts) if isinstance(e, Prod) else concat(e.parts)
        e.held, e.known = None, Atom.bindings
        if isinstance(e.normal, _Compound):
            e.normal.normal, e.normal.held, e.normal.known = e.normal, None, Atom.bindings
    return e.normal


def product(parts: Iterable):
    """Normal form of a product."""
    flat: list = []
    for part in map(resolve, parts):
        for p in part.parts if isinstance(part, Prod) else (part,):
            if p.size == 1 and isinstance(p, Fixed):
                continue
            if flat and isinstance(p, Fixed) and isinstance(flat[-1], Fixed):
                flat[-1] = Fixed(flat[-1].size * p.size)
            else:
                flat.append(p)
    return Fixed(1) if not flat else flat[0] if len(flat) == 1 else Prod(flat)


def concat(parts: Iterable):
    """Normal form of a sum."""
    flat: list = []
    for part in map(resolve, parts):
        for p in part.parts if isinstance(part, Sum) else (part,):
            if p.size == 0:
                continue
            if flat and isinstance(p, Fixed) and isinstance(flat[-1], Fixed):
                flat[-1] = Fixed(flat[-1].size + p.size)
            else:
                flat.append(p)
    return Fixed(0) if not flat else flat[0] if len(flat) == 1 else Sum(flat)


def atoms(e) -> tuple[Atom, ...]:
    """Every atom of an expression, in order, repeats included."""
    e = resolve(e)
    if not isinstance(e, _Compound):
        return (e,) if isinstance(e, Atom) else ()
    if e.held is None:
        e.held = tuple(a for p in e.parts for a in atoms(p))
    return e.held


def is_fixed(e) -> bool:
    """Whether no position of the expression may grow."""
    return all(a.reason is not None for a in atoms(e))


def size_of(e, sizes: Sizes) -> int:
    """The size of an axis expression once atoms have grown."""
    e = resolve(e)
    if isinstance(e, Fixed):
        return e.size
    if isinstance(e, Atom):
        return sizes.get(e, e.size)
    parts = [size_of(p, sizes) for p in e.parts]
    return prod(parts) if isinstance(e, Prod) else sum(parts)


def freeze(e, reason: str) -> None:
    """Forbids growth of every atom in the expression; the first reason stays."""
    for a in atoms(e):
        a.reason = a.reason or reason


def settle(e) -> None:
    """Makes the atoms of an expression plain numbers: an axis that is no class at all (a kernel's extent)."""
    for a in atoms(e):
        a.bound = Fixed(a.size)


def same(a, b) -> bool:
    """Structural equality of resolved expressions."""
    a, b = resolve(a), resolve(b)
    if isinstance(a, Atom) or isinstance(b, Atom):
        return a is b
    if isinstance(a, Fixed) or isinstance(b, Fixed):
        return isinstance(a, Fixed) and isinstance(b, Fixed) and a.size == b.size
    return type(a) is type(b) and len(a.parts) == len(b.parts) and all(map(same, a.parts, b.parts))


def _bind(atom: Atom, e) -> None:
    if atom in atoms(e):
        raise Mismatch(f"{atom} would contain itself")
    if atom.reason is not None:
        freeze(e, atom.reason)
    if isinstance(e, Atom) and not e.hint:
        e.hint = atom.hint
    atom.bound = e


def refine(atom: Atom, parts: Sequence[int], kind: type) -> Prod | Sum:
    """Splits an atom into new atoms of the given sizes, everywhere it occurs. A single position stays single: a
    dimension of one is dropped and broadcast, so it is never growable."""
    fresh = kind([Atom(s, atom.hint, atom.reason) if s > 1 else Fixed(s) for s in parts])
    atom.bound = fresh
    return fresh


def unify(a, b, reason: str) -> None:
    """Makes two axes one: their positions must exist together. What cannot be matched is frozen, with `reason`."""
    a, b = resolve(a), resolve(b)
    if same(a, b):
        return
    if a.size != b.size:
        raise AssertionError(f"{reason}: sizes {a.size} and {b.size}")
    if is_fixed(a) or is_fixed(b):
        rigid = atoms(a if is_fixed(a) else b)
        because = rigid[0].reason if rigid else "the model's input, or a size written in the code"
        freeze(a, f"tied by {reason} to an axis that is fixed: {because}")
        freeze(b, f"tied by {reason} to an axis that is fixed: {because}")
        return
    try:
        _match(a, b)
    except Mismatch as why:
        freeze(a, f"{reason}: {why}")
        freeze(b, f"{reason}: {why}")


def _match(a, b) -> None:
    a, b = resolve(a), resolve(b)
    if same(a, b):
        return
    if isinstance(a, Fixed) or isinstance(b, Fixed):
        freeze(a, "must equal a fixed size")
        freeze(b, "must equal a fixed size")
    elif isinstance(b, Atom):
        _bind(b, a)
    elif isinstance(a, Atom):
        _bind(a, b)
    elif isinstance(a, Sum) and isinstance(b, Sum):
        _match_parts(list(a.parts), list(b.parts), Sum)
    elif isinstance(a, Prod) and isinstance(b, Prod):
        _match_parts(list(a.parts), list(b.parts), Prod)
    else:
        total, factors = (a, b) if isinstance(a, Sum) else (b, a)
        outer = factors.parts[0]
        if outer.size == factors.size:  # positions and their copies: each segment has the copies of its own
            pieces = cut(factors, [p.size for p in total.parts])
        else:
            pieces = view([total], [outer.size, factors.size // outer.size]) if outer.size > 1 else None
        if pieces is None:
            raise Mismatch(f"{total} is not made of {outer.size} equal parts")
        left, right = (total, concat(pieces)) if outer.size == factors.size else (product(pieces), factors)
        _match(left, right)


def _match_parts(left: list, right: list, kind: type) -> None:
    """Aligns two sums segment by segment, or two products factor by factor, splitting where one is coarser."""
    while left or right:
        if not left or not right:
            raise Mismatch("different factors")
        x, y = resolve(left.pop(0)), resolve(right.pop(0))
        if x.size == y.size:
            _match(x, y)
            continue
        (small, big, rest) = (x, y, right) if x.size < y.size else (y, x, left)
        if kind is Sum:
            pieces = cut(big, [small.size, big.size - small.size])
        else:
            pieces = view([big], [small.size, big.size // small.size]) if big.size % small.size == 0 else None
        if pieces is None:
            raise Mismatch(f"{big} cannot be split at {small.size}")
        _match(small, pieces[0])
        rest.insert(0, pieces[1])


def cut(e, sizes: Sequence[int]) -> list | None:
    """Cuts an axis into consecutive segments of the given sizes, or None where its structure forbids it."""
    e = resolve(e)
    if len(sizes) == 1:
        return [e]
    if isinstance(e, Fixed):
        return [Fixed(s) for s in sizes]
    if isinstance(e, Atom):
        if len(set(sizes)) == 1:  # equal segments stay tied: the operation that cuts stays valid at any size
            parts = refine(e, (len(sizes), sizes[0]), Prod).parts
            freeze(parts[0], "its positions are told apart (the axis is cut there)")
            return [resolve(parts[1])] * len(sizes)
        return list(refine(e, sizes, Sum).parts)
    if isinstance(e, Prod):
        inner = product(e.parts[1:])
        if all(s % inner.size == 0 for s in sizes):
            heads = cut(e.parts[0], [s // inner.size for s in sizes])
            return None if heads is None else [product((h, inner)) for h in heads]
        if len(set(sizes)) == 1 and len(sizes) % e.parts[0].size == 0:
            per = len(sizes) // e.parts[0].size
            freeze(e.parts[0], "its positions are told apart (the axis is cut there)")
            tails = cut(inner, [sizes[0]] * per)
            return None if tails is None else tails * e.parts[0].size
        return None
    pieces, queue = [], list(e.parts)
    for size in sizes:
        segment = []
        while size > 0:
            head = resolve(queue.pop(0))
            if head.size > size:
                split = cut(head, [size, head.size - size])
                if split is None:
                    return None
                queue[:0] = split
                continue
            segment.append(head)
            size -= head.size
        pieces.append(concat(segment))
    return pieces


def view(dims: Sequence, sizes: Sequence[int]) -> list | None:
    """Row-major reshape of the axes `dims` to `sizes`: the new axes, or None where the structure forbids it."""
    factors = [f for d in map(resolve, dims) for f in (d.parts if isinstance(d, Prod) else (d,))]
    factors = [f for f in factors if f.size != 1 or _is_copies(f)]
    out = []
    for size in sizes:
        got: list = []
        need = size
        while need > 1:
            if not factors:
                return None
            head = resolve(factors.pop(0))
            if isinstance(head, Prod):
                factors[:0] = head.parts
            elif need % head.size == 0:
                got.append(head)
                need //= head.size
                while factors and _is_copies(factors[0]):  # copies stay behind the position that they copy
                    got.append(factors.pop(0))
            elif head.size % need == 0:
                pair = _split_factor(head, need)
                if pair is None:
                    return None
                factors[:0] = pair
            else:
                return None
        out.append(product(got))
    return out if not factors else None


def _is_copies(e) -> bool:
    e = resolve(e)
    return isinstance(e, Atom) and e.size == 1


def _split_factor(e, outer: int) -> list | None:
    """One factor as a product of `outer` and the rest."""
    rest = e.size // outer
    if isinstance(e, Fixed):
        return [Fixed(outer), Fixed(rest)]
    if isinstance(e, Atom):
        return list(refine(e, (outer, rest), Prod).parts)
    if all(p.size % rest == 0 for p in e.parts):  # each segment is a multiple of the rest: split it, tie the rests
        halves: list[Any] = [view([p], [p.size // rest, rest]) for p in e.parts]
        if any(h is None for h in halves) or not _tied([h[1] for h in halves]):
            return None
        return [concat(h[0] for h in halves), resolve(halves[0][1])]
    if (groups := cut(e, [rest] * outer)) is not None and _tied(groups):
        return [Fixed(outer), resolve(groups[0])]
    return None


def _tied(axes: Sequence) -> bool:
    """Makes axes of one size one, if their structures allow it."""
    try:
        for a in axes[1:]:
            _match(axes[0], a)
    except Mismatch:
        return False
    return True
