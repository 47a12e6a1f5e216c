"""Deepening where there is no skip path: a layer like the one before it, that starts as the identity."""
import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node

from fxgrow.aten import ODD, OTHER_POINTWISE, RANGES, ZERO_AT_ZERO
from fxgrow.blocks import built
from fxgrow.errors import GrowthError
from fxgrow.graph import Call, named_tensors
from fxgrow.growth import Piece
from fxgrow.identity import Trace, leaves_alone
from fxgrow.passes.support.blocks import Residual
from fxgrow.passes.support.layers import Function, conv

NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
POINTWISE = {*RANGES, *ODD, *ZERO_AT_ZERO, *OTHER_POINTWISE}


def unit(gm: GraphModule, trace: Trace, call: Call) -> list[Node]:
    """Return a layer, and the norm and activation that alone follow it."""
    nodes = [call.node]
    while len(nodes[-1].users) == 1:
        node = next(iter(nodes[-1].users))
        layer = gm.get_submodule(str(node.target)) if node.op == "call_module" else None
        if node.op == "output" or len([n for n in node.all_input_nodes if n.op != "get_attr"]) != 1 or \
                not (isinstance(layer, NORMS) or _is_activation(trace, nodes[-1], node, layer)):
            break
        nodes.append(node)
    return nodes


def _is_activation(trace: Trace, before: Node, node: Node, layer: nn.Module | None) -> bool:
    """Return whether a node is an activation of torch: a layer, or a function of one value and plain numbers."""
    value = trace.gives.get(node.name)
    if value is None or value.name not in POINTWISE or value.tensor.shape != trace.values[before.name].shape:
        return False
    if layer is not None:
        return type(layer).__module__ == "torch.nn.modules.activation"
    return len(node.all_input_nodes) == 1 and node.args[:1] == (node.all_input_nodes[0],)


def like(gm: GraphModule, trace: Trace, call: Call, nodes: list[Node], method: str
         ) -> tuple[Callable[[Any], Piece], str, list[str]]:
    """Return what makes the layer that `method` puts behind another one, its norm and its activation (`nodes`).

    It is made under a name, or its parts, which come last, each under one. In between: why it is exact; "" where it is not.
    """
    value = trace.values[nodes[-1].name]
    channels = value.shape[1] if call.rank else value.shape[-1]
    layers: dict[str, nn.Module] = {}
    for i, node in enumerate(nodes[1:]):
        layer = gm.get_submodule(str(node.target)) if node.op == "call_module" else Function(node)
        layers[("norm" if isinstance(layer, NORMS) else "act") + (str(i) if i else "")] = layer
    if method in ("r2r", "random"):
        return lambda name: built(_residual(call, layers, channels), name, value), "", []
    if method == "net2net":
        _check_idempotent(trace, nodes, list(layers.values()))
        exact = "an identity layer; its activation leaves this range alone"
        if any(isinstance(layer, NORMS) for layer in layers.values()):
            exact += ("; its batch norm undoes its own running statistics, exact in eval mode only: in train mode it takes "
                      "those of the batch")
    else:
        layers = {"act": nn.PReLU(channels if call.rank or value.ndim == 2 else 1, init=1.0)}
        exact = "an identity layer, and a parametric activation that starts linear (slope 1)"
        if trace.gives[nodes[-1].name].range[0] >= 0:
            exact += "; {last} is given nothing negative at first, and each slope of it gets no gradient until it is"

    def chain() -> nn.Module:
        inner = {name: inverse(m) if isinstance(m, NORMS) else copy.deepcopy(m) for name, m in layers.items()}
        return nn.Sequential(OrderedDict(layer=identity_layer(call, channels), **inner))

    parts = ["layer", *(name for name, m in layers.items() if not isinstance(m, Function))]
    return lambda names: built(chain(), names, value), exact, parts


