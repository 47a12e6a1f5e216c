"""The count: a model, or its captured graph, runs under the meter, and costs are summed by node and module.

Autograd itself says which tensors need a gradient and which it would keep for the backward pass.
"""
import contextlib
import copy
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.fx import Graph, Node
from torch.fx.node import map_aggregate
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.nn.parameter import is_lazy

from fxgrow.aten import other_counts, tree_leaves, tree_map
from fxgrow.common import without_collector
from fxgrow.cost.calls import ComplexConvolutions, seen_checkpoints, uncompiled, unhooked_transforms
from fxgrow.cost.costs import ASSUMED, Cost, FlopCount
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
    uncached,
    without_fast_path,
)
from fxgrow.tracing import trace


def count_flops(model: nn.Module, example_inputs, ops: str = "matmul") -> FlopCount:
    """Count the cost of one forward and backward pass of `model` for inputs of these shapes.

    Runs the model on meta tensors: parameters may be on any device (or on none: `torch.device("meta")`), and no memory is
    used. One that chooses by its data (a detector, say) is run on its own tensors, and left as it was.
    The model is counted in the mode that it is in: `model.train()` adds dropout masks and auxiliary heads. Parameters that
    are frozen, and inputs without `requires_grad`, get no gradient, and their gradients are not counted.

    Args:
        model: any module, captured and grown ones included.
        example_inputs: as for `capture`; what tensors hold matters only to models that choose by it.
        ops: "matmul" counts convolutions, matrix products and attention; "all" also norms, activations, pooling, softmax
            and arithmetic. What is not counted is listed in `uncounted`.

    Raises:
        ValueError: `ops` is neither.
        CaptureError: the model runs neither on meta tensors nor on its own.
    """
    if ops not in GROUPS:
        raise ValueError(f"ops={ops!r}: choose 'matmul' or 'all'")
    args, kwargs = as_call(example_inputs)
    with without_collector():
        model = _with_sizes(model, args, kwargs)
        count = _count_model(model, args, kwargs, ops)
    count.kinds = {name: type(m).__name__ for name, m in model.named_modules(remove_duplicate=False)
                   if type(m) is not nn.Module}
    return count


def _count_model(model: nn.Module, args: tuple, kwargs: dict[str, Any], ops: str) -> FlopCount:
    if is_captured(model):
        inputs = tuple(a.value for a in arguments_of(model, args, kwargs))
        return _count_graph(Meter(ops), model.graph, meta_twin(model), inputs)
    held = [t for t in (*model.parameters(), *model.buffers(), *tree_leaves((args, kwargs))) if isinstance(t, Tensor)]
    failed: list[Exception] = []
    assumed = None
    for way in (_run_on_meta, _trace_on_meta) if all(t.layout is torch.strided for t in held) else ():
        try:
            meter = Meter(ops)
            assumed = way(meter, model, args, kwargs)
            if not meter.assumed or _is_without_data(assumed, lambda: way(Meter(ops), model, args, kwargs)):
                return assumed
            break
        except Exception as error:  # capture says best what is in the way
            failed.append(error)
    if any(t.is_meta for t in held):
        return assumed or _refuse(model, failed)
    try:
        return count_eager(Meter(ops), model, args, kwargs)
    except Exception as error:
        return assumed or _refuse(model, [*failed, error])


def _is_without_data(count: FlopCount, again: Callable[[], FlopCount]) -> bool:
    """Tell whether a count is the same for any number of positions that data may say; then it need not name them."""
    try:
        for none in (False, True):
            with other_counts(none=none):
                other = again()
            if (other.forward, other.backward) != (count.forward, count.backward):
                return False
    except Exception:  # where there are no positions at all, say
        return False
    count.uncounted = {op: places for op, places in count.uncounted.items() if not op.endswith(ASSUMED)}
    return True


def _refuse(model: nn.Module, failed: list[Exception]) -> NoReturn:
    """Say why a model can be counted in no way, the last of which was to run it."""
    said = [str(e) if isinstance(e, FxgrowError) else f"{type(e).__name__}: {e}" for e in failed[1:] or failed]
    raise CaptureError("; nor does it run as it is: ".join(said)) from failed[-1]


