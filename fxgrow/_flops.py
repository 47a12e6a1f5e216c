"""Counts what a model costs: FLOPs forward and backward, multiply-adds, bytes of parameters, gradients and activations.

The captured graph runs on meta tensors, node by node, under a mode that sees each ATen op; autograd itself says which
tensors need a gradient and which it would keep for the backward pass. A model that cannot be captured runs on its own
tensors under the same mode. What lives here: the run and the sums. What does not: what an op costs
(fxgrow/flop_rules.py) and how the result is printed (fxgrow/_flops_report.py).
"""
from __future__ import annotations

import contextlib
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_aggregate
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_leaves, tree_map

from fxgrow._analysis import _place, _tensors_in, place_of, prefixes, run_node
from fxgrow._capture import _remove_dead_code, _renew_constants, _trace, as_tuple, meta_twin
from fxgrow._memory import effects
from fxgrow._shapes import Watching, compute
from fxgrow._transform import _without_collector
from fxgrow.errors import CaptureError, FxgrowError
from fxgrow.flop_rules import GROUPS, NOTHING, RULES, Flops
from fxgrow.layers import by_mode


@dataclass
class Cost:
    """What a node, a module with all below it, or the whole model costs.

    forward, backward: FLOPs. macs: multiply-adds of the forward pass, of matrix products and convolutions.
    parameters: how many numbers; parameter_bytes: their bytes; gradient_bytes: bytes of the gradients they get.
    activation_bytes: bytes that its forward pass keeps for the backward pass, parameters and buffers aside; memory that
        several keep is counted at the first.
    moved_bytes: bytes that the ops of the forward pass read and write, each operand of each op once.
    """
    forward: int = 0
    backward: int = 0
    macs: int = 0
    parameters: int = 0
    parameter_bytes: int = 0
    gradient_bytes: int = 0
    activation_bytes: int = 0
    moved_bytes: int = 0

    @property
    def total(self) -> int:
        return self.forward + self.backward

    @property
    def intensity(self) -> float:
        """Arithmetic intensity of the forward pass: FLOPs for each byte moved."""
        return self.forward / self.moved_bytes if self.moved_bytes else 0.0

    def __iadd__(self, other: Cost) -> Cost:
        self.forward += other.forward
        self.backward += other.backward
        self.macs += other.macs
        self.activation_bytes += other.activation_bytes
        self.moved_bytes += other.moved_bytes
        return self.hold(other.parameters, other.parameter_bytes, other.gradient_bytes)

    def hold(self, parameters: int, parameter_bytes: int, gradient_bytes: int) -> Cost:
        """Adds parameters."""
        self.parameters += parameters
        self.parameter_bytes += parameter_bytes
        self.gradient_bytes += gradient_bytes
        return self

    def to_json(self) -> dict[str, Any]:
        return {**{name: getattr(self, name) for name in COST_FIELDS}, "total": self.total, "intensity": self.intensity}


COST_FIELDS = tuple(f.name for f in fields(Cost))


@dataclass
class FlopCount:
    """What a model costs for one input: see `count_flops`.

    peak_activation_bytes: the most memory that activations and their gradients take at a time in one training step;
        parameters and their gradients come on top.
    uncounted: each ATen op that was seen and not counted: in which modules, and how often there.
    """
    ops: str
    eager: bool
    peak_activation_bytes: int
    uncounted: dict[str, dict[str, int]]
    nodes: dict[str, Cost] = field(repr=False)
    modules: dict[str, Cost] = field(repr=False)
    kinds: dict[str, str] = field(repr=False, default_factory=dict)  # module: its class

    def __getattr__(self, name: str):
        if name in COST_FIELDS or name in ("total", "intensity"):
            return getattr(self.modules[""], name)
        raise AttributeError(name)

    def by_node(self) -> dict[str, Cost]:
        """The cost of each graph node that costs anything. The names are those of the module's own graph if a captured or
        grown one was counted; of a model that cannot be captured they are modules, each with its own ops."""
        return dict(self.nodes)

    def by_module(self) -> dict[str, Cost]:
        """The cost of each module with all below it; `""` is the whole model."""
        return dict(self.modules)

    def to_json(self) -> dict[str, Any]:
        return {"ops": self.ops, "eager": self.eager, **self.modules[""].to_json(),
                "peak_activation_bytes": self.peak_activation_bytes, "uncounted": self.uncounted,
                "modules": {name: cost.to_json() for name, cost in self.modules.items()},
                "nodes": {name: cost.to_json() for name, cost in self.nodes.items()}}

    def table(self, depth: int | None = None, sort: str | None = None):
        """A `rich` table: the tree of modules down to `depth`, in the model's order or by `sort` (forward, total, params,
        memory), with each one's share of all FLOPs."""
        from fxgrow._flops_report import table
        return table(self, depth, sort)


