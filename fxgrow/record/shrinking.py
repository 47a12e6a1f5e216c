"""Shrinking: the small network's structure from the record's origin, its numbers from wherever they went."""
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from fxgrow.errors import GrowthError
from fxgrow.graph import clone_structure, tensors_of
from fxgrow.record.entries import ParameterRecord, broadcast_along, names_by_tensor
from fxgrow.record.matching import Entries
from fxgrow.record.tied import untie
from fxgrow.tracing import put_back

Pieces = dict[str, list[tuple[Tensor, ParameterRecord]]]


def shrink(record: Entries, model: nn.Module) -> nn.Module:
    """Return the small network with the numbers that the grown `model` has now.

    `model` is left as it is. Exact for r2r and netmorph, which leave old numbers as they are (a factor on norm weights is
    divided out). Under net2net a shared-out column is the sum of its shares, and of copied positions the first is taken.

    Raises:
        GrowthError: a number of the small network is found nowhere; the tensor is named.
    """
    if not record.origin:
        raise GrowthError("the record does not hold the small model's structure: grow with fxgrow.transform, which keeps it")
    model = untie(model)
    model = model.get_submodule(record.grown_side().prefix_in(model).removesuffix("."))
    pieces: Pieces = {}
    for tensor, entry in record.located(model).values():
        if entry.source is not None:
            pieces.setdefault(entry.source, []).append((tensor.detach(), entry))
    parts = {path: _filled(origin, pieces, model) for path, origin in record.origin.items()}
    return parts[""] if "" in parts else put_back(model, parts)


def _filled(origin: nn.Module, pieces: Pieces, model: nn.Module) -> GraphModule:
    """Return the structure with its numbers, in the mode of the grown model."""
    names_of = names_by_tensor(tensors_of(origin).items())

    def numbers(tensor: Tensor) -> Tensor:
        names = names_of[id(tensor)]
        whole = _joined(names[0], tensor, [piece for name in names for piece in pieces.get(name, [])])
        return torch.empty_like(tensor, dtype=whole.dtype, device=whole.device).copy_(whole)  # in its own memory layout

    small: GraphModule = clone_structure(origin, numbers)  # type: ignore[assignment]
    small.recompile()
    return small if small.training == model.training else small.train(model.training)


def _joined(name: str, small: Tensor, pieces: list[tuple[Tensor, ParameterRecord]]) -> Tensor:
    """Return a small network's tensor out of all grown ones that hold its numbers; copies where there is nothing else."""
    whole, missing = None, torch.ones(small.shape, dtype=torch.bool)
    for copies in (False, True):
        for tensor, entry in pieces:
            if not entry.fits(tensor.shape, small.shape):
                raise GrowthError(f"{name} is {list(small.shape)} in the small network: the growth record does not fit")
            values, found = _old_numbers(tensor, entry, small.shape, copies)
            missing = missing.to(found.device)
            whole = values if whole is None else torch.where(missing & found, values, whole)
            missing = missing & ~found
    if whole is None or missing.any():
        count = int(missing.sum())
        raise GrowthError(f"the small network's {name} cannot be had back: {count} of its {small.numel()} numbers are "
                          "nowhere in the grown one; keep the small model itself where a pass replaces its layers")
    return whole


def _old_numbers(grown: Tensor, entry: ParameterRecord, shape: torch.Size, copies: bool) -> tuple[Tensor, Tensor]:
    """Return what a grown tensor holds of the small one, and a mask of where; shapes of the small one.

    A position along an axis without shares is read off where it is (`copies`: where it is copied); along one with shares,
    W = sum of W'_j over its copies j, divided by the sum of their shares (which is one).
    """
    found = torch.ones(shape, dtype=torch.bool, device=grown.device)
    for dim, index in enumerate(entry.index):
        if index is None:
            continue
        fresh, shares, length = entry.fresh[dim], entry.shares[dim], grown.shape[dim]
        holds = index >= 0 if copies or shares is not None or fresh is None else (index >= 0) & ~fresh
        new = holds.nonzero().flatten().to(grown.device)
        old = index.to(grown.device)[new]
        if shares is None:  # the first position that holds each old one
            first = torch.full((shape[dim],), length, device=grown.device).scatter_reduce_(0, old, new, "amin")
            grown, held = grown.index_select(dim, first.clamp_max(length - 1)), first < length
        else:
            shares = shares.to(grown.device)
            total = shares.new_zeros(shape[dim]).index_add_(0, old, shares[new])
            blank = grown.new_zeros([*grown.shape[:dim], shape[dim], *grown.shape[dim + 1:]])
            grown, held = blank.index_add_(dim, old, grown.index_select(dim, new)), total != 0
            grown = grown / broadcast_along(torch.where(held, total, 1.0), dim, grown.ndim).to(grown.dtype)
        found &= broadcast_along(held, dim, len(shape))
    grown = grown - entry.shift if entry.shift else grown
    return grown if entry.scale == 1.0 else grown / entry.scale, found
