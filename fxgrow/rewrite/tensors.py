"""Grown tensors: the new positions of every class written behind its old ones, wherever an axis holds it.

Each parameter is allocated once, at its final size; every old and new number is written to its place there. What the new
positions contain is decided elsewhere: `Extend` gives, for a tensor and an axis, the old positions as they are to be and
the new ones (None: zeros).
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from fxgrow.axis import Atom, Sizes, Sum, Tape, atoms, resolve, size_of
from fxgrow.contents import COPIES, ByPart, Content
from fxgrow.rewrite.growth import Contents, Fill, Growth


def grow_tensor(x: Tensor, axes: Sequence, places: dict[int, Contents], sizes: Sizes,
                fill: Callable[[int], Fill]) -> Tensor:
    """`x` grown along each dimension in `places`, by `fill(dim)(atom, content, x, axis)`."""
    order = sorted(places, key=lambda d: (isinstance(resolve(axes[d]), Atom), d))  # the old part of an atom is a view
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
    """Writes `x`, grown along every occurrence of the given atoms in axis `dim`, whose expression is `e`, to `out`."""
    e = resolve(e)
    if not any(a in contents for a in atoms(e)):
        _write(out, x)
    elif isinstance(e, Atom):
        old, new = fill(e, contents[e], x, dim)
        _write(out.narrow(dim, 0, e.size), old)
        _write(out.narrow(dim, e.size, out.shape[dim] - e.size), new)
    elif isinstance(e, Sum):
        for to, segment, part in zip(_parts(out, dim, e.parts, sizes), _parts(x, dim, e.parts, {}), e.parts):
            grow_axis(to, segment, dim, part, contents, sizes, fill)
    else:
        _grow_factors(out, x, dim, e.parts, contents, sizes, fill)


def _parts(x: Tensor, dim: int, parts: Iterable, sizes: Sizes) -> Sequence[Tensor]:
    return x.split([size_of(p, sizes) for p in parts], dim)


def _grow_factors(out: Tensor, x: Tensor, dim: int, parts: Sequence, contents: Contents, sizes: Sizes, fill: Fill) -> None:
    """The factors of a product, laid out from `dim` on, one after another; where a factor's content differs between the
    positions of another one (q, k and v stacked), one of these at a time."""
    out = out.unflatten(dim, [size_of(p, sizes) for p in parts])
    x = x.unflatten(dim, [p.size for p in parts])
    growing = [i for i, part in enumerate(parts) if any(a in contents for a in atoms(part))]
    for i in growing:
        part, at = parts[i], dim + i
        to = out if i == growing[-1] else x.new_empty([*x.shape[:at], size_of(part, sizes), *x.shape[at + 1:]])
        apart = next((c.atom for a in atoms(part) if isinstance(c := contents.get(a), ByPart) and c.atom in parts), None)
        if apart is None:
            grow_axis(to, x, at, part, contents, sizes, fill)
        else:
            told = dim + parts.index(apart)
            for k in range(apart.size):
                chosen = {a: c.contents[k] if isinstance(c, ByPart) and c.atom is apart else c for a, c in contents.items()}
                grow_axis(to.select(told, k), x.select(told, k), at - (at > told), part, chosen, sizes, fill)
        x = to


def _write(out: Tensor, x: Tensor | None) -> None:
    if x is None:
        out.zero_()
    elif x.is_meta or x.data_ptr() != out.data_ptr():  # else it is there already
        out.copy_(x)


def grow_tensors(tape: Tape, tensors: dict[str, Tensor], growths: Sequence[Growth]) -> dict[str, Tensor]:
    """The grown version of every parameter and buffer that changes."""
    of = {g.atom: g for g in growths}
    sizes = {g.atom: g.size for g in growths}
    places: dict[str, dict[int, Contents]] = {}
    for g in growths:
        for (name, dim), content in g.certificate.contents.items():
            places.setdefault(name, {}).setdefault(dim, {})[g.atom] = content
    out = {}
    for name, dims in places.items():
        def fill(dim: int, name=name) -> Fill:
            return lambda atom, content, x, axis: of[atom].extend(content, x, axis, of[atom], (name, dim))

        out[name] = grow_tensor(tensors[name].detach(), tape.params[name].axes, dims, sizes, fill)
    for name, scale in rescaled(growths).items():
        out[name] *= scale
    return out


def index_map(e, contents: Contents, growths: dict[Atom, Growth]) -> tuple[Tensor, Tensor, Tensor | None]:
    """For each position of a grown axis: the old one that it was or copies, or -1; whether it is new; and its share of the
    old one (None where all are one)."""
    sizes = {atom: g.size for atom, g in growths.items()}

    def grown(x: Tensor, new: Callable[[Growth, Content, Tensor, int], tuple[Tensor, Tensor]]) -> Tensor:
        return grow_tensor(x, [e], {0: contents}, sizes, lambda dim: lambda atom, content, x, axis: new(
            growths[atom], content, x, axis))

    def index(g: Growth, content: Content, x: Tensor, axis: int):
        if content in COPIES:
            return x, x.index_select(axis, g.source)
        return x, x.new_full((*x.shape[:axis], g.size - g.atom.size, *x.shape[axis + 1:]), -1)

    def fresh(g: Growth, content: Content, x: Tensor, axis: int):
        return x, x.new_ones((*x.shape[:axis], g.size - g.atom.size, *x.shape[axis + 1:]))

    def share(g: Growth, content: Content, x: Tensor, axis: int):
        factors = g.shares if content == "share" else torch.ones_like(g.shares)
        old, new = factors.view(-1, *[1] * (x.ndim - axis - 1)).split([g.atom.size, g.size - g.atom.size])
        return x * old, x.index_select(axis, g.source) * new

    size = resolve(e).size
    shares = grown(torch.ones(size, dtype=torch.float64), share) if "share" in map(_plain, contents.values()) else None
    return grown(torch.arange(size), index), grown(torch.zeros(size, dtype=torch.bool), fresh), shares


def _plain(content: Content) -> Content:
    """One content of those that are told apart: shares are, in all parts or in none."""
    return _plain(content.contents[-1]) if isinstance(content, ByPart) else content


def rescaled(growths: Sequence[Growth]) -> dict[str, float]:
    """The factors sqrt(n/m) on the weights of norms over classes grown from n to m positions."""
    scales: dict[str, float] = {}
    for g in growths:
        for weight in {norm.weight for norm in g.certificate.norms if norm.weight is not None}:
            scales[weight] = scales.get(weight, 1.0) * math.sqrt(g.atom.size / g.size)
    return scales
