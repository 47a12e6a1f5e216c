"""What is put around a model that trains (torch.compile, DistributedDataParallel), put around the grown one."""
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from fxgrow.errors import GrowthError
from fxgrow.graph import shards_in, unwrapped

SETTINGS = ("device_ids", "output_device", "dim", "broadcast_buffers", "process_group", "find_unused_parameters",
            "gradient_as_bucket_view", "static_graph")
GIVE = "give wrap=, a function that makes of the grown model what is trained"


def inside(model: nn.Module, wrap: Any, plain: nn.Module | None) -> nn.Module:
    """Return the model that is wrapped, or refuse what could not be wrapped again."""
    if (sharded := shards_in(model)) and (wrap is None or plain is None):
        raise GrowthError(f"{sharded.partition(': ')[0]}: give plain=, the model as it was before, and wrap=, a function "
                          "that shards a grown one")
    inner = unwrapped(model)
    if not any(inner is m for m in model.modules()) and wrap is None:
        raise GrowthError(f"parts of the model are wrapped one by one (by torch.compile, say): {GIVE}")
    if getattr(inner, "_compiled_call_impl", None) is not None and wrap is None:
        raise GrowthError(f"the model was compiled by its own .compile(), whose settings are not told: {GIVE}, or use "
                          "torch.compile(model)")
    return inner


def wrapped_as(model: nn.Module, grown: nn.Module) -> nn.Module:
    """Return the grown model with what is around the small one: torch.compile, DataParallel, DistributedDataParallel."""
    if isinstance(model, torch._dynamo.OptimizedModule):
        return torch._dynamo.OptimizedModule(wrapped_as(model._orig_mod, grown), model.dynamo_ctx)
    if isinstance(model, DistributedDataParallel):
        return DistributedDataParallel(wrapped_as(model.module, grown), **settings_of(model))
    if isinstance(model, DataParallel):
        settings = {name: vars(model)[name] for name in ("device_ids", "output_device", "dim") if vars(model).get(name)}
        return DataParallel(wrapped_as(model.module, grown), **settings)  # without a GPU it has none
    return grown


def wrap_anew(model: nn.Module) -> None:
    """Let wrappers see what the model inside has become, while they stay the same objects."""
    while isinstance(model, (torch._dynamo.OptimizedModule, DistributedDataParallel, DataParallel)):
        if isinstance(model, torch._dynamo.OptimizedModule):
            torch.compiler.reset()
            model = model._orig_mod
            continue
        if isinstance(model, DistributedDataParallel):
            training = model.training
            DistributedDataParallel.__init__(model, model.module, **settings_of(model))
            model.train(training)
        model = model.module


def settings_of(model: DistributedDataParallel) -> dict[str, Any]:
    """Return what a DistributedDataParallel was made with."""
    found = {name: getattr(model, name) for name in SETTINGS if hasattr(model, name)}
    if found.get("broadcast_buffers"):  # the default, which torch would rather not be told
        del found["broadcast_buffers"]
    return found | {"bucket_cap_mb": model.bucket_bytes_cap // 2 ** 20} if hasattr(model, "bucket_bytes_cap") else found


def become(model: nn.Module, grown: nn.Module) -> None:
    """Make a model the grown one in place, for whoever holds on to it; its hooks and what was set on it besides stay."""
    kept = {name: value for name, value in vars(model).items() if name not in vars(grown) or "_hooks" in name}
    kept = {name: value for name, value in kept.items() if name not in ("forward", "_original_forward")
            or type(grown) is type(model)}
    vars(model).clear()
    vars(model).update({**vars(grown), **kept})
    model.__class__ = type(grown)
    if "_graph" in vars(model):
        model._graph.owning_module = model  # type: ignore[union-attr, assignment]
