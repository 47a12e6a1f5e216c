"""Running a network that has most of another one in it, as a child has of its parent: what is as it was isn't run again.

A node gives what the node of its name gave in the other network if it makes the same call on the same values, so behind a
place that is another one all is as it was again where the values are.
"""
from __future__ import annotations

import contextlib
import functools
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from types import BuiltinFunctionType
from typing import Any, NamedTuple

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


class Twin(NamedTuple):
    """A node of another network that makes the same call, what it and this one read, and the tensors of their layers."""
    was: Node
    reads: list[tuple[Node, Node]]
    tensors: list[tuple[Tensor, Tensor]]  # of one form, and not the same


class Shared:
    """The nodes of a network that make the calls of another one, each with its twin there.

    nodes: which these are, by the other network's name.
    """

    def __init__(self, other: Layers, gm: GraphModule):
        self.other, self.gm = other, gm
        self.layers = dict(modules_by_path(gm, every_name=True))
        self.twins: dict[Node, Twin] = {}
        for node in gm.graph.nodes:
            was = other.nodes.get(node.name)
            if was is not None and (twin := self._twin(was, node)) is not None:
                self.twins[node] = twin

    def _twin(self, was: Node, node: Node) -> Twin | None:
        """Return what decides whether a node gives what another one gave, if it makes that one's call."""
        kind, what = node.op, node.target
        if was.op != kind or was.target != what or (kind == "call_function" and (is_join(node) or not _is_torchs(what))):
            return None
        reads: list[tuple[Node, Node]] = []
        if not _alike(was.args, node.args, reads) or not _alike(was.kwargs, node.kwargs, reads):
            return None
        tensors = tensor_pairs(self.other.layers[what], self.layers[what]) if kind == "call_module" else []  # type: ignore
        return None if tensors is None else Twin(was, reads, tensors)


class Layers:
    """The calls of a network by the names of their nodes, and its layers by path, to find again in others."""

    def __init__(self, gm: GraphModule):
        self.gm = gm
        self.nodes = {node.name: node for node in gm.graph.nodes if node.op in CALLS}
        self.layers = dict(modules_by_path(gm, every_name=True))


class Again(NodeRunner):
    """Run a network, but no node that does the same as one of another network on the same values.

    shared: the nodes that may do so. known: what those of the other network gave.
    """
    shared: Shared | None = None
    known: Mapping[Node, Any] = {}

    def compute(self, node: Node) -> Any:
        """Return the value that a node had, or run it."""
        if node.op not in CALLS:
            return super().compute(node)
        twin = None if self.shared is None else self.shared.twins.get(node)
        return self.run_anew(node) if twin is None or not self.gives_the_same(twin) else self.take(node, twin.was)

    def run_anew(self, node: Node) -> Any:
        """Run a node that does something else."""
        return super().compute(node)

    def take(self, node: Node, was: Node) -> Any:
        """Return the value of a node of the other network for one that does the same."""
        return self.known[was]

    def gives_the_same(self, twin: Twin) -> bool:
        """Tell whether a node whose call is another one's makes it on the same values."""
        known, values = self.known, self.values
        return twin.was in known and all(
            was in known and (known[was] is values[now] or self.same(known[was], values[now])) for was, now in twin.reads)

    def same(self, before: Any, now: Any) -> bool:
        """Tell whether values are the same for what is asked."""
        return same_form(before, now)


class Outputs:
    """What a network computes in eval mode for an input, attention op by op, and what its children do.

    Args:
        layers: those of a captured module, which is not changed meanwhile.
        x: its input.
    """

    def __init__(self, layers: Layers, x: Tensor):
        self.gm, self.layers, self.x = layers.gm, layers, x
        self.own: Any = self._record()

    def _record(self) -> Any:
        run = _Numbers(self, self.gm, None)
        value = run.output()
        self.values = {node: v for node, v in run.values.items() if run.written[node] == _written(v)}  # else written later
        self.written = list(map(_written, self.values.values()))
        return value

    def of(self, child: GraphModule, shared: Shared | None = None) -> Any:
        """Return what a child computes, of which only what is something else than in its parent is run.

        Args:
            shared: what it has of its parent, where that is known.

        Raises:
            CaptureError: it does not run.
        """
        run = _Numbers(self, child, Shared(self.layers, child) if shared is None else shared)
        value = run.output()
        if list(map(_written, self.values.values())) == self.written:
            return value
        self.own = self._record()  # the child writes to what was its parent's
        return _Numbers(self, child, None).output()