def _run_on_meta(meter: Meter, model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> FlopCount:
    """Count a model that runs on tensors without data, as most do: nothing need be captured."""
    twin = meta_twin(model)
    return _run(meter, twin, *tree_map(_on_meta, (args, kwargs)))


def _trace_on_meta(meter: Meter, model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> FlopCount:
    """Count the graph of a model that asks for data which capture knows or can do without."""
    twin = meta_twin(model)
    inputs = tuple(a.value for a in arguments_of(model, args, kwargs))
    with uncached(twin):
        graph = trace(twin, args, kwargs, {})
    clean_trace(graph)
    return _count_graph(meter, graph, twin, inputs)


def count_eager(meter: Meter, model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> FlopCount:
    """Count a model that runs on its own tensors; its buffers and the random state are put back."""
    saved = [(b, b.clone()) for b in model.buffers()]
    try:
        with _same_chances():
            return _run(meter, model, args, kwargs, eager=True)
    finally:
        with torch.no_grad():
            for buffer, old in saved:
                buffer.copy_(old)


@contextlib.contextmanager
def _same_chances() -> Iterator[None]:
    """Leave the random states as they were."""
    python_state = random.getstate()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python_state)


def _with_sizes(model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> nn.Module:
    """Return a model whose lazy layers know their sizes: itself, or a copy that has run once.

    Raises:
        CaptureError: it has lazy layers that the run does not reach, or it does not run.
    """
    def lazy(of: nn.Module) -> dict[str, Any]:
        return {name: t for name, t in (*of.named_parameters(), *of.named_buffers()) if is_lazy(t)}

    sizeless = lazy(model)
    if not sizeless:
        return model
    ran = copy.deepcopy(model, {id(t): type(t)(t.requires_grad, t.device, t.dtype) for t in sizeless.values()})
    why = ""
    try:
        with _same_chances(), torch.no_grad():
            ran(*args, **kwargs)
    except Exception as error:
        why = f" ({type(error).__name__}: {error})"
    if left := [*lazy(ran)]:
        raise CaptureError(f"{left[0]} has no size before the model has run, and a run gives it none: run it on an input "
                           f"that reaches this layer, then count{why}")
    return ran


@contextlib.contextmanager
def metering(meter: Meter, root: nn.Module, inputs: Any, modules: dict[str, nn.Module], nodes: bool) -> Iterator[None]:
    """Meter ops and what autograd keeps, with nothing that depends on numbers drawn.

    The calls of these modules say where the meter is: in a graph node (`nodes`), or not in any.
    """
    for tensor in (*root.parameters(), *root.buffers()):
        meter.of(tensor, param=True)
    for value in tree_leaves(inputs):
        if isinstance(value, Tensor):
            meter.of(value)
    names = {id(module): name for name, module in modules.items()}
    stack: list[tuple[str, str]] = []

    def enter(module, args):
        stack.append(meter.where)
        name = names.get(id(module))
        if name is not None:
            meter.where = meter.where[0] if nodes else name, name

    def leave(module, args, out):
        meter.where = stack.pop()

    handles = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True)]
    try:
        with (without_fast_path(), any_batch_size(), torch.enable_grad(), saved_tensors_hooks(meter.keep, lambda kept: kept),
              seen_checkpoints(meter), uncompiled(), unhooked_transforms(), ComplexConvolutions(meter), meter):
            yield
    finally:
        for handle in handles:
            handle.remove()


def _run(meter: Meter, model: nn.Module, args: tuple, kwargs: dict[str, Any], eager: bool = False) -> FlopCount:
    modules = {name: m for name, m in model.named_modules() if name}
    with metering(meter, model, (args, kwargs), modules, nodes=False):
        result = model(*args, **kwargs)
        peak, reached = meter.finish(result)
    owners = {id(p): name.rpartition(".")[0] for name, p in model.named_parameters()}
    return _result(meter, model, peak, reached, owners, eager)


def _count_graph(meter: Meter, graph: Graph, root: nn.Module, inputs: tuple) -> FlopCount:
    inputs = tree_map(_on_meta, inputs)
    runner = CostRunner(meter, graph, root, inputs)
    called = {str(n.target) for n in runner.nodes if n.op == "call_module"}
    inner = {f"{name}.{sub}": m for name in called for sub, m in runner.modules[name].named_modules() if sub}
    with metering(meter, root, inputs, inner, nodes=True):
        values = runner.run()
        peak, reached = meter.finish(values[runner.nodes[-1]])
    return _result(meter, root, peak, reached, _parameter_nodes(runner.nodes, runner.modules, root), False)


class CostRunner(NodeRunner):
    """Run the nodes that the model's mode needs, telling the meter where it is."""
    gradients = True

    def __init__(self, meter: Meter, graph: Graph, root: nn.Module, inputs: tuple,
                 modules: Mapping[str, nn.Module] | None = None):
        super().__init__((), root, inputs, modules)
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
