"""The tracer: records a forward as a graph while it runs each node on meta tensors.

What does not live here: traces in both modes (modes.py), and the module around the graph (capturing.py).
"""
from __future__ import annotations

import contextlib
import inspect
import traceback
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node, Proxy, Tracer
from torch.fx.node import map_aggregate

from fxgrow.aten import Shapes, find_proxy, tree_any
from fxgrow.errors import CaptureError
from fxgrow.graph import CONSTANT, NodeRunner, any_batch_size, to_meta, without_fast_path, writes_in_place
from fxgrow.tracing.leaves import LeafNeeded, is_leaf, keep_opaque
from fxgrow.tracing.proxy import MetaProxy

MAX_LEAF_RETRIES = 200
MADE = ("arange", "empty", "eye", "full", "linspace", "ones", "tensor", "zeros")
DRAWN = ("rand", "randint", "randn", "randperm")
OWN = tuple(str(Path(__file__).parents[1] / room) for room in ("aten", "graph", "tracing"))  # frames of no interest


class _TooLate(Exception):
    """A node cannot run, which is found after it was recorded: trace again, and run each at once, to see where."""


class _MetaTracer(Tracer):
    """Records one forward. Nodes run when a value is asked for, or `eager`, each at once."""
    proxy_buffer_attributes = True

    def __init__(self, leaves: dict[str, str], inputs: tuple, eager: bool):
        super().__init__(autowrap_functions=())
        self.leaves, self.example, self.eager = leaves, inputs, eager
        self.values = iter(inputs)
        self.stack: list[str] = []
        self.running = False  # inside the meta run of a node, modules are called as usual
        self.pending: list[Node] = []  # nodes whose values nobody has asked for yet

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Tell whether a module is called as it is."""
        return is_leaf(m, module_qualified_name, self.leaves)

    def call_module(self, m, forward, args, kwargs):
        """Record a call of a leaf, or trace through a module, which becomes a leaf where that fails."""
        if self.running:
            return forward(*args, **kwargs)
        path = self.path_of_module(m)
        self.stack.append(path)
        try:
            if self.is_leaf_module(m, path):
                return self.create_proxy("call_module", path, args, kwargs)
            return forward(*args, **kwargs)
        except (LeafNeeded, _TooLate, CaptureError):
            raise
        except Exception as error:
            raise LeafNeeded(path, _where(error)) from error
        finally:
            self.stack.pop()

    def getattr(self, attr, attr_val, parameter_proxy_cache):
        """Record a read of a parameter or buffer."""
        name = None if self.running or not isinstance(attr_val, Tensor) else self._names.get(id(attr_val))
        if name is None:
            return attr_val
        if name not in parameter_proxy_cache:
            parameter_proxy_cache[name] = self.create_proxy("get_attr", name, (), {})
        return parameter_proxy_cache[name]

    def trace(self, root, concrete_args=None):
        """Record the forward of a module."""
        self._names = {id(t): n for n, t in [*root.named_parameters(), *root.named_buffers()]}
        self.root, self.runner = root, _RecordedNodes((), root)
        return super().trace(root, concrete_args)

    def create_args_for_root(self, root_fn, is_module, concrete_args=None):
        """Make one placeholder for each example input; the other arguments of forward keep their defaults."""
        names = [p.name for p in inspect.signature(root_fn).parameters.values()
                 if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)][1:]
        names += [f"input_{i}" for i in range(len(names), len(self.example))]
        return root_fn, [self.root, *(self.create_proxy("placeholder", n, (), {}) for n, _ in zip(names, self.example))]

    def proxy(self, node):
        """Return the proxy that stands for the value of a node."""
        return MetaProxy(node, self)

    def create_arg(self, a):
        """Return what stands for a value among the arguments of a node."""
        if isinstance(a, Proxy):
            return a.node
        if isinstance(a, torch.Size):
            return tuple(self.create_arg(x) for x in a)
        if isinstance(a, Tensor) and not isinstance(a, nn.Parameter):
            return self._constant(a)
        return super().create_arg(a)

    def _constant(self, value: Tensor) -> Node:
        """Read a tensor that the forward made of plain numbers: one attribute for equal ones, in both modes."""
        for name, held in vars(self.root).items():
            if name.startswith(CONSTANT) and held.dtype is value.dtype and torch.equal(held, value):
                node = self.create_node("get_attr", name, (), {})
                break
        else:
            node = super().create_arg(value)
        node.meta["val"] = to_meta(value)
        return node

    def create_proxy(self, kind, target, args, kwargs, name=None, type_expr=None, proxy_factory_fn=None):
        """Record a node, with the module whose code it is, and run it now or before its value is needed."""
        proxy = super().create_proxy(kind, target, args, kwargs, name, type_expr, proxy_factory_fn)
        node = proxy.node
        if kind == "placeholder":
            node.meta["val"] = next(self.values)
        elif kind != "output":
            node.meta["owner"] = self.stack[-1] if self.stack else ""
            if kind == "get_attr":  # as it is now: the forward may replace it
                node.meta["val"] = self._run(node)
                return proxy
            self.pending.append(node)
            if self.eager:
                self.run_pending()
        return proxy

    def run_pending(self) -> None:
        """Run what has been recorded since the last time."""
        pending, self.pending = self.pending, []
        for node in pending:
            try:
                node.meta["val"] = self._run(node)
            except Exception as error:
                if self.eager:
                    raise
                raise _TooLate from error

    def check_buffers(self) -> None:
        """Refuse a buffer that forward replaces by a function of data (not of shapes: a cache): the graph would not do so.

        Raises:
            LeafNeeded: there is one.
        """
        for path, module in self.root.named_modules():
            for name, value in module._buffers.items():
                if not isinstance(value, Proxy) or _updates(value.node, f"{path}.{name}" if path else name):
                    continue
                self.run_pending()
                if name not in module._non_persistent_buffers_set or not _without_data(value.node):
                    raise LeafNeeded(path, f"its forward replaces the buffer {name!r}")

    def _run(self, node: Node):
        self.running = True
        try:
            return self.runner.run_node(node)
        finally:
            self.running = False


class _RecordedNodes(NodeRunner):
    """Runs single nodes on the values that recorded nodes keep in their `meta`, whatever the mode of the model."""

    def run_node(self, node: Node):
        """Run one node, of which the tensors of the model and its inputs go to the meta device first."""
        if node.op == "get_attr":
            return to_meta(super().run_node(node))
        with Shapes():
            return super().run_node(node)

    def call_module(self, module: nn.Module, args: tuple, kwargs: dict):
        """Call a leaf. Torch's own layers give the same shapes in both modes, and need no batch of two in eval."""
        if not module.training or not type(module).__module__.startswith("torch.nn"):
            return module(*args, **kwargs)
        try:
            return module.eval()(*args, **kwargs)
        finally:
            module.train()

    def look_up(self, arguments):
        """Return arguments with what each node gave, and constants, on meta tensors."""
        return map_aggregate(arguments, _value)


