"""The sizes that the axis classes of a small model have in a big one, from pairs of axes."""
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from fxgrow.axis import Atom, Fixed, Prod, Sum, atoms, concat, product, resolve, size_of
from fxgrow.errors import GrowthError


class Sizes:
    """The sizes of the small model's classes, from pairs of axes: an expression here, and one there."""

    def __init__(self) -> None:
        self.found: dict[Atom, tuple[int, str]] = {}
        self.open: list[tuple[Any, int, str]] = []

    def relate(self, e, f, where: str) -> None:
        """Note that the axis e of the small model is f in the big one; refuse a class that shrinks or has two sizes."""
        e, f = resolve(e), resolve(f)
        if isinstance(e, Atom):
            size, first = self.found.setdefault(e, (f.size, where))
            if size != f.size:
                raise GrowthError(f"{where} has {f.size} positions in the big model, and {first}, whose positions are the "
                                  f"same, has {size}")
            if size < e.size:
                raise GrowthError(f"{where} would shrink from {e.size} to {size} positions")
        elif isinstance(e, (Prod, Sum)) and type(e) is type(f) and len(e.parts) == len(f.parts) and \
                all(p.size <= q.size and not (isinstance(p, Fixed) and p.size != q.size) for p, q in zip(e.parts, f.parts)):
            for p, q in zip(e.parts, f.parts):
                self.relate(p, q, where)
        else:
            self.open.append((e, f.size, where))

    def solved(self) -> dict[Atom, int]:
        """Return the sizes, with those that follow from the rest of the axes, or refuse where there are none."""
        sizes = {a: n for a, (n, _) in self.found.items()}
        for e, size, where in self.open:
            if size_of(e, sizes) == size:
                continue
            unknown = [a for a in dict.fromkeys(atoms(e)) if a not in sizes]
            count = _solve(e, size, sizes, unknown[0]) if len(unknown) == 1 else None
            if count is None:
                raise GrowthError(f"{where} has {shown(e)} positions, and {size} in the big model: no growth of its factors "
                                  "alone, which are split, shuffled or grouped, gives that")
            sizes[unknown[0]] = count
        return sizes


def _solve(e, size: int, sizes: dict[Atom, int], unknown: Atom) -> int | None:
    """Return the size of a class by which an axis, which is linear in it, has its size (None: there is none)."""
    first, second = (size_of(e, {**sizes, unknown: n}) for n in (1, 2))
    step = second - first
    if not step or (size - first) % step:
        return None
    count = (size - first) // step + 1
    return count if count >= unknown.size else None


def shown(e) -> str:
    """Write an axis by its sizes: `2*29 + 58`."""
    e = resolve(e)
    if isinstance(e, Sum):
        return " + ".join(map(shown, e.parts))
    if isinstance(e, Prod):
        return "*".join(f"({shown(p)})" if isinstance(p, Sum) else shown(p) for p in e.parts)
    return str(e.size)


def without(e, gone: Collection[Atom]):
    """Return an axis without the parts of a concatenation that consist of the given classes."""
    e = resolve(e)
    if isinstance(e, Sum):
        return concat([without(p, gone) for p in e.parts if not set(atoms(p)) & set(gone) or isinstance(p, Sum)])
    return product([without(p, gone) for p in e.parts]) if isinstance(e, Prod) else e


def kept(e, gone: Collection[Atom]) -> Tensor:
    """Return which positions of an axis are left in `without`."""
    e = resolve(e)
    if isinstance(e, (Sum, Prod)):
        parts = [kept(p, gone) for p in e.parts]
        if isinstance(e, Sum):
            return torch.cat(parts)
        found = parts[0]
        for part in parts[1:]:
            found = (found[:, None] & part).flatten()
        return found
    return torch.full((e.size,), e not in gone)
