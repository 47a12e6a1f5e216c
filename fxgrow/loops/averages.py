"""Averages of a model's numbers, taken over to the grown one: whoever holds an average goes on with it.

What lives here: where an average keeps its copy of the model, and the grown copy in its place. What does not: how a loop
averages.
"""
import copy
from collections.abc import Callable, MutableMapping
from typing import Any

import torch
from torch import nn

from fxgrow.compare import verify
from fxgrow.errors import GrowthError
from fxgrow.graph import unwrapped
from fxgrow.growth import transform
from fxgrow.loops.moving import on_device
from fxgrow.loops.schedule import Entry
from fxgrow.loops.wrappers import become, wrap_anew
from fxgrow.record import GrowthRecord


def averages_in(given: Any) -> list[Any]:
    """Return the averages that a loop has: none, one or several."""
    return [] if given is None else list(given) if isinstance(given, (list, tuple)) else [given]


def insist_average(average: Any, model: nn.Module, in_place: bool) -> None:
    """Refuse what is no average of a model's numbers that can be taken along."""
    if isinstance(average, MutableMapping):
        return
    if not in_place and any(isinstance(m, nn.Module) and unwrapped(m) is model for m in _held(average).values()):
        raise GrowthError(f"the {type(average).__name__} holds on to the model itself, of which a growth makes another "
                          "object: grow it with in_place=True")
    _place(average, model)


def _held(average: Any) -> dict[str, Any]:
    return {**getattr(average, "__dict__", {}), **getattr(average, "_modules", {})}


def _place(average: Any, model: nn.Module) -> str:
    """Return under which name an average keeps its copy of a model; none where it is a copy itself."""
    shapes = {name: p.shape for name, p in model.named_parameters()}

    def is_copy(value: Any) -> bool:
        inner = unwrapped(value) if isinstance(value, nn.Module) else model
        return inner is not model and {name: p.shape for name, p in inner.named_parameters()} == shapes

    if is_copy(average) and any(unwrapped(average) is part for part in average.modules()):
        return ""
    names = [name for name, value in _held(average).items() if is_copy(value)]
    if len(names) != 1:
        raise GrowthError(f"a {type(average).__name__} is no average that can follow a growth: give one that keeps one "
                          "copy of the model as an attribute (torch's AveragedModel, timm's ModelEma), such a copy itself, "
                          "or a dict of tensors by name")
    return names[0]


@torch.no_grad()
def moved_average(record: GrowthRecord, average: Any, old: nn.Module, new: nn.Module, inputs: Any, entry: Entry, seed: int
                  ) -> Callable[[], None]:
    """Return what makes an average of the small model's numbers one of the grown model's: it computes what it did.

    Where the average's numbers at new positions do not follow from the model's (in a LayerNorm's stream they are means of
    old ones), the average is grown by the same passes.
    """
    if isinstance(average, MutableMapping):
        return _moved_numbers(record, average, old, new)
    place = _place(average, old)
    small = unwrapped(getattr(average, place) if place else average)
    numbers = record.migrate_tensors(small.state_dict(), like=new)
    moved = copy.deepcopy(new).requires_grad_(any(p.requires_grad for p in small.parameters()))
    moved.load_state_dict(numbers, strict=False)
    device = next(small.parameters()).device
    moved.to(device)
    if not verify(small, moved, on_device(inputs, device)).ok:
        moved = transform(small, on_device(inputs, device), entry.instances(seed)).model
    return lambda: _put(average, place, moved.train(small.training))


def _moved_numbers(record: GrowthRecord, average: MutableMapping, old: nn.Module, new: nn.Module) -> Callable[[], None]:
    """Return what lets a dict of tensors hold those of the grown model: of parameters alone, if it had no others."""
    moved = record.migrate_tensors(average, like=new)
    if average.keys() <= dict(old.named_parameters(remove_duplicate=False)).keys():
        moved = {name: moved[name] for name, _ in new.named_parameters(remove_duplicate=False) if name in moved}

    def put() -> None:
        average.clear()
        average.update(moved)

    return put


def _put(average: Any, place: str, grown: nn.Module) -> None:
    if place:
        setattr(average, place, grown)
    else:
        become(unwrapped(average), grown)
        wrap_anew(average)


def replace_average(average: Any, old: nn.Module, new: nn.Module) -> None:
    """Let an average of `old` keep a copy of a model that was rebuilt; its own state is loaded next."""
    if isinstance(average, MutableMapping):
        return
    place = _place(average, old)
    small = unwrapped(getattr(average, place) if place else average)
    trains = any(p.requires_grad for p in small.parameters())
    _put(average, place, copy.deepcopy(new).requires_grad_(trains).train(small.training))
