"""Layers of torch that make one or a few ATen calls: these calls alone, without the code of Python and C++ around them.

That code takes three times as long as a call on meta tensors. What lives here: which calls, for inputs as most have them.
What does not: what they give (meta.py).
"""
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, is_grad_enabled, nn
from torch.nn.modules import module as hooks
from torch.utils._python_dispatch import _get_current_dispatch_mode  # noqa: PLC2701

from fxgrow.aten.meta import Watching

aten = torch.ops.aten
Call = Callable[..., Any]  # an ATen op and its arguments
OF_ALL = (hooks._global_forward_hooks, hooks._global_forward_pre_hooks, hooks._global_backward_hooks,
          hooks._global_backward_pre_hooks)


def call_layer(layer: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Return what a layer of torch gives for a meta tensor, or None where only its own code tells.

    The `Watching` mode that is on sees the ATen calls that the layer makes.
    """
    cls = type(layer)
    if cls not in LAYERS or kwargs or len(args) != 1 or type(args[0]) is not Tensor:
        return None
    made, forward, name, function = LAYERS[cls]
    state, mode = vars(layer), _get_current_dispatch_mode()
    if cls.forward is not forward or getattr(F, name) is not function or "forward" in state or state["_forward_hooks"] or \
            state["_forward_pre_hooks"] or state["_backward_hooks"] or state["_backward_pre_hooks"] or any(OF_ALL) or \
            state.get("_compiled_call_impl") is not None or not isinstance(mode, Watching) or is_grad_enabled():
        return None
    with torch._C.DisableTorchFunction(), torch._C._DisableTorchDispatch():
        weight, bias = state["_parameters"].get("weight"), state["_parameters"].get("bias")
        if type(weight) is not nn.Parameter or not (weight.is_meta and args[0].is_meta) or \
                weight.dtype is not args[0].dtype or (
                    bias is not None and (type(bias) is not nn.Parameter or bias.dtype is not weight.dtype)):
            return None
        return made(layer, args[0], weight, bias, lambda func, *given: mode.__torch_dispatch__(func, (), given))


def _convolution(layer: Any, x: Tensor, weight: Tensor, bias: Tensor | None, call: Call) -> Tensor | None:
    if type(layer.padding) is str or layer.padding_mode != "zeros" or x.ndim != weight.ndim or \
            x.shape[1] != weight.shape[1] * layer.groups:
        return None
    settings = list(layer.stride), list(layer.padding), list(layer.dilation), False, [0] * (x.ndim - 2), layer.groups
    return call(aten.convolution.default, x, weight, bias, *settings)


def _batch_norm(layer: Any, x: Tensor, weight: Tensor, bias: Tensor | None, call: Call) -> Tensor | None:
    vectors = weight, bias, layer._buffers.get("running_mean"), layer._buffers.get("running_var")
    if layer.training or x.ndim != RANKS[type(layer)] or any(
            v is None or v.shape != x.shape[1:2] or v.dtype is not x.dtype for v in vectors):
        return None
    return call(aten.native_batch_norm.default, x, *vectors, False, layer.momentum or 0.0, layer.eps)[0]


def _layer_norm(layer: Any, x: Tensor, weight: Tensor, bias: Tensor | None, call: Call) -> Tensor | None:
    shape = layer.normalized_shape
    if x.shape[-len(shape):] != shape or weight.shape != shape or (bias is not None and bias.shape != shape):
        return None
    return call(aten.native_layer_norm.default, x, list(shape), weight, bias, layer.eps)[0]


def _linear(layer: Any, x: Tensor, weight: Tensor, bias: Tensor | None, call: Call) -> Tensor | None:
    if x.ndim < 2 or not x.is_contiguous() or not x.numel() or x.shape[-1] != weight.shape[1] or (
            bias is not None and bias.shape != weight.shape[:1]):
        return None
    shape, flat = [*x.shape[:-1], weight.shape[0]], [math.prod(x.shape[:-1]), x.shape[-1]]
    if bias is None:
        turned = call(aten.t.default, weight)
        out = call(aten.mm.default, x if x.ndim == 2 else call(aten.view.default, x, flat), turned)
        return out if x.ndim == 2 else call(aten._unsafe_view.default, out, shape)
    rows = x if x.ndim == 2 else call(aten.view.default, x, flat)
    out = call(aten.addmm.default, bias, rows, call(aten.t.default, weight))
    return out if x.ndim == 2 else call(aten.view.default, out, shape)


LAYERS: dict[type[nn.Module], tuple] = {  # what calls the ops; the code that it stands for, which others may have replaced
    cls: (made, cls.forward, name, getattr(F, name)) for made, name, cls in (  # type: ignore[attr-defined]
        (_convolution, "conv1d", nn.Conv1d), (_convolution, "conv2d", nn.Conv2d), (_convolution, "conv3d", nn.Conv3d),
        (_batch_norm, "batch_norm", nn.BatchNorm2d), (_batch_norm, "batch_norm", nn.BatchNorm3d),
        (_layer_norm, "layer_norm", nn.LayerNorm), (_linear, "linear", nn.Linear))}
RANKS = {nn.BatchNorm2d: 4, nn.BatchNorm3d: 5}
