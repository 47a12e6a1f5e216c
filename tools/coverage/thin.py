"""Networks of a library with a fraction of their channels: the same modules and names, and quick to compute."""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

IMAGE_CHANNELS = 3
CONVOLUTION, NORM = nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm
SIZES = ("in_channels", "out_channels", "groups", "num_features", "in_features", "out_features")


class Undrawn(TorchFunctionMode):
    """Leaves the parameters of layers without numbers (other tensors may say how the network is built: RegNet)."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **{**(kwargs or {}), "device": "meta"} if func is torch.empty else kwargs or {})


def thin(make: Callable[[], nn.Module], by: int = 4) -> nn.Module:
    """Return the network that `make` gives, with fewer channels in all its convolutions, batch norms and linear layers.

    Args:
        make: the constructor; the numbers of the wide network are never drawn.
        by: how many channels become one. The image's channels and the classes stay.
    """
    with Undrawn():
        model = make()
    layers = [m for m in model.modules() if isinstance(m, (CONVOLUTION, NORM, nn.Linear))]
    last = [m for m in layers if isinstance(m, nn.Linear)] or [m for m in layers if isinstance(m, CONVOLUTION)]
    classes = getattr(last[-1], "out_features", getattr(last[-1], "out_channels", None))
    for layer in layers:
        for name in SIZES:
            channels = getattr(layer, name, 0)
            if channels > IMAGE_CHANNELS and channels != classes:
                setattr(layer, name, max(channels // by, 1))
        for tensors in (layer._parameters, layer._buffers):
            tensors.update({name: renewed(layer, tensor) for name, tensor in tensors.items() if tensor is not None})
        layer.reset_parameters()
    return model


def renewed(layer: nn.Module, tensor: torch.Tensor) -> torch.Tensor:
    """Return an empty tensor, or parameter, in place of one that was made for more channels."""
    if isinstance(layer, nn.Linear):
        sizes = [layer.out_features, layer.in_features]
    elif isinstance(layer, NORM):
        sizes = [layer.num_features]
    else:
        sizes = [layer.out_channels, layer.in_channels // layer.groups]
    empty = torch.empty((*sizes[:tensor.ndim], *tensor.shape[2:]), dtype=tensor.dtype)
    return nn.Parameter(empty) if isinstance(tensor, nn.Parameter) else empty