class _Memory:
    """One piece of memory: when it is made, last read, and first kept for the backward pass, in numbers of ops.

    hidden: made where autograd does not look (inside a custom `autograd.Function`, or under `no_grad`) out of what needs a
        gradient: its own is due if autograd uses it after all.
    """
    __slots__ = ("born", "bytes", "hidden", "identity", "kept", "param", "used")

    def __init__(self, storage: torch.UntypedStorage, now: int, param: bool):
        self.bytes, self.born, self.used, self.param = storage.nbytes(), now, now, param
        self.kept: int | None = None
        self.hidden = False
        self.identity = StorageWeakRef(storage)  # while it stands, no other memory gets the same identity


class _Op(NamedTuple):
    """One op that ran: where, the FLOPs of its backward pass, the memories in it that need a gradient, and its results'."""
    where: tuple[str, str]
    backward: int
    ins: list[_Memory]
    outs: list[_Memory]


class _Meter(Watching):
    """Watches ATen ops: sums up what the forward pass costs, and keeps what is needed to know the backward pass."""

    def __init__(self, ops: str):
        super().__init__()
        self.wanted = GROUPS[:GROUPS.index(ops) + 1]
        self.where = ("", "")  # graph node, module
        self.memory: dict[int, _Memory] = {}
        self.ops: list[_Op] = []
        self.costs: defaultdict[tuple[str, str], Cost] = defaultdict(Cost)
        self.uncounted: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.known: dict[Any, tuple] = {}

    def of(self, tensor: Tensor, param: bool = False) -> _Memory:
        """The memory that a tensor lies in."""
        storage = tensor.untyped_storage()
        found = self.memory.get(storage._cdata)
        if found is None:
            found = self.memory[storage._cdata] = _Memory(storage, len(self.ops), param)
        return found

    def keep(self, tensor: Tensor) -> None:
        """Autograd keeps this for the backward pass."""
        memory = self.of(tensor)
        if memory.kept is None:
            memory.kept = len(self.ops)
            if not memory.param:
                self.costs[self.where].activation_bytes += memory.bytes

    def _about(self, func) -> tuple:
        name, view, written = effects(func)
        name = name.rstrip("_") if written else name
        group, rule = RULES.get(name, ("", None))
        return (rule, view, "") if group in self.wanted else (None, view, name)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        about = self.known.get(func)
        if about is None:
            about = self.known[func] = self._about(func)
        rule, view, uncounted = about
        out = compute(func, args, kwargs)
        if view:
            return out
        if uncounted:
            self.uncounted[uncounted][self.where[1]] += 1
        self._record(NOTHING if rule is None else rule(args, kwargs, out),
                     _tensors_in((*args, *kwargs.values())), _tensors_in((out,)))
        return out

    def _record(self, flops: Flops, ins: list[Tensor], outs: list[Tensor]) -> None:
        now, cost, seen = len(self.ops), self.costs[self.where], torch.is_grad_enabled()
        read, made = [self.of(t) for t in ins], [self.of(t) for t in outs]
        for memory in read:
            memory.used = now
        needing = [m for t, m in zip(ins, read) if t.requires_grad or not seen and m.hidden]
        if not seen and needing:
            for memory in made:
                memory.hidden = True
        cost.forward += flops.forward
        cost.macs += flops.macs
        cost.moved_bytes += sum(t.numel() * t.element_size() for t in (*ins, *outs))
        backward = sum(amount for of, amount in flops.backward if any(
            t.requires_grad or not seen and self.of(t).hidden
            for t in (of if isinstance(of, tuple) else (of,)) if isinstance(t, Tensor))) if needing else 0
        self.ops.append(_Op(self.where, backward, needing, made))

    # -- the backward pass -------------------------------------------------------------------------------------------

    def finish(self, result) -> tuple[int, set[_Memory]]:
        """Adds the backward pass from the differentiable results. Returns the peak of memory, and what gets a gradient."""
        results = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        reached = {self.of(t) for t in results if t.requires_grad}
        steps = len(self.ops)
        for t in results:
            self.of(t).used = 2 * steps  # the caller holds it
        first_grad = dict.fromkeys(reached, steps)  # the op whose backward makes the gradient first (the last that reads it)
        last_grad: dict[_Memory, int] = {}
        twice: list[tuple[int, int]] = []  # ops whose backward holds the gradient of some memory twice, and its bytes
        for at in range(steps - 1, -1, -1):
            op = self.ops[at]
            if op.ins and any(m in reached for m in op.outs):
                for m in op.outs:
                    if m in reached:
                        last_grad[m] = at
                for memory in op.ins:
                    if first_grad.setdefault(memory, at) != at:  # added to that of later readers, or of what is written here
                        twice.append((at, memory.bytes))
                    reached.add(memory)
                self.costs[op.where].backward += op.backward
        return self._peak(first_grad, last_grad, twice), reached

    def _peak(self, first_grad: dict[_Memory, int], last_grad: dict[_Memory, int], twice: list[tuple[int, int]]) -> int:
        """The most bytes alive at once. Time runs over the ops, forward, then backward in reverse."""
        steps = len(self.ops)
        change: Counter[int] = Counter()

        def alive(start: int, end: int, size: int) -> None:
            change[start] += size
            change[end + 1] -= size

        for memory in self.memory.values():
            if memory.param or not memory.bytes:
                continue
            end = memory.used if memory.kept is None else max(memory.used, 2 * steps - min(memory.kept, steps - 1))
            alive(memory.born, end, memory.bytes)
            if memory in first_grad and memory in last_grad:
                alive(2 * steps - first_grad[memory], 2 * steps - last_grad[memory], memory.bytes)
        for at, size in twice:
            alive(2 * steps - at, 2 * steps - at, size)
        now = most = 0
        for time in sorted(change):
            now += change[time]
            most = max(most, now)
        return most


