"""Inputs beside the example: others of the same sizes and spread, and ones with longer or shorter axes.

What lives here: how inputs are drawn. What does not: which of them a model takes, which only a run can tell.
"""
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
        if not isinstance(value, Tensor) or not _is_plain(value) or not value.numel():
            return value
        if not (whole or value.is_floating_point() or value.is_complex()):
            return value
        return _drawn(value.detach().cpu(), generator).to(value.device).requires_grad_(value.requires_grad)

    return tree_map(draw, inputs)


def _drawn(value: Tensor, generator: torch.Generator) -> Tensor:
    """Return other numbers in place of those of a tensor."""
    ones = value == 1
    if ones.any() and not ones.all() and bool((ones | (value == 0)).all()):
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
            old = leaves[tensors[number]]
            index = torch.arange(self.size + self.by, device=old.device).clamp(max=self.size - 1)
            leaves[tensors[number]] = old.detach().index_select(dim, index).requires_grad_(old.requires_grad)
        return tree_unflatten(leaves, form)


def axes_of(inputs: Inputs) -> Iterator[list[Axes]]:
    """Yield the axes that may be free: first that of the batch, then each other size, with ways to change it.

    The first way that a model runs with is meant: an axis by itself (the batch apart from a length of the same size), then
    all axes of that size; one longer, then one shorter. On an accelerator lengths become shorter only: an embedding that is
    read behind its end would stop the whole device there.
    """
    tensors = [v for v in tree_leaves(inputs) if isinstance(v, Tensor)]
    size = {(n, d): s for n, t in enumerate(tensors) if _is_plain(t) for d, s in enumerate(t.shape)}
    batch = [p for p in size if p[1] == 0 and size[p] == next(iter(size.values()))]
    rest = [p for p in size if p not in batch]
    safe = all(t.device.type in ("cpu", "meta") for t in tensors)
    for group in filter(None, (batch, *([p for p in rest if size[p] == n] for n in dict.fromkeys(size[p] for p in rest)))):
        count = size[group[0]]
        ways = dict.fromkeys(frozenset(which) for which in (group, [p for p in size if size[p] == count]))
        steps = [1] * (safe or group is batch) + [-1] * (count > 1)
        if steps:
            yield [Axes(count, which, by) for by in steps for which in ways]


def _is_plain(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and not tensor.is_nested
