"""Learning rates of old and new numbers: none (`Frozen`), factors of single numbers, or parameter groups."""
import contextlib
import copy
import functools
from collections.abc import Callable, Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from fxgrow.errors import GrowthError
from fxgrow.graph import TRANSIENT
from fxgrow.record.entries import new_numbers
from fxgrow.record.matching import Entries
from fxgrow.record.optimizers import insist_plain


class Handle(contextlib.ExitStack):
    """Something that is in force until `remove()`, or to the end of a `with` block."""
    remove = contextlib.ExitStack.close


class _Around:
    """A hook of one model, which does nothing on copies of it."""

    def __init__(self, model: nn.Module, restore: Callable[[], None]):
        self.model, self.restore = model, torch.compiler.disable(restore)  # compiled code would lose sight of .data
        setattr(self, TRANSIENT, True)

    def __call__(self, module: nn.Module, *_) -> None:
        if module is self.model:
            self.restore()

    def __deepcopy__(self, memo: dict) -> "_Around":
        return self

    def __reduce__(self) -> tuple:
        return getattr, (contextlib.nullcontext(), "__exit__")  # in a pickle: takes anything, gives nothing, needs no fxgrow


class Frozen(Handle):
    """Old numbers of a grown model, kept as they were when this was made.

    Their gradients are zero, so that no momentum builds up and clipping by norm sees only new numbers; a parameter without
    a new number needs no gradient at all (but in a process group, where others wait for it). Weight decay and momentum from
    before would still move them: they are put back after every step of a torch optimizer, and before and after every forward
    of the model (another kind of optimizer has stepped, running statistics have moved). Copies of the model are not frozen.
    """

    def __init__(self, record: Entries, model: nn.Module):
        super().__init__()
        self._kept: list[tuple[Tensor, Tensor, Tensor | None]] = []  # tensor, its numbers, where they may change (None: not)
        for tensor, entry in record.located(model).values():
            if entry.source is not None:
                mask = new_numbers(entry, tensor)
                self._kept.append((tensor, tensor.detach().clone(), mask if mask.any() else None))
        for tensor, _, new in self._kept:
            if isinstance(tensor, nn.Parameter) and tensor.requires_grad:
                self._stop_gradient(tensor, new)
        self._hook_in(_outside_compiled(model, record.grown_side().prefix_in(model)))
        self.callback(self.restore)

    def _stop_gradient(self, tensor: nn.Parameter, new: Tensor | None) -> None:
        if new is None and not (dist.is_available() and dist.is_initialized()):
            tensor.requires_grad_(False)
            tensor.grad = None
            self.callback(_hold(tensor))
            return
        mask = torch.zeros_like(tensor, dtype=torch.bool) if new is None else new
        if tensor.grad is not None:
            tensor.grad = _where(mask, tensor.grad)
        self.callback(tensor.register_hook(functools.partial(_where, mask)).remove)

    def _hook_in(self, model: nn.Module) -> None:
        def stepped(optimizer: Optimizer, *_) -> None:
            if any(id(p) in ids for group in optimizer.param_groups for p in group["params"]):
                self.restore()

        ids, around = {id(tensor) for tensor, *_ in self._kept}, _Around(model, self.restore)
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


def _where(mask: Tensor, grad: Tensor) -> Tensor:
    """Return a gradient, sparse ones (of embeddings) included, that is zero where the mask is false."""
    mask = mask.to(grad.device)
    if not grad.is_sparse:
        return grad.masked_fill(~mask, 0)
    indices, values = grad.coalesce().indices(), grad.coalesce().values()
    return torch.sparse_coo_tensor(indices, values.masked_fill(~mask[tuple(indices)], 0), grad.shape, is_coalesced=True)


def _outside_compiled(model: nn.Module, prefix: str) -> nn.Module:
    """Return the module at a prefix, or what `torch.compile` put around it: hooks inside may be no part of compiled code."""
    for name in filter(None, prefix.split(".")):
        if not hasattr(model, "_orig_mod"):
            model = model.get_submodule(name)
    return model


def _hold(tensor: nn.Parameter) -> Callable[[], None]:
    """Let a parameter do without gradients until the function that is returned is called; copies and files do not know."""
    def trained() -> nn.Parameter:
        return nn.Parameter(tensor.detach())

    held = {"__deepcopy__": lambda memo: copy.deepcopy(trained(), memo),
            "__reduce_ex__": lambda protocol: trained().__reduce_ex__(protocol), TRANSIENT: True}
    vars(tensor).update(held)
    tensor.requires_grad_(False)

    def release() -> None:
        for name in held:
            vars(tensor).pop(name, None)
        tensor.requires_grad_(True)

    return release


def freeze_old(record: Entries, model: nn.Module) -> Frozen:
    """Keep old numbers of the grown `model` and its running statistics until `.remove()` or the end of a `with` block."""
    return Frozen(record, model)


def lr_scales(record: Entries, model: nn.Module, *, new: float = 1.0, old: float = 1.0) -> dict[str, float | Tensor]:
    """Return how much faster numbers of the grown `model` are to learn; `fxgrow.scale_updates` makes an optimizer follow.

    For each parameter a factor, or a tensor of its shape where it holds old and new numbers.
    """
    scales: dict[str, float | Tensor] = {}
    for name, (tensor, entry) in record.located(model).items():
        if not isinstance(tensor, nn.Parameter):
            continue
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
        model: the one that the scales are of, or what is wrapped around it.
        scales: by parameter, a factor or a tensor of its shape; `record.lr_scales(model, new=0.1)` makes them.

    Raises:
        GrowthError: a name is not a parameter of the model, its factors have another shape, or the optimizer is none of
            torch's kind.
    """
    insist_plain(optimizer)
    chosen = [(p, scale) for p, scale in _with_scales(model, scales) if isinstance(scale, Tensor) or scale != 1.0]
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


def _with_scales(model: nn.Module, scales: Mapping[str, float | Tensor]) -> list[tuple[nn.Parameter, float | Tensor]]:
    """Return the parameters that scales are of, each with its own."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    first = next(iter(scales), "")
    prefixes = [n.removesuffix(first) for n in parameters if n == first or n.endswith(f".{first}")]
    named = {p: [(n, parameters.get(p + n), scale) for n, scale in scales.items()] for p in prefixes or [""]}
    wrong = {prefix: next((n for n, p, scale in found if p is None or not _fits(p, scale)), None)
             for prefix, found in named.items()}
    fitting = [prefix for prefix, name in wrong.items() if name is None]
    if not fitting or (len(fitting) > 1 and "" not in fitting):
        name = next(iter(wrong.values())) or first
        raise GrowthError(f"{name} is not a parameter of the model, or has another shape than its factors"
                          f"{' (it is there several times)' if fitting else ''}")
    return [(p, scale) for _, p, scale in named["" if "" in fitting else fitting[0]]]  # type: ignore[misc]


def _fits(parameter: nn.Parameter, scale: float | Tensor) -> bool:
    return not isinstance(scale, Tensor) or not scale.ndim or scale.shape == parameter.shape


def parameter_groups(record: Entries, model: nn.Module, lr: float, *, new: float = 1.0) -> list[dict]:
    """Return two groups for any optimizer: parameters with old numbers at `lr`, those that are new at `lr * new`."""
    located = record.located(model).values()
    trained = [(p, entry.source is None) for p, entry in located if isinstance(p, nn.Parameter) and p.requires_grad]
    return [{"params": [p for p, is_new in trained if not is_new], "lr": lr},
            {"params": [p for p, is_new in trained if is_new], "lr": lr * new}]
