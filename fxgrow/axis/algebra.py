"""The axis algebra: equal axes are unified, reshapes split and merge factors, cuts split sums.

What does not live here: knowledge of any operation, or of what grown positions contain.
"""
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from fxgrow.axis.expressions import Atom, Fixed, Prod, Sum, atoms, concat, freeze, is_copies, is_fixed, product, resolve

NUMBERS = "the model's input, or a size written in the code"
TIED = " to an axis that is fixed: "
EQUAL = "must equal a fixed size"
APART = "its positions are told apart (the axis is cut there)"


class Mismatch(Exception):
    """Two expressions cannot be brought to a common form; the caller freezes both."""


def same(a, b) -> bool:
    """Return whether two expressions have one structure once they are resolved."""
    a, b = resolve(a), resolve(b)
    if isinstance(a, Atom) or isinstance(b, Atom):
        return a is b
    if isinstance(a, Fixed) or isinstance(b, Fixed):
        return isinstance(a, Fixed) and isinstance(b, Fixed) and a.size == b.size
    return type(a) is type(b) and len(a.parts) == len(b.parts) and all(map(same, a.parts, b.parts))


def refine(atom: Atom, parts: Sequence[int], kind: type) -> Prod | Sum:
    """Split an atom into new atoms of the given sizes, everywhere it occurs.

    A single position stays a number: a dimension of one is dropped and broadcast, so it never grows.
    """
    refined = kind([Atom(s, atom.hint, atom.reason) if s > 1 else Fixed(s) for s in parts])
    atom.bind(refined)
    return refined


def _bind(atom: Atom, e) -> None:
    if atom in atoms(e):
        raise Mismatch(f"{atom} would contain itself")
    if atom.reason is not None:
        freeze(e, atom.reason)
    if isinstance(e, Atom) and not e.hint:
        e.hint = atom.hint
    atom.bind(e)


def unify(a, b, reason: str, cause: Callable[[Any], str] = lambda axis: NUMBERS) -> None:
    """Make two axes one, as their positions must exist together; freeze what cannot be matched, with `reason`.

    cause: says of an axis that is no class what it comes from.
    """
    a, b = resolve(a), resolve(b)
    if same(a, b):
        return
    if a.size != b.size:
        raise AssertionError(f"{reason}: sizes {a.size} and {b.size}")
    if is_fixed(a) or is_fixed(b):
        if is_fixed(a) and is_fixed(b):
            return
        stiff = a if is_fixed(a) else b
        rigid = atoms(stiff)
        because = str(rigid[0].reason).rpartition(TIED)[2] if rigid else cause(stiff)  # the end of a chain of ties
        freeze(a, f"tied by {reason}{TIED}{because}")
        freeze(b, f"tied by {reason}{TIED}{because}")
        return
    try:
        _match(a, b)
        for atom in (*atoms(a), *atoms(b)):
            if atom.reason == EQUAL:
                atom.reason = f"tied by {reason}{TIED}{cause(Fixed(atom.size))}"
    except Mismatch as why:
        freeze(a, f"{reason}: {why}")
        freeze(b, f"{reason}: {why}")


def _match(a, b) -> None:
    a, b = resolve(a), resolve(b)
    if same(a, b):
        return
    if isinstance(a, Fixed) or isinstance(b, Fixed):
        freeze(a, EQUAL)
        freeze(b, EQUAL)
    elif isinstance(b, Atom):
        _bind(b, a)
    elif isinstance(a, Atom):
        _bind(a, b)
    elif type(a) is type(b):
        _match_parts(list(a.parts), list(b.parts), type(a))
    else:
        total, factors = (a, b) if isinstance(a, Sum) else (b, a)
        _match_sum_and_product(total, factors)


