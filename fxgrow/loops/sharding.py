"""Models that are sharded over processes (FSDP2, tensor parallel): whole for a growth, and what trains them in pieces again.

What lives here: numbers, and states of optimizers. What does not: how a model is sharded, which is the loop's to say. Every
process calls these together.
"""
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.fx import GraphModule
from torch.optim import Optimizer

from fxgrow.errors import GrowthError
from fxgrow.graph import clone_structure


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor that each process has a piece of, gathered; any other one is copied."""
    gather = getattr(tensor, "full_tensor", None)
    return (tensor if gather is None else gather()).detach().clone()


def gathered(sharded: nn.Module, plain: nn.Module) -> nn.Module:
    """Return a sharded model as it was before, with its numbers; `plain` says how it was, whose own do not count.

    Raises:
        GrowthError: it was another one.
    """
    there, wanted = _tensors(sharded), _tensors(plain)
    other = next((name for name in sorted(wanted.keys() | there.keys())
                  if name not in wanted or name not in there or wanted[name].shape != there[name].shape), None)
    if other is not None:
        raise GrowthError(f"plain= is not the model as it was before it was sharded: {other} is not in both, or has another "
                          "shape")
    numbers = {name: whole(tensor) for name, tensor in there.items()}
    by_tensor = {id(tensor): numbers[name] for name, tensor in wanted.items()}
    model = clone_structure(plain, lambda tensor: by_tensor[id(tensor)]).train(sharded.training)
    for part in model.modules():
        if isinstance(part, GraphModule):
            part.recompile()
    return model


def skeleton_of(model: nn.Module) -> nn.Module:
    """Return a copy without the numbers that a state_dict holds, which `gathered` needs none of."""
    held = {id(tensor) for tensor in model.state_dict(keep_vars=True).values()}
    return clone_structure(model, lambda tensor: tensor.detach().to("meta") if id(tensor) in held else tensor)


def exchange(optimizer: Optimizer, old: Mapping[str, Tensor], new: nn.Module, convert: Callable[[Tensor, Tensor], Tensor]
             ) -> None:
    """Let an optimizer train parameters of a model instead of those of the same names; convert: (state, its parameter)."""
    named = dict(new.named_parameters(remove_duplicate=False))
    instead = {id(tensor): named[name] for name, tensor in old.items()}
    for group in optimizer.param_groups:
        for i, parameter in enumerate(group["params"]):
            other = group["params"][i] = instead.get(id(parameter), parameter)
            if other is not parameter and parameter in optimizer.state:
                optimizer.state[other] = {key: convert(value, other) if isinstance(value, Tensor) else value
                                          for key, value in optimizer.state.pop(parameter).items()}


def gather_state(value: Tensor, parameter: Tensor) -> Tensor:
    """Return a state of a sharded parameter as a whole."""
    return whole(value)


def shard_state(value: Tensor, parameter: Tensor) -> Tensor:
    """Return this process's piece of a state, cut as its parameter is."""
    if not hasattr(parameter, "full_tensor") or value.shape != parameter.shape:
        return value
    from torch.distributed.tensor import distribute_tensor
    cut: Any = parameter
    return distribute_tensor(value, cut.device_mesh, cut.placements)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))}
