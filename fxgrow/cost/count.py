"""The count: a model's captured graph, or the model itself, runs under the meter, and costs are summed by node and module.

Autograd itself says which tensors need a gradient and which it would keep for the backward pass.
"""
import contextlib
import random
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.fx import Graph, Node
from torch.fx.node import map_aggregate

from fxgrow.aten import tree_leaves, tree_map
from fxgrow.common import without_collector
from fxgrow.cost.costs import Cost, FlopCount
from fxgrow.cost.meter import MemoryUse, Meter
from fxgrow.cost.rules import GROUPS
from fxgrow.errors import CaptureError, FxgrowError
from fxgrow.graph import (
    NodeRunner,
    any_batch_size,
    arguments_of,
    as_call,
    branch_taken,
    clean_trace,
    is_captured,
    is_join,
    meta_twin,
    place_of,
    prefixes,
    without_fast_path,
)
from fxgrow.tracing import trace


def count_flops(model: nn.Module, example_inputs, ops: str = "matmul") -> FlopCount:
    """Count the cost of one forward and backward pass of `model` for inputs of these shapes.

    Works on meta tensors: parameters may be on any device (or on none: `torch.device("meta")`), and no memory is used. A
    model that cannot be captured (a detector, say) is run on its own tensors, and left as it was.
    The model is counted in the mode that it is in: `model.train()` adds dropout masks and auxiliary heads. Parameters that
    are frozen, and inputs without `requires_grad`, get no gradient, and their gradients are not counted.

    Args:
        model: any module, captured and grown ones included.
        example_inputs: as for `capture`; what tensors hold is not used.
        ops: "matmul" counts convolutions, matrix products and attention; "all" also norms, activations, pooling, softmax
            and arithmetic. What is not counted is listed in `uncounted`.

    Raises:
        ValueError: `ops` is neither.
        CaptureError: the model can neither be captured nor run on its own tensors.
    """
    if ops not in GROUPS:
        raise ValueError(f"ops={ops!r}: choose 'matmul' or 'all'")
    with without_collector():
        count = _captured_or_eager(model, *as_call(example_inputs), ops)
    count.kinds = {name: type(m).__name__ for name, m in model.named_modules(remove_duplicate=False)
                   if type(m) is not nn.Module}
    return count


def _captured_or_eager(model: nn.Module, args: tuple, kwargs: dict[str, Any], ops: str) -> FlopCount:
    root = meta_twin(model)
    try:
        inputs = tuple(a.value for a in arguments_of(model, args, kwargs))
        if is_captured(model):
            return _count(Meter(ops), model.graph, root, inputs)
        graph = trace(root, args, kwargs, {})
        clean_trace(graph)
        return _count(Meter(ops), graph, root, inputs)
    except CaptureError as why:
        if any(t.is_meta for t in (*model.parameters(), *model.buffers())):
            raise
        try:
            return count_eager(Meter(ops), model, args, kwargs)
        except FxgrowError:
            raise
        except Exception as error:
            raise CaptureError(f"{why}; nor does it run as it is: {type(error).__name__}: {error}") from error


@contextlib.contextmanager
def _metering(meter: Meter, root: nn.Module, inputs: Any, modules: dict[str, nn.Module], nodes: bool) -> Iterator[None]:
    """Meter ops and what autograd would keep (it keeps nothing), with nothing that depends on numbers drawn.

    The calls of these modules say where the meter is: in a graph node (`nodes`), or not in any.
    """
    for tensor in (*root.parameters(), *root.buffers()):
        meter.of(tensor, param=True)
    for value in tree_leaves(inputs):
        if isinstance(value, Tensor):
            meter.of(value)
    handles, stack = [], []
    saved = saved_tensors_hooks(meter.keep, lambda kept: kept)

    def enter(name: str):
        def hook(module, args):
            stack.append(meter.where)
            meter.where = meter.where[0] if nodes else name, name
        return hook

    def leave(module, args, out):
        meter.where = stack.pop()

    try:
        for name, module in modules.items():
            handles.append(module.register_forward_pre_hook(enter(name)))
            handles.append(module.register_forward_hook(leave, always_call=True))
        with without_fast_path(), any_batch_size(), torch.enable_grad(), saved, meter:
            yield
    finally:
        for handle in handles:
            handle.remove()


def _count(meter: Meter, graph: Graph, root: nn.Module, inputs: tuple) -> FlopCount:
    inputs = tree_map(_on_meta, inputs)
    runner = _CostRunner(meter, graph, root, inputs)
    called = {str(n.target) for n in runner.nodes if n.op == "call_module"}
    inner = {f"{name}.{sub}": m for name in called for sub, m in runner.modules[name].named_modules() if sub}
    with _metering(meter, root, inputs, inner, nodes=True):
        values = runner.run()
        peak, reached = meter.finish(values[runner.nodes[-1]])
    return _result(meter, root, peak, reached, _parameter_nodes(runner.nodes, runner.modules, root), False)