@contextlib.contextmanager
def _watched(tracer: _MetaTracer) -> Iterator[None]:
    """Let torch's functions that make tensors become nodes where they take a size of the graph, or draw random numbers.

    Else a tensor would be made or drawn once, for ever.
    """
    plain = {name: getattr(torch, name) for name in (*MADE, *DRAWN)}

    def watched(name, fn):
        def make(*args, **kwargs):
            if tracer.running or (name in MADE and find_proxy(args, kwargs) is None):
                return fn(*args, **kwargs)
            return tracer.create_proxy("call_function", fn, args, kwargs)
        return make

    try:
        for name, fn in plain.items():
            setattr(torch, name, watched(name, fn))
        yield
    finally:
        for name, fn in plain.items():
            setattr(torch, name, fn)


def _updates(node: Node, buffer: str) -> bool:
    """Tell whether a value is the buffer itself, written in place."""
    while writes_in_place(node):
        node = node.args[0]  # type: ignore[assignment]
    return node.op == "get_attr" and node.target == buffer


def _without_data(node: Node) -> bool:
    """Tell whether a value is computed from shapes alone."""
    inputs = [n for n in node.all_input_nodes if tree_any(lambda v: isinstance(v, Tensor), n.meta["val"])]
    if node.op == "get_attr":
        return str(node.target).startswith(CONSTANT)
    return node.op not in ("placeholder", "call_module") and all(map(_without_data, inputs))


