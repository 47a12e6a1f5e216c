"""Running the nodes of a captured graph on meta tensors."""
from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.fx.node import map_aggregate

from fxgrow.aten import Shapes
from fxgrow.errors import CaptureError
from fxgrow.graph.modules import meta_twin
from fxgrow.graph.names import location_of


@contextlib.contextmanager
def uncached(*models: nn.Module) -> Iterator[None]:
    """Models with a configuration that says `use_cache` (language models of Hugging Face) give no caches meanwhile, which
    are objects of their own and no tensors."""
    configs: list[Any] = [getattr(m, "config", None) for model in models for m in model.modules()]
    found = {id(c): c for c in configs if getattr(c, "use_cache", None) is True}
    for config in found.values():
        config.use_cache = False
    try:
        yield
    finally:
        for config in found.values():
            config.use_cache = True


def leaf_value(module: nn.Module, args, kwargs):
    """A leaf on meta tensors. Torch's own layers give the same shapes in both modes, and need no batch of two in eval."""
    training = module.training
    if not training or not type(module).__module__.startswith("torch.nn"):
        return module(*args, **kwargs)
    try:
        return module.eval()(*args, **kwargs)
    finally:
        module.train(training)


def run_node(node: Node, env: dict[Node, Any], root: nn.Module, modules: dict[str, nn.Module],
             leaf=lambda m, args, kwargs: m(*args, **kwargs)):
    """One node of a graph on the values in `env` (shapes and scalars as in the captured program); `modules` are those of
    `root`, by name."""
    args = map_aggregate(node.args, lambda a: env[a] if isinstance(a, Node) else a)
    kwargs = map_aggregate(node.kwargs, lambda a: env[a] if isinstance(a, Node) else a)
    if node.op == "get_attr":
        return operator.attrgetter(node.target)(root)
    if node.op == "call_module":
        return leaf(modules[node.target], args, kwargs)
    if node.op == "call_method":
        return getattr(args[0], node.target)(*args[1:], **kwargs)
    if node.op == "output":
        return args[0]
    return node.target(*args, **kwargs)


def run_meta(gm: GraphModule, visit: Callable[[Node, Any, dict], None], before: Callable[[Node], None] | None = None,
             root: nn.Module | None = None) -> dict[Node, Any]:
    """Runs the graph in eval mode on meta tensors of the example inputs' shapes, freeing nothing."""
    root = meta_twin(gm).eval() if root is None else root
    modules = dict(root.named_modules(remove_duplicate=False))
    inputs = iter(gm.meta["example_inputs"])
    env: dict[Node, Any] = {}
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            for node in gm.graph.nodes:
                if before:
                    before(node)
                try:
                    env[node] = value = next(inputs) if node.op == "placeholder" else run_node(node, env, root, modules)
                except Exception as error:
                    raise CaptureError(f"{location_of(node)} cannot run without data: {type(error).__name__}: {error}"
                                       ) from error
                if isinstance(value, Tensor) and not value.is_meta and node.op != "get_attr":
                    env[node] = value.to("meta")  # made of plain numbers, on the device that is the default
                visit(node, env[node], env)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return env


def run_shapes(gm: GraphModule, visit: Callable[[Node, Any, dict], None] = lambda *_: None) -> dict[Node, Any]:
    """`run_meta` for those who watch no ops, several times as fast."""
    root = meta_twin(gm).eval()
    with Shapes():
        return run_meta(gm, visit, root=root)


def nested_shape(value):
    """Shapes of tensors, and scalars as they are: what a rewritten graph is compared with."""
    if isinstance(value, Tensor):
        return tuple(value.shape)
    if isinstance(value, (tuple, list)):
        return [nested_shape(v) for v in value]
    return value if isinstance(value, (int, float, bool)) else None
