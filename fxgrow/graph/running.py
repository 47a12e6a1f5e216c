"""Running the nodes of a captured graph on meta tensors: shapes and scalars as in the captured program.

What lives here: the one runner, which analyses subclass. What does not: what they find out about each node.
"""
from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.fx.node import map_aggregate

from fxgrow.aten import Literals, Shapes, call_layer, other_counts, with_some
from fxgrow.errors import CaptureError
from fxgrow.graph.captured import Captured
from fxgrow.graph.faults import raised_on_purpose
from fxgrow.graph.joins import is_join
from fxgrow.graph.modules import mentions, meta_twin, modules_by_path, set_mode
from fxgrow.graph.names import location_of
from fxgrow.layers import SWITCHES, Applied, ordered

KNOWN = ("torch.nn.modules.", "torchvision.ops.", "fxgrow.")  # code that does the same at every size


@contextlib.contextmanager
def without_fast_path() -> Iterator[None]:
    """Run attention layers op by op inside, and not as the one fused op that torch takes in eval mode."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


@contextlib.contextmanager
def any_batch_size() -> Iterator[None]:
    """Let norms that refuse a batch of one in train mode take it inside, where only shapes matter."""
    verify = F._verify_batch_size  # type: ignore[attr-defined]
    F._verify_batch_size = lambda size: None  # type: ignore[attr-defined]
    try:
        yield
    finally:
        F._verify_batch_size = verify  # type: ignore[attr-defined]


@contextlib.contextmanager
def uncached(*models: nn.Module) -> Iterator[None]:
    """Switch off `use_cache` in the models' configurations (Hugging Face) inside: caches are objects and no tensors."""
    configs: list[Any] = [getattr(m, "config", None) for model in models for _, m in modules_by_path(model)]
    caching = {id(c): c for c in configs if getattr(c, "use_cache", None) is True}
    for config in caching.values():
        config.use_cache = False
    try:
        yield
    finally:
        for config in caching.values():
            config.use_cache = True


