"""Kernel: convolutions with larger kernels (Network Morphism, Wei 2016: kernel size morphing)."""
import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg
from torch.fx.passes.infra.pass_base import PassBase, PassResult

from fxgrow.aten import ConvNd, tree_leaves
from fxgrow.common import Refusal, brief, times
from fxgrow.errors import GrowthError
from fxgrow.graph import CONVOLUTIONS, TRANSPOSED, Call, call_of, other_users, place_of
from fxgrow.growth import Edit, insist_done
from fxgrow.passes.support import listed
from fxgrow.record import Outcome, ParameterRecord

Sizes = tuple[int, ...]
COMPUTED = "its weight is computed at each call (weight_norm and the like); take that parametrization off first"


@dataclass
class Kernel(PassBase):
    """Gives convolutions larger kernels, whose new taps start at zero, without changing what the network computes.

    Args:
        where: a glob, or several, over qualified names of convolutions; None: all. One whose kernel is a single tap grows
            only if it is named in full.
        size: the new size: one number for every spatial axis, or one for each (`3,7`). It may exceed the present one
            by an even number only, unless the padding is "same".
    """
    where: str | Sequence[str] | None = None
    _: KW_ONLY
    size: int | str | Sequence[int] = 5

    def __post_init__(self) -> None:
        words = [self.size] if isinstance(self.size, (int, str)) else list(self.size)
        try:
            self.sizes: Sizes = tuple(int(n) for word in words for n in str(word).split(","))
        except ValueError:
            raise GrowthError(f"size {brief(self.size)} is not a number, nor numbers with commas between them") from None
        if not self.sizes or min(self.sizes) < 1:
            raise GrowthError(f"size {brief(self.size)} is no kernel size; it must be at least 1 on every axis")

    def call(self, graph_module: GraphModule) -> PassResult:
        """Enlarge each convolution that `where` names."""
        named = listed(self.where)
        edit = Edit(graph_module, {"pass": "kernel", "where": named, "size": list(self.sizes)})
        weights, calls = _convolutions(edit)
        done: set[Tensor] = set()
        for name in edit.select(self.where, weights, "convolution"):
            for weight in weights[name]:
                if weight is None:
                    edit.outcomes.append(Outcome(name, 0, 0, [name], reason=COMPUTED))
                elif weight not in done:
                    done.add(weight)
                    edit.outcomes.append(self._grow(edit, name, weight, calls[weight], name in named))
        insist_done(self.where, edit.outcomes)
        return edit.finish()

    def _grow(self, edit: Edit, name: str, weight: Tensor, calls: list[Call], named: bool) -> Outcome:
        """Grow one weight and all calls of it, or say why not."""
        old = tuple(weight.shape[2:])
        taps = math.prod(old)
        try:
            if taps == 1 and not named:
                raise Refusal("one tap grows only if it is named in full")
            new = self._size(old)
            sizes = _size_readers(edit, weight, calls)
            changes = [_shift(call, old, new, edit.values[call.input.name]) for call in calls]
            front = changes[0][0]
            if any(f != front for f, _ in changes):
                raise Refusal("its calls would need the new taps in different places")
        except Refusal as why:
            return Outcome(name, taps, taps, [name], reason=str(why))
        for node in sizes:
            _pin(node, edit.values[node.name])
        _enlarge(edit, calls[0].weight, front, new)
        settings = {c.node if c.module is None else c.module: (c, padding) for c, (_, padding) in zip(calls, changes)}
        for call, padding in settings.values():
            call.set_kernel(new, padding)
        return Outcome(name, taps, math.prod(new), [name], "zero taps", f"{times(old)} becomes {times(new)}: the new taps "
                       f"are zero; padding {_show(changes[0][1])} leaves the old ones where they were")

    def _size(self, old: Sizes) -> Sizes:
        new = self.sizes * len(old) if len(self.sizes) == 1 else self.sizes
        if len(new) != len(old):
            raise Refusal(f"it has {len(old)} spatial axes, and size {_show(new)} speaks of {len(new)}")
        if new == old:
            raise Refusal(f"its kernel is {times(old)} already")
        if any(n < o for n, o in zip(new, old)):
            raise Refusal(f"size {times(new)} would shrink its kernel of {times(old)}")
        return new


def _convolutions(edit: Edit) -> tuple[dict[str, list[Tensor | None]], dict[Tensor, list[Call]]]:
    """Return the weights of each layer, or of what owns those of calls (None: computed), and the calls of each weight."""
    weights: dict[str, list[Tensor | None]] = {}
    found: dict[Tensor, list[Call]] = {}
    for node in (n for n in edit.graph.nodes if _convolves(edit, n)):
        call = call_of(edit.gm, node)
        if call is None:
            weights.setdefault(place_of(node) or node.name, []).append(None)
        else:
            weight = edit.tensor(call.weight)
            weights.setdefault(call.name, []).append(weight)
            found.setdefault(weight, []).append(call)
    return weights, found


