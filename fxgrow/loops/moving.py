"""What trains a model, taken over to the grown one in place: whoever holds the optimizer or the average goes on with it.

What lives here: optimizers, their groups, factors on their rates, averages. What does not: single states (record).
"""
import copy
import inspect
from collections.abc import Callable, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fxgrow.aten import tree_map
from fxgrow.compare import verify
from fxgrow.errors import GrowthError
from fxgrow.graph import unwrapped
from fxgrow.growth import transform
from fxgrow.loops.schedule import Entry
from fxgrow.record import GrowthRecord

BESIDE = "beside."  # in front of the number of a parameter that an optimizer has and the model has not


def innermost(optimizer: Any) -> Optimizer:
    """Return the optimizer that a wrapper hands its groups on from (accelerate's, say), or the optimizer itself."""
    inner = getattr(optimizer, "optimizer", None)
    if isinstance(inner, Optimizer) and inner.param_groups is optimizer.param_groups:
        return innermost(inner)
    if not isinstance(optimizer, Optimizer):
        raise GrowthError(f"a {type(optimizer).__name__} is no torch.optim.Optimizer: give the optimizer, or several")
    return optimizer


def named_in(optimizer: Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """Return a model's parameters by name, and behind them those of an optimizer that are not the model's."""
    named: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    known = {id(p) for p in named.values()}
    others = [p for group in optimizer.param_groups for p in group["params"] if id(p) not in known]
    return named | {f"{BESIDE}{i}": p for i, p in enumerate(others)}


def move_optimizer(record: GrowthRecord, optimizer: Optimizer, new: nn.Module, old: nn.Module, reset: bool = False) -> None:
    """Let an optimizer of the small model train the grown one, its state migrated, or left out where it is `reset`."""
    before = named_in(optimizer, old)
    beside = {name: p for name, p in before.items() if name.startswith(BESIDE)}
    migrated = record.migrate_optimizer(optimizer, [*new.named_parameters(remove_duplicate=False), *beside.items()], before)
    for group, grown in zip(optimizer.param_groups, migrated.param_groups):
        group.update((key, grown[key]) for key in ("params", "param_names") if key in grown)
    optimizer.state.clear()
    optimizer.state.update({} if reset else migrated.state)


def names_of(optimizer: Optimizer, model: nn.Module) -> list[list[str]]:
    """Return the names of the parameters of each group, in order."""
    names = {id(p): name for name, p in reversed(named_in(optimizer, model).items())}
    return [[names[id(p)] for p in group["params"]] for group in optimizer.param_groups]


def regroup(optimizer: Optimizer, model: nn.Module, before: nn.Module, groups: Sequence[Sequence[str]]) -> None:
    """Give an optimizer over `before` a model's parameters in groups as `names_of` gave them; states are dropped."""
    named = {**named_in(optimizer, before), **dict(model.named_parameters(remove_duplicate=False))}
    missing = next((name for group in groups for name in group if name not in named), None)
    if missing is not None or len(groups) != len(optimizer.param_groups):
        raise GrowthError("the optimizer is not that of the saved run: " + (
            f"its groups are {len(optimizer.param_groups)} and were {len(groups)}" if missing is None
            else f"it trained {missing}, which is not here"))
    for group, names in zip(optimizer.param_groups, groups):
        group["params"] = [named[name] for name in names]
        if "param_names" in group:
            group["param_names"] = list(names)
    optimizer.state.clear()


def insist_groups(optimizer: Optimizer, model: nn.Module, groups: Sequence[Sequence[str]]) -> None:
    """Bring the parameters of an optimizer into these groups; refuse one that holds states for others."""
    if names_of(optimizer, model) != [list(names) for names in groups]:
        if optimizer.state:
            raise GrowthError("the optimizer's parameters are in other groups, or in another order, than in the saved run: "
                              "make it of the rebuilt model in the same way")
        regroup(optimizer, model, model, groups)


def scale_rates(optimizer: Optimizer, factors: Callable[[], dict[str, float]]) -> None:
    """Multiply settings of all groups (the rate, the decay) during each step alone, so that schedulers do not see it."""
    kept: list[dict[str, Any]] = []

    def restore(*_) -> None:
        for group, settings in zip(optimizer.param_groups, kept):
            group.update(settings)
        kept.clear()

    def scale(*_) -> None:
        restore()  # of a step that was broken off
        scaled = {name: factor for name, factor in factors().items() if factor != 1.0}
        kept.extend({name: group[name] for name in scaled if name in group} for group in optimizer.param_groups)
        for group, settings in zip(optimizer.param_groups, kept):
            group.update((name, value * scaled[name]) for name, value in settings.items())

    optimizer.register_step_pre_hook(scale)
    optimizer.register_step_post_hook(restore)


def insist_average(average: Any) -> None:
    """Refuse what is no average of a model's numbers that can be taken along."""
    if not isinstance(getattr(average, "module", None), nn.Module) and not isinstance(average, MutableMapping):
        raise GrowthError(f"a {type(average).__name__} is no average that can follow a growth: give one that has the "
                          "averaged copy as .module (torch's AveragedModel, timm's ModelEma), or a dict of tensors by name")


@torch.no_grad()
def move_average(record: GrowthRecord, average: Any, new: nn.Module, inputs: Any, entry: Entry, seed: int) -> None:
    """Let an average of the small model's numbers be one of the grown model's: it computes what it did.

    Where the average's numbers at new positions do not follow from the model's (in a LayerNorm's stream they are means of
    old ones), the average is grown by the same passes.
    """
    if isinstance(average, MutableMapping):
        moved = record.migrate_tensors(average, like=new)
        average.clear()
        average.update(moved)
        return
    old = unwrapped(average.module)
    numbers = record.migrate_tensors(old.state_dict(), like=new)
    moved = copy.deepcopy(new).requires_grad_(any(p.requires_grad for p in old.parameters()))
    moved.load_state_dict(numbers, strict=False)
    device = next(old.parameters()).device
    moved.to(device)
    if not verify(old, moved, on_device(inputs, device)).ok:
        moved = transform(old, on_device(inputs, device), entry.instances(seed)).model
    average.module = moved.train(old.training)


def on_device(inputs: Any, device: torch.device) -> Any:
    """Return inputs of any structure with their tensors on a device."""
    return tree_map(lambda value: value.to(device) if isinstance(value, Tensor) else value, inputs)


def as_inputs(model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple | dict[str, Any]:
    """Return the inputs of a call as `transform` takes them, in tensors of their own: by place, or by name if any is."""
    given = dict(inspect.signature(model.forward).bind(*args, **kwargs).arguments) if args and kwargs else args or kwargs
    return tree_map(lambda value: value.detach().clone() if isinstance(value, Tensor) else value, given)


def replace_average(average: Any, new: nn.Module) -> None:
    """Let an average keep a copy of a model that was rebuilt; its own state is loaded next."""
    if not isinstance(average, MutableMapping):
        trains = any(p.requires_grad for p in average.module.parameters())
        average.module = copy.deepcopy(new).requires_grad_(trains).train(average.module.training)
