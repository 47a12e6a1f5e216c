"""FLOPs of the forward passes of many networks that have most of their layers in common, as parent and children have."""
from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.fx import GraphModule, Node

from fxgrow.common import without_collector
from fxgrow.cost.count import CostRunner, metering
from fxgrow.cost.meter import Meter
from fxgrow.graph import Again, Ran, arguments_of, as_call, meta_twin, same_form


class ForwardCounter:
    """Counts captured networks; where one does what the first did, on values of the same form, that is not counted anew."""

    def __init__(self) -> None:
        self.first: Ran | None = None
        self.flops: dict[Node, int] = {}  # of the nodes of the first
        self.facts: dict[Any, tuple] = {}  # about ops, for every meter

    def count(self, gm: GraphModule, example_inputs) -> int:
        """Return what `count_flops(gm, example_inputs).forward` is.

        Raises:
            CaptureError: the network does not run on meta tensors.
        """
        args, kwargs = as_call(example_inputs)
        inputs = tuple(a.value.to("meta") if isinstance(a.value, Tensor) else a.value
                       for a in arguments_of(gm, args, kwargs))
        runner = _Runner(gm, inputs, self)
        with without_collector():
            values = runner.run()
        if self.first is None:
            self.first, self.flops = Ran(gm, values, same_form), runner.flops
        return sum(runner.flops.values())


class _Runner(Again, CostRunner):
    """Runs only nodes that are others than the first network's; their layers go to the meta device."""
    gradients = False

    def __init__(self, gm: GraphModule, inputs: tuple, known: ForwardCounter):
        super().__init__(Meter("matmul"), gm.graph, gm, inputs)
        self.meter.facts = known.facts
        self.ran, self.known, self.flops = known.first, known.flops, dict[Node, int]()

    def take(self, node: Node, was: Node) -> Any:
        """Take the cost of a node of the first network with its value."""
        self.flops[node] = self.known[was]
        return super().take(node, was)

    def run_anew(self, node: Node) -> Any:
        """Run a node and note what it costs; only what runs is watched, since that makes every call slow."""
        if node.op == "call_module":
            self.modules[str(node.target)] = meta_twin(self.modules[str(node.target)])
        with metering(self.meter, nn.Module(), (), {}, nodes=True):
            value = super().run_anew(node)
        self.flops[node] = self.meter.costs[self.meter.where].forward
        return value
