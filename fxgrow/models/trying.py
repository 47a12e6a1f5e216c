"""A first run of a model, so that an input which does not suit it is refused where it stops."""
import torch
from torch import Tensor, nn

from fxgrow.aten import tree_map
from fxgrow.common import one_line
from fxgrow.errors import ModelError
from fxgrow.models.inputs import describe


def try_out(spec: str, module: nn.Module, inputs: tuple) -> None:
    """Run the model once, and name the layer that stops at an input which does not suit it.

    Raises:
        ModelError: the model does not take these inputs.
    """
    running: list[str] = []  # the names of the modules that have begun and not ended, the innermost last

    def ends(*_) -> None:
        running.pop()

    hooks = []
    for name, m in module.named_modules():
        hooks += [m.register_forward_pre_hook(lambda m, args, name=name: running.append(name)),
                  m.register_forward_hook(ends)]
    try:
        with torch.no_grad():
            module(*tree_map(lambda v: v.clone() if isinstance(v, Tensor) else v, inputs))
    except Exception as error:
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            raise
        layer = running[-1] if running else ""
        kind = type(module.get_submodule(layer)).__name__
        raise ModelError(f"{spec} does not run on the input {describe(inputs)}: {f'{layer} ({kind})' if layer else kind}: "
                         f"{one_line(error)}; say with --input what it takes") from error
    finally:
        for hook in hooks:
            hook.remove()
