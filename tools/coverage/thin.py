"""Networks of a library with a fraction of their channels: the same modules and names, and quick to compute."""
from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

IMAGE_CHANNELS = 3
CONVOLUTION, NORM = nn.modules.conv._ConvNd, (nn.modules.batchnorm._BatchNorm, nn.GroupNorm)
OUT = ("out_channels", "out_features")
SIZES = ("in_channels", "groups", "num_features", "num_channels", "num_groups", "in_features", *OUT)


class Undrawn(TorchFunctionMode):
    """Leaves the parameters of layers without numbers (other tensors may say how the network is built: RegNet)."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **{**(kwargs or {}), "device": "meta"} if func is torch.empty else kwargs or {})


def thin(make: Callable[[], nn.Module], by: int = 4, keep: Sequence[str] = ()) -> nn.Module:
    """Return the network that `make` gives, with fewer channels in all its convolutions, norms and linear layers.

    Args:
        make: the constructor; the numbers of the wide network are never drawn.
        by: how many channels become one. The image's channels and the classes stay.
        keep: globs of layers whose outputs stay as many as they are.
    """
    with Undrawn():
        model = make()
    named = [(n, m) for n, m in model.named_modules() if isinstance(m, (CONVOLUTION, *NORM, nn.Linear))]
    layers = [m for _, m in named]
    last = [m for m in layers if isinstance(m, nn.Linear)] or [m for m in layers if isinstance(m, CONVOLUTION)]
    classes = getattr(last[-1], "out_features", getattr(last[-1], "out_channels", None))
    for path, layer in named:
        kept = OUT if any(fnmatch.fnmatchcase(path, glob) for glob in keep) else ()
        for name in SIZES:
            channels = getattr(layer, name, 0)
            if channels > IMAGE_CHANNELS and channels != classes and name not in kept:
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
        sizes = [getattr(layer, "num_features", 0) or layer.num_channels]
    elif layer.transposed and tensor.ndim > 1:
        sizes = [layer.in_channels, layer.out_channels // layer.groups]
    else:
        sizes = [layer.out_channels, layer.in_channels // layer.groups]
    empty = torch.empty((*sizes[:tensor.ndim], *tensor.shape[2:]), dtype=tensor.dtype)
    return nn.Parameter(empty) if isinstance(tensor, nn.Parameter) else empty
