"""What stands beside a part of a network: the part's one value in and one out, and layers that give values of that shape.

What lives here: regions, shapes and layers, for Branch and Subnet. What does not: which numbers make them start at zero.
"""
from __future__ import annotations

import copy
import functools
from collections import OrderedDict
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Node

from fxgrow.errors import GrowthError
from fxgrow.graph import LAYERS, Call
from fxgrow.growth import Edit, Part
from fxgrow.passes.support.parts import calls_below

Sizes = tuple[int, ...]
NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
FUNCTIONS = {F.relu, F.relu6, F.gelu, F.silu, F.mish, F.elu, F.celu, F.selu, F.leaky_relu, F.hardswish, F.hardtanh,
             F.hardsigmoid, F.softplus, F.sigmoid, F.tanh, torch.relu, torch.sigmoid, torch.tanh}
METHODS = {"relu", "relu_", "sigmoid", "sigmoid_", "tanh", "tanh_"}


def kernel(edit: Edit, call: Call) -> Sizes:
    """The kernel size of a convolution whose settings are plain numbers.

    Raises:
        GrowthError: they are computed at each call.
    """
    for name in ("stride", "padding", "dilation", "groups") if call.rank else ():
        value = call.argument(name)
        if any(isinstance(v, Node) for v in (value if isinstance(value, (tuple, list)) else [value])):
            raise GrowthError(f"its {name} is computed at each call")
    return tuple(edit.tensor(call.weight).shape[2:])


def like(edit: Edit, call: Call, ins: int, outs: int, size: int | None = None, **changed) -> nn.Module:
    """A layer of the call's own kind and settings, without a bias, from `ins` to `outs` channels; with a kernel of another
    size, padded so that its output has the size that the call's has.

    Raises:
        GrowthError: no padding does that.
    """
    if not call.rank:
        return nn.Linear(ins, outs, bias=False)
    old = kernel(edit, call)
    new = old if size is None else (size,) * call.rank
    options = {name: call.setting(name) for name in ("stride", "dilation")} | {"groups": call.argument("groups")}
    padding: Sizes | str = "same"
    if call.argument("padding") != "same":
        padding = same_size(old, padding_of(call), options["dilation"], new)
    if call.transposed:
        options["output_padding"] = call.setting("output_padding")
    mode = getattr(call.module, "padding_mode", "zeros")
    return LAYERS[call.rank, call.transposed](ins, outs, new, padding=padding, padding_mode=mode,
                                              **{"bias": False, **options, **changed})


def padding_of(call: Call) -> Sizes:
    """The padding of a convolution, where it is not "same"."""
    return (0,) * call.rank if call.argument("padding") == "valid" else call.setting("padding")