class NodeRunner:
    """Run the nodes of a graph in order, in the spirit of `torch.fx.Interpreter`; an analysis overrides the steps it needs.

    Args:
        nodes: the nodes to run, each after those that it reads.
        root: the module whose layers and tensors the nodes name, usually on meta tensors.
        inputs: the values of the placeholders, in order.
        modules: the modules of the root under each of their names, where these are known.
    """
    gradients = False  # whether autograd follows the run

    def __init__(self, nodes: Iterable[Node], root: nn.Module, inputs: Iterable[Any] = (),
                 modules: Mapping[str, nn.Module] | None = None):
        self.nodes, self.root, self.inputs = nodes, root, iter(inputs)
        self.modules: dict[str, nn.Module] = dict(modules_by_path(root, every_name=True) if modules is None else modules)
        self.values: dict[Node, Any] = {}

    def run(self) -> dict[Node, Any]:
        """Return the value of every node, freeing nothing.

        Raises:
            CaptureError: a node cannot run without data.
        """
        with without_fast_path(), torch.set_grad_enabled(self.gradients):
            for node in self.nodes:
                self.before(node)
                self.values[node] = self.after(node, self.compute(node))
        return self.values

    def before(self, node: Node) -> None:
        """Take notice of a node that is about to run."""

    def after(self, node: Node, value: Any) -> Any:
        """Return the value to keep for a node; one made of plain numbers lies on the default device and goes to meta."""
        return value.to("meta") if isinstance(value, Tensor) and not value.is_meta and node.op != "get_attr" else value

    def compute(self, node: Node) -> Any:
        """Run one node, naming the place of an error."""
        try:
            return self.run_node(node)
        except Exception as error:
            raise CaptureError(f"{location_of(node)} cannot run without data: {type(error).__name__}: {error}") from error

    def run_node(self, node: Node) -> Any:
        """Run one node on the values of those before it."""
        if node.op == "placeholder":
            return next(self.inputs)
        if node.op == "get_attr":
            return operator.attrgetter(str(node.target))(self.root)
        if is_join(node):
            return self.join(node)
        args, kwargs = self.look_up(node.args), self.look_up(node.kwargs)
        if node.op == "call_module":
            return self.call_module(self.modules[str(node.target)], args, kwargs)
        if node.op == "output" or isinstance(node.target, type) or node.target is ordered:  # what an output holds matters
            return list(kwargs.values()) or (list(args) if hasattr(node.target, "_fields") else args[0])
        function: Any = _idle if node.target in SWITCHES else node.target
        if node.op == "call_method":
            function, args = getattr(args[0], str(node.target)), args[1:]
        return function(*args, **kwargs)

    def join(self, node: Node) -> Any:
        """Return the value of a `by_mode` node, whose arguments are the flag and the values of the two modes."""
        training, train_value, eval_value = self.look_up(node.args)
        return train_value if training else eval_value

    def call_module(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Call a layer."""
        out = call_layer(module, args, kwargs)
        return module(*args, **kwargs) if out is None else out

    def look_up(self, arguments: Any) -> Any:
        """Return arguments of a node with the value of each node among them."""
        return map_aggregate(arguments, lambda a: self.values[a] if isinstance(a, Node) else a)


def _idle(*args: Any, **kwargs: Any) -> None:
    """Do nothing, in place of a switch: sizes do not depend on it."""


class MetaRunner(NodeRunner):
    """Run a captured module in eval mode on meta tensors, of the example inputs' shapes unless others are given."""
    both_modes = False  # whether layers whose code is not known and asks for the mode run in train mode too

    def __init__(self, gm: GraphModule, root: nn.Module | None = None, inputs: tuple | None = None):
        super().__init__(gm.graph.nodes, set_mode(meta_twin(gm), False) if root is None else root,
                         Captured(gm).inputs if inputs is None else inputs)
        self.unknown: dict[Node, list[nn.Module]] = {}  # in what each calls, the layers neither torch's nor ours

    def run_node(self, node: Node) -> Any:
        """Run one node; in code that nobody knows, the numbers that tensors are made of are seen as well."""
        if not self.is_unknown(node):
            return super().run_node(node)
        counts: list[int] = []
        with Literals(), torch.random.fork_rng([]):
            torch.default_generator.manual_seed(0)  # what is drawn may decide what is done
            value, stopped = with_some(lambda: super(MetaRunner, self).run_node(node), counts)
            if self.both_modes and stopped is not None and not raised_on_purpose(stopped):
                value = self.join_modes(node, None, value)
            if self.both_modes and self._asks_for_mode(node):
                value = self._run_in_train_mode(node, value)
            if self.both_modes and counts:
                value = self._run_with_none(node, value)
        return value

    def _run_with_none(self, node: Node, value: Any) -> Any:
        """Run a layer whose data say how many positions it takes once more, where they take none."""
        none = None
        try:
            with other_counts(none=True):
                none = super().run_node(node)
        except Exception as error:
            if raised_on_purpose(error):  # whatever the sizes are
                return value
        return self.join_modes(node, none, value)

    def _run_in_train_mode(self, node: Node, in_eval: Any) -> Any:
        layer, in_train = self.modules[str(node.target)], None
        layer.train()
        with contextlib.suppress(Exception), any_batch_size():
            in_train = super().run_node(node)
        layer.eval()
        return self.join_modes(node, in_train, in_eval)

    def join_modes(self, node: Node, in_train: Any, in_eval: Any) -> Any:
        """Return what stands for what a layer gives in both modes (None in train mode: it cannot run there without data)."""
        return in_eval

    def is_unknown(self, node: Node) -> bool:
        """Tell whether a node runs code that is neither torch's nor ours, and may do other things at another size."""
        return isinstance(node.target, Applied) or bool(self._unknown_layers(node))

    def _asks_for_mode(self, node: Node) -> bool:
        return any(mentions(type(layer)) or any(map(_may_ask, _hooks_of(layer)))  # type: ignore[arg-type]
                   for layer in self._unknown_layers(node))

    def _unknown_layers(self, node: Node) -> list[nn.Module]:
        if node.op != "call_module":
            return []
        if node not in self.unknown:
            layers = [layer for _, layer in modules_by_path(self.modules[str(node.target)])]
            self.unknown[node] = [layer for layer in layers if _hooks_of(layer) or
                                  not type(layer).__module__.startswith(KNOWN)]
        return self.unknown[node]


def _hooks_of(layer: nn.Module) -> list[Callable]:
    return [*layer._forward_pre_hooks.values(), *layer._forward_hooks.values()]


def _may_ask(hook: Callable) -> bool:
    """Tell whether a hook may ask for the mode: any but those of torch's whose code does not (weight_norm, pruning)."""
    return not type(hook).__module__.startswith("torch.nn.utils.") or \
        mentions(type(hook))  # type: ignore[arg-type]


def run_shapes(gm: GraphModule, inputs: tuple | None = None) -> dict[Node, Any]:
    """Return the value of every node on meta tensors, in eval mode; ops inside the nodes cannot be watched meanwhile."""
    with Shapes():
        return MetaRunner(gm, inputs=inputs).run()


def nested_shape(value):
    """Return the shapes of tensors, and scalars as they are: what a rewritten graph is compared with."""
    if isinstance(value, Tensor):
        return tuple(value.shape)
    if isinstance(value, (tuple, list)):
        return [nested_shape(v) for v in value]
    return value if isinstance(value, (int, float, bool)) else None
