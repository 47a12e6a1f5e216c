"""Types under autocast, which leaves meta tensors alone: asked of the same call on fake tensors of the user's device."""
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fxgrow.aten import tree_leaves, tree_map


def cast(out: Any, function: Callable, args: tuple, kwargs: dict, device: str) -> Any:
    """Return a result on meta tensors in the types that a device gives it under autocast, as it is switched on around here.

    Args:
        out: what `function` (or a module) has given for `args` and `kwargs`, on meta tensors.
    """
    with torch._subclasses.FakeTensorMode(), torch._C.DisableTorchFunction():
        fakes: dict[int, Tensor] = {}

        def fake(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return torch.device(device) if isinstance(value, torch.device) else value
            if id(value) not in fakes:
                fakes[id(value)] = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=device)
            return fakes[id(value)]

        args, kwargs = tree_map(fake, (args, kwargs))
        if isinstance(function, nn.Module):
            held = {**dict(function.named_parameters()), **dict(function.named_buffers())}
            found = torch.func.functional_call(function, {n: fake(t) for n, t in held.items()}, args, kwargs)
        else:
            found = function(*args, **kwargs)
    types = iter([v.dtype if isinstance(v, Tensor) else None for v in tree_leaves(found)])
    return tree_map(lambda v: _of_type(v, next(types)), out)


def _of_type(value: Any, dtype: torch.dtype | None) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.dtype is not dtype else value
