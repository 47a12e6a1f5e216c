"""A first run of a model, so that an input which does not suit it is refused where it stops."""
from __future__ import annotations

import torch
from torch import Tensor, nn

from fxgrow.aten import tree_map
from fxgrow.errors import ModelError
from fxgrow.models.inputs import describe


def try_out(spec: str, module: nn.Module, inputs: tuple) -> None:
    """Runs the model once, so that an input which does not suit it is told of by the layer that it stops at.

    Raises:
        ModelError: the model does not take these inputs.
    """
    path: list[str] = []
    hooks = [hook for name, m in module.named_modules() for hook in (
        m.register_forward_pre_hook(lambda m, args, name=name: path.append(name)),
        m.register_forward_hook(lambda m, args, out: path.pop() and None))]
    try:
        with torch.no_grad():
            module(*tree_map(lambda v: v.clone() if isinstance(v, Tensor) else v, inputs))
    except Exception as error:
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            raise
        layer = path[-1] if path else ""
        where = f"{layer} ({type(module.get_submodule(layer)).__name__})" if layer else type(module).__name__
        what = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{spec} does not run on the input {describe(inputs)}: {where}: {what}; say with --input what it "
                         "takes") from error
    finally:
        for hook in hooks:
            hook.remove()