class _CostRunner(NodeRunner):
    """Run the nodes that the model's mode needs, telling the meter where it is."""
    gradients = True

    def __init__(self, meter: Meter, graph: Graph, root: nn.Module, inputs: tuple):
        super().__init__((), root, inputs)
        self.meter = meter
        self.nodes: list[Node] = _needed(graph, self.modules)

    def before(self, node: Node) -> None:
        """Tell the meter which node runs."""
        self.meter.where = node.name, place_of(node)

    def after(self, node: Node, value: Any) -> Any:
        """Return the value on a meta tensor, constants of the model too."""
        return value.to("meta") if isinstance(value, Tensor) and not value.is_meta else value

    def join(self, node: Node) -> Any:
        """Return the value of the branch that runs; the other one has none."""
        return self.look_up(branch_taken(node, self.modules))


def _on_meta(value):
    return value.detach().to("meta").requires_grad_(value.requires_grad) if isinstance(value, Tensor) else value


def _needed(graph: Graph, modules: dict[str, nn.Module]) -> list[Node]:
    """Return the nodes that the result depends on in the model's mode, in order (a graph may hold both modes' branches)."""
    if not any(is_join(node) for node in graph.nodes):
        return list(graph.nodes)
    needed: set[Node] = {n for n in graph.nodes if n.op in ("placeholder", "output")}
    for node in reversed(graph.nodes):
        writes = node.args and isinstance(node.args[0], Node) and node.args[0] in needed and not node.users
        if node in needed or writes:
            needed.add(node)
            read = (branch_taken(node, modules),) if is_join(node) else (node.args, node.kwargs)
            map_aggregate(read, lambda a: needed.add(a) if isinstance(a, Node) else a)
    return [n for n in graph.nodes if n in needed]


def _parameter_nodes(nodes: list[Node], modules: dict[str, nn.Module], root: nn.Module) -> dict[int, str]:
    """Return for each parameter (by identity) the first node that uses it."""
    owners: dict[int, str] = {}
    by_name = dict(root.named_parameters(remove_duplicate=False))
    for node in nodes:
        if node.op == "call_module":
            for p in modules[str(node.target)].parameters():
                owners.setdefault(id(p), node.name)
        elif node.op == "get_attr" and str(node.target) in by_name:
            owners.setdefault(id(by_name[str(node.target)]), next((u.name for u in node.users), node.name))
    return owners


def count_eager(meter: Meter, model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> FlopCount:
    """Count a model that runs on its own tensors; its buffers and the random state are put back."""
    modules = {name: m for name, m in model.named_modules() if name}
    saved = [(b, b.clone()) for b in model.buffers()]
    python_state = random.getstate()
    try:
        with torch.random.fork_rng(), _metering(meter, model, (args, kwargs), modules, nodes=False):
            peak, reached = meter.finish(model(*args, **kwargs))
    finally:
        random.setstate(python_state)
        with torch.no_grad():
            for buffer, old in saved:
                buffer.copy_(old)
    owners = {id(p): name.rpartition(".")[0] for name, p in model.named_parameters()}
    return _result(meter, model, peak, reached, owners, True)


def _result(meter: Meter, root: nn.Module, peak: int, reached: set[MemoryUse], owners: dict[int, str],
            eager: bool) -> FlopCount:
    by_node: defaultdict[str, Cost] = defaultdict(Cost)
    by_module = defaultdict(Cost, {name: Cost() for name, _ in root.named_modules(remove_duplicate=False)})
    for (node, module), cost in meter.costs.items():
        by_node[node] += cost
        for name in ("", *prefixes(module)):
            by_module[name] += cost
    counted = set()  # a parameter that a module holds twice counts once
    for path, p in root.named_parameters(remove_duplicate=False):
        size = p.numel() * p.element_size()
        held = Cost(parameters=p.numel(), parameter_bytes=size, gradient_bytes=size if meter.of(p) in reached else 0)
        if id(p) in owners:
            by_node[owners.pop(id(p))] += held
        for name in ("", *prefixes(path.rpartition(".")[0])):
            if (name, id(p)) not in counted:
                counted.add((name, id(p)))
                by_module[name] += held
    uncounted = {op: dict(places) for op, places in sorted(meter.uncounted.items())}
    return FlopCount(meter.wanted[-1], eager, peak, uncounted, dict(by_node), dict(by_module))
