"""Running a network that has most of another one in it, as a child has of its parent: what is as it was isn't run again.

A node gives what the node of its name gave in the other network if it makes the same call on the same values, so behind a
place that is another one all is as it was again where the values are.
"""
from __future__ import annotations

import contextlib
import functools
from collections import OrderedDict
from collections.abc import Callable, Iterator
from types import BuiltinFunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from fxgrow.aten import tree_leaves
from fxgrow.graph.copies import is_same_memory
from fxgrow.graph.joins import is_join
from fxgrow.graph.modules import modules_by_path, set_mode
from fxgrow.graph.running import NodeRunner
from fxgrow.layers import SWITCHES

OURS = ("torch.", "math", "fxgrow.layers")  # where functions do the same for the same arguments
CALLS = ("call_module", "call_function", "call_method")
PLAIN = {int, float, bool, str, tuple, type(None), torch.Size, torch.dtype, torch.device}
CONTAINERS = {dict, OrderedDict, list, set}  # of layers, empty where they are of no interest
Same = Callable[[Any, Any], bool]


class Ran:
    """What the nodes of a network gave in one run, and when the values of another one are the same as these."""

    def __init__(self, gm: GraphModule, values: dict[Node, Any], same: Same):
        self.nodes = {node.name: node for node in values if node.op in CALLS}
        self.modules = dict(modules_by_path(gm, every_name=True))
        self.values, self.same = values, same


class Again(NodeRunner):
    """Run a network whose nodes give what others gave where they do the same."""
    ran: Ran | None = None  # the run of the other network

    def compute(self, node: Node) -> Any:
        """Return the value that a node had, or run it."""
        if node.op not in CALLS:
            return super().compute(node)
        was = None if self.ran is None else self.ran.nodes.get(node.name)
        return self.run_anew(node) if was is None or not self._does_as(was, node) else self.take(node, was)

    def run_anew(self, node: Node) -> Any:
        """Run a node that does something else."""
        return super().compute(node)

    def take(self, node: Node, was: Node) -> Any:
        """Return the value of a node of the other network for one that does the same."""
        return self.ran.values[was]  # type: ignore[union-attr]

    def _does_as(self, was: Node, node: Node) -> bool:
        """Tell whether a node makes the call that one of the other network made, on the same values."""
        kind, what = node.op, node.target
        if was.op != kind or was.target != what or (kind == "call_function" and (is_join(node) or not _is_torchs(what))):
            return False
        args, kwargs = node.args, node.kwargs
        if not self._reads_as(was.args, args) or ((kwargs or was.kwargs) and not self._reads_as(was.kwargs, kwargs)):
            return False
        ran: Any = self.ran
        return kind != "call_module" or same_layer(ran.modules[what], self.modules[what], ran.same)  # type: ignore[index]

    def _reads_as(self, was: Any, now: Any) -> bool:
        """Tell whether arguments are the same, with the same values of nodes among them."""
        if isinstance(was, Node):
            values = self.ran.values  # type: ignore[union-attr]
            return isinstance(now, Node) and was in values and (
                values[was] is self.values[now] or self.ran.same(values[was], self.values[now]))  # type: ignore[union-attr]
        if isinstance(was, (tuple, list)):
            return isinstance(now, (tuple, list)) and len(was) == len(now) and all(map(self._reads_as, was, now))
        if isinstance(was, dict):
            return isinstance(now, dict) and was.keys() == now.keys() and all(self._reads_as(was[k], now[k]) for k in was)
        if isinstance(was, slice):
            bounds = [(of.start, of.stop, of.step) for of in (was, now) if isinstance(of, slice)]
            return len(bounds) == 2 and self._reads_as(*bounds)
        return was is now or (type(was) is type(now) and was == now)


