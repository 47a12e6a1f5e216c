"""FLOPs of the forward passes of many networks that have most of their layers in common, as parent and children have."""
from types import BuiltinFunctionType
from typing import Any

from torch import Tensor, nn
from torch.fx import GraphModule, Node

from fxgrow.common import without_collector
from fxgrow.cost.count import CostRunner, metering
from fxgrow.cost.meter import Meter
from fxgrow.graph import arguments_of, as_call, is_join, meta_twin

OURS = ("torch.", "math", "fxgrow.layers")  # where functions do the same for the same sizes
PLAIN = {int, float, bool, str, tuple, type(None)}


class ForwardCounter:
    """Counts captured networks; what a layer or call gives and costs is worked out once for each of its sizes."""

    def __init__(self) -> None:
        self.known: dict[Any, tuple[Any, int]] = {}

    def count(self, gm: GraphModule, example_inputs) -> int:
        """Return what `count_flops(gm, example_inputs).forward` is.

        Raises:
            CaptureError: the network does not run on meta tensors.
        """
        args, kwargs = as_call(example_inputs)
        inputs = tuple(a.value.to("meta") if isinstance(a.value, Tensor) else a.value
                       for a in arguments_of(gm, args, kwargs))
        runner = _Runner(Meter("matmul"), gm, inputs, self.known)
        with without_collector(), metering(runner.meter, nn.Module(), (), {}, nodes=True):
            runner.run()
        return runner.flops


class _Runner(CostRunner):
    """Runs only nodes that are not known, on layers that go to the meta device when they are called."""
    gradients = False

    def __init__(self, meter: Meter, gm: GraphModule, inputs: tuple, known: dict[Any, tuple[Any, int]]):
        super().__init__(meter, gm.graph, gm, inputs)
        self.known, self.flops = known, 0

    def compute(self, node: Node) -> Any:
        """Look a node's value and cost up, or run it."""
        key = self._key(node)
        if key is None or key not in self.known:
            value = super().compute(node)
            found = value, self.meter.costs[self.meter.where].forward
            if key is None:
                self.flops += found[1]
                return value
            self.known[key] = found
        value, flops = self.known[key]
        self.flops += flops
        return value

    def call_module(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Call a copy of a layer that is on the meta device."""
        return meta_twin(module)(*args, **kwargs)

    def _key(self, node: Node) -> Any:
        """Return what the result of a node follows from; None where that is not known."""
        what: Any = None
        if node.op == "call_module":
            what = _layer(self.modules[str(node.target)])
        elif node.op == "call_method" or (node.op == "call_function" and _is_torchs(node.target)):
            what = node.target
        if what is None or is_join(node):
            return None
        key = node.op, what, _told(self.look_up(node.args)), _told(self.look_up(node.kwargs))
        try:
            hash(key)
        except TypeError:
            return None
        return key


def _is_torchs(function: Any) -> bool:
    """Tell whether a function is one whose result has the same sizes whenever its arguments have."""
    return isinstance(function, BuiltinFunctionType) or str(getattr(function, "__module__", None)).startswith(OURS)


def _layer(layer: nn.Module) -> Any:
    """Return the class, settings and sizes of one of torch's layers; None of others, and of those that hold layers."""
    if not type(layer).__module__.startswith("torch.nn.modules.") or any(
            (layer._modules, layer._forward_hooks, layer._forward_pre_hooks)):
        return None
    state = vars(layer)
    held = {**layer._parameters, **layer._buffers}
    return (type(layer), tuple([(name, type(v), v) for name, v in state.items() if type(v) in PLAIN]),
            tuple([(name, t if t is None else (t.shape, t.dtype)) for name, t in held.items()]))


def _told(value: Any) -> Any:
    """Return what stands for a value in a key: of a tensor its shape and type."""
    if isinstance(value, Tensor):
        return value.shape, value.dtype
    if isinstance(value, (tuple, list)):
        return type(value), *map(_told, value)
    if isinstance(value, dict):
        return tuple((name, _told(v)) for name, v in value.items())
    if isinstance(value, slice):
        return slice, _told((value.start, value.stop, value.step))
    return type(value), value
