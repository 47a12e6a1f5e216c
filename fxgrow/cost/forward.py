"""FLOPs of the forward passes of many networks that have most of their layers in common, as parent and children have."""
from __future__ import annotations

import contextlib
from typing import Any

from torch import nn
from torch.fx import GraphModule, Node

from fxgrow.common import without_collector
from fxgrow.cost.count import CostRunner, metering
from fxgrow.cost.meter import Meter
from fxgrow.graph import Again, Layers, Shared, arguments_of, as_call, meta_twin, to_meta


class ForwardCounter:
    """Counts captured networks; where one does what the first did, on values of the same form, that is not counted anew."""

    def __init__(self) -> None:
        self.layers: Layers | None = None  # of the first
        self.values: dict[Node, Any] = {}  # of its nodes
        self.flops: dict[Node, int] = {}
        self.facts: dict[Any, tuple] = {}  # about ops, for every meter

    def count(self, gm: GraphModule, example_inputs, shared: Shared | None = None) -> int:
        """Return what `count_flops(gm, example_inputs).forward` is.

        Args:
            shared: what it has of the first, where that is known.

        Raises:
            CaptureError: the network does not run on meta tensors.
        """
        args, kwargs = as_call(example_inputs)
        inputs = to_meta(tuple(a.value for a in arguments_of(gm, args, kwargs)))
        if self.layers is not None and (shared is None or shared.other.gm is not self.layers.gm):
            shared = Shared(self.layers, gm)
        runner = _Runner(gm, inputs, self, shared)
        with without_collector():
            values = runner.run()
        if self.layers is None:
            self.layers, self.values, self.flops = Layers(gm), values, runner.flops
        return sum(runner.flops.values())


class _Runner(Again, CostRunner):
    """Runs only nodes that are others than the first network's; their layers go to the meta device."""
    gradients = False

    def __init__(self, gm: GraphModule, inputs: tuple, known: ForwardCounter, shared: Shared | None):
        super().__init__(Meter("matmul"), gm.graph, gm, inputs, None if shared is None else shared.layers)
        self.meter.facts = known.facts
        self.shared, self.known = shared, known.values
        self.flops_before, self.flops = known.flops, dict[Node, int]()
        self.on_meta: set[str] = set()  # layers that are there, those that run in any case before anything is watched
        twins = {} if shared is None else shared.twins
        for node in self.nodes:
            if node.op == "call_module" and node not in twins:
                self._to_meta(str(node.target))
        self.watched = contextlib.ExitStack()  # open while nodes run one behind the other: only what runs is watched,
        self.is_watched = False                # since that makes every call slow

    def compute(self, node: Node) -> Any:
        """Run a node or take its value, leaving nothing open where that fails, or no node is left."""
        goes_on = False
        try:
            value = super().compute(node)
            goes_on = node.op != "output"
            return value
        finally:
            if not goes_on:
                self._leave()

    def _to_meta(self, path: str) -> None:
        if path not in self.on_meta:
            self.on_meta.add(path)
            self.modules[path] = meta_twin(self.modules[path])

    def _leave(self) -> None:
        self.is_watched = False
        self.watched.close()

    def take(self, node: Node, was: Node) -> Any:
        """Take the cost of a node of the first network with its value."""
        if self.is_watched:
            self._leave()
        self.flops[node] = self.flops_before[was]
        return super().take(node, was)

    def run_anew(self, node: Node) -> Any:
        """Run a node and note what it costs."""
        if node.op == "call_module":
            self._to_meta(str(node.target))
        if not self.is_watched:
            self.watched.enter_context(metering(self.meter, nn.Module(), (), {}, nodes=True))
            self.is_watched = True
        value = super().run_anew(node)
        self.flops[node] = self.meter.costs[self.meter.where].forward
        return value
