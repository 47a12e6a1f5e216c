"""Optimizers of the small model, for the grown one: growing loses nothing that training has gathered."""
import contextlib
import copy
import functools
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fxgrow.errors import GrowthError
from fxgrow.graph import trains
from fxgrow.record.entries import NamedParameters, ParameterRecord, broadcast_along, names_by_tensor
from fxgrow.record.matching import BESIDE, Entries
from fxgrow.record.tensors import spread, values_of, with_new

Located: TypeAlias = dict[str, tuple[Tensor, ParameterRecord]]
SHIFT = 8.0  # by which parameters are moved to see whether a state follows them


def migrate_optimizer(record: Entries, optimizer: Optimizer, new_params: NamedParameters,
                      old_params: NamedParameters | None = None) -> Optimizer:
    """Return an optimizer of the same class for the grown model, with the state that the small model's has.

    Args:
        optimizer: the one that trained the small model. It is left as it is.
        new_params: the grown model, or (name, parameter) pairs of it.
        old_params: the small model, or such pairs; None: the optimizer has one group with the small model's parameters in
            their order (or was given named parameters).

    Raises:
        GrowthError: parameters cannot be told apart, or the optimizer keeps a state that does not belong to single numbers.
    """
    insist_plain(optimizer)
    given = new_params if isinstance(new_params, nn.Module) else dict(new_params)
    new = _grown_parameters(record, given)
    old = _small_parameters(record, optimizer, old_params, new)
    for name, key in record.grown_side().keys(given).items():  # what is beside both models is as it was
        if key == BESIDE + name and name in new and key in old and old[key].shape == new[name][0].shape:
            new[name] = new[name][0], ParameterRecord.same(key, old[key].ndim)
    group_of = {id(p): i for i, group in enumerate(optimizer.param_groups) for p in group["params"]}
    members = _members(new, {n: group_of[id(p)] for n, p in old.items() if id(p) in group_of}, len(optimizer.param_groups))
    migrated = _same_class(optimizer, [[(n, new[n][0]) for n in names] for names in members])
    for number, names in enumerate(members):
        try_out = functools.lru_cache(functools.partial(_try_out, optimizer, number))
        for name in names:
            parameter, entry = new[name]
            source = old.get(entry.source or "")
            if source is not None and not entry.fits(parameter.shape, source.shape):
                raise GrowthError(f"{entry.source} is {list(source.shape)}, from which this growth does not make {name} of "
                                  f"{list(parameter.shape)}: give the optimizer of the model that was grown")
            if source is not None and optimizer.state.get(source):
                migrated.state[parameter] = {key: _state(name, key, value, entry, source, parameter, try_out)
                                             for key, value in optimizer.state[source].items()}
        held = [migrated.state[new[n][0]] for n in names if new[n][0] in migrated.state]
        for parameter in (new[n][0] for n in names if new[n][1].source is None):
            _begin(migrated, parameter, held, try_out)
    return migrated


def insist_plain(optimizer: Any) -> None:
    """Refuse what is no optimizer of torch's kind, or one around another."""
    inner = next((name for name, value in getattr(optimizer, "__dict__", {}).items() if isinstance(value, Optimizer)), None)
    if inner is not None:
        raise GrowthError(f"a {type(optimizer).__name__} is around another optimizer: give that one, its .{inner}, and wrap "
                          "what is made of it anew")
    if not isinstance(optimizer, Optimizer):
        raise GrowthError(f"a {type(optimizer).__name__} is no torch.optim.Optimizer: make one for the grown model yourself")


def _named(params: NamedParameters) -> Iterable[tuple[str, Any]]:
    return params.named_parameters(remove_duplicate=False) if isinstance(params, nn.Module) else params


def _grown_parameters(record: Entries, given: nn.Module | Mapping[str, Tensor]) -> Located:
    """Return the parameters of the grown model, and of what is around it, by the names that they are given with."""
    located = record.located(given)
    named = not isinstance(given, nn.Module)
    return {n: found for n, found in located.items() if named or isinstance(found[0], nn.Parameter)}


def _small_parameters(record: Entries, optimizer: Optimizer, old_params: NamedParameters | None,
                      new: Located) -> dict[str, nn.Parameter]:
    """Return the parameters of the small model by name, the optimizer's among them; `BESIDE` names those around it."""
    held = [p for group in optimizer.param_groups for p in group["params"]]
    given: NamedParameters | None = old_params
    if old_params is not None and not isinstance(old_params, nn.Module):
        given = dict(old_params)
    elif old_params is None and all("param_names" in group for group in optimizer.param_groups):
        given = {n: p for group in optimizer.param_groups for n, p in zip(group["param_names"], group["params"])}
    if given is None:
        return _with_aliases(record, _in_order(record, held, len(optimizer.param_groups), new))
    old = dict(given if not isinstance(given, nn.Module) else _named(given))
    if {id(p) for p in held} - {id(p) for p in old.values()}:
        raise GrowthError("the optimizer has parameters that old_params has not: give the model that it trained")
    keys = record.small_side().keys(given)
    trained = {id(p) for p in held}
    beside = [n for n, p in old.items() if keys[n] == BESIDE + n and id(p) in trained]
    other = next((n for n in beside if n in record.parameters), None)
    if other is not None:
        raise GrowthError(f"the optimizer trains {other}, which the small model of the growth record has not: where that "
                          "was added by an earlier growth, use grown.step, the record of the last one alone")
    return _with_aliases(record, {keys[n]: p for n, p in old.items()})