def _convolves(edit: Edit, node: Node) -> bool:
    if node.op == "call_module":
        return isinstance(edit.gm.get_submodule(str(node.target)), ConvNd)
    return node.op == "call_function" and (node.target in CONVOLUTIONS or node.target in TRANSPOSED)


def _size_readers(edit: Edit, weight: Tensor, calls: list[Call]) -> list[Node]:
    """Return the nodes that read a weight's size; refuse where others read its numbers."""
    users = other_users(edit.gm, weight, calls)
    sizes = [u for u in users if isinstance(edit.values[u.name], (int, tuple))]
    others = dict.fromkeys(place_of(u) or u.name for u in users if u not in sizes)
    if others:
        raise Refusal(f"its weight is also used by {', '.join(others)}")
    return sizes


def _pin(node: Node, value: int | tuple) -> None:
    """Write the size that a node reads off a weight into its users: a padding computed from it stays what it was."""
    value = value if isinstance(value, int) else tuple(value)
    for user in list(node.users):
        user.args, user.kwargs = map_arg((user.args, user.kwargs), lambda n: value if n is node else n)
    node.graph.erase_node(node)


def _shift(call: Call, old: Sizes, new: Sizes, x: Tensor) -> tuple[Sizes, Sizes | str]:
    """Return how many new taps are in front of the old ones on each axis, and the padding that keeps outputs in place.

    Output i of a convolution is the sum over taps t of `w[t] x[i stride - padding + t dilation]`. With `a` new taps in front
    the old tap t is tap t + a, so the padding grows by `a dilation`; the number of outputs stays for any stride if it
    grows by half of what the kernel gains. A transposed convolution swaps the roles of x and output.
    """
    padding = call.argument("padding")
    if any(isinstance(n, Node) for n in tree_leaves((padding, call.argument("dilation")))):
        raise Refusal("its padding or dilation is computed at each call")
    dilation = call.setting("dilation")
    gained = [n - o for n, o in zip(new, old)]
    if padding == "same":  # dilation (size - 1) zeros in all, of which the smaller half comes in front
        grown = [d * (n - 1) // 2 - d * (o - 1) // 2 for d, n, o in zip(dilation, new, old)]
        if any(g % d for g, d in zip(grown, dilation)):
            raise Refusal(f"growth from {times(old)} to {times(new)} at dilation {_show(dilation)} moves the old taps off "
                          "their places; choose a size that differs by an even number")
        _check_room(call, x, tuple(-(d * (1 - n) // 2) for d, n in zip(dilation, new)))
        return tuple(g // d for g, d in zip(grown, dilation)), "same"
    if any(g % 2 for g in gained):
        raise Refusal(f"an odd number of taps between {times(old)} and {times(new)} needs more padding on one side than on "
                      "the other; choose a size that differs by an even number")
    front = tuple(g // 2 for g in gained)
    present = (0,) * len(old) if padding == "valid" else call.setting("padding")
    wider = tuple(p + a * d for p, a, d in zip(present, front, dilation))
    _check_room(call, x, wider)
    return front, wider


def _check_room(call: Call, x: Tensor, padding: Sizes) -> None:
    """Raise Refusal where a padding that repeats the input is larger than that."""
    mode, space = getattr(call.module, "padding_mode", "zeros"), tuple(x.shape[-call.rank:])
    spare = {"reflect": 1, "circular": 0}.get(mode)
    if spare is not None and any(p > s - spare for p, s in zip(padding, space)):
        raise Refusal(f"{mode} padding of {_show(padding)} does not fit its input of {times(space)}")


def _enlarge(edit: Edit, name: str, front: Sizes, new: Sizes) -> None:
    """Put zeros around a kernel; the record says that they are new."""
    weight = edit.tensor(name)
    old = tuple(weight.shape[2:])
    around = [n for o, a, s in reversed(list(zip(old, front, new))) for n in (a, s - o - a)]
    index = [None, None, *(None if s == o else torch.tensor([-1] * a + [*range(o)] + [-1] * (s - o - a))
                           for o, a, s in zip(old, front, new))]
    known = edit.recorded_name(name)
    edit.set_tensor(name, F.pad(weight.detach(), around),
                    ParameterRecord(known, index, [None if i is None else i < 0 for i in index]))


def _show(value) -> str:
    return value if isinstance(value, str) else ", ".join(map(str, value))
