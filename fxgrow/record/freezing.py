"""Learning rates of old and new numbers: none (`Frozen`), factors of single numbers, or parameter groups."""
import contextlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from fxgrow.errors import GrowthError
from fxgrow.graph import TRANSIENT, tensors_of
from fxgrow.record.entries import Entries, new_numbers


class Handle(contextlib.ExitStack):
    """Something that is in force until `remove()`, or to the end of a `with` block."""
    remove = contextlib.ExitStack.close


class Frozen(Handle):
    """Old numbers of a grown model, kept as they were when this was made.

    Their gradients are zero, so that no momentum builds up and clipping by norm sees only new numbers; a parameter without
    a new number needs no gradient at all. Weight decay and momentum from before would still move them: they are put back
    after every step of a torch optimizer, and before and after every forward of the model (another kind of optimizer
    has stepped, running statistics have moved). Copies of the model are not frozen.
    """

    def __init__(self, record: Entries, model: nn.Module):
        super().__init__()
        self._kept: list[tuple[Tensor, Tensor, Tensor | None]] = []  # tensor, its numbers, where they may change (None: not)
        for tensor, entry in record.located(tensors_of(model)).values():
            if entry.source is None:
                continue
            mask = new_numbers(entry, tensor)
            new = mask if mask.any() else None
            self._kept.append((tensor, tensor.detach().clone(), new))
            if isinstance(tensor, nn.Parameter) and tensor.requires_grad:
                self._stop_gradient(tensor, new)
        self._hook_in(model)
        self.callback(self.restore)

    def _stop_gradient(self, tensor: nn.Parameter, new: Tensor | None) -> None:
        if new is None:
            tensor.requires_grad_(False)
            tensor.grad = None
            self.callback(tensor.requires_grad_, True)
            return
        if tensor.grad is not None:
            tensor.grad = tensor.grad.masked_fill(~new, 0)
        self.callback(tensor.register_hook(lambda grad: grad.masked_fill(~new.to(grad.device), 0)).remove)

    def _hook_in(self, model: nn.Module) -> None:
        def around(module: nn.Module, *_) -> None:
            if module is model:  # not a copy of it
                self.restore()

        def stepped(optimizer: Optimizer, *_) -> None:
            if any(id(p) in ids for group in optimizer.param_groups for p in group["params"]):
                self.restore()

        ids = {id(tensor) for tensor, *_ in self._kept}
        setattr(around, TRANSIENT, True)
        for handle in (model.register_forward_pre_hook(around), model.register_forward_hook(around),
                       register_optimizer_step_post_hook(stepped)):
            self.callback(handle.remove)

    def restore(self) -> None:
        """Put the old numbers back. Done by itself; call it where numbers were changed by hand."""
        with torch.no_grad():
            for tensor, numbers, new in self._kept:
                data = tensor.data  # autograd sees no change: between two forwards and a backward there is none
                numbers = numbers.to(data.device, data.dtype)
                data.copy_(numbers if new is None else torch.where(new.to(data.device), data, numbers))


def freeze_old(record: Entries, model: nn.Module) -> Frozen:
    """Keep old numbers of the grown `model` and its running statistics until `.remove()` or the end of a `with` block."""
    return Frozen(record, model)


def lr_scales(record: Entries, model: nn.Module, *, new: float = 1.0, old: float = 1.0) -> dict[str, float | Tensor]:
    """Return how much faster numbers of the grown `model` are to learn; `fxgrow.scale_updates` makes an optimizer follow.

    For each parameter a factor, or a tensor of its shape where it holds old and new numbers.
    """
    scales: dict[str, float | Tensor] = {}
    for name, (tensor, entry) in record.located(dict(model.named_parameters(remove_duplicate=False))).items():
        mask = new_numbers(entry, tensor)
        if not mask.any():
            scales[name] = old
        else:
            scales[name] = new if mask.all() else torch.where(mask, new, old).to(tensor.dtype)
    return scales


def scale_updates(optimizer: Optimizer, model: nn.Module, scales: Mapping[str, float | Tensor]) -> Handle:
    """Scale the moves that each step of any torch optimizer makes of the numbers of `model`.

    A number becomes `p + s * (step(p) - p)`, momentum, weight decay and adaptive rates included; numbers with a factor of
    one move exactly as before. It ends with `.remove()` of what this returns, or with a `with` block over that.

    Args:
        optimizer: over parameters of `model`.
        scales: by parameter, a factor or a tensor of its shape; `record.lr_scales(model, new=0.1)` makes them.

    Raises:
        GrowthError: a name is not a parameter of the model, or its factors have another shape.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    chosen: list[tuple[nn.Parameter, float | Tensor]] = []
    for name, scale in scales.items():
        shape = scale.shape if isinstance(scale, Tensor) and scale.ndim else None
        if name not in parameters or shape not in (None, parameters[name].shape):
            raise GrowthError(f"{name} is not a parameter of the model, or has another shape than its factors")
        if isinstance(scale, Tensor) or scale != 1.0:
            chosen.append((parameters[name], scale))
    before: list[tuple[nn.Parameter, Tensor, float | Tensor]] = []

    def remember(optimizer: Optimizer, *_) -> None:
        ours = {id(p) for group in optimizer.param_groups for p in group["params"]}
        before[:] = [(p, p.detach().clone(), scale) for p, scale in chosen if id(p) in ours]

    def scaled(*_) -> None:
        with torch.no_grad():
            for p, old, scale in before:
                weight = scale.to(p.device, p.dtype) if isinstance(scale, Tensor) else scale
                p.copy_(torch.lerp(old, p, weight))  # type: ignore[arg-type]
        before.clear()

    handle = Handle()
    for hook in (optimizer.register_step_pre_hook(remember), optimizer.register_step_post_hook(scaled)):
        handle.callback(hook.remove)
    return handle


def parameter_groups(record: Entries, model: nn.Module, lr: float, *, new: float = 1.0) -> list[dict]:
    """Return two groups for any optimizer: parameters with old numbers at `lr`, those that are new at `lr * new`."""
    located = record.located(dict(model.named_parameters(remove_duplicate=False))).values()
    trained = [(p, entry.source is None) for p, entry in located if p.requires_grad]
    return [{"params": [p for p, is_new in trained if not is_new], "lr": lr},
            {"params": [p for p, is_new in trained if is_new], "lr": lr * new}]
