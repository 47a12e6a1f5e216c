"""Convolutions and linear layers as a graph calls them: by layer (`nn.Conv2d`) or by function (`F.conv2d`), seen alike."""
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
    """A call of a convolution or linear layer.

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
        """Return the node whose value the call takes."""
        return self.argument("input")

    def argument(self, name: str) -> Any:
        """Return an argument of the call or a setting of the layer: input, stride, padding, dilation, groups and so on."""
        if self.module is not None and name != "input":
            return getattr(self.module, name, DEFAULTS[name])
        position = 0 if self.module is not None else ARGUMENTS[self.node.target].index(name)
        if len(self.node.args) > position:
            return self.node.args[position]
        return self.node.kwargs.get(name, DEFAULTS.get(name))

    @property
    def extra(self) -> tuple[tuple, dict[str, Any]]:
        """Return what a layer is given beside its input (the `output_size` of a transposed convolution)."""
        if self.module is None:
            return (), {}
        args, kwargs = self.node.args[1:], {k: v for k, v in self.node.kwargs.items() if k != "input" and v is not None}
        return args if any(a is not None for a in args) else (), kwargs

    def setting(self, name: str) -> tuple[int, ...]:
        """Return a setting (of padding: that is not a word) as one number for each spatial axis."""
        value = self.argument(name)
        value = (value,) if isinstance(value, int) else tuple(value)
        return value * self.rank if len(value) == 1 else value

    def set(self, name: str, value) -> None:
        """Write a setting to the layer or to the call."""
        if self.module is not None:
            setattr(self.module, name, value)
            return
        position = ARGUMENTS[self.node.target].index(name)
        if len(self.node.args) > position:
            self.node.update_arg(position, value)
        else:
            self.node.update_kwarg(name, value)

    def set_kernel(self, size: tuple[int, ...], padding: tuple[int, ...] | str) -> None:
        """Write a kernel size and its padding (a number for each spatial axis, or a word) to the layer or to the call."""
        if isinstance(self.module, ConvNd):
            old = self.module
            like = type(old)(old.in_channels, old.out_channels, size, padding=padding, dilation=old.dilation,
                             groups=old.groups, padding_mode=old.padding_mode, device="meta")
            for name in ("kernel_size", "padding", "_reversed_padding_repeated_twice"):
                setattr(old, name, getattr(like, name))
        else:
            self.set("padding", padding)


def call_of(gm: GraphModule, node: Node) -> Call | None:
    """Return the convolution or linear layer that a node calls, if its weight is a parameter or buffer."""
    if node.op == "call_module":
        return _layer_call(node, gm.get_submodule(str(node.target)))
    if node.op == "call_function" and node.target in ARGUMENTS:
        return _function_call(node)
    return None


def _layer_call(node: Node, module: nn.Module) -> Call | None:
    if not isinstance(module, (nn.Linear, ConvNd)) or not type(module).__module__.startswith("torch.nn.modules.") \
            or module._parameters.get("weight") is None:  # computed at each call
        return None
    rank = len(module.kernel_size) if isinstance(module, ConvNd) else 0
    bias = f"{node.target}.bias" if module.bias is not None else None
    transposed = bool(getattr(module, "transposed", False))
    return Call(node, str(node.target), f"{node.target}.weight", bias, rank, transposed, module)


def _function_call(node: Node) -> Call | None:
    call = Call(node, "", "", None, {**CONVOLUTIONS, **TRANSPOSED}.get(node.target, 0), node.target in TRANSPOSED, None)
    weight, bias = call.argument("weight"), call.argument("bias")
    if not (isinstance(weight, Node) and weight.op == "get_attr") or (bias is not None and not (
            isinstance(bias, Node) and bias.op == "get_attr")):
        return None
    call.weight, call.bias = str(weight.target), None if bias is None else str(bias.target)
    call.name = call.weight.rpartition(".")[0] or call.weight
    return call


def calls(gm: GraphModule, convolutions: bool = False) -> list[Call]:
    """Return all calls in the order of the graph; with `convolutions`, only theirs."""
    every = [call for call in (call_of(gm, node) for node in gm.graph.nodes) if call is not None]
    return [call for call in every if call.rank] if convolutions else every


def computes(gm: GraphModule, node: Node) -> bool:
    """Tell whether a node calls a layer that no `Call` speaks of: its weight is computed, or the class is not torch's."""
    return node.op == "call_module" and isinstance(gm.get_submodule(str(node.target)), (nn.Linear, ConvNd)) and \
        call_of(gm, node) is None


def other_users(gm: GraphModule, tensor: Tensor, calls: Sequence[Call]) -> list[Node]:
    """Return the nodes that use a parameter, those of `calls` left out."""
    own = {call.node for call in calls}
    reads = [n for n in gm.graph.nodes if n.op == "get_attr" and attrgetter(str(n.target))(gm) is tensor]
    return [u for r in reads for u in r.users if u not in own] + [
        n for n in gm.graph.nodes if n.op == "call_module" and n not in own
        and any(p is tensor for p in gm.get_submodule(str(n.target)).parameters())]
