"""Activation: parametric activations that start as the identity or as a present one (Network Morphism, Wei 2016)."""
import operator
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn
from torch.fx import GraphModule, Node
from torch.fx.passes.infra.pass_base import PassBase, PassResult

from fxgrow.common import Refusal
from fxgrow.growth import Edit, Part, apply, channel_axis, kept, read_parameter
from fxgrow.identity import Trace
from fxgrow.passes.support import check_choices, insist_known, listed
from fxgrow.record import Outcome

ACTIVATIONS = {"relu": F.relu, "relu6": F.relu6, "leaky_relu": F.leaky_relu, "elu": F.elu, "selu": F.selu, "gelu": F.gelu,
               "silu": F.silu, "mish": F.mish, "hardswish": F.hardswish, "softplus": F.softplus, "tanh": torch.tanh,
               "sigmoid": torch.sigmoid}
KEPT_FROM_ZERO = ("relu", "leaky_relu", "elu")  # f(x) = x for x >= 0


@dataclass
class Activation(PassBase):
    """Puts in activations `(1 - a) f(x) + a x` that start as the identity (a = 1), or bends present ones.

    Args:
        where: a glob, or several, over qualified names of layers, blocks and calls (`module:node`).
        to: the activation f: relu, relu6, leaky_relu, elu, selu, gelu, silu, mish, hardswish, softplus, tanh, sigmoid, or,
            in mode replace, identity.
        mode: insert (behind what is named) or replace (what is named is itself an activation g; it becomes
            `(1 - a) g(x) + a f(x)`, which starts as g, a = 0).
        weight: scalar (one a) or channel (one for each channel).
    """
    where: str | Sequence[str]
    _: KW_ONLY
    to: str = "relu"
    mode: Literal["insert", "replace"] = "insert"
    weight: Literal["scalar", "channel"] = "scalar"

    def __post_init__(self) -> None:
        known = (*ACTIVATIONS, *(["identity"] if self.mode == "replace" else []))
        check_choices(self)
        insist_known("to", self.to, known)

    def call(self, graph_module: GraphModule) -> PassResult:
        """Put an activation behind each part that `where` names, or bend it."""
        where = listed(self.where)
        edit = Edit(graph_module, {"pass": "activation", "where": where, "to": self.to, "mode": self.mode,
                                   "weight": self.weight})
        if self.mode == "replace":
            return apply(edit, where, "layer, block or call", lambda part: self._replace(edit, part), takes=True)
        trace = Trace.of(graph_module) if self.to in KEPT_FROM_ZERO else None
        return apply(edit, where, "layer, block or call", lambda part: self._insert(edit, part, trace))

    def _insert(self, edit: Edit, part: Part, trace: Trace | None) -> Outcome:
        y, shape = edit.nodes[part.gives.name], self._shape(edit, part)
        path = edit.free_name(part.beside("activation"))
        if self.to == "relu" and any(_is_relu(edit, n) for n in (y, *y.users)):
            raise Refusal("a relu next to a relu changes nothing and would never learn; choose another activation")
        given = None if trace is None else trace.gives.get(part.gives.name)
        if given is not None and given.range[0] >= 0:
            raise Refusal(f"it is never negative, so {self.to} changes nothing there and would never learn; choose another "
                          "activation")
        if self.to == "relu" and len(shape) in (0, edit.values[y.name].ndim - 1):  # channels on axis 1, where PReLU has them
            layer = nn.PReLU(shape[0] if shape else 1, init=1.0)
            edit.exchange(y, edit.call(y.next, edit.add_layer(path, layer), y, owner=path))
        else:
            edit.exchange(y, self._blend(edit, y.next, path, shape, 1.0, y, None))
        return Outcome(part.name, 0, shape.numel(), [path], "identity", f"(1 - a) {self.to}(x) + a x, and a starts at one")

    def _replace(self, edit: Edit, part: Part) -> Outcome:
        x, y, reader = (edit.nodes[n.name] for n in (part.takes, part.gives, part.reader))  # type: ignore[union-attr]
        shape = self._shape(edit, part)
        if edit.values[x.name].shape != edit.values[y.name].shape:
            raise Refusal("its input and output differ in size: it is no activation")
        path = edit.free_name(part.beside("activation"))
        if self._is_same(edit, y):
            raise Refusal(f"it is {self.to} already: bent towards that it would never learn; choose another activation")
        x = kept(edit, reader, x)
        if self.to != "identity":
            x = edit.call(reader, ACTIVATIONS[self.to], x, owner=path)
        edit.exchange(y, self._blend(edit, y.next, path, shape, 0.0, x, y))
        return Outcome(part.name, 0, shape.numel(), [path], "as before", f"(1 - a) times what it was + a {self.to}(x), "
                       "and a starts at zero")

    def _is_same(self, edit: Edit, y: Node) -> bool:
        """Return whether a call is the activation `to` itself: a layer with torch's settings, or a function without any."""
        if y.op != "call_module":
            return getattr(y.target, "__name__", y.target) in (self.to, f"{self.to}_") and len(y.args) == 1
        layer = edit.gm.get_submodule(str(y.target))
        named = type(layer).__module__ == "torch.nn.modules.activation" and \
            type(layer).__name__.lower() == self.to.replace("_", "")
        return named and all(getattr(layer, key) == value for key, value in vars(type(layer)()).items()
                             if key[0] != "_" and key not in ("training", "inplace"))

    def _blend(self, edit: Edit, before: Node, path: str, shape: torch.Size, start: float, x: Node, y: Node | None) -> Node:
        """Add `a x + (1 - a) y` to the graph, `y` being f(x) if it is not given."""
        layer = nn.Module()
        layer.a = nn.Parameter(torch.full(shape, start))
        edit.add_layer(path, layer)
        if y is None:
            y = edit.call(before, ACTIVATIONS[self.to], x, owner=path)
        a = read_parameter(edit, before, f"{path}.a")
        rest = edit.call(before, operator.sub, 1, a, owner=path)
        return edit.call(before, torch.add, edit.call(before, torch.mul, x, a, owner=path),
                         edit.call(before, torch.mul, y, rest, owner=path), owner=path)

    def _shape(self, edit: Edit, part: Part) -> torch.Size:
        """Return the shape of `a`, which is multiplied with what the part gives."""
        if self.weight == "scalar":
            return torch.Size()
        sizes = edit.values[part.gives.name].shape[channel_axis(edit, part.gives):]
        return torch.Size([sizes[0], *[1] * (len(sizes) - 1)])


def _is_relu(edit: Edit, node: Node) -> bool:
    if node.op == "call_module":
        return isinstance(edit.gm.get_submodule(str(node.target)), (nn.ReLU, nn.ReLU6))
    return node.target in (F.relu, F.relu_, torch.relu, torch.relu_, F.relu6, "relu", "relu_")
