"""Skip: connections past layers and blocks that start with weight zero (ResNet, He 2015; ReZero, Bachlechner 2020)."""
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Literal

import torch
from torch import nn
from torch.fx import GraphModule
from torch.fx.passes.infra.pass_base import PassBase, PassResult

from fxgrow.common import Refusal, brief, times
from fxgrow.errors import SelectionError
from fxgrow.graph import LAYERS
from fxgrow.growth import Edit, Part, apply, channel_axis, kept, named, part_of, read_parameter
from fxgrow.passes.support import check_choices, fitted, listed
from fxgrow.record import Outcome


@dataclass
class Skip(PassBase):
    """Adds connections past layers or blocks, whose weights start at zero: the input, weighted, is added to the output.

    Args:
        where: a glob, or several, over qualified names of layers, blocks and calls (`module:node`): each gets a connection
            from what it takes to what it gives.
        to: the layer, block or call to whose output the connections lead instead; it comes after those of `where`.
        weight: scalar (one number), channel (one for each channel) or matrix (a 1x1 convolution or linear layer). Where
            input and output differ in size it is a matrix; where space shrinks, its convolution has a stride.
    """
    where: str | Sequence[str]
    _: KW_ONLY
    to: str | None = None
    weight: Literal["scalar", "channel", "matrix"] = "scalar"

    def __post_init__(self) -> None:
        check_choices(self)

    def call(self, graph_module: GraphModule) -> PassResult:
        """Add a connection past each part that `where` names."""
        where = listed(self.where)
        edit = Edit(graph_module, {"pass": "skip", "where": where, "to": self.to, "weight": self.weight})
        ends = [] if self.to is None else named(edit).get(self.to, [])
        if self.to is not None and len(ends) != 1:
            raise SelectionError(f"to={brief(self.to)} names {len(ends) or 'no'} calls; it must name one layer, block or "
                                 "call in full")

        def put(start: Part) -> Outcome:
            return self._connect(edit, start, part_of(edit, *ends[0]) if ends else start)

        return apply(edit, where, "layer, block or call", put, takes=True)

    def _connect(self, edit: Edit, start: Part, end: Part) -> Outcome:
        x, y, reader = (edit.nodes[n.name] for n in (start.takes, end.gives, start.reader))  # type: ignore[union-attr]
        if y < reader:
            raise Refusal(f"{end.name} comes before it")
        path = edit.free_name(start.beside("skip"))
        layer = self._layer(edit, start, end)
        count = sum(p.numel() for p in layer.parameters())
        edit.add_layer(path, layer)
        came, after = kept(edit, reader, x), y.next
        if isinstance(layer, tuple(LAYERS.values())):
            skip = edit.call(reader, path, came, owner=path)
        else:
            skip = edit.call(reader, torch.mul, came, read_parameter(edit, reader, f"{path}.weight"), owner=path)
        skip = fitted(edit, skip, x, y, edit.values[y.name].ndim - 2 if channel_axis(edit, end.gives) == 1 else 0, after)
        edit.exchange(y, edit.call(after, torch.add, y, skip, owner=path))
        return Outcome(start.name if end is start else f"{start.name} to {end.name}", 0, count, [path], "zero weight",
                       "what is added starts as zero times the input")

    def _layer(self, edit: Edit, start: Part, end: Part) -> nn.Module:
        """Return the layer that the input goes through, all zero."""
        x, y = (edit.values[n.name].shape for n in (start.takes, end.gives))  # type: ignore[union-attr]
        if x == y and self.weight != "matrix":
            axis = len(y) if self.weight == "scalar" else channel_axis(edit, end.gives)
            layer = nn.Module()
            layer.weight = nn.Parameter(torch.zeros([*y[axis:axis + 1], *[1] * (len(y) - axis - 1)]))
            return layer
        sizes = f"its input of {times(x)} and the output of {times(y)}"
        if len(x) != len(y) or x[0] != y[0]:
            raise Refusal(f"no connection leads from {sizes}")
        axis = channel_axis(edit, end.gives)
        if axis == len(y) - 1 and x[:-1] == y[:-1]:
            layer = nn.Linear(x[-1], y[-1], bias=False)
        elif axis == 1 and (len(y) - 2, False) in LAYERS:
            stride = tuple(-(-n // m) for n, m in zip(x[2:], y[2:]))
            if any((n - 1) // s + 1 != m for n, s, m in zip(x[2:], stride, y[2:])):
                raise Refusal(f"no stride leads from {sizes}")
            layer = LAYERS[len(y) - 2, False](x[1], y[1], 1, stride, bias=False)
        else:
            raise Refusal(f"no layer leads from {sizes} with channels on axis {axis}")
        nn.init.zeros_(layer.weight)
        return layer