# --- the two ways to run ---------------------------------------------------------------------------------------------


def count_flops(model: nn.Module, example_inputs, ops: str = "matmul") -> FlopCount:
    """Counts what one forward and backward pass of `model` costs for inputs of these shapes.

    Works on meta tensors: parameters may be on any device (or on none: `torch.device("meta")`), and no memory is used. A
    model that cannot be captured (a detector, say) is run on its own tensors, and left as it was.
    The model is counted in the mode that it is in: `model.train()` adds dropout masks and auxiliary heads. Parameters that
    are frozen, and inputs without `requires_grad`, get no gradient, and their gradients are not counted.

    Args:
        model: any module, captured and grown ones included.
        example_inputs: a tensor or tuple of tensors; their values are not used.
        ops: "matmul" counts convolutions, matrix products and attention; "all" also norms, activations, pooling, softmax
            and arithmetic. What is not counted is listed in `uncounted`.

    Raises:
        ValueError: `ops` is neither.
        CaptureError: the model can neither be captured nor run on its own tensors.
    """
    if ops not in GROUPS:
        raise ValueError(f"ops={ops!r}: choose 'matmul' or 'all'")
    inputs = as_tuple(example_inputs)
    with _without_collector():
        count = _captured_or_eager(model, inputs, ops)
    count.kinds = {name: type(m).__name__ for name, m in model.named_modules(remove_duplicate=False)
                   if type(m) is not nn.Module}
    return count