def _residual(call: Call, layers: dict[str, nn.Module], channels: int) -> nn.Module:
    """Return two layers with others in between, whose result is added to what they take."""
    width = channels + channels % 2
    inner = {name: resized(layer, channels, width) for name, layer in layers.items()}
    return Residual(layer1=conv(call.rank, channels, width, _kernel(call)), **inner,
                    layer2=conv(call.rank, width, channels, _kernel(call)))


def resized(layer: nn.Module, channels: int, width: int) -> nn.Module:
    """Return a copy of a norm or activation for `width` channels, its numbers the mean of the old ones."""
    layer = copy.deepcopy(layer)
    with torch.no_grad():
        for name, tensor in named_tensors(layer):
            if tensor.ndim == 1 and tensor.is_floating_point():
                new = tensor.mean().expand(width if len(tensor) == channels else len(tensor)).clone()
                if name in layer._parameters:
                    layer.register_parameter(name, nn.Parameter(new))
                else:
                    layer._buffers[name] = new
    for name in ("num_features", "num_channels"):
        if getattr(layer, name, None) == channels:
            setattr(layer, name, width)
    if getattr(layer, "normalized_shape", None) == (channels,):
        layer.normalized_shape = (width,)  # type: ignore[assignment]
    return layer


def _kernel(call: Call) -> int:
    """Return the layer's kernel size, odd (an even one has no middle): 3 of a functional call."""
    if not call.rank:
        return 1
    size = 3 if call.module is None else max(call.module.kernel_size)  # type: ignore[arg-type]
    return size + 1 - size % 2


def identity_layer(call: Call, channels: int) -> nn.Module:
    """Return a convolution (or linear layer) that gives back its input: `W[o, i, middle] = (o = i)` (Chen 2015, eq. 4)."""
    depthwise = call.rank and channels == call.argument("groups")
    layer: Any = conv(call.rank, channels, channels, _kernel(call), channels if depthwise else 1)
    with torch.no_grad():
        layer.weight.copy_(identity_kernel(layer.weight))
        layer.bias.zero_()
    return layer


def identity_kernel(weight: torch.Tensor) -> torch.Tensor:
    """Return a kernel like `weight`, [out, in of a group, *taps], that gives each channel back by its middle tap."""
    new = torch.zeros_like(weight)
    middle = tuple(s // 2 for s in weight.shape[2:])
    for o in range(weight.shape[0]):
        new[(o, o % weight.shape[1], *middle)] = 1
    return new


def _check_idempotent(trace: Trace, nodes: list[Node], layers: list[nn.Module]) -> None:
    """Insist that an identity layer with this norm and activation is one (Chen 2015, section 2.4)."""
    given = trace.gives[nodes[-1].name].range
    for node, layer in zip(nodes[1:], layers):
        if isinstance(layer, NORMS):
            if not isinstance(layer, nn.modules.batchnorm._BatchNorm) or layer.running_mean is None:
                raise GrowthError(f"{node.target}: a {type(layer).__name__} has no running statistics that an identity "
                                  "layer could undo: use method r2r or netmorph")
        elif not leaves_alone(trace.gives[node.name], given):
            raise GrowthError(f"{node.meta.get('owner') or node.name}: {trace.gives[node.name].name} is not idempotent, so "
                              "an identity layer in front of it would not be one: use method r2r or netmorph")


def inverse(norm: nn.Module) -> nn.Module:
    """Return a copy of a batch norm whose weight and bias undo its running statistics: `sqrt(var + eps)` and `mean`."""
    norm = copy.deepcopy(norm)
    mean, var, eps = norm.running_mean, norm.running_var, norm.eps  # type: ignore[union-attr]
    with torch.no_grad():
        if norm.affine:
            norm.weight.copy_((var + eps).sqrt())  # type: ignore[union-attr,operator]
            norm.bias.copy_(mean)  # type: ignore[union-attr]
        else:
            mean.zero_()  # type: ignore[union-attr]
            var.fill_(1 - eps)  # type: ignore[union-attr,operator]
    return norm
