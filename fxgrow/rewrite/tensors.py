"""Grown tensors: the new positions of every class written behind its old ones, wherever an axis holds it.

Each parameter is allocated once, at its final size, and every number is written to its place there. What does not live
here: what new positions contain; `Extend` gives the old positions as they are to be and the new ones.
"""
from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fxgrow.aten import wide
from fxgrow.axis import Atom, Sizes, Sum, Tape, atoms, resolve, size_of
from fxgrow.common import Refusal
from fxgrow.contents import COPIES, COPY, FREE, MEAN, PAIR, SIGNED, ZERO, ByPart, Content
from fxgrow.record import broadcast_along
from fxgrow.rewrite.growth import Contents, Drawn, Fill, Growth, New, contents_by_tensor

BLOCK = 1 << 18  # numbers at most that are drawn before they are written to their places
WRITTEN = {PAIR, SIGNED, FREE, ZERO, COPY}  # as they are or drawn; others are computed of old numbers
Kinds = Mapping[Atom, Hashable]  # of the classes that others may extend a tensor for


def grow_tensor(x: Tensor, axes: Sequence, places: dict[int, Contents], sizes: Sizes, fill: Callable[[int], Fill],
                last: Collection[int] = (), kinds: Kinds | None = None) -> Tensor:
    """Return `x` grown along each dimension in `places`, of `last` at the end, by `fill(dim)(atom, content, x, axis)`."""
    # the old part of an atom is a view
    order = sorted(places, key=lambda d: (d in last, isinstance(resolve(axes[d]), Atom), d))
    shape = [size_of(axes[d], sizes) if d in places else s for d, s in enumerate(x.shape)]
    strides = x.stride()
    layout = sorted(range(x.dim()), key=lambda d: (-strides[d], x.shape[d] == 1))  # the old memory format
    whole = torch.empty_permuted(shape, layout, dtype=x.dtype, device=x.device)
    for i, dim in enumerate(order):
        later = order[i + 1:]
        if all(isinstance(resolve(axes[d]), Atom) for d in later):
            out = whole
            for d in later:
                out = out.narrow(d, 0, x.shape[d])
        else:
            out = x.new_empty([s if d not in later else x.shape[d] for d, s in enumerate(shape)])
        _Growing(places[dim], sizes, fill(dim), kinds or {}).grow(out, x, dim, axes[dim])
        x = out
    return whole


@dataclass
class _Growing:
    """The growth of one axis: what the new positions of each atom hold, its new size, what gives them, its kind."""
    contents: Contents
    sizes: Sizes
    fill: Fill
    kinds: Kinds

    def grow(self, out: Tensor, x: Tensor, dim: int, e) -> None:
        """Write `x`, grown along every occurrence of the atoms in axis `dim`, whose expression is `e`, to `out`."""
        e = resolve(e)
        if e in self.contents:
            old, new = self.fill(e, self.contents[e], x, dim)
            _write(out.narrow(dim, 0, e.size), old)
            _write_new(out.narrow(dim, e.size, out.shape[dim] - e.size), new, dim)
        elif not self._grows(e):
            _write(out, x)
        elif isinstance(e, Sum):
            self._grow_segments(out, x, dim, e)
        else:
            self._grow_factors(out, x, dim, e.parts)

    def _grows(self, e) -> bool:
        return not self.contents.keys().isdisjoint(atoms(e))

    def _grow_segments(self, out: Tensor, x: Tensor, dim: int, e: Sum) -> None:
        """Grow the segments of a concatenation: those that are alike at once, along one more dimension."""
        runs = [list(run) for _, run in itertools.groupby(map(resolve, e.parts), self._likeness)]
        segments = (out.split([sum(size_of(p, self.sizes) for p in run) for run in runs], dim),
                    x.split([sum(p.size for p in run) for run in runs], dim))
        for to, segment, run in zip(*segments, runs):
            if len(run) == 1 or not self._grows(run[0]):
                self.grow(to, segment, dim, run[0])
            else:
                alike = len(run), -1
                self.grow(to.unflatten(dim, alike), segment.unflatten(dim, alike), dim + 1, run[0])

    def _likeness(self, part) -> Any:
        """Return what is equal for neighbours that are written at once."""
        if not self._grows(part):
            return None
        kind = self.kinds.get(part)
        return part if kind is None else (kind, self.contents[part])

    def _grow_factors(self, out: Tensor, x: Tensor, dim: int, parts: Sequence) -> None:
        """Grow the factors of a product, laid out from `dim` on, one after another.

        Where a factor's content differs between the positions of another one (q, k and v stacked), one of these at a time.
        """
        out = out.unflatten(dim, [size_of(p, self.sizes) for p in parts])
        x = x.unflatten(dim, [p.size for p in parts])
        growing = [i for i, part in enumerate(parts) if self._grows(part)]
        for i in growing:
            part, at, to = parts[i], dim + i, out
            later = [j for j in growing if j > i]
            if all(isinstance(resolve(parts[j]), Atom) for j in later):  # whose old positions are a view
                for j in later:
                    to = to.narrow(dim + j, 0, x.shape[dim + j])
            else:
                to = x.new_empty([*x.shape[:at], size_of(part, self.sizes), *x.shape[at + 1:]])
            stacked = self._stacked_over(part, parts)
            if stacked is None:
                self.grow(to, x, at, part)
            else:
                stack_dim = dim + parts.index(stacked)
                for k in range(stacked.size):
                    self._at(stacked, k).grow(to.select(stack_dim, k), x.select(stack_dim, k), at - (at > stack_dim), part)
            x = to

    def _stacked_over(self, part, parts: Sequence) -> Atom | None:
        """Return the factor whose positions hold different contents of another factor."""
        held = [self.contents[a] for a in atoms(part) if a in self.contents]
        return next((c.atom for c in held if isinstance(c, ByPart) and c.atom in parts), None)

    def _at(self, stacked: Atom, k: int) -> _Growing:
        """Return the growth at one position of an atom whose positions hold different contents."""
        chosen = {atom: c.contents[k] if isinstance(c, ByPart) and c.atom is stacked else c
                  for atom, c in self.contents.items()}
        return _Growing(chosen, self.sizes, self.fill, self.kinds)


