"""What stands beside a part of a network: the part's one value in and one out, and layers that give values of that shape.

What lives here: regions, shapes and layers, for Branch and Subnet. What does not: which numbers make them start at zero.
"""
from __future__ import annotations

import contextlib
import copy
import functools
import itertools
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Node

from fxgrow._analysis import place_of, prefixes
from fxgrow._calls import LAYERS, Call, calls
from fxgrow._edit import Edit
from fxgrow._region import below, boundary, inside, outer
from fxgrow.errors import GrowthError

Sizes = tuple[int, ...]
NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
FUNCTIONS = {F.relu, F.relu6, F.gelu, F.silu, F.mish, F.elu, F.celu, F.selu, F.leaky_relu, F.hardswish, F.hardtanh,
             F.hardsigmoid, F.softplus, F.sigmoid, F.tanh, torch.relu, torch.sigmoid, torch.tanh}
METHODS = {"relu", "relu_", "sigmoid", "sigmoid_", "tanh", "tanh_"}


@dataclass
class Region:
    """The nodes below a name, in order; the value that they get and the one that others use; and where channels stand.

    axis: the axis of channels, counted from the end, of `ndim`. rank: spatial axes (0: channels are last, layers linear).
    """
    path: str
    nodes: list[Node]
    x: Node
    y: Node
    axis: int
    ndim: int
    calls: list[Call]

    @property
    def rank(self) -> int:
        return -1 - self.axis

    @property
    def first(self) -> Node:
        """The first of the nodes that reads the value."""
        return next(n for n in self.nodes if self.x in n.all_input_nodes)


def paths(edit: Edit) -> list[str]:
    """Every name below which the graph calls something."""
    found: dict[str, None] = {}
    for node in edit.graph.nodes:
        found.update(dict.fromkeys(prefixes(place_of(node))))
    found.update(dict.fromkeys(call.name for call in calls(edit.gm)))
    return [p for p in found if p]


def outermost(edit: Edit, where: str | Sequence[str], what: str) -> list[str]:
    """The names that each glob of `where` matches, without those below another one of them.

    Raises:
        SelectionError: a glob matches none.
    """
    names, chosen = paths(edit), []
    for pattern in [where] if isinstance(where, str) else where:
        chosen += [n for n in outer(edit.select(pattern, names, what)) if n not in chosen]
    return chosen


def region(edit: Edit, path: str) -> Region:
    """The part of the graph below a name.

    Raises:
        GrowthError: it has not exactly one tensor in and one out.
    """
    own = [c for c in calls(edit.gm) if below(c.name, path)]
    known = {c.node for c in own}
    nodes = [n for n in edit.graph.nodes if n in known or inside(n, path)]
    ins, outs = boundary(nodes)
    ins = [n for n in ins if _is_data(edit, n)]
    outs = [n for n in outs if not isinstance(edit.values.get(n.name), (int, float, torch.Size))]
    if len(ins) != 1 or len(outs) != 1 or not _is_data(edit, outs[0]):
        given, gives = (", ".join(n.name for n in found) or "none" for found in (ins, outs))
        raise GrowthError(f"it takes {len(ins)} tensors ({given}) and gives {len(outs)} values ({gives}); name a part with "
                          "one tensor in and one out")
    (x,), (y,) = ins, outs
    if edit.read_elsewhere(y):
        raise GrowthError(f"{y.name} is a view of a value that is written to later and read elsewhere; write to a new "
                          "tensor there, in the model's code")
    ndim = edit.values[y.name].ndim
    return Region(path, nodes, x, y, _axis(ndim, own), ndim, own)


def _is_data(edit: Edit, node: Node) -> bool:
    value = edit.values.get(node.name)
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 1


def _axis(ndim: int, own: list[Call]) -> int:
    """Where channels stand in a value of `ndim` axes: behind the batch if a convolution of so many axes says so, or if there
    are several axes more and no linear layer; else they are last."""
    ranks = {c.rank for c in own}
    return 1 - ndim if ndim < 6 and (ndim - 2 in ranks - {0} or ndim > 3 and 0 not in ranks) else -1


def numbered(edit: Edit, form: str, count: int) -> list[str]:
    """The first so many names `form1`, `form2`, ... that are free."""
    return list(itertools.islice((p for k in itertools.count(1) if edit.free_name(p := f"{form}{k}") == p), count))


# --- layers ---------------------------------------------------------------------------------------------------------


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


def stack(edit: Edit, region: Region, layers: Sequence[tuple[int, int]], closed: bool = True) -> nn.Sequential:
    """Convolutions (kernel size, channels), or linear layers, one after another, from the region's input to what has the
    spatial size of its output; a norm and an activation behind each like those near by (not behind the last, if not closed).

    Raises:
        GrowthError: no convolution makes that size.
    """
    x, y = edit.values[region.x.name].shape, edit.values[region.y.name].shape
    rank = region.rank
    if len(x) != len(y) or not rank and x[:-1] != y[:-1] or x[0] != y[0]:
        raise GrowthError(f"it makes {list(y)} of {list(x)}: no built-in sub-network does; give one with module")
    nodes = list(edit.graph.nodes)
    near = nodes[nodes.index(region.first):]
    norm, act = batch_norm(edit, rank, near), activation(edit, near) or nn.ReLU()
    made: dict[str, nn.Module] = {}
    channels = x[region.axis]
    for i, (size, width) in enumerate(layers, 1):
        last = i == len(layers)
        options = {"padding": size // 2} if not last else resampling(edit, x[2:], y[2:], size, region.calls) if rank else {}
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


def oppose(weight: Tensor) -> None:
    """Gives the second half of the columns of a weight `[out, 2m, ...]` the opposite numbers of the first."""
    with torch.no_grad():
        half = weight.shape[1] // 2
        weight[:, half:] = -weight[:, :half]


def repeat(call: Call, weight: Tensor) -> None:
    """Gives, in each group of a layer like the call's, the second half of the outputs the numbers of the first."""
    with torch.no_grad():
        axis = int(call.transposed)  # a transposed convolution has `[in, out / groups, ...]`
        groups = call.argument("groups") if call.rank and not call.transposed else 1
        rows = weight.unflatten(axis, (groups, 2, -1))
        rows.select(axis + 1, 1).copy_(rows.select(axis + 1, 0))


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """New layers start with what they draw for themselves, from this seed; torch's global generator stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