def _captured_or_eager(model: nn.Module, inputs: tuple, ops: str) -> FlopCount:
    root = meta_twin(model)
    try:
        if isinstance(model, GraphModule) and "example_inputs" in model.meta:
            return _count(_Meter(ops), model.graph, root, inputs)
        try:
            return _count(_Meter(ops), _graph(root, inputs, settled=False), root, inputs)
        except CaptureError:  # some layer cannot run without data: it has to be found, and kept whole
            return _count(_Meter(ops), _graph(root, inputs, settled=True), root, inputs)
    except CaptureError as why:
        if any(t.is_meta for t in (*model.parameters(), *model.buffers())):
            raise
        try:
            return _count_eager(_Meter(ops), model, inputs)
        except FxgrowError:
            raise
        except Exception as error:
            raise CaptureError(f"{why}; nor does it run as it is: {type(error).__name__}: {error}") from error


def _graph(root: nn.Module, inputs: tuple, settled: bool) -> Graph:
    """The graph of a module's forward pass in the mode that it is in."""
    graph = _trace(root, inputs, {}, settled)
    _renew_constants(graph)
    _remove_dead_code(graph)
    return graph


@contextlib.contextmanager
def _watching(meter: _Meter) -> Iterator[None]:
    """Inside, ops are metered, autograd tells what it keeps (and keeps nothing), and nothing depends on numbers drawn."""
    fast, verify = torch.backends.mha.get_fastpath_enabled(), F._verify_batch_size  # type: ignore[attr-defined]
    torch.backends.mha.set_fastpath_enabled(False)
    F._verify_batch_size = lambda size: None  # type: ignore[attr-defined]  # one image is enough to count
    try:
        with torch.enable_grad(), saved_tensors_hooks(meter.keep, lambda kept: kept), meter:
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        F._verify_batch_size = verify  # type: ignore[attr-defined]


@contextlib.contextmanager
def _following(meter: _Meter, modules: dict[str, nn.Module], nodes: bool) -> Iterator[None]:
    """Inside, the calls of these modules say where the meter is: in a graph node (`nodes`), or not in any."""
    handles, stack = [], []

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
        yield
    finally:
        for handle in handles:
            handle.remove()


def _count(meter: _Meter, graph: Graph, root: nn.Module, inputs: tuple) -> FlopCount:
    for tensor in (*root.parameters(), *root.buffers()):
        meter.of(tensor, param=True)
    modules = dict(root.named_modules(remove_duplicate=False))
    values = iter(tree_map(_on_meta, inputs))
    nodes = _needed(graph, modules)
    called = {str(n.target) for n in nodes if n.op == "call_module"}
    inner = {f"{name}.{sub}": m for name in called for sub, m in modules[name].named_modules() if sub}
    env: dict[Node, Any] = {}
    with _watching(meter), _following(meter, inner, True):
        for node in nodes:
            meter.where = node.name, place_of(node)
            try:
                if node.op == "placeholder":
                    value = next(values)
                elif node.target is by_mode:
                    value = map_aggregate(_chosen(node, modules), lambda a: env[a] if isinstance(a, Node) else a)
                else:
                    value = run_node(node, env, root, modules)
            except Exception as error:
                raise CaptureError(f"{_place(node)} cannot run without data: {type(error).__name__}: {error}") from error
            if isinstance(value, Tensor) and not value.is_meta:
                value = value.to("meta")
            if node.op == "placeholder":
                for t in tree_leaves(value):
                    if isinstance(t, Tensor):
                        meter.of(t)
            env[node] = value
        peak, reached = meter.finish(env[nodes[-1]])
    owners = _parameter_nodes(nodes, modules, root)
    return _result(meter, root, peak, reached, owners, False)


def _on_meta(value):
    return value.detach().to("meta").requires_grad_(value.requires_grad) if isinstance(value, Tensor) else value


