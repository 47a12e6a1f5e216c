"""Layers for new parts of a network: of the kind of a call, or from one value's shape to another's."""
import copy
import functools
from collections import OrderedDict
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Node

from fxgrow.aten import tree_leaves
from fxgrow.common import times
from fxgrow.errors import GrowthError
from fxgrow.graph import LAYERS, Call
from fxgrow.growth import Edit, Part
from fxgrow.passes.support.parts import calls_below

Sizes = tuple[int, ...]
NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
ACTIVATIONS: dict[str, set] = {
    "call_function": {F.relu, F.relu6, F.gelu, F.silu, F.mish, F.elu, F.celu, F.selu, F.leaky_relu, F.hardswish, F.hardtanh,
                      F.hardsigmoid, F.softplus, F.sigmoid, F.tanh, torch.relu, torch.sigmoid, torch.tanh},
    "call_method": {"relu", "relu_", "sigmoid", "sigmoid_", "tanh", "tanh_"},
}


def kernel(edit: Edit, call: Call) -> Sizes:
    """Return the kernel size of a convolution, or refuse one whose settings are computed at each call."""
    for name in ("stride", "padding", "dilation", "groups") if call.rank else ():
        if any(isinstance(v, Node) for v in tree_leaves(call.argument(name))):
            raise GrowthError(f"its {name} is computed at each call")
    return tuple(edit.tensor(call.weight).shape[2:])


def like(edit: Edit, call: Call, ins: int, outs: int, size: int | None = None, **changed) -> nn.Module:
    """Return a layer of the call's own kind and settings, without a bias, from `ins` to `outs` channels.

    A kernel of another size is padded so that the output has the size of the call's, or refused where no padding does that.
    """
    if not call.rank:
        return nn.Linear(ins, outs, bias=False)
    old = kernel(edit, call)
    new = old if size is None else (size,) * call.rank
    options = {name: call.setting(name) for name in ("stride", "dilation")} | {"groups": call.argument("groups")}
    same = call.argument("padding") == "same"
    options["padding"] = "same" if same else same_size(call, old, options["dilation"], new)
    options["padding_mode"] = getattr(call.module, "padding_mode", "zeros")
    if call.transposed:
        options["output_padding"] = call.setting("output_padding")
    return LAYERS[call.rank, call.transposed](ins, outs, new, **{"bias": False, **options, **changed})


def same_size(call: Call, old: Sizes, dilation: Sizes, new: Sizes) -> Sizes:
    """Return the padding by which a kernel of another size gives as many outputs: p' = p + d (k' - k) / 2 on each axis."""
    padding = (0,) * call.rank if call.argument("padding") == "valid" else call.setting("padding")
    gained = [d * (n - o) for d, n, o in zip(dilation, new, old)]
    padded = tuple(p + g // 2 for p, g in zip(padding, gained))
    if any(g % 2 for g in gained) or min(padded) < 0:
        least = max(o - 2 * (p // d) for o, p, d in zip(old, padding, dilation))
        raise GrowthError(f"a kernel of {times(new)} beside one of {times(old)} with padding "
                          f"{', '.join(map(str, padding))} gives outputs of another size; choose one that differs by an "
                          f"even number and is at least {max(least, 1)}")
    return padded


def conv(rank: int, ins: int, outs: int, kernel: int = 1, groups: int = 1, bias: bool = True) -> nn.Module:
    """Return a convolution that keeps the size of its input; of rank 0 a linear layer."""
    options = {"kernel_size": kernel, "padding": kernel // 2, "groups": groups} if rank else {}
    return LAYERS[rank, False](ins, outs, bias=bias, **options)


def resampling(edit: Edit, x: Sizes, y: Sizes, size: int, near: Iterable[Call]) -> dict[str, Sizes]:
    """Return stride and padding from spatial sizes x to y: of a convolution near by, else the smallest stride; or refuse."""
    def fits(a: int, b: int, stride: int, padding: int) -> bool:
        return a + 2 * padding >= size and (a + 2 * padding - size) // stride + 1 == b

    for call in near:
        if call.rank != len(x) or call.transposed or call.argument("padding") == "same":
            continue
        try:
            reach = tuple(d * (k - 1) + 1 for k, d in zip(kernel(edit, call), call.setting("dilation")))
            padding = same_size(call, reach, (1,) * call.rank, (size,) * call.rank)
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
    """Return convolutions (or linear layers) one after another, from a part's input to the spatial size of its output.

    layers: kernel size and channels of each. closed: a norm and an activation stand behind the last one, too.
    """
    x, y = (edit.values[n.name].shape for n in (part.takes, part.gives))  # type: ignore[union-attr]
    rank, channels = part.rank, x[part.channel_axis]
    if len(x) != len(y) or (not rank and x[:-1] != y[:-1]) or x[0] != y[0]:
        raise GrowthError(f"it makes {list(y)} of {list(x)}: no built-in sub-network does; give one with module")
    nodes = list(edit.graph.nodes)
    near = nodes[nodes.index(part.reader):]
    norm, act = batch_norm(edit, rank, near), activation(edit, near) or nn.ReLU()
    made: dict[str, nn.Module] = {}
    for i, (size, width) in enumerate(layers, 1):
        last = i == len(layers)
        if not rank:
            made[f"fc{i}"] = nn.Linear(channels, width)
        else:
            space = resampling(edit, x[2:], y[2:], size, calls_below(edit, part.name)) if last else {"padding": size // 2}
            made[f"conv{i}"] = LAYERS[rank, False](channels, width, size, bias=norm is None, **space)
        if not last or closed:
            if norm is not None:
                made[f"norm{i}"] = norm(width)
            made[f"act{i}"] = copy.deepcopy(act)
        channels = width
    return nn.Sequential(OrderedDict(made))


def activation(edit: Edit, nodes: Iterable[Node]) -> nn.Module | None:
    """Return a copy of the first activation among nodes, which does not write to its input."""
    for node in nodes:
        if len(node.all_input_nodes) != 1:
            continue
        if node.op == "call_module":
            layer = edit.gm.get_submodule(str(node.target))
            if _is_activation(layer):
                layer = copy.deepcopy(layer)
                if hasattr(layer, "inplace"):
                    layer.inplace = False  # type: ignore[assignment]
                return layer
        elif node.target in ACTIVATIONS.get(node.op, ()):
            return Function(node)
    return None


def _is_activation(layer: nn.Module) -> bool:
    return type(layer).__module__ == "torch.nn.modules.activation" and not list(layer.parameters()) \
        and not isinstance(layer, (nn.RReLU, nn.Softmax, nn.GLU))


class Function(nn.Module):
    """An activation that a graph calls as a function or method, as a layer."""

    def __init__(self, node: Node):
        super().__init__()
        self.target, self.rest = node.target, node.args[1:]
        self.options = {k: v for k, v in node.kwargs.items() if k not in ("inplace", "input")}

    def forward(self, x: Tensor) -> Tensor:
        """Call the function on x."""
        called = getattr(x, self.target.rstrip("_")) if isinstance(self.target, str) else functools.partial(self.target, x)
        return called(*self.rest, **self.options)


def batch_norm(edit: Edit, rank: int, nodes: Iterable[Node]):
    """Return what makes a batch norm for so many channels, with the settings of the first among nodes (None: none there)."""
    for node in nodes:
        layer = edit.gm.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and rank:
            settings = {name: getattr(layer, name) for name in ("eps", "momentum", "affine", "track_running_stats")}
            return lambda channels: NORMS[rank](channels, **settings)
    return None
