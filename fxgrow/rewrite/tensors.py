"""Grown tensors: the new positions of every class written behind its old ones, wherever an axis holds it.

Each parameter is allocated once, at its final size, and every number is written to its place there. What does not live
here: what new positions contain; `Extend` gives the old positions as they are to be and the new ones.
"""
import functools
import itertools
from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from fxgrow.axis import Atom, Sizes, Sum, Tape, atoms, resolve, size_of
from fxgrow.common import Refusal
from fxgrow.contents import COPIES, MEAN, ByPart, Content
from fxgrow.record import broadcast_along
from fxgrow.rewrite.growth import Contents, Fill, Growth, contents_by_tensor


def grow_tensor(x: Tensor, axes: Sequence, places: dict[int, Contents], sizes: Sizes, fill: Callable[[int], Fill],
                last: Collection[int] = ()) -> Tensor:
    """Return `x` grown along each dimension in `places`, of `last` at the end, by `fill(dim)(atom, content, x, axis)`."""
    # the old part of an atom is a view
    order = sorted(places, key=lambda d: (d in last, isinstance(resolve(axes[d]), Atom), d))
    shape = [size_of(axes[d], sizes) if d in places else s for d, s in enumerate(x.shape)]
    whole = x.new_empty(shape)
    for i, dim in enumerate(order):
        later = order[i + 1:]
        if all(isinstance(resolve(axes[d]), Atom) for d in later):
            out = whole
            for d in later:
                out = out.narrow(d, 0, x.shape[d])
        else:
            out = x.new_empty([s if d not in later else x.shape[d] for d, s in enumerate(shape)])
        grow_axis(out, x, dim, axes[dim], places[dim], sizes, fill(dim))
        x = out
    return whole


def grow_axis(out: Tensor, x: Tensor, dim: int, e, contents: Contents, sizes: Sizes, fill: Fill) -> None:
    """Write `x`, grown along every occurrence of the given atoms in axis `dim`, whose expression is `e`, to `out`."""
    e = resolve(e)
    if e in contents:
        old, new = fill(e, contents[e], x, dim)
        _write(out.narrow(dim, 0, e.size), old)
        behind = out.narrow(dim, e.size, out.shape[dim] - e.size)
        if isinstance(new, tuple):
            for to, each in zip(behind.unflatten(dim, (-1, len(new))).unbind(dim + 1), new):
                _write(to, each)
        else:
            _write(behind, new)
    elif contents.keys().isdisjoint(atoms(e)):
        _write(out, x)
    elif isinstance(e, Sum):
        segments = out.split([size_of(p, sizes) for p in e.parts], dim), x.split([p.size for p in e.parts], dim)
        for to, segment, part in zip(*segments, e.parts):
            grow_axis(to, segment, dim, part, contents, sizes, fill)
    else:
        _grow_factors(out, x, dim, e.parts, contents, sizes, fill)


def _grow_factors(out: Tensor, x: Tensor, dim: int, parts: Sequence, contents: Contents, sizes: Sizes, fill: Fill) -> None:
    """Grow the factors of a product, laid out from `dim` on, one after another.

    Where a factor's content differs between the positions of another one (q, k and v stacked), one of these at a time.
    """
    out = out.unflatten(dim, [size_of(p, sizes) for p in parts])
    x = x.unflatten(dim, [p.size for p in parts])
    growing = [i for i, part in enumerate(parts) if any(a in contents for a in atoms(part))]
    for i in growing:
        part, at = parts[i], dim + i
        to = out if i == growing[-1] else x.new_empty([*x.shape[:at], size_of(part, sizes), *x.shape[at + 1:]])
        stacked = _stacked_over(part, parts, contents)
        if stacked is None:
            grow_axis(to, x, at, part, contents, sizes, fill)
        else:
            stack_dim = dim + parts.index(stacked)
            for k in range(stacked.size):
                chosen = {atom: c.contents[k] if isinstance(c, ByPart) and c.atom is stacked else c
                          for atom, c in contents.items()}
                left = at - 1 if at > stack_dim else at
                grow_axis(to.select(stack_dim, k), x.select(stack_dim, k), left, part, chosen, sizes, fill)
        x = to


