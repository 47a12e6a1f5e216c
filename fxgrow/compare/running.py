"""Runs of a model on a copy of it, under one seed: what it gives, and where gradients go.

What lives here: one model. What does not: which inputs it gets, and how two models compare (verification.py).
"""
import contextlib
import copy
import functools
import traceback
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fxgrow.aten import TorchDispatchMode, tree_leaves, tree_map
from fxgrow.errors import CaptureError
from fxgrow.graph import running_copy, shards_in, without_fast_path
from fxgrow.tracing import Inputs, seeded

Mode = Literal["eval", "train"]
Autograd = Literal["off", "on", "compared"]  # "compared": on, and floating inputs get gradients


def copy_of(model: nn.Module) -> nn.Module:
    """Return a copy of a model to run, which shares with it what no copy can be made of (locks)."""
    if sharded := shards_in(model):
        raise CaptureError(sharded)
    shared: dict[int, Any] = {}
    while True:
        try:
            return running_copy(model, shared)
        except Exception as error:
            frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__) if frame.f_code is copy.deepcopy.__code__]
            refuses = frames[-1].f_locals["x"] if frames else model
            if refuses is model or id(refuses) in shared:
                raise
            shared[id(refuses)] = refuses.detach().clone() if isinstance(refuses, Tensor) else refuses


def rounded(model: nn.Module, seed: int, dtype: torch.dtype | None = None) -> nn.Module:
    """Return a copy of a model whose parameters differ by about what rounding does, of their type or of a less exact one."""
    new, generator = copy_of(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in new.parameters():
            if p.is_floating_point():
                signs = torch.randint(2, p.shape, generator=generator).mul(2).sub(1).to(p)
                p += p * signs * (4 * max(torch.finfo(t).eps for t in (p.dtype, dtype or p.dtype)))
    return new


@contextlib.contextmanager
def _unshortened() -> Iterator[None]:
    """Let convolutions on a GPU compute with all digits of float32 inside, of which they drop more than half by default."""
    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = allowed


class Narrowing(TorchDispatchMode):
    """Note the type that floating numbers are rounded to inside: the least exact, or None where none is rounded."""

    def __init__(self):
        super().__init__()
        self.dtype: torch.dtype | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        """Run one op."""
        out = func(*args, **(kwargs or {}))
        eps = [torch.finfo(t.dtype).eps for t in tree_leaves(args) if isinstance(t, Tensor) and t.is_floating_point()]
        if isinstance(out, Tensor) and out.is_floating_point() and eps and torch.finfo(out.dtype).eps > min(eps):
            self.dtype = max(filter(None, (self.dtype, out.dtype)), key=lambda t: torch.finfo(t).eps)
        return out


def takes_gradient(tensor: Tensor) -> bool:
    """Tell whether a tensor is of a type that gradients are defined for."""
    return tensor.is_floating_point() or tensor.is_complex()


class Twin:
    """A copy of a model to call: nothing of the model itself changes.

    heard: what the named parts gave in the last call. leaves: its inputs that get gradients. fused: whether attention layers
    may take torch's fused way in eval mode without gradients.
    """

    def __init__(self, model: nn.Module, mode: Mode, parts: Sequence[str] = (), fused: bool = True):
        self.model = copy_of(model).train(mode == "train")
        self.fused = fused
        self.heard: list[Any] = []
        self.leaves: list[Tensor] = []
        for name in parts:
            self.model.get_submodule(name).register_forward_hook(lambda module, args, out: self.heard.append(out))

    def run(self, inputs: Inputs, seed: int, autograd: Autograd = "off") -> Any:
        """Return what the copy gives for a copy of the inputs."""
        self.heard, self.leaves = [], []

        def copied(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return copy.deepcopy(value)
            new = value.detach().clone().requires_grad_(value.requires_grad)
            if autograd != "compared" or not takes_gradient(new):
                return new
            self.leaves.append(new.requires_grad_())
            return new.clone()  # a leaf may not be written to

        attention = contextlib.nullcontext() if self.fused else without_fast_path()
        with seeded(seed), torch.set_grad_enabled(autograd != "off"), _unshortened(), attention:
            args, kwargs = tree_map(copied, inputs)
            given = self.model(*args, **kwargs)
        if autograd == "on":  # what autograd keeps of one model is gone before the other one runs
            given, self.heard = tree_map(lambda v: v.detach() if isinstance(v, Tensor) else v, (given, self.heard))
        return given

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return the parameters, each by its first name."""
        return dict(self.model.named_parameters())

    def gradients(self, outputs: list[tuple[Tensor, Tensor]]) -> tuple[list[Tensor | None], dict[str, bool]]:
        """Return the gradients of the last call's inputs (None where none arrives), and which parameters get one, by name.

        outputs: tensors that the last call gave, each with the gradient that comes in.
        """
        arrived = dict.fromkeys(self.parameters(), False)
        trained = {name: p for name, p in self.parameters().items() if p.requires_grad}

        def arrive(name: str, parameter: Tensor) -> None:
            arrived[name], parameter.grad = True, None  # all of them at once would be as large as the model

        hooks = [p.register_post_accumulate_grad_hook(functools.partial(arrive, n)) for n, p in trained.items()]
        sums = [(out * weight).sum() for out, weight in outputs if out.requires_grad]
        try:
            if sums and (self.leaves or trained):
                total: Any = sum(t.real if t.is_complex() else t for t in sums)
                total.backward(inputs=[*self.leaves, *trained.values()])
        finally:
            for hook in hooks:
                hook.remove()
        return [leaf.grad for leaf in self.leaves], arrived
