"""Runs of a model on a copy of it, under one seed: what it gives, and where gradients go.

What lives here: one model. What does not: which inputs it gets (fresh.py), and how two models compare.
"""
import contextlib
import copy
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from fxgrow.aten import tree_map
from fxgrow.compare.fresh import Inputs

Mode = Literal["eval", "train"]
Autograd = Literal["off", "on", "compared"]  # "compared": on, and floating inputs get gradients


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Begin all random numbers at a seed inside: torch's, NumPy's and Python's; outside they go on as if nothing was."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    python, array = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        for device in devices:
            torch.cuda.default_generators[device].manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2 ** 32)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(array)


def copy_of(model: nn.Module) -> nn.Module:
    """Return a deep copy of a model, with what `copy.deepcopy` alone refuses: tensors that were computed, and locks.

    The former are copied without their history, the latter shared.
    """
    try:
        return copy.deepcopy(model)
    except Exception:
        memo: dict[int, Any] = {}
        _copy_what_refuses(model, memo, set())
        return copy.deepcopy(model, memo)


def _copy_what_refuses(value: Any, memo: dict[int, Any], seen: set[int]) -> None:
    """Put into a memo of `copy.deepcopy` what it cannot copy in a value."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        if not value.is_leaf:
            memo[id(value)] = value.detach().clone()
        return
    inside = list(getattr(value, "__dict__", {}).values()) if not isinstance(value, type) else []
    if isinstance(value, Mapping):
        inside += value.values()
    elif isinstance(value, (list, tuple, set)):
        inside += value
    for item in inside:
        _copy_what_refuses(item, memo, seen)
    if not isinstance(value, nn.Module):
        try:
            copy.deepcopy(value, dict(memo))
        except Exception:
            memo[id(value)] = value


def rounded(model: nn.Module, seed: int) -> nn.Module:
    """Return a copy of a model whose parameters differ by about what rounding does."""
    new, generator = copy_of(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in new.parameters():
            if p.is_floating_point():
                signs = torch.randint(2, p.shape, generator=generator).mul(2).sub(1).to(p)
                p += p * signs * (4 * torch.finfo(p.dtype).eps)
    return new


class Twin:
    """A copy of a model to call: nothing of the model itself changes.

    heard: what the named parts gave in the last call. leaves: its inputs that get gradients.
    """

    def __init__(self, model: nn.Module, mode: Mode, parts: Sequence[str] = ()):
        self.model = copy_of(model)
        if mode == "train":
            self.model.train()
        else:
            self.model.eval()
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
            if autograd != "compared" or not (new.is_floating_point() or new.is_complex()):
                return new
            self.leaves.append(new.requires_grad_())
            return new.clone()  # a leaf may not be written to

        with seeded(seed), torch.set_grad_enabled(autograd != "off"):
            args, kwargs = tree_map(copied, inputs)
            return self.model(*args, **kwargs)

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return the parameters, each by its first name."""
        return dict(self.model.named_parameters())

    def gradients(self, outputs: list[tuple[Tensor, Tensor]]) -> tuple[list[Tensor | None], dict[str, Tensor | None]]:
        """Return the gradients of the last call's inputs, and of the parameters by name; None where none arrives.

        outputs: tensors that the last call gave, each with the gradient that comes in.
        """
        inputs: list[Tensor | None] = [None] * len(self.leaves)
        parameters: dict[str, Tensor | None] = dict.fromkeys(self.parameters())
        sums = [(out * weight).sum() for out, weight in outputs if out.requires_grad]
        trained = {name: p for name, p in self.parameters().items() if p.requires_grad}
        wanted = [*self.leaves, *trained.values()]
        if sums and wanted:
            total = sum(t.real if t.is_complex() else t for t in sums)
            found = torch.autograd.grad(total, wanted, allow_unused=True)  # type: ignore[arg-type]
            inputs = list(found[:len(inputs)])
            parameters |= dict(zip(trained, found[len(inputs):]))
        return inputs, parameters