def _write(out: Tensor, x: Tensor | None) -> None:
    if x is None:
        out.zero_()
    elif x.is_meta or x.data_ptr() != out.data_ptr():  # else it is there already
        out.copy_(x)


def _write_new(out: Tensor, new: New, dim: int) -> None:
    """Write new positions along a dimension, which may be those of several tensors in turn."""
    if isinstance(new, Drawn):
        _draw(out.unflatten(dim, (-1, len(new.signs))).unbind(dim + 1), new)
    elif isinstance(new, tuple):
        for to, each in zip(out.unflatten(dim, (-1, len(new))).unbind(dim + 1), new):
            _write(to, each)
    else:
        _write(out, new)


def _draw(places: Sequence[Tensor], drawn: Drawn) -> None:
    """Draw numbers a block at a time, and write them times each sign to its place while they are in the cache."""
    first = places[0]
    rows = max(BLOCK * first.shape[0] // first.numel(), 1)
    for blocks in [places] if rows >= first.shape[0] else zip(*(place.split(rows) for place in places)):
        numbers = drawn.draw(blocks[0].shape)
        now = 1
        for to, sign in zip(blocks, drawn.signs):
            if sign != now:
                numbers, now = numbers.neg_(), sign
            to.copy_(numbers)


def grow_tensors(tape: Tape, tensors: dict[str, Tensor], growths: Sequence[Growth],
                 release: bool = False) -> dict[str, Tensor]:
    """Return the grown version of each of these tensors that changes, each old one emptied then if it is released.

    What is computed of numbers of 16 bits is computed in float32 and rounded once.
    """
    dtypes, scales = {name: t.dtype for name, t in tensors.items()}, scalings(growths)
    by_atom, sizes = {g.atom: g for g in growths}, {g.atom: g.size for g in growths}

    def fill(name: str, dim: int) -> Fill:
        return lambda atom, content, x, axis: by_atom[atom].extend(content, x, axis, by_atom[atom], (name, dim))

    kept, kinds = _kept_by_rows(growths), {g.atom: g.kind for g in growths}
    read = {name for g in growths for name, *_ in g.certificate.weights.values()}  # when others grow
    grown: dict[str, Tensor] = {}
    for name, dims in contents_by_tensor(growths).items():
        if name not in tensors:
            continue
        old = tensors[name].detach()
        old = wide(old) if name in scales or _computes(dims) else old
        grown[name] = grow_tensor(old, tape.params[name].axes, dims, sizes, functools.partial(fill, name),
                                  kept.get(name, ()), kinds)
        if release and name not in read:
            tensors[name].data = tensors[name].new_empty(0)
    for name, (scale, shift) in scales.items():
        if name not in tensors:
            continue
        scaled = grown.get(name, wide(tensors[name].detach())) * scale
        grown[name] = scaled + shift if shift else scaled
    return {name: t.to(dtypes[name]) for name, t in grown.items()}


def _computes(dims: dict[int, Contents]) -> bool:
    """Tell whether a number of a tensor is computed of old ones, and not only put somewhere or drawn."""
    contents = [content for held in dims.values() for content in held.values()]
    return not WRITTEN.issuperset(part for content in contents for part in getattr(content, "contents", (content,)))


def _kept_by_rows(growths: Sequence[Growth]) -> dict[str, tuple[int, ...]]:
    """Return the dimensions of the rows of each parameter that is normalised over others; refuse what changes them twice."""
    kept: dict[str, tuple[int, ...]] = {}
    held: dict[str, set[Content]] = {}
    for g in growths:
        for (name, dim), rows in g.certificate.rows.items():
            kept[name] = rows.kept
            content = g.certificate.contents[name, dim]
            kinds = held.setdefault(name, set())
            kinds.update(getattr(content, "contents", [content]))
            if MEAN in kinds and len(kinds) > 1:
                raise Refusal("new positions of another class keep the spread of the rows of a normalised weight, and these "
                              "would not; class left unchanged", name, [g.atom])
    return kept


class IndexMaps:
    """Where the positions of grown axes come from; most axes are those of several parameters."""

    def __init__(self, growths: Sequence[Growth]):
        self.by_atom, self.sizes = {g.atom: g for g in growths}, {g.atom: g.size for g in growths}
        self.kinds = {g.atom: g.kind for g in growths}
        self.known: dict[tuple, tuple[Tensor, Tensor, Tensor | None]] = {}

    def of(self, e, contents: Contents) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return, for each position of an axis `e`, which old one it was or copies (-1: none), if it is new, its share.

        (No shares: all are one.)
        """
        e = resolve(e)
        held = {a: contents[a] for a in atoms(e) if a in contents}
        key = (e, *((a, c if _may_copy(c) else None) for a, c in held.items()))
        if key not in self.known:
            self.known[key] = self._grown(e, held)
        return self.known[key]

    def _grown(self, e, contents: Contents) -> tuple[Tensor, Tensor, Tensor | None]:
        def grown(x: Tensor, extend: Callable[[Growth, Content, Tensor, int], tuple[Tensor, Tensor]]) -> Tensor:
            def fill(dim: int) -> Fill:
                return lambda atom, *at: extend(self.by_atom[atom], *at)
            return grow_tensor(x, [e], {0: contents}, self.sizes, fill, kinds=self.kinds)

        shared = any(_last_part(content) == "share" for content in contents.values())
        shares = grown(torch.ones(e.size, dtype=torch.float64), _extend_shares) if shared else None
        index = grown(torch.arange(e.size), _extend_index)
        if not any(map(_may_copy, contents.values())):
            return index, index < 0, shares
        fresh = grown(torch.zeros(e.size, dtype=torch.bool), lambda g, _, x, axis: (x, x.new_ones(_new_shape(g, x, axis))))
        return index, fresh, shares


def _may_copy(content: Content | ByPart) -> bool:
    return isinstance(content, ByPart) or content in COPIES


def _extend_index(g: Growth, content: Content, x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    return x, x.index_select(axis, g.source) if content in COPIES else x.new_full(_new_shape(g, x, axis), -1)


def _extend_shares(g: Growth, content: Content, x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    factors = g.shares if content == "share" else torch.ones_like(g.shares)
    old, new = broadcast_along(factors, axis, x.ndim).split([g.atom.size, g.size - g.atom.size])
    return x * old, x.index_select(axis, g.source) * new


def _new_shape(g: Growth, x: Tensor, axis: int) -> tuple[int, ...]:
    return *x.shape[:axis], g.size - g.atom.size, *x.shape[axis + 1:]


def _last_part(content: Content) -> Content:
    """Return the content of the last part of an axis: one is shared out in all of its parts or in none."""
    return _last_part(content.contents[-1]) if isinstance(content, ByPart) else content


def scalings(growths: Sequence[Growth]) -> dict[str, tuple[float, float]]:
    """Return what parameters are scaled by, and the number that is added behind: for norms, what their statistics need."""
    scales: dict[str, float] = {}
    shifts: dict[str, float] = {}
    for g in growths:
        n, m = g.atom.size, g.size
        for weight, power in {(norm.weight, norm.power) for norm in g.certificate.norms if norm.weight is not None}:
            scales[weight] = scales.get(weight, 1.0) * (n / m) ** power
        for name, scaling in g.certificate.factors.items():
            scales[name] = scales.get(name, 1.0) * scaling.power.of(n, m)
            shifts[name] = scaling.shift
    return {name: (scale, (scale - 1) * shifts.get(name, 0.0)) for name, scale in scales.items()}