def _chosen(node: Node, modules: dict[str, nn.Module]):
    """Which branch a `by_mode` node takes."""
    flag, train, evaluation = node.args
    if isinstance(flag, Node):
        owner = str(flag.target).rpartition(".")[0]
        flag = modules[owner].training
    return train if flag else evaluation


def _needed(graph: Graph, modules: dict[str, nn.Module]) -> list[Node]:
    """The nodes that the model's mode runs: those that the result depends on, in order. (A graph of both modes holds both
    branches.)"""
    if not any(node.target is by_mode for node in graph.nodes):
        return list(graph.nodes)
    needed: set[Node] = {n for n in graph.nodes if n.op in ("placeholder", "output")}
    for node in reversed(graph.nodes):
        writes = node.args and isinstance(node.args[0], Node) and node.args[0] in needed and not node.users
        if node in needed or writes:
            needed.add(node)
            read = (_chosen(node, modules),) if node.target is by_mode else (node.args, node.kwargs)
            map_aggregate(read, lambda a: needed.add(a) if isinstance(a, Node) else a)
    return [n for n in graph.nodes if n in needed]


def _parameter_nodes(nodes: list[Node], modules: dict[str, nn.Module], root: nn.Module) -> dict[int, str]:
    """For each parameter (by identity) the first node that uses it."""
    owners: dict[int, str] = {}
    by_name = dict(root.named_parameters(remove_duplicate=False))
    for node in nodes:
        if node.op == "call_module":
            for p in modules[str(node.target)].parameters():
                owners.setdefault(id(p), node.name)
        elif node.op == "get_attr" and str(node.target) in by_name:
            owners.setdefault(id(by_name[str(node.target)]), next((u.name for u in node.users), node.name))
    return owners


def _count_eager(meter: _Meter, model: nn.Module, inputs: tuple) -> FlopCount:
    for tensor in (*model.parameters(), *model.buffers()):
        meter.of(tensor, param=True)
    for t in tree_leaves(inputs):
        if isinstance(t, Tensor):
            meter.of(t)
    modules = {name: m for name, m in model.named_modules() if name}
    saved = [(b, b.clone()) for b in model.buffers()]
    python_state = random.getstate()
    try:
        with torch.random.fork_rng(), _watching(meter), _following(meter, modules, False):
            peak, reached = meter.finish(model(*inputs))
    finally:
        random.setstate(python_state)
        with torch.no_grad():
            for buffer, old in saved:
                buffer.copy_(old)
    owners = {id(p): name.rpartition(".")[0] for name, p in model.named_parameters()}
    return _result(meter, model, peak, reached, owners, True)


def _result(meter: _Meter, root: nn.Module, peak: int, reached: set[_Memory], owners: dict[int, str],
            eager: bool) -> FlopCount:
    by_node: defaultdict[str, Cost] = defaultdict(Cost)
    by_module: defaultdict[str, Cost] = defaultdict(Cost)
    for name, _ in root.named_modules(remove_duplicate=False):
        by_module[name] = Cost()
    own: defaultdict[str, Cost] = defaultdict(Cost)
    for (node, module), cost in meter.costs.items():
        by_node[node] += cost
        own[module] += cost
    for module, cost in own.items():
        for name in ("", *prefixes(module)):
            by_module[name] += cost
    seen = set()
    for path, p in root.named_parameters(remove_duplicate=False):
        size = p.numel() * p.element_size()
        held = p.numel(), size, size * (meter.of(p) in reached)
        if id(p) in owners:
            by_node[owners.pop(id(p))].hold(*held)
        for name in ("", *prefixes(path.rpartition(".")[0])):
            if (name, id(p)) not in seen:
                seen.add((name, id(p)))
                by_module[name].hold(*held)
    uncounted = {op: dict(places) for op, places in sorted(meter.uncounted.items())}
    return FlopCount(meter.wanted[-1], eager, peak, uncounted, dict(by_node), dict(by_module))