class _Numbers(Again):
    """Run a network of one input on numbers, noting how often the memory of each value was written to when it was made."""

    def __init__(self, parent: Outputs, gm: GraphModule, shared: Shared | None):
        super().__init__(gm.graph.nodes, gm, (parent.x,), None if shared is None else shared.layers)
        self.x, self.shared, self.known = parent.x, shared, {} if shared is None else parent.values
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

    def gives_the_same(self, twin: Twin) -> bool:
        """Tell whether a node's call is another one's with the same numbers, on the same values."""
        return super().gives_the_same(twin) and all(torch.equal(was, now) for was, now in twin.tensors)

    def same(self, before: Any, now: Any) -> bool:
        """Tell whether tensors hold the same numbers in the same form, and all else is equal."""
        if isinstance(before, (tuple, list)) and type(before) is type(now):
            return len(before) == len(now) and all(map(self.same, before, now))
        return same_form(before, now) and (not isinstance(before, Tensor) or torch.equal(before, now))


@contextlib.contextmanager
def evaluating(gm: nn.Module) -> Iterator[None]:
    """Put a network in eval mode inside; behind it each module is in the mode that it was in."""
    modules = [m for _, m in modules_by_path(gm)]
    before = [m.training for m in modules]
    try:
        if any(before):
            set_mode(gm, False, modules)
        yield
    finally:
        if any(before):
            set_mode(gm, before[0], modules)
            for module, was in zip(modules, before):
                if module.training is not was:
                    module.training = was


def _written(value: Any) -> list[int]:
    """Return how often the memory of the tensors in a value has been written to."""
    if isinstance(value, Tensor):
        return [value._version]
    return [t._version for t in tree_leaves(value) if isinstance(t, Tensor)]


def same_form(before: Any, now: Any) -> bool:
    """Tell whether tensors have the same form, and all else is equal; sparse ones, which cannot be compared, do not."""
    if isinstance(before, Tensor) and isinstance(now, Tensor):
        return before.layout is now.layout is torch.strided and before.shape == now.shape and \
            before.dtype == now.dtype and before.stride() == now.stride()
    if isinstance(before, (tuple, list)) and type(before) is type(now):
        return len(before) == len(now) and all(map(same_form, before, now))
    return before is now or (type(before) is type(now) and type(before) in PLAIN and before == now)


def _alike(was: Any, now: Any, reads: list[tuple[Node, Node]]) -> bool:
    """Tell whether arguments are the same but for the nodes among them, which go to `reads`."""
    if isinstance(was, Node):
        reads.append((was, now))
        return isinstance(now, Node)
    if isinstance(was, (tuple, list)):
        return isinstance(now, (tuple, list)) and len(was) == len(now) and all(_alike(a, b, reads) for a, b in zip(was, now))
    if isinstance(was, dict):
        return isinstance(now, dict) and was.keys() == now.keys() and all(_alike(was[k], now[k], reads) for k in was)
    if isinstance(was, slice):
        return isinstance(now, slice) and _alike((was.start, was.stop, was.step), (now.start, now.stop, now.step), reads)
    return was is now or (type(was) is type(now) and was == now)


def tensor_pairs(before: nn.Module, now: nn.Module) -> list[tuple[Tensor, Tensor]] | None:
    """Return the tensors, but those that are one, of two of torch's layers with the same settings and forms of tensors.

    (None: they are not such, hold other layers or have hooks.)
    """
    mine, others = vars(before), vars(now)
    if type(before) is not type(now) or not type(now).__module__.startswith("torch.nn.modules.") or len(mine) != len(others):
        return None
    pairs: list[tuple[Tensor, Tensor]] = []
    for name, value in mine.items():
        other = others.get(name, others)
        kind = type(value)
        if kind in CONTAINERS:
            if value or other:
                if name not in ("_parameters", "_buffers") or value.keys() != other.keys():
                    return None
                pairs += [(t, other[n]) for n, t in value.items() if t is not other[n]]
        elif value is not other and not (kind is type(other) and kind in PLAIN and value == other):
            return None
    return [pair for pair in pairs if not is_same_memory(*pair)] if all(same_form(*pair) for pair in pairs) else None


@functools.cache
def _is_torchs(function: Any) -> bool:
    """Tell whether a function is one whose result is the same whenever its arguments are."""
    return isinstance(function, BuiltinFunctionType) or str(getattr(function, "__module__", None)).startswith(OURS)
