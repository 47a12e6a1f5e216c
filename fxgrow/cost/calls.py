"""Calls whose ATen ops don't tell what they cost, or that don't bear being watched: how each is counted all the same.

They are complex convolutions, flex attention and what is compiled, checkpointed parts, and the transforms of `torch.func`.
"""
import contextlib
import functools
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from fxgrow.cost.meter import Meter

CONVOLUTIONS = {getattr(where, f"conv{transposed}{n}d") for where in (torch, F) for n in (1, 2, 3)
                for transposed in ("", "_transpose")}


class ComplexConvolutions(TorchFunctionMode):
    """Tell the meter of complex convolutions: torch makes three real ones of each, which stand for four products."""

    def __init__(self, meter: "Meter"):
        super().__init__()
        self.meter = meter

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in CONVOLUTIONS and any(isinstance(a, Tensor) and a.is_complex() for a in (*args, *kwargs.values())):
            self.meter.factors = [4, 0, 0]
        return func(*args, **kwargs)


@contextlib.contextmanager
def uncompiled() -> Iterator[None]:
    """Run what is compiled op by op inside, `torch.cond` as a choice, and `flex_attention` as attention on any device.

    What the functions of a flex attention do to its scores is no product.
    """
    flex: Any = sys.modules.get("torch.nn.attention.flex_attention")
    plain: dict[tuple[Any, str], Any] = {(torch, "cond"): lambda pred, yes, no, args=(): (yes if pred else no)(*args)}
    if flex is not None:
        outputs = 3 if hasattr(flex, "AuxOutput") else 2  # before torch 2.9 nobody could ask for the largest of the scores
        plain |= {(flex, "flex_attention_hop"): lambda *taken: _attend(*taken)[:outputs],
                  (flex, "_validate_device"): lambda *tensors: None, (flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG"): True}
    before = {place: getattr(*place) for place in plain if hasattr(*place)}  # not every release has each
    try:
        for place in before:
            setattr(*place, plain[place])
        with torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else contextlib.nullcontext():
            yield
    finally:
        for place, value in before.items():
            setattr(*place, value)


def _attend(query: Tensor, key: Tensor, value: Tensor, *more) -> tuple[Tensor, Tensor, Tensor]:
    """Return what attention gives, and something of the shape of the sums and the largest of its scores."""
    key, value = (t.expand(query.shape[0], *t.shape[1:]) for t in (key, value))
    sums = query.new_zeros(query.shape[:-1], dtype=torch.float32)
    return F.scaled_dot_product_attention(query, key, value, enable_gqa=True), sums, sums


@contextlib.contextmanager
def unhooked_transforms() -> Iterator[None]:
    """Let `torch.func` run inside, which refuses where autograd is asked what it keeps: the hooks step aside meanwhile."""
    graph: Any = torch.autograd.graph
    hooks, refuse = torch._C._autograd, graph.disable_saved_tensors_hooks

    @contextlib.contextmanager
    def step_aside(message: str):
        aside = []
        while (top := hooks._top_saved_tensors_default_hooks(False)) is not None:
            aside.append(top)
            hooks._pop_saved_tensors_default_hooks()
        try:
            with refuse(message):
                yield
        finally:
            for pair in reversed(aside):
                hooks._push_saved_tensors_default_hooks(*pair)

    graph.disable_saved_tensors_hooks = step_aside
    try:
        yield
    finally:
        graph.disable_saved_tensors_hooks = refuse


@contextlib.contextmanager
def seen_checkpoints(meter: "Meter") -> Iterator[None]:
    """Tell the meter which parts of a forward pass `torch.utils.checkpoint` runs once more in the backward pass."""
    module: Any = sys.modules.get("torch.utils.checkpoint")
    if module is None:
        yield
        return
    hook, function = module._checkpoint_hook, module.CheckpointFunction
    enter, leave, forward = hook.__enter__, hook.__exit__, function.forward

    def entered(self):
        part = meter.enter_part()
        self.pack_hook = _noting(self.pack_hook, part)
        return enter(self)

    def left(self, *error):
        meter.part = meter.part.outer
        return leave(self, *error)

    def reentrant(ctx, run, *args):
        part = meter.enter_part()
        try:
            return forward(ctx, run, *args)
        finally:
            part.again = len(part.ops)
            meter.part = part.outer

    try:
        hook.__enter__, hook.__exit__, function.forward = entered, left, staticmethod(reentrant)
        yield
    finally:
        del hook.__enter__, hook.__exit__
        function.forward = staticmethod(forward)


def _noting(pack, part):
    """Note each tensor that is kept: torch stops running a part again at the last of them."""
    @functools.wraps(pack)
    def noting(tensor):
        part.again = len(part.ops)
        return pack(tensor)
    return noting
