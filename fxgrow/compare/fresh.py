"""Inputs beside the example: others of the same sizes and spread, and ones with longer or shorter axes.

What lives here: how inputs are drawn. What does not: which of them a model takes, which only a run can tell.
"""
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fxgrow.aten import tree_flatten, tree_leaves, tree_map, tree_unflatten

Inputs = tuple[tuple, dict[str, Any]]  # positional and keyword arguments


def redraw(inputs: Inputs, seed: int, whole: bool = True) -> Inputs:
    """Draw each tensor anew: floating numbers with the example's spread, whole ones out of the example's own (if `whole`).

    Zeros and ones, which may be masks, are moved on by a place; what is no tensor stays.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.numel() or value.layout is not torch.strided or value.is_nested:
            return value
        given = value.detach().cpu()
        if not given.is_floating_point() and not given.is_complex() and not whole:
            return value
        return _drawn(given, generator).to(value.device).requires_grad_(value.requires_grad)

    return tree_map(draw, inputs)


def _drawn(value: Tensor, generator: torch.Generator) -> Tensor:
    """Return other numbers in place of those of a tensor."""
    if bool(((value == 0) | (value == 1)).all()) and bool((value == 0).any()) and bool((value == 1).any()):
        return value.roll(1, -1).roll(1, 0) if value.ndim else value.clone()
    if value.is_complex():
        return torch.complex(_normal(value.real, generator), _normal(value.imag, generator)).to(value.dtype)
    if value.is_floating_point():
        return _normal(value, generator)
    chosen = torch.randint(value.numel(), value.shape, generator=generator)
    return value.flatten()[chosen]


def _normal(value: Tensor, generator: torch.Generator) -> Tensor:
    """Return normal numbers of a tensor's mean and spread, within its range; what is not finite stays where it is."""
    wide = value.to(torch.float64)
    finite = wide.isfinite()
    if not finite.any():
        return value.clone()
    noise, known = torch.randn(value.shape, generator=generator, dtype=torch.float64), wide[finite]
    low, high = known.min(), known.max()
    if low == high:  # zeros or ones in place of real inputs: their sign stays
        new = low * noise.abs().add(0.5) if low else noise
    else:
        new = (known.mean() + known.std() * noise).clamp(low, high)
    return torch.where(finite, new, wide).to(value.dtype)


def same_numbers(one: Inputs, two: Inputs) -> bool:
    """Tell whether two inputs of one form hold the same numbers."""
    return all(torch.equal(x, y) for x, y in zip(tree_leaves(one), tree_leaves(two)) if isinstance(x, Tensor))


@dataclass(frozen=True)
class Axes:
    """Axes of inputs that change together, all of one size: pairs of a tensor's number and its dimension."""
    size: int
    places: frozenset[tuple[int, int]]
    by: int = 1

    def __str__(self) -> str:
        dims = sorted({d for _, d in self.places})
        return f"axis {' and '.join(map(str, dims))} of {self.size + self.by} in place of {self.size}"

    def of(self, inputs: Inputs) -> Inputs:
        """Return inputs whose axes are longer, the last position repeated, or shorter."""
        leaves, form = tree_flatten(inputs)
        tensors = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        for number, dim in self.places:
            i = tensors[number]
            index = torch.arange(self.size + self.by, device=leaves[i].device).clamp(max=self.size - 1)
            leaves[i] = leaves[i].detach().index_select(dim, index).requires_grad_(leaves[i].requires_grad)
        return tree_unflatten(leaves, form)


def axes_of(inputs: Inputs) -> Iterator[list[Axes]]:
    """Yield the axes that may be free: first that of the batch, then each other size, with ways to change it.

    The first way that a model runs with is meant: an axis by itself (the batch apart from a length of the same size), then
    all axes of that size; one longer, then one shorter. On an accelerator lengths become shorter only: an embedding that is
    read behind its end would stop the whole device there.
    """
    tensors = [v for v in tree_leaves(inputs) if isinstance(v, Tensor)]
    places = [(n, d) for n, t in enumerate(tensors) if t.layout is torch.strided and not t.is_nested for d in range(t.ndim)]
    if not places:
        return
    size = {place: tensors[place[0]].shape[place[1]] for place in places}
    batch = [p for p in places if p[1] == 0 and size[p] == size[places[0]]]
    groups = [batch] + [[p for p in places if size[p] == n and p not in batch] for n in dict.fromkeys(
        size[p] for p in places if p not in batch)]
    safe = all(t.device.type == "cpu" for t in tensors)
    for group in groups:
        every = [p for p in places if size[p] == size[group[0]]]
        count = size[group[0]]
        steps = [by for by in (1, -1) if (by == 1 and (safe or group is batch)) or (by == -1 and count > 1)]
        yield [Axes(count, frozenset(which), by)
               for by, which in itertools.product(steps, dict.fromkeys((tuple(group), tuple(every))))]