def _stacked_over(part, parts: Sequence, contents: Contents) -> Atom | None:
    """Return the factor whose positions hold different contents of another factor."""
    held = [contents[a] for a in atoms(part) if a in contents]
    return next((c.atom for c in held if isinstance(c, ByPart) and c.atom in parts), None)


def _write(out: Tensor, x: Tensor | None) -> None:
    if x is None:
        out.zero_()
    elif x.is_meta or x.data_ptr() != out.data_ptr():  # else it is there already
        out.copy_(x)


def grow_tensors(tape: Tape, tensors: dict[str, Tensor], growths: Sequence[Growth]) -> dict[str, Tensor]:
    """Return the grown version of every parameter and buffer that changes."""
    by_atom, sizes = {g.atom: g for g in growths}, {g.atom: g.size for g in growths}

    def fill(name: str, dim: int) -> Fill:
        return lambda atom, content, x, axis: by_atom[atom].extend(content, x, axis, by_atom[atom], (name, dim))

    kept = _kept_by_rows(growths)
    grown = {name: grow_tensor(tensors[name].detach(), tape.params[name].axes, dims, sizes, functools.partial(fill, name),
                               kept.get(name, ()))
             for name, dims in contents_by_tensor(growths).items()}
    for name, (scale, shift) in scalings(growths).items():
        scaled = grown.get(name, tensors[name].detach()) * scale
        grown[name] = scaled + shift if shift else scaled
    return grown


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
    """Where the positions of grown axes come from; most axes, and most segments of them, are those of several parameters."""

    def __init__(self, growths: Sequence[Growth]):
        self.by_atom, self.sizes = {g.atom: g for g in growths}, {g.atom: g.size for g in growths}
        self.known: dict[tuple, tuple[Tensor, Tensor, Tensor | None]] = {}

    def of(self, e, contents: Contents) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return, for each position of an axis `e`, which old one it was or copies (-1: none), if it is new, its share.

        (No shares: all are one.)
        """
        e = resolve(e)
        held = {a: contents[a] for a in atoms(e) if a in contents}
        key = (e, *held.items())
        if key not in self.known:
            self.known[key] = self._joined(e, held) if isinstance(e, Sum) else self._grown(e, held)
        return self.known[key]

    def _joined(self, e: Sum, contents: Contents) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return what is known of the segments of an axis, one behind the other."""
        indices, fresh, shares = zip(*(self.of(part, contents) for part in e.parts))
        starts = torch.tensor([0, *itertools.accumulate(part.size for part in e.parts[:-1])])
        index, start = torch.cat(indices), starts.repeat_interleave(torch.tensor([i.shape[0] for i in indices]))
        index = torch.where(index < 0, index, index + start)
        if all(s is None for s in shares):
            return index, torch.cat(fresh), None
        return index, torch.cat(fresh), torch.cat([f.new_ones(f.shape, dtype=torch.float64) if s is None else s
                                                   for f, s in zip(fresh, shares)])

    def _grown(self, e, contents: Contents) -> tuple[Tensor, Tensor, Tensor | None]:
        def grown(x: Tensor, extend: Callable[[Growth, Content, Tensor, int], tuple[Tensor, Tensor]]) -> Tensor:
            def fill(dim: int) -> Fill:
                return lambda atom, *at: extend(self.by_atom[atom], *at)
            return grow_tensor(x, [e], {0: contents}, self.sizes, fill)

        shared = any(_last_part(content) == "share" for content in contents.values())
        shares = grown(torch.ones(e.size, dtype=torch.float64), _extend_shares) if shared else None
        fresh = grown(torch.zeros(e.size, dtype=torch.bool), lambda g, _, x, axis: (x, x.new_ones(_new_shape(g, x, axis))))
        return grown(torch.arange(e.size), _extend_index), fresh, shares


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
