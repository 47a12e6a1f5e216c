"""What trains a model, taken over to the grown one in place: whoever holds the optimizer goes on with it.

What lives here: optimizers, their groups, factors on their rates, inputs. What does not: single states (record), averages.
"""
import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fxgrow.aten import tree_map
from fxgrow.errors import GrowthError
from fxgrow.record import GrowthRecord, insist_plain

BESIDE = "beside."  # in front of the number of a parameter that an optimizer has and the model has not


def innermost(optimizer: Any) -> Optimizer:
    """Return the optimizer that a wrapper hands its groups on from (accelerate's, say), or the optimizer itself."""
    inner = getattr(optimizer, "optimizer", None)
    if isinstance(inner, Optimizer) and inner.param_groups is optimizer.param_groups:
        return innermost(inner)
    insist_plain(optimizer)
    return optimizer


def named_in(optimizer: Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """Return a model's parameters by name, and behind them those of an optimizer that are not the model's."""
    named: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    known = {id(p) for p in named.values()}
    others = [p for group in optimizer.param_groups for p in group["params"] if id(p) not in known]
    return named | {f"{BESIDE}{i}": p for i, p in enumerate(others)}


def moved_optimizer(record: GrowthRecord, optimizer: Optimizer, new: nn.Module, old: nn.Module, reset: bool = False
                    ) -> Optimizer:
    """Return an optimizer of the grown model, with the state that the small one's has, or none where it is `reset`.

    Raises:
        GrowthError: its state cannot follow the growth; says why.
    """
    before = named_in(optimizer, old)
    beside = {name: p for name, p in before.items() if name.startswith(BESIDE)}
    with _without_state(optimizer) if reset else contextlib.nullcontext():
        try:
            return record.migrate_optimizer(optimizer, [*new.named_parameters(remove_duplicate=False), *beside.items()],
                                            before)
        except GrowthError as why:
            raise GrowthError(f"{why}{'' if reset else ', which `optimizer=reset` in the entry does here'}") from why


@contextlib.contextmanager
def _without_state(optimizer: Optimizer) -> Iterator[None]:
    kept = {p: optimizer.state.pop(p) for p in list(optimizer.state)}
    try:
        yield
    finally:
        optimizer.state.update(kept)


def take_over(optimizer: Optimizer, moved: Optimizer) -> None:
    """Let an optimizer train what `moved` does, in the same groups and from the same state."""
    for group, grown in zip(optimizer.param_groups, moved.param_groups):
        group["params"][:] = grown["params"]  # the same list, which LBFGS holds on to
        group.update((key, grown[key]) for key in ("param_names",) if key in grown)
    _forget_sizes(optimizer)
    optimizer.state.clear()
    optimizer.state.update(moved.state)


def _forget_sizes(optimizer: Optimizer) -> None:
    """Let LBFGS count its numbers anew."""
    if getattr(optimizer, "_numel_cache", None) is not None:
        optimizer._numel_cache = None  # type: ignore[attr-defined]


def insist_groups_alone(optimizer: Optimizer) -> None:
    """Refuse an optimizer that keeps parameters beside its groups and states, where they would stay."""
    ids = {id(p) for group in optimizer.param_groups for p in group["params"]}
    known = {id(group["params"]) for group in optimizer.param_groups} | {id(optimizer.param_groups), id(optimizer.state)}

    def holds(value: Any) -> bool:
        if isinstance(value, (list, tuple, set, dict)) and id(value) not in known:
            return any(holds(one) for one in ([*value, *value.values()] if isinstance(value, dict) else value))
        return id(value) in ids

    name = next((name for name, value in vars(optimizer).items() if holds(value)), None)
    if name is not None:
        raise GrowthError(f"a {type(optimizer).__name__} keeps parameters in .{name} too, which would stay as they "
                          "are: grow by fxgrow.transform, and make the optimizer anew")


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
        group["params"][:] = [named[name] for name in names]
        if "param_names" in group:
            group["param_names"] = list(names)
    _forget_sizes(optimizer)
    optimizer.state.clear()


def insist_groups(optimizer: Optimizer, model: nn.Module, groups: Sequence[Sequence[str]]) -> None:
    """Bring the parameters of an optimizer into these groups; refuse one that holds states for others."""
    if names_of(optimizer, model) != [list(names) for names in groups]:
        if optimizer.state:
            raise GrowthError("the optimizer's parameters are in other groups, or in another order, than in the saved run: "
                              "make it of the rebuilt model in the same way")
        regroup(optimizer, model, model, groups)


def scale_rates(optimizer: Optimizer, factors: Callable[[], dict[str, float]], trained: Callable[[], nn.Module]) -> None:
    """Multiply settings of a model's groups (rate, decay) during each step alone, so that schedulers do not see it."""
    kept: list[tuple[dict[str, Any], dict[str, Any]]] = []

    def restore(*_) -> None:
        for group, settings in kept:
            group.update(settings)
        kept.clear()

    def scale(*_) -> None:
        restore()  # of a step that was broken off
        scaled = {name: factor for name, factor in factors().items() if factor != 1.0}
        own = {id(p) for p in trained().parameters()} if scaled else set()
        kept.extend((group, {name: group[name] for name in scaled if name in group}) for group in optimizer.param_groups
                    if any(id(p) in own for p in group["params"]))
        for group, settings in kept:
            group.update((name, value * scaled[name]) for name, value in settings.items())

    optimizer.register_step_pre_hook(scale)
    mine = optimizer.register_step_post_hook(restore)
    hooks: Any = mine.hooks_dict_ref()
    hooks.move_to_end(mine.id, last=False)  # what was scaled last, for another model, is restored first


def parts_of(optimizer: Optimizer) -> Callable[[], None]:
    """Return what gives an optimizer the parameters and states back that it has now."""
    params, state = [list(group["params"]) for group in optimizer.param_groups], dict(optimizer.state)

    def give_back() -> None:
        for group, kept in zip(optimizer.param_groups, params):
            group["params"][:] = kept
        optimizer.state.clear()
        optimizer.state.update(state)

    return give_back


def on_device(inputs: Any, device: torch.device) -> Any:
    """Return inputs of any structure with their tensors on a device."""
    return tree_map(lambda value: value.to(device) if isinstance(value, Tensor) else value, inputs)


class FirstCall:
    """The inputs of a model, or those of its first call. The hook that waits for them holds on to nothing but this."""

    def __init__(self, inputs: Any):
        self.inputs = inputs
        self._hook: Any = None

    def watch(self, model: nn.Module) -> None:
        """Wait for the first call of a model, where inputs are not known yet, and of no other one."""
        self.unwatch()
        if self.inputs is None:
            self._hook = model.register_forward_pre_hook(self._remember, with_kwargs=True)

    def unwatch(self) -> None:
        """Wait no longer."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def _remember(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        if self.inputs is None:
            self.inputs = as_inputs(module, args, kwargs)


def as_inputs(model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple | dict[str, Any]:
    """Return the inputs of a call as `transform` takes them, in tensors of their own: by place, or by name if any is."""
    given = dict(inspect.signature(model.forward).bind(*args, **kwargs).arguments) if args and kwargs else args or kwargs
    return tree_map(lambda value: value.detach().clone() if isinstance(value, Tensor) else value, given)