def same_size(old: Sizes, padding: Sizes, dilation: Sizes, new: Sizes) -> Sizes:
    """The padding by which a kernel of another size gives as many outputs: p' = p + d (k' - k) / 2 on each axis."""
    gained = [d * (n - o) for d, n, o in zip(dilation, new, old)]
    padded = tuple(p + g // 2 for p, g in zip(padding, gained))
    if any(g % 2 for g in gained) or min(padded) < 0:
        least = max(o - 2 * (p // d) for o, p, d in zip(old, padding, dilation))
        raise GrowthError(f"a kernel of {'x'.join(map(str, new))} beside one of {'x'.join(map(str, old))} with padding "
                          f"{', '.join(map(str, padding))} gives outputs of another size; choose one that differs by an "
                          f"even number and is at least {max(least, 1)}")
    return padded


def pointwise(rank: int, ins: int, outs: int, groups: int = 1, bias: bool = False) -> nn.Module:
    """A 1x1 convolution, or for rank 0 a linear layer."""
    return LAYERS[rank, False](ins, outs, 1, groups=groups, bias=bias) if rank else nn.Linear(ins, outs, bias)


def resampling(edit: Edit, x: Sizes, y: Sizes, size: int, near: Iterable[Call]) -> dict[str, Sizes]:
    """Stride and padding of a convolution with spatial sizes x in and y out: those of a convolution near by where they fit,
    else the smallest stride that does.

    Raises:
        GrowthError: none fits.
    """
    def fits(a: int, b: int, stride: int, padding: int) -> bool:
        return a + 2 * padding >= size and (a + 2 * padding - size) // stride + 1 == b

    for call in near:
        if call.rank != len(x) or call.transposed or call.argument("padding") == "same":
            continue
        try:
            reach = tuple(d * (k - 1) + 1 for k, d in zip(kernel(edit, call), call.setting("dilation")))
            padding = same_size(reach, padding_of(call), (1,) * call.rank, (size,) * call.rank)
        except GrowthError:
            continue
        if all(map(fits, x, y, call.setting("stride"), padding)):
            return {"stride": call.setting("stride"), "padding": padding}
    found = [next(((s, p) for s in range(1, a // b + 2) for p in range(size // 2, -1, -1) if fits(a, b, s, p)), None)
             for a, b in zip(x, y)]
    if None in found:
        raise GrowthError(f"no convolution with a kernel of {size} makes {list(y)} of {list(x)}")
    stride, padding = zip(*found)  # type: ignore[arg-type]
    return {"stride": stride, "padding": padding}


def stack(edit: Edit, part: Part, layers: Sequence[tuple[int, int]], closed: bool = True) -> nn.Sequential:
    """Convolutions (kernel size, channels), or linear layers, one after another, from the part's input to what has the
    spatial size of its output; a norm and an activation behind each like those near by (not behind the last, if not closed).

    Raises:
        GrowthError: no convolution makes that size.
    """
    x, y = (edit.values[n.name].shape for n in (part.takes, part.gives))  # type: ignore[union-attr]
    rank = part.rank
    if len(x) != len(y) or not rank and x[:-1] != y[:-1] or x[0] != y[0]:
        raise GrowthError(f"it makes {list(y)} of {list(x)}: no built-in sub-network does; give one with module")
    nodes = list(edit.graph.nodes)
    near = nodes[nodes.index(part.reader):]
    norm, act = batch_norm(edit, rank, near), activation(edit, near) or nn.ReLU()
    made: dict[str, nn.Module] = {}
    channels = x[part.channel_axis]
    for i, (size, width) in enumerate(layers, 1):
        last = i == len(layers)
        options = {"padding": size // 2} if not last else resampling(edit, x[2:], y[2:], size, calls_below(edit, part.name)) if rank else {}
        made[f"conv{i}" if rank else f"fc{i}"] = LAYERS[rank, False](channels, width, size, bias=norm is None, **options) \
            if rank else nn.Linear(channels, width)
        if not last or closed:
            made |= {f"norm{i}": norm(width)} if norm else {}
            made[f"act{i}"] = copy.deepcopy(act)
        channels = width
    return nn.Sequential(OrderedDict(made))


def activation(edit: Edit, nodes: Iterable[Node]) -> nn.Module | None:
    """A copy of the first activation among nodes, that does not write to its input."""
    for node in nodes:
        if node.op == "call_module":
            layer = edit.gm.get_submodule(str(node.target))
            if type(layer).__module__ == "torch.nn.modules.activation" and len(node.all_input_nodes) == 1 \
                    and not list(layer.parameters()) and not isinstance(layer, (nn.RReLU, nn.Softmax, nn.GLU)):
                layer = copy.deepcopy(layer)
                if hasattr(layer, "inplace"):
                    layer.inplace = False  # type: ignore[assignment]
                return layer
        elif node.target in (FUNCTIONS if node.op == "call_function" else METHODS if node.op == "call_method" else ()) \
                and len(node.all_input_nodes) == 1:
            return Function(node)
    return None


class Function(nn.Module):
    """An activation that a graph calls as a function or method, as a layer."""

    def __init__(self, node: Node):
        super().__init__()
        self.target = node.target
        self.rest = node.args[1:]
        self.options = {k: v for k, v in node.kwargs.items() if k not in ("inplace", "input")}

    def forward(self, x: Tensor) -> Tensor:
        called = getattr(x, self.target.rstrip("_")) if isinstance(self.target, str) else functools.partial(self.target, x)
        return called(*self.rest, **self.options)


def batch_norm(edit: Edit, rank: int, nodes: Iterable[Node]):
    """A function from channels to a batch norm with the settings of the first one among nodes; None where there is none."""
    for node in nodes:
        layer = edit.gm.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and rank:
            settings = {name: getattr(layer, name) for name in ("eps", "momentum", "affine", "track_running_stats")}
            return lambda channels: NORMS[rank](channels, **settings)
    return None
