"""Convolutions and linear layers as a graph calls them: by layer (`nn.Conv2d`) or by function (`F.conv2d`), seen alike."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from fxgrow.aten import ConvNd

CONVOLUTIONS: dict[Any, int] = {F.conv1d: 1, F.conv2d: 2, F.conv3d: 3}
TRANSPOSED: dict[Any, int] = {F.conv_transpose1d: 1, F.conv_transpose2d: 2, F.conv_transpose3d: 3}
LAYERS: dict[tuple[int, bool], type] = {  # by spatial axes, and whether it is transposed
    (0, False): nn.Linear, (1, False): nn.Conv1d, (2, False): nn.Conv2d, (3, False): nn.Conv3d,
    (1, True): nn.ConvTranspose1d, (2, True): nn.ConvTranspose2d, (3, True): nn.ConvTranspose3d}
ARGUMENTS = {**dict.fromkeys(CONVOLUTIONS, ("input", "weight", "bias", "stride", "padding", "dilation", "groups")),
             **dict.fromkeys(TRANSPOSED, ("input", "weight", "bias", "stride", "padding", "output_padding", "groups",
                                          "dilation")),
             F.linear: ("input", "weight", "bias")}
DEFAULTS = {"bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1, "output_padding": 0}


@dataclass
class Call:
    """One call of a convolution or linear layer.

    name: the layer, or what owns the weight of a functional call. weight, bias: names of the tensors (bias None: none).
    rank: spatial axes (0 for linear).
    """
    node: Node
    name: str
    weight: str
    bias: str | None
    rank: int
    transposed: bool
    module: nn.Module | None

    @property
    def input(self) -> Node:
        return self.argument("input")

    def argument(self, name: str) -> Any:
        """An argument of the call or the setting of the layer: input, stride, padding, dilation, groups, output_padding."""
        if self.module is not None and name != "input":
            return getattr(self.module, name, DEFAULTS[name])
        position = 0 if self.module is not None else ARGUMENTS[self.node.target].index(name)
        if len(self.node.args) > position:
            return self.node.args[position]
        return self.node.kwargs.get(name, DEFAULTS.get(name))

    @property
    def extra(self) -> tuple[tuple, dict[str, Any]]:
        """What a layer is given beside its input (the `output_size` of a transposed convolution)."""
        if self.module is None:
            return (), {}
        args, kwargs = self.node.args[1:], {k: v for k, v in self.node.kwargs.items() if k != "input" and v is not None}
        return args if any(a is not None for a in args) else (), kwargs

    def setting(self, name: str) -> tuple[int, ...]:
        """stride, dilation, output_padding, or a padding that is not a word, one number for each spatial axis."""
        value = self.argument(name)
        value = (value,) if isinstance(value, int) else tuple(value)
        return value * self.rank if len(value) == 1 else value

    def set(self, name: str, value) -> None:
        """Writes a setting to the layer or to the call."""
        if self.module is not None:
            setattr(self.module, name, value)
        elif len(self.node.args) > (position := ARGUMENTS[self.node.target].index(name)):
            self.node.update_arg(position, value)
        else:
            self.node.update_kwarg(name, value)


    def set_kernel(self, size: tuple[int, ...], padding: tuple[int, ...] | str) -> None:
        """Writes a kernel size and its padding (a number for each spatial axis, or a word) to the layer or to the call."""
        if isinstance(self.module, ConvNd):
            old = self.module
            like = type(old)(old.in_channels, old.out_channels, size, padding=padding, dilation=old.dilation,
                             groups=old.groups, padding_mode=old.padding_mode, device="meta")
            for name in ("kernel_size", "padding", "_reversed_padding_repeated_twice"):
                setattr(old, name, getattr(like, name))
        else:
            self.set("padding", padding)


def call_of(gm: GraphModule, node: Node) -> Call | None:
    """The convolution or linear layer that a node calls, if it calls one whose weight is a parameter or buffer."""
    if node.op == "call_module":
        module = gm.get_submodule(str(node.target))
        if not isinstance(module, (nn.Linear, ConvNd)) or not type(module).__module__.startswith("torch.nn.modules.") \
                or module._parameters.get("weight") is None:  # computed at each call
            return None
        rank = len(module.kernel_size) if isinstance(module, ConvNd) else 0
        bias = f"{node.target}.bias" if module.bias is not None else None
        return Call(node, str(node.target), f"{node.target}.weight", bias, rank, bool(getattr(module, "transposed", False)),
                    module)
    if node.op != "call_function" or node.target not in ARGUMENTS:
        return None
    call = Call(node, "", "", None, {**CONVOLUTIONS, **TRANSPOSED}.get(node.target, 0), node.target in TRANSPOSED, None)
    weight, bias = call.argument("weight"), call.argument("bias")
    if not (isinstance(weight, Node) and weight.op == "get_attr") or bias is not None and not (
            isinstance(bias, Node) and bias.op == "get_attr"):
        return None
    call.weight, call.bias = str(weight.target), None if bias is None else str(bias.target)
    call.name = call.weight.rpartition(".")[0] or call.weight
    return call


def calls(gm: GraphModule, convolutions: bool = False) -> list[Call]:
    """All of them in the order of the graph; with `convolutions`, only these."""
    found = [c for node in gm.graph.nodes if (c := call_of(gm, node)) is not None]
    return [c for c in found if c.rank] if convolutions else found


def computes(gm: GraphModule, node: Node) -> bool:
    """Whether a node calls a convolution or linear layer that no `Call` speaks of: its weight is computed, or the class is
    not torch's own."""
    return node.op == "call_module" and isinstance(gm.get_submodule(str(node.target)), (nn.Linear, ConvNd)) and \
        call_of(gm, node) is None


def other_users(gm: GraphModule, tensor: Tensor, known: Sequence[Call]) -> list[Node]:
    """What uses a parameter in other ways than the `known` calls do."""
    own = {call.node for call in known}
    reads = [n for n in gm.graph.nodes if n.op == "get_attr" and attrgetter(str(n.target))(gm) is tensor]
    return [u for r in reads for u in r.users if u not in own] + [
        n for n in gm.graph.nodes if n.op == "call_module" and n not in own
        and any(p is tensor for p in gm.get_submodule(str(n.target)).parameters())]