def _value(a):
    """Return an argument on meta tensors: what a node gave, or a constant."""
    a = a.meta["val"] if isinstance(a, Node) else a
    return a if isinstance(a, (int, str)) or (isinstance(a, Tensor) and a.is_meta) else to_meta(a)


def _where(error: BaseException) -> str:
    """Write an error in one line, with the innermost line of code that is not torch's own."""
    while error.__cause__ is not None:
        error = error.__cause__
    frames = [f for f in traceback.extract_tb(error.__traceback__)
              if "/torch/" not in f.filename and not f.filename.startswith(OWN)]
    place = f" at {frames[-1].filename.rsplit('/', 2)[-1]}:{frames[-1].lineno}" if frames else ""
    words = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {words}{place}"


def trace(module: nn.Module, inputs: tuple, leaves: dict[str, str], run_all: bool = True) -> Graph:
    """Trace a module on meta tensors, adding to `leaves` each submodule that has to stay opaque, until it succeeds.

    This is the interface of a tracer: whatever records a forward in the mode that the module is in gives such a graph, with
    the owner and the value of each node in its `meta`.

    Args:
        module: on meta tensors; what its forward stores is undone.
        inputs: the positional arguments of forward.
        leaves: the submodules to call as they are, by path, each with the reason.
        run_all: run every node. Else some, of which nothing depends on the value, may turn out not to run on meta tensors.

    Raises:
        CaptureError: the module cannot be traced.
    """
    eager = False
    for _ in range(MAX_LEAF_RETRIES):
        try:
            return _trace_once(module, inputs, leaves, run_all, eager)
        except LeafNeeded as stop:
            keep_opaque(module, leaves, stop)
        except _TooLate:
            eager = True
        except Exception as error:
            raise CaptureError(f"the forward of {type(module).__name__} itself cannot be traced: {_where(error)}. "
                               "Pass the submodule that does the work instead (its backbone), or rewrite that line "
                               "without control flow over tensor data") from error
    raise CaptureError(f"gave up after keeping {MAX_LEAF_RETRIES} submodules opaque")


def _trace_once(module: nn.Module, inputs: tuple, leaves: dict[str, str], run_all: bool, eager: bool) -> Graph:
    tracer = _MetaTracer(leaves, to_meta(inputs), eager)
    with torch.no_grad(), without_fast_path(), any_batch_size(), _untouched(module), _nothing_wrapped(), _watched(tracer):
        graph = tracer.trace(module)
        if run_all:
            tracer.run_pending()
        tracer.check_buffers()
    return graph


@contextlib.contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    """Undo what a forward stores in its modules, which is of one trace; constants stay."""
    before = [(m, dict(vars(m)), dict(m._buffers)) for m in model.modules()]
    try:
        yield
    finally:
        for module, attributes, buffers in before:
            attributes |= {n: v for n, v in vars(module).items() if n.startswith(CONSTANT)}
            module.__dict__ = attributes
            module._buffers = buffers


@contextlib.contextmanager
def _nothing_wrapped() -> Iterator[None]:
    """Trace through functions that libraries have marked with `torch.fx.wrap`."""
    saved = dict(torch.fx._symbolic_trace._wrapped_fns_to_patch)
    torch.fx._symbolic_trace._wrapped_fns_to_patch.clear()
    try:
        yield
    finally:
        torch.fx._symbolic_trace._wrapped_fns_to_patch.update(saved)
