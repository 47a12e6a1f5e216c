"""Tensors of the small model, as tensors of the grown one: averages of its numbers, or whatever goes with them."""
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fxgrow.errors import GrowthError
from fxgrow.graph import tensors_of
from fxgrow.record.entries import ParameterRecord, broadcast_along
from fxgrow.record.matching import BESIDE, Entries


def migrate_tensors(record: Entries, tensors: Mapping[str, Tensor],
                    like: nn.Module | Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Return tensors of the small model (an EMA copy of its numbers) as tensors of the grown one.

    Args:
        tensors: by the names of the small model; parameters, buffers or a whole state_dict.
        like: the grown model or its state_dict, for the new numbers; without it they are zeros, and tensors that are new
            altogether are left out, as their shapes are not known.

    Raises:
        GrowthError: a tensor is not the small model's, or has another shape; `like` is not the grown model.
    """
    _insist_small(record, tensors)
    grown = _grown_tensors(record, like)
    aliases = record.aliases()
    kept = {n: record.entry(n, t.ndim) for n, t in tensors.items() if n not in record.removed and n not in aliases}
    migrated: dict[str, Tensor] = {}
    for name, entry in {**kept, **record.parameters}.items():
        if entry.source is not None and entry.source in tensors:
            migrated[name] = values_of(name, entry, tensors[entry.source].detach(), grown.get(name))
        elif entry.source is None and name in grown:
            migrated[name] = grown[name].detach().clone()
    migrated.update({n: migrated[other] for n, other in aliases.items() if other in migrated and n in tensors})
    return {**{name: migrated[name] for name in grown if name in migrated}, **migrated}  # in the grown model's order


def _insist_small(record: Entries, tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors under names that are not the small model's."""
    keys = record.small_side().keys(tensors)
    other = next((n for n, key in keys.items() if n != key), None)
    if other is not None:
        raise GrowthError(f"the small model has no {other}{f', but {keys[other]}' * (not keys[other].startswith(BESIDE))}: "
                          "give its tensors by its own names")


def _grown_tensors(record: Entries, like: nn.Module | Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """Return the grown model's tensors by its own names."""
    if like is None:
        return {}
    tensors = tensors_of(like) if isinstance(like, nn.Module) else like
    try:
        return {key.removeprefix(BESIDE): tensors[n] for n, key in record.grown_side().keys(like).items()}
    except GrowthError as why:
        raise GrowthError(f"`like`: {why}") from why


def values_of(name: str, entry: ParameterRecord, small: Tensor, grown: Tensor | None) -> Tensor:
    """Return scale * shares * W + shift where a position is or copies an old one; `grown`'s number, or zero, elsewhere."""
    whole = spread(name, entry, small)
    for dim, shares in enumerate(entry.shares):
        if shares is not None:
            whole = whole * broadcast_along(shares.to(whole), dim, whole.ndim)
    if entry.scale != 1.0:
        whole = whole * entry.scale
    if entry.shift:
        whole = whole + entry.shift
    if grown is not None and grown.shape != whole.shape:
        raise GrowthError(f"{name} is {list(grown.shape)} in `like`, and {list(whole.shape)} in the growth record")
    return with_new(whole, entry, 0.0 if grown is None else grown.detach().to(whole))


def spread(name: str, entry: ParameterRecord, small: Tensor) -> Tensor:
    """Return the small tensor's numbers at every position that is or copies theirs, in a tensor of its own."""
    maps = {dim: index for dim, index in enumerate(entry.index) if index is not None}
    largest = {dim: int(index.max()) for dim, index in maps.items() if index.numel()}
    if len(entry.index) != small.ndim or any(position >= small.shape[dim] for dim, position in largest.items()):
        raise GrowthError(f"{entry.source} is {list(small.shape)}, which does not fit the growth record of {name}: give "
                          "the small model's tensors")
    whole = small if maps else small.clone()
    for dim, index in maps.items():
        whole = whole.index_select(dim, index.clamp_min(0).to(whole.device))
    return whole


def with_new(whole: Tensor, entry: ParameterRecord, new: float | Tensor) -> Tensor:
    """Return `whole` with `new` at the positions that neither are nor copy old ones."""
    for dim, index in enumerate(entry.index):
        if index is not None and bool((index < 0).any()):
            whole = torch.where(broadcast_along((index < 0).to(whole.device), dim, whole.ndim), new, whole)
    return whole