def _match_sum_and_product(total: Sum, factors: Prod) -> None:
    outer = factors.parts[0]
    of_copies = outer.size == factors.size  # positions and their copies: each segment has the copies of its own
    if of_copies:
        pieces = cut(factors, [p.size for p in total.parts])
    else:
        pieces = view([total], [outer.size, factors.size // outer.size]) if outer.size > 1 else None
    if pieces is None:
        raise Mismatch(f"{total} is not made of {outer.size} equal parts")
    if of_copies:
        _match(total, concat(pieces))
    else:
        _match(product(pieces), factors)


def _match_parts(left: list, right: list, kind: type) -> None:
    """Align two sums segment by segment, or two products factor by factor, splitting where one is coarser."""
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
    """Cut an axis into consecutive segments of the given sizes; return None where its structure forbids it."""
    e = resolve(e)
    if len(sizes) == 1:
        return [e]
    if isinstance(e, Fixed):
        return [Fixed(s) for s in sizes]
    if isinstance(e, Atom):
        return _cut_atom(e, sizes)
    return _cut_product(e, sizes) if isinstance(e, Prod) else _cut_sum(e, sizes)


def _cut_atom(e: Atom, sizes: Sequence[int]) -> list:
    if len(set(sizes)) != 1:
        return list(refine(e, sizes, Sum).parts)
    number, segment = refine(e, (len(sizes), sizes[0]), Prod).parts  # tied, so that the cut stays valid at any size
    freeze(number, APART)
    return [resolve(segment)] * len(sizes)


def _cut_product(e: Prod, sizes: Sequence[int]) -> list | None:
    outer, inner = e.parts[0], product(e.parts[1:])
    if all(s % inner.size == 0 for s in sizes):
        heads = cut(outer, [s // inner.size for s in sizes])
        return None if heads is None else [product((h, inner)) for h in heads]
    if len(set(sizes)) != 1 or len(sizes) % outer.size != 0:
        return None
    freeze(outer, APART)
    tails = cut(inner, [sizes[0]] * (len(sizes) // outer.size))
    return None if tails is None else tails * outer.size


def _cut_sum(e: Sum, sizes: Sequence[int]) -> list | None:
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
    """Reshape the axes `dims` to `sizes`, row-major; return None where the structure forbids it."""
    if 0 in sizes:  # no numbers: the axes that have positions are followed, as if the empty ones were not there
        rest = view([d for d in dims if resolve(d).size], [s for s in sizes if s])
        return None if rest is None else [rest.pop(0) if s else Fixed(0) for s in sizes]
    factors = [f for d in map(resolve, dims) for f in (d.parts if isinstance(d, Prod) else (d,))]
    return _factors_as([f for f in factors if f.size != 1 or is_copies(f)], sizes)


def _factors_as(factors: list, sizes: Sequence[int]) -> list | None:
    """Return products of factors, one of each size, with factors split where that is needed; None where it cannot be."""
    out = []
    for size in sizes:
        got = _taken(factors, size)
        if got is None:
            return None
        out.append(product(got))
    return out if not factors else None


def _taken(factors: list, size: int) -> list | None:
    """Take factors of `size` positions together off the front of a list, one of which may be split, or return None."""
    got: list = []
    while size > 1:
        if not factors:
            return None
        head = resolve(factors.pop(0))
        if isinstance(head, Prod):
            factors[:0] = head.parts
        elif size % head.size == 0:
            got.append(head)
            size //= head.size
            while factors and is_copies(factors[0]):  # copies stay behind the position that they copy
                got.append(factors.pop(0))
        elif head.size % size == 0:
            pair = _split_factor(head, size)
            if pair is None:
                return None
            factors[:0] = pair
        elif factors and is_fixed(head) and is_fixed(factors[0]):  # numbers, which a shift may mix
            factors[0] = Fixed(head.size * factors[0].size)
        else:
            return None
    return got


def reshaped_together(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Return which dimensions a reshape makes of which, in groups as small as can be; those of one position are left out."""
    left, right = ([(d, n) for d, n in enumerate(sizes) if n != 1] for sizes in (before, after))
    if 0 in before:
        return [(list(range(len(before))), list(range(len(after))))]
    groups = []
    while left:
        here, there = [left.pop(0)], [right.pop(0)]
        while (one := prod(n for _, n in here)) != (other := prod(n for _, n in there)):
            (here if one < other else there).append((left if one < other else right).pop(0))
        groups.append(([d for d, _ in here], [d for d, _ in there]))
    return groups


def _split_factor(e, outer: int) -> list | None:
    """Return one factor as a product of `outer` and the rest, or None."""
    rest = e.size // outer
    if isinstance(e, Fixed):
        return [Fixed(outer), Fixed(rest)]
    if isinstance(e, Atom):
        return list(refine(e, (outer, rest), Prod).parts)
    if all(p.size % rest == 0 for p in e.parts):  # each segment is a multiple of the rest: split it, tie the rests
        halves: list[Any] = [view([p], [p.size // rest, rest]) for p in e.parts]
        if any(h is None for h in halves) or not _tie([h[1] for h in halves]):
            return None
        return [concat(h[0] for h in halves), resolve(halves[0][1])]
    if (groups := cut(e, [rest] * outer)) is not None and _tie(groups):
        return [Fixed(outer), resolve(groups[0])]
    return None


def _tie(axes: Sequence) -> bool:
    """Make axes of one size one, and return whether their structures allow it."""
    try:
        for a in axes[1:]:
            _match(axes[0], a)
    except Mismatch:
        return False
    return True