class Outputs:
    """What a network computes in eval mode for an input, attention op by op, and what its children do.

    Args:
        gm: a captured module, which is not changed meanwhile.
        x: its input.
    """

    def __init__(self, gm: GraphModule, x: Tensor):
        self.gm, self.x = gm, x
        self.own: Any = self._record()

    def _record(self) -> Any:
        run = _Numbers(self.gm, self.x)
        value = run.output()
        lasting = {node: v for node, v in run.values.items() if run.written[node] == _written(v)}  # else written to later
        self.ran, self.written = Ran(self.gm, lasting, same_numbers), list(map(_written, lasting.values()))
        return value

    def of(self, child: GraphModule) -> Any:
        """Return what a child computes, of which only what is something else than in its parent is run.

        Raises:
            CaptureError: it does not run.
        """
        with evaluating(self.gm):
            value = _Numbers(child, self.x, self.ran).output()
        if list(map(_written, self.ran.values.values())) == self.written:
            return value
        self.own = self._record()  # the child writes to what was its parent's
        return _Numbers(child, self.x).output()


class _Numbers(Again):
    """Run a network of one input on numbers, noting how often the memory of each value was written to when it was made."""

    def __init__(self, gm: GraphModule, x: Tensor, ran: Ran | None = None):
        super().__init__(gm.graph.nodes, gm, (x,))
        self.ran, self.x = ran, x
        self.written: dict[Node, list[int]] = {}

    def output(self) -> Any:
        """Return what the network gives in eval mode, which it need not be in."""
        with evaluating(self.root), torch.no_grad():
            if any(node.target in SWITCHES for node in self.nodes):  # which a run of the nodes passes over
                return self.root(self.x)
            return list(self.run().values())[-1]

    def after(self, node: Node, value: Any) -> Any:
        """Keep a value where it is."""
        self.written[node] = _written(value)
        return value


@contextlib.contextmanager
def evaluating(gm: nn.Module) -> Iterator[None]:
    """Put a network in eval mode inside."""
    was = gm.training
    try:
        set_mode(gm, False)
        yield
    finally:
        set_mode(gm, was)


def _written(value: Any) -> list[int]:
    """Return how often the memory of the tensors in a value has been written to."""
    return [t._version for t in tree_leaves(value) if isinstance(t, Tensor)]


def same_form(before: Any, now: Any) -> bool:
    """Tell whether tensors have the same form, and all else is equal."""
    if isinstance(before, Tensor) and isinstance(now, Tensor):
        return before.shape == now.shape and before.dtype == now.dtype and before.stride() == now.stride()
    if isinstance(before, (tuple, list)) and type(before) is type(now):
        return len(before) == len(now) and all(map(same_form, before, now))
    return before is now or (type(before) is type(now) and type(before) in PLAIN and before == now)


def same_numbers(before: Any, now: Any) -> bool:
    """Tell whether tensors hold the same numbers in the same form, and all else is equal."""
    if isinstance(before, Tensor) and isinstance(now, Tensor):
        return same_form(before, now) and (is_same_memory(before, now) or torch.equal(before, now))
    if isinstance(before, (tuple, list)) and type(before) is type(now):
        return len(before) == len(now) and all(map(same_numbers, before, now))
    return same_form(before, now)


def same_layer(before: nn.Module, now: nn.Module, same: Same) -> bool:
    """Tell whether two of torch's layers that hold no others have the same settings and tensors, and no hooks."""
    mine, others = vars(before), vars(now)
    if type(before) is not type(now) or not type(now).__module__.startswith("torch.nn.modules.") or len(mine) != len(others):
        return False
    for name, value in mine.items():
        other = others.get(name, others)
        kind = type(value)
        if kind in CONTAINERS and not value and not other:
            continue
        if name in ("_parameters", "_buffers"):
            if value.keys() != other.keys() or not all(t is other[n] or same(t, other[n]) for n, t in value.items()):
                return False
        elif kind in CONTAINERS or (value is not other and not (kind is type(other) and kind in PLAIN and value == other)):
            return False
    return True


@functools.cache
def _is_torchs(function: Any) -> bool:
    """Tell whether a function is one whose result is the same whenever its arguments are."""
    return isinstance(function, BuiltinFunctionType) or str(getattr(function, "__module__", None)).startswith(OURS)