def _in_order(record: Entries, held: list[nn.Parameter], groups: int, new: Located) -> dict[str, nn.Parameter]:
    """Return parameters by the names that the small model has in its order, where all shapes are right."""
    if "" in record.origin:
        names, shapes = zip(*((n, p.shape) for n, p in record.origin[""].named_parameters())) or ((), ())
        fits = [p.shape for p in held] == list(shapes)
    else:  # of a model grown in parts: what its own order is now, unless anything came, went or moved
        names = tuple(new)
        fits = not record.removed and len(held) == len(names) and all(
            entry.source == name and entry.fits(t.shape, p.shape) for (name, (t, entry)), p in zip(new.items(), held))
    if groups > 1 or not fits:
        raise GrowthError(f"the optimizer's {len(held)} parameters do not say which they are, and are not one group of "
                          f"the small model's {len(names)} in their order; pass old_params: the small model, or (name, "
                          "parameter) pairs of it")
    return dict(zip(names, held))


def _with_aliases(record: Entries, old: dict[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """Add the other names of tied parameters."""
    for names in names_by_tensor(record.small().items()).values():
        held = next((old[n] for n in names if n in old), None)
        old |= {} if held is None else {n: old.get(n, held) for n in names}
    return old


def _members(new: Located, group_of: Mapping[str, int], count: int) -> list[list[str]]:
    """Return the names of each group: a parameter goes where its source was, a new one where its nearest neighbour is.

    The nearest has as many axes (norms and biases are often apart), shares most of the path, then has the same last name,
    then stands closest. What was in no group stays in none, and what trains but in no group is for another optimizer.
    """
    order = {name: i for i, name in enumerate(new)}
    chosen = {name: group_of.get(entry.source) for name, (tensor, entry) in new.items()
              if entry.source is not None and (entry.source in group_of or trains(tensor))}
    if not any(group is not None for group in chosen.values()):
        raise GrowthError("the optimizer holds no parameter that the grown model has: give its small model as old_params")
    placed = dict(chosen)

    def nearness(name: str, other: str) -> tuple:
        mine, theirs = name.split("."), other.split(".")
        common = next((i for i, (a, b) in enumerate(zip(mine, theirs)) if a != b), min(len(mine), len(theirs)))
        return (new[name][0].ndim == new[other][0].ndim, common, mine[-1] == theirs[-1], -abs(order[name] - order[other]))

    for name, (tensor, entry) in new.items():
        if entry.source is None and trains(tensor):
            placed[name] = chosen[max(chosen, key=lambda other: nearness(name, other))]
    return [[name for name in new if placed.get(name) == i] for i in range(count)]


def _same_class(optimizer: Optimizer, members: list[list[tuple[str, Tensor]]]) -> Optimizer:
    """Return a new optimizer of the same class and settings over other parameters (one list a group)."""
    groups: list[dict[str, Any]] = []
    memo: dict[int, Any] = {}  # a rate that is one tensor in several groups is one again
    for group, named in zip(optimizer.param_groups, members):
        settings = {k: copy.deepcopy(v, memo) for k, v in group.items() if k not in ("params", "param_names")}
        groups.append({**settings, "params": named if "param_names" in group else [p for _, p in named]})
    takes = inspect.signature(type(optimizer).__init__).parameters
    try:
        return type(optimizer)(groups, **{k: copy.deepcopy(v, memo) for k, v in optimizer.defaults.items() if k in takes})
    except (TypeError, ValueError, RuntimeError) as error:
        raise GrowthError(f"a {type(optimizer).__name__} cannot be made from its own settings: {error}; make one for the "
                          "grown model yourself, without its old state") from error


class _Kind:
    """The kind of a state, found by trying.

    follows: it is an average of the parameter's own values, as all of it moves by what the parameter is moved by.
    power: that of the parameter's scale. If W' = s W computes the same, its gradient is g' = g / s: a momentum is s^-1 of
    the old one (power -1), a mean of squares s^-2. signed: it is no magnitude.
    """

    def __init__(self, plain: Tensor, doubled: Tensor, moved: Tensor):
        self.follows = bool(((moved - plain) / SHIFT - 1).abs().max() < 0.25)
        sizes = [float(t.double().abs().sum()) for t in (plain, doubled)]
        self.power = round(math.log2(sizes[1] / sizes[0])) if all(math.isfinite(s) and s > 0 for s in sizes) else 0
        self.signed = bool((plain < 0).any()) or not sizes[0]


def _try_out(optimizer: Optimizer, number: int, ndim: int, device: torch.device) -> dict[str, _Kind]:
    """Find the kind of each state by running a new optimizer of the class for three steps on a few numbers.

    It runs again with the numbers doubled and the gradients halved (as a rescaled parameter has them), and with other
    numbers. There is no weight decay, and gradients are large, so that epsilons do not matter.
    """
    shape = [4] * ndim
    count = math.prod(shape)
    start = torch.linspace(1, 2, count, dtype=torch.float64, device=device).view(shape)
    slope = torch.where(torch.arange(count, device=device) % 2 == 0, 900.0, -1100.0).view(shape) * start
    seen: list[dict[str, Tensor]] = []
    for scale, shift in ((1.0, 0.0), (2.0, 0.0), (1.0, SHIFT)):
        p = nn.Parameter(start * scale + shift)
        trial = _same_class(optimizer, [[("p", p)] if i == number else [] for i in range(len(optimizer.param_groups))])
        trial.param_groups[number].update((k, 0.0) for k in ("weight_decay", "wd") if k in trial.param_groups[number])
        try:
            for size in (1.0, 0.7, 0.9):
                p.data.copy_(start * scale + shift)
                p.grad = slope * size / scale
                _step(trial, p)
        except Exception as error:
            raise GrowthError(f"a step of {type(optimizer).__name__} could not be tried out: {error}; make an optimizer for "
                              "the grown model yourself, without the old state") from error
        seen.append({k: v for k, v in trial.state[p].items() if isinstance(v, Tensor) and v.shape == p.shape})
    return {key: _Kind(*(run[key] for run in seen)) for key in seen[0] if all(key in run for run in seen)}


def _step(optimizer: Optimizer, p: nn.Parameter) -> None:
    """Take a step by a parameter's gradient, a sparse one where the optimizer takes no other."""
    try:
        optimizer.step()
    except RuntimeError:
        p.grad = p.grad.to_sparse()  # type: ignore[union-attr]
        optimizer.step()


def _state(name: str, key: str, value: Any, entry: ParameterRecord, source: Tensor, grown: Tensor,
           try_out: Callable[[int, torch.device], dict[str, _Kind]]) -> Any:
    """Return one entry of a parameter's state for the grown parameter."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return copy.deepcopy(value)
    kind = None
    if isinstance(value, Tensor):
        if value.numel() == 1 and value.shape != source.shape:  # a count of steps
            return copy.deepcopy(value)
        if entry.unchanged and value.numel() <= source.numel():
            return value.detach().clone()
        if value.shape == source.shape:
            kind = try_out(source.ndim, source.device).get(key)
    if kind is None:
        raise GrowthError(f"the optimizer's state {key!r} of {entry.source} does not have one number for each of the "
                          f"parameter's, so it cannot follow the growth of {name}: start a new optimizer for the grown one")
    if kind.follows:
        return values_of(name, entry, value.detach(), grown)
    return _grown_state(name, value.detach(), entry, kind)


def _grown_state(name: str, value: Tensor, entry: ParameterRecord, kind: _Kind) -> Tensor:
    """Return a state: at old positions as it was, at copied ones as their gradients will be, at new ones the start.

    - W' = s W: s^power of it.
    - A shared-out column W = sum of W'_j over its copies has dL/dW'_j = dL/dW: as it is, at each copy.
    - The rows of c copies of one position get 1/c of the old gradient each: c^power of it.
    - New numbers: zero for a signed state (no momentum yet), the mean of the old ones for a magnitude, since with zero
      there and a large count of steps Adam and RMSprop would take steps many times too long.
    """
    whole = spread(name, entry, value)
    for dim, index in enumerate(entry.index):
        if index is not None and entry.shares[dim] is None and kind.power < 0:
            copies = torch.bincount(index[index >= 0], minlength=1)[index.clamp_min(0)]
            whole = whole * broadcast_along(copies.to(whole).pow(kind.power), dim, whole.ndim)
    whole = whole * entry.scale ** kind.power if entry.scale != 1.0 else whole
    return with_new(whole, entry, 0.0 if kind.signed else with_new(whole, entry, math.nan).nanmean())


def _begin(migrated: Optimizer, parameter: Tensor, others: list[dict[str, Any]],
           try_out: Callable[[int, torch.device], dict[str, _Kind]]) -> None:
    """Give a tensor that is all new no momentum, of an optimizer that keeps nothing else: fused steps want all or none."""
    plain = [state for state in others if state and all(isinstance(v, Tensor) and v.ndim for v in state.values())]
    if plain:
        with contextlib.suppress(GrowthError):  # it cannot be tried out, and starts the tensor by itself
            kinds = try_out(max(parameter.ndim, 1), parameter.device)  # of one number no sign is told
            if kinds.keys() == plain[0].keys() and all(kind.signed and not kind.follows for kind in kinds.values()):
                migrated.state[parameter] = {key: torch.zeros_like(parameter) for key in kinds}
