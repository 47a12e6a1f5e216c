"""Capture: an `nn.Module` becomes a module-level `torch.fx.GraphModule` that behaves like it in train and eval mode.

The tracer runs every node on meta tensors as it records it, so Python control flow over shapes is decided by the
example inputs while shape arithmetic stays in the graph. What cannot be traced through is kept as an opaque leaf.
"""
from __future__ import annotations

import collections
import contextlib
import copy
import difflib
import functools
import inspect
import operator
import traceback
import types
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node, Proxy, Tracer
from torch.fx._symbolic_trace import _find_proxy
from torch.fx.node import map_aggregate
from torch.fx.proxy import TraceError
from torch.utils._pytree import tree_any, tree_map

from fxgrow._shapes import Shapes
from fxgrow.errors import CaptureError
from fxgrow.layers import MultiheadAttention, by_mode

TRACED_TORCH_MODULES = (nn.Sequential, nn.Transformer, nn.TransformerEncoder, nn.TransformerDecoder,
                        nn.TransformerEncoderLayer, nn.TransformerDecoderLayer, nn.ModuleList, nn.ModuleDict)
MAX_LEAF_RETRIES = 200
MADE = ("arange", "empty", "eye", "full", "linspace", "ones", "tensor", "zeros")
DRAWN = ("rand", "randint", "randn", "randperm")


def as_tuple(example_inputs) -> tuple:
    """A tensor, or a list or tuple of tensors, as a tuple."""
    if isinstance(example_inputs, Tensor):
        return (example_inputs,)
    if isinstance(example_inputs, (tuple, list)) and example_inputs:
        return tuple(example_inputs)
    raise CaptureError("example_inputs: pass a tensor or a tuple of tensors, as you would call the model")


def to_meta(value):
    """Every tensor in a nested value, on the meta device."""
    return tree_map(lambda v: v.detach().to("meta") if isinstance(v, Tensor) and not v.is_meta else v, value)


SHARED = {int, float, bool, complex, str, bytes, type, types.FunctionType, types.BuiltinFunctionType, torch.dtype,
          torch.device, torch.Size, type(None)}


CONTAINERS = {dict, collections.OrderedDict, set}


def clone_structure(module: nn.Module, tensor=lambda t: t) -> nn.Module:
    """A copy of the module tree whose parameters and buffers are `tensor(old)`; no tensor data is copied here. A captured
    module's code is not compiled: `recompile()` when its graph is as it should be."""
    memo = _tensors(module, tensor)
    if not isinstance(module, GraphModule):
        return _clone(module, memo)
    new = GraphModule(nn.Module(), Graph(), class_name=type(module).__name__)
    new.__dict__.update(_state(module, memo))
    new.meta = dict(module.meta)
    new._graph = copy.deepcopy(module.graph)
    new._graph.owning_module = new
    return new


def hold(place: nn.Module, module: nn.Module) -> nn.Module:
    """Gives a plain module the layers and tensors that another one holds."""
    for part in ("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set"):
        getattr(place, part).update(getattr(module, part))
    return place


def skeleton(gm: GraphModule) -> GraphModule:
    """A captured module's layers and graph on meta tensors, without its growth."""
    new: GraphModule = clone_structure(gm, lambda t: t.detach().to("meta"))  # type: ignore[assignment]
    new.meta.pop("growth", None)
    return new


def meta_twin(module: nn.Module) -> nn.Module:
    """The same module tree on meta tensors: shapes without memory (and, of a captured module, without its graph)."""
    memo = _tensors(module, lambda t: t.detach().to("meta"))
    if not isinstance(module, GraphModule):
        return _clone(module, memo)
    twin = nn.Module()
    twin.__dict__.update(_state(module, memo))
    return twin


def _tensors(module: nn.Module, tensor) -> dict[int, Any]:
    memo: dict[int, Any] = {}
    for owner in module.modules():
        for t in (*owner._parameters.values(), *owner._buffers.values()):
            if t is not None and id(t) not in memo:
                new = tensor(t)
                if isinstance(t, nn.Parameter) and not isinstance(new, nn.Parameter):
                    new = nn.Parameter(new, requires_grad=t.requires_grad)
                memo[id(t)] = new
    memo[id(memo)] = list(memo.values())
    return memo


def _state(module: nn.Module, memo: dict[int, Any]) -> dict[str, Any]:
    """What a captured module holds beside its graph."""
    held = {k: _clone_value(getattr(module, k), memo) for k in ("_modules", "_parameters", "_buffers")}
    return {**held, "training": module.training, "_non_persistent_buffers_set": set(module._non_persistent_buffers_set)}


@functools.cache
def _copies_plainly(cls: type) -> bool:
    """Whether a copy of a module of this class is a copy of its attributes."""
    if hasattr(cls, "__deepcopy__") or issubclass(cls, nn.RNNBase):
        return False
    own = ("__setstate__", "__getstate__", "__reduce_ex__")
    return cls.__module__.startswith("torch.nn.modules") or \
        all(getattr(cls, name, None) is getattr(nn.Module, name, None) for name in own)


def _clone(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """`copy.deepcopy` for modules, without its cost for the plain attributes that nearly all of them are made of."""
    if id(module) in memo:
        return memo[id(module)]
    cls: Any = type(module)
    if not _copies_plainly(cls):
        return copy.deepcopy(module, memo)
    new = memo[id(module)] = cls.__new__(cls)
    state = new.__dict__
    for name, value in vars(module).items():
        kind = type(value)
        if kind in SHARED:
            state[name] = value
        elif kind in CONTAINERS and not value:
            state[name] = kind()
        else:
            state[name] = _clone_value(value, memo)
    return new


def _clone_value(value, memo: dict[int, Any]):
    if id(value) in memo:
        return memo[id(value)]
    kind = type(value)
    if kind in SHARED:
        return value
    if kind in (dict, collections.OrderedDict):
        return kind((k, _clone_value(v, memo)) for k, v in value.items())
    if kind in (list, tuple, set):
        return kind(_clone_value(v, memo) for v in value)
    if isinstance(value, Tensor) and not value.is_leaf:  # what a hook computes before each call
        return value.detach().clone()
    return _clone(value, memo) if isinstance(value, nn.Module) else copy.deepcopy(value, memo)


def capture(model: nn.Module, example_inputs) -> GraphModule:
    """Captures `model` as a module-level graph.

    Args:
        model: any module; its parameters are shared with the result, its Python attributes are not touched.
        example_inputs: a tensor or tuple of tensors; shapes decide the control flow, values are not used.

    Returns:
        A GraphModule with the same parameter names, outputs, train and eval behaviour. `gm.meta["leaves"]` lists the
        submodules that could not be traced through and why.

    Raises:
        CaptureError: names the module and the line that stopped the tracing.
    """
    gm = capture_graph(model, as_tuple(example_inputs))
    if gm is not model:
        insist_callable(gm)
        gm.recompile()
    return gm


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


def insist_callable(gm: GraphModule) -> None:
    """Raises CaptureError where a name cannot stand in the code that torch.fx writes for a graph, which puts it between
    quotation marks as it is."""
    for node in gm.graph.nodes:
        if node.op in ("call_module", "get_attr") and any(c in '"\\' or c < " " for c in node.target):
            raise CaptureError(f"the name {node.target!r} has a quotation mark, a backslash or a control character, which "
                               "cannot stand in the code of a graph: give that part of the model another name")


def capture_graph(model: nn.Module, inputs: tuple, settled: bool = True) -> GraphModule:
    """`capture` without compiled code, for those who go on to rewrite the graph; not `settled`: nor is it known yet that
    every node can run on meta tensors, for those who are about to run them all."""
    if isinstance(model, GraphModule) and "example_inputs" in model.meta:
        return model
    twin = meta_twin(model)
    leaves: dict[str, str] = {}
    with uncached(twin):
        graph = _trace_modes(twin, inputs, leaves, settled)
    _renew_constants(graph)
    _remove_dead_code(graph)
    memo = _tensors(model, lambda t: t)
    gm = assemble(model, graph, type(model).__name__, lambda leaf: _clone(leaf, memo))
    for name, value in vars(twin).items():
        if name.startswith("_tensor_constant"):
            gm.register_buffer(name, value, persistent=False)
    gm.meta["leaves"] = leaves
    gm.meta["example_inputs"] = to_meta(inputs)
    return gm


def assemble(root: nn.Module, graph: Graph, class_name: str, leaf=lambda module: module) -> GraphModule:
    """A captured module, not compiled yet: `leaf(module)` for each layer that the graph calls, and plain modules around
    them for all else that `root` holds, in its own order, so that the state_dict is the model's. (torch.fx alone would
    order by use and drop the unused.)"""
    called = {id(root.get_submodule(n.target)) for n in graph.nodes if n.op == "call_module"}
    read = {n.target for n in graph.nodes if n.op == "get_attr"}
    around = {target[:i] for target in read for i, c in enumerate(target) if c == "."}
    placed: dict[int, nn.Module] = {}

    def fill(place: nn.Module, module: nn.Module, path: str) -> None:
        place.training = module.training
        place._parameters.update(module._parameters)
        place._buffers.update(module._buffers)
        place._non_persistent_buffers_set.update(module._non_persistent_buffers_set)
        for name, child in module._modules.items():
            if child is None:
                continue
            if id(child) not in placed:  # else another name of a shared module
                placed[id(child)] = leaf(child) if id(child) in called else nn.Module()
                if id(child) not in called:
                    fill(placed[id(child)], child, f"{path}{name}.")
            new = placed[id(child)]
            if id(child) in called or new._modules or new._parameters or new._buffers or path + name in around:
                place._modules[name] = new

    gm = GraphModule(nn.Module(), Graph(), class_name=class_name)
    fill(gm, root, "")
    for target in read:
        owner, _, attribute = target.rpartition(".")
        place, value = gm.get_submodule(owner), getattr(root.get_submodule(owner), attribute, None)
        if isinstance(value, Tensor) and not hasattr(place, attribute):  # a plain attribute
            place.register_buffer(attribute, value, persistent=False)
    gm._graph, graph.owning_module = graph, gm
    return gm


# --- tracing ------------------------------------------------------------------------------------------------------


class _Proxy(Proxy):
    """A proxy that knows its value on meta tensors, so that control flow over shapes can be decided."""

    @property
    def value(self):
        node = self.node  # an attribute becomes a node now
        self.tracer.settle()
        return node.meta["val"]

    def _scalar(self, kind):
        if isinstance(self.value, Tensor):
            raise TraceError(f"control flow depends on the data of a tensor ({self.node.name})")
        return kind(self.value)

    def __bool__(self):
        return self._scalar(bool)

    def __int__(self):
        return self._scalar(int)

    def __index__(self):
        return self._scalar(operator.index)

    def __float__(self):
        return self._scalar(float)

    def __len__(self):
        return len(self.value)

    def __round__(self, *digits):
        return round(self._scalar(float), *digits)

    def __iter__(self) -> Iterator[Any]:
        return iter([self[i] for i in range(len(self.value))])

    def __setitem__(self, key, value):
        self.tracer.create_proxy("call_function", operator.setitem, (self, key, value), {})

    def _in_place(self, operation, other):
        return self.tracer.create_proxy("call_function", operation, (self, other), {})

    __iadd__ = functools.partialmethod(_in_place, operator.iadd)
    __isub__ = functools.partialmethod(_in_place, operator.isub)
    __imul__ = functools.partialmethod(_in_place, operator.imul)
    __itruediv__ = functools.partialmethod(_in_place, operator.itruediv)

    def __contains__(self, item):
        return item in self.value

    def keys(self):
        return self.value.keys()

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _Attribute(self, name)


class _Attribute(_Proxy):
    """`x.name`: a call if it is called, else an attribute read, made into a node on first use."""

    def __init__(self, root: _Proxy, name: str):
        self.root, self.attr, self.tracer, self._node = root, name, root.tracer, None

    @property
    def node(self):
        if self._node is None:
            self._node = self.tracer.create_proxy("call_function", getattr, (self.root, self.attr), {}).node
        return self._node

    @node.setter
    def node(self, value):
        self._node = value

    def __call__(self, *args, **kwargs):
        if self.attr in ("size", "dim", "numel", "ndimension") and not isinstance(self.root.value, Tensor):
            raise TraceError(f"{self.root.node.name}.{self.attr}() of something that is not a tensor")
        return self.tracer.create_proxy("call_method", self.attr, (self.root, *args), kwargs)


class _LeafNeeded(Exception):
    def __init__(self, path: str, reason: str):
        super().__init__(reason)
        self.path, self.reason = path, reason


class _TooLate(Exception):
    """A node cannot run, which is found after it was recorded: trace again, and run each at once, to see where."""


class _Tracer(Tracer):
    proxy_buffer_attributes = True

    def __init__(self, leaves: dict[str, str], eager: bool = False):
        super().__init__(autowrap_functions=())
        self.leaves, self.eager = leaves, eager
        self.stack: list[str] = []
        self.running = False  # inside the meta run of a node, modules are called as usual
        self.pending: list[Node] = []  # nodes whose values nobody has asked for yet

    def is_leaf_module(self, m: nn.Module, qualified_name: str) -> bool:
        if qualified_name in self.leaves or isinstance(m, MultiheadAttention):
            return True
        if nn.utils.parametrize.is_parametrized(m):
            return True
        if type(m).__module__.startswith("torch.nn") and not isinstance(m, TRACED_TORCH_MODULES):
            return True
        stateless = not m._modules and not m._parameters and not m._buffers
        return stateless and mentions(type(m))  # type: ignore[arg-type]  # classes are hashable

    def call_module(self, m, forward, args, kwargs):
        if self.running:
            return forward(*args, **kwargs)
        path = self.path_of_module(m)
        self.stack.append(path)
        try:
            if self.is_leaf_module(m, path):
                return self.create_proxy("call_module", path, args, kwargs)
            return forward(*args, **kwargs)
        except (_LeafNeeded, _TooLate, CaptureError):
            raise
        except Exception as error:
            raise _LeafNeeded(path, _where(error)) from error
        finally:
            self.stack.pop()

    def getattr(self, attr, attr_val, parameter_proxy_cache):
        if isinstance(attr_val, Tensor) and not self.running:
            name = self._names.get(id(attr_val))
            if name is not None:
                if name not in parameter_proxy_cache:
                    parameter_proxy_cache[name] = self.create_proxy("get_attr", name, (), {})
                return parameter_proxy_cache[name]
        return attr_val

    def trace(self, root, concrete_args=None):
        self._names = {id(t): n for n, t in [*root.named_parameters(), *root.named_buffers()]}
        self.root, self.modules = root, dict(root.named_modules(remove_duplicate=False))
        return super().trace(root, concrete_args)

    def create_args_for_root(self, root_fn, is_module, concrete_args=None):
        """One placeholder for each example input; the other arguments of forward keep their defaults."""
        names = [p.name for p in inspect.signature(root_fn).parameters.values()
                 if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)][1:]
        names += [f"input_{i}" for i in range(len(names), len(self.example))]
        return root_fn, [self.root, *(self.create_proxy("placeholder", n, (), {}) for n, _ in zip(names, self.example))]

    def proxy(self, node):
        return _Proxy(node, self)

    def create_arg(self, a):
        if isinstance(a, Proxy):
            return a.node
        if isinstance(a, torch.Size):
            return tuple(self.create_arg(x) for x in a)
        if isinstance(a, Tensor) and not isinstance(a, nn.Parameter):
            return self._constant(a)
        return super().create_arg(a)

    def _constant(self, value: Tensor) -> Node:
        """A tensor that the forward made of plain numbers: one attribute for equal ones, in both modes."""
        for name, known in vars(self.root).items():
            if name.startswith("_tensor_constant") and known.dtype is value.dtype and torch.equal(known, value):
                node = self.create_node("get_attr", name, (), {})
                break
        else:
            node = super().create_arg(value)
        node.meta["val"] = to_meta(value)
        return node

    def create_proxy(self, kind, target, args, kwargs, name=None, type_expr=None, proxy_factory_fn=None):
        rv = super().create_proxy(kind, target, args, kwargs, name, type_expr, proxy_factory_fn)
        node = rv.node
        if kind == "placeholder":
            node.meta["val"] = next(self.values)
        elif kind != "output":
            node.meta["owner"] = self.stack[-1] if self.stack else ""
            if kind == "get_attr":  # as it is now: the forward may replace it
                node.meta["val"] = self._run(node)
                return rv
            self.pending.append(node)
            if self.eager:
                self.settle()
        return rv

    def settle(self) -> None:
        """Runs what has been recorded since the last time."""
        pending, self.pending = self.pending, []
        for node in pending:
            try:
                node.meta["val"] = self._run(node)
            except Exception as error:
                if self.eager:
                    raise
                raise _TooLate from error

    def check_buffers(self) -> None:
        """A buffer that a forward replaces by a function of data (not by one of shapes: a cache) would not be updated."""
        for path, module in self.root.named_modules():
            for name, value in module._buffers.items():
                if not isinstance(value, Proxy) or _updates(value.node, f"{path}.{name}" if path else name):
                    continue
                self.settle()
                if name not in module._non_persistent_buffers_set or not _without_data(value.node):
                    raise _LeafNeeded(path, f"its forward replaces the buffer {name!r}")

    def _run(self, node: Node):
        args, kwargs = map_aggregate(node.args, _value), map_aggregate(node.kwargs, _value)
        self.running = True
        try:
            if node.op == "get_attr":
                return to_meta(operator.attrgetter(node.target)(self.root))
            with Shapes():
                if node.op == "call_module":
                    return leaf_value(self.modules[node.target], args, kwargs)
                if node.op == "call_method":
                    return getattr(args[0], node.target)(*args[1:], **kwargs)
                return node.target(*args, **kwargs)
        finally:
            self.running = False


@contextlib.contextmanager
def _watch_creation(tracer: _Tracer):
    """Inside, calls of torch's functions that make tensors become nodes where they take a size of the graph, and where they
    draw random numbers, which else would be drawn once for ever."""
    plain = {name: getattr(torch, name) for name in (*MADE, *DRAWN)}

    def watched(name, fn):
        def make(*args, **kwargs):
            if tracer.running or name in MADE and _find_proxy(args, kwargs) is None:
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


def leaf_value(module: nn.Module, args, kwargs):
    """A leaf on meta tensors. Torch's own layers give the same shapes in both modes, and need no batch of two in eval."""
    training = module.training
    if not training or not type(module).__module__.startswith("torch.nn"):
        return module(*args, **kwargs)
    try:
        return module.eval()(*args, **kwargs)
    finally:
        module.train(training)


def _updates(node: Node, buffer: str) -> bool:
    """Whether a value is the buffer itself, written in place."""
    while _in_place(node):
        node = node.args[0]  # type: ignore[assignment]
    return node.op == "get_attr" and node.target == buffer


def _without_data(node: Node) -> bool:
    """Whether a value is computed from shapes alone."""
    inputs = [n for n in node.all_input_nodes if tree_any(lambda v: isinstance(v, Tensor), n.meta["val"])]
    if node.op == "get_attr":
        return str(node.target).startswith("_tensor_constant")
    return node.op not in ("placeholder", "call_module") and all(map(_without_data, inputs))


def _value(a):
    """An argument on meta tensors: what a node gave, or a constant."""
    a = a.meta["val"] if isinstance(a, Node) else a
    return a if isinstance(a, (int, str)) or isinstance(a, Tensor) and a.is_meta else to_meta(a)


def _where(error: BaseException) -> str:
    """The error in one line, with the innermost line that is not torch's own."""
    while error.__cause__ is not None:
        error = error.__cause__
    frames = [f for f in traceback.extract_tb(error.__traceback__)
              if "/torch/" not in f.filename and f.filename != __file__]
    place = f" at {frames[-1].filename.rsplit('/', 2)[-1]}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}{place}"


def _trace_modes(twin: nn.Module, inputs: tuple, leaves: dict[str, str], settled: bool) -> Graph:
    """The graph of one trace, or of one in each mode where the mode matters."""
    if not _mode_matters(twin):
        return _trace(twin.eval(), inputs, leaves, settled)
    while True:
        train = _trace(twin.train(), inputs, leaves)
        found = len(leaves)
        evaluation = _trace(twin.eval(), inputs, leaves)
        if len(leaves) > found:  # a leaf found in the second trace holds for the first
            continue
        try:
            return _merge_modes(train, evaluation)
        except _LeafNeeded as stop:
            _keep_opaque(twin, leaves, stop)


def _keep_opaque(twin: nn.Module, leaves: dict[str, str], stop: _LeafNeeded) -> None:
    if stop.path in leaves or not stop.path:
        raise CaptureError(f"{stop.path or 'the model'} ({type(twin.get_submodule(stop.path)).__name__}) "
                           f"cannot be captured: {stop.reason}") from stop
    leaves[stop.path] = stop.reason


def _trace(twin: nn.Module, inputs: tuple, leaves: dict[str, str], settled: bool = True) -> Graph:
    """Traces `twin`, adding to `leaves` each submodule that has to stay opaque, until it succeeds."""
    eager = False
    for _ in range(MAX_LEAF_RETRIES):
        tracer = _Tracer(leaves, eager)
        tracer.example = to_meta(inputs)
        tracer.values = iter(tracer.example)
        saved = dict(torch.fx._symbolic_trace._wrapped_fns_to_patch)
        fast_path = torch.backends.mha.get_fastpath_enabled()
        torch.fx._symbolic_trace._wrapped_fns_to_patch.clear()
        torch.backends.mha.set_fastpath_enabled(False)
        verify_batch_size = F._verify_batch_size  # type: ignore[attr-defined]
        F._verify_batch_size = lambda size: None  # type: ignore[attr-defined]  # shapes only: any batch will do
        before = [(m, dict(vars(m)), dict(m._buffers)) for m in twin.modules()]
        try:
            with torch.no_grad(), _watch_creation(tracer):
                graph = tracer.trace(twin)
                if settled:
                    tracer.settle()
                tracer.check_buffers()
            return graph
        except _LeafNeeded as stop:
            _keep_opaque(twin, leaves, stop)
        except _TooLate:
            eager = True
        except Exception as error:
            raise CaptureError(f"the forward of {type(twin).__name__} itself cannot be traced: {_where(error)}. "
                               "Pass the submodule that does the work instead (its backbone), or rewrite that line "
                               "without control flow over tensor data") from error
        finally:
            for module, attributes, buffers in before:  # what a forward has stored is of this trace
                attributes |= {n: v for n, v in vars(module).items() if n.startswith("_tensor_constant")}
                module.__dict__ = attributes
                module._buffers = buffers
            F._verify_batch_size = verify_batch_size  # type: ignore[attr-defined]
            torch.fx._symbolic_trace._wrapped_fns_to_patch.update(saved)
            torch.backends.mha.set_fastpath_enabled(fast_path)
    raise CaptureError(f"gave up after keeping {MAX_LEAF_RETRIES} submodules opaque")


# --- train and eval -----------------------------------------------------------------------------------------------


@functools.cache
def mentions(cls: type, name: str = "training") -> bool:
    """Whether any method of the class, its bases below nn.Module included, mentions a name (`self.training`)."""
    def inside(code: types.CodeType) -> bool:
        return name in code.co_names or any(inside(c) for c in code.co_consts if isinstance(c, types.CodeType))

    for base in cls.__mro__[:cls.__mro__.index(nn.Module)]:
        for value in vars(base).values():
            code = getattr(getattr(value, "__func__", value), "__code__", None)
            if code is not None and inside(code):
                return True
    return False


def _mode_matters(twin: nn.Module) -> bool:
    tracer = _Tracer({})
    leaf_below: set[str] = set()
    for path, module in twin.named_modules():
        if path and (tracer.is_leaf_module(module, path) or path.rpartition(".")[0] in leaf_below):
            leaf_below.add(path)
        elif not type(module).__module__.startswith("torch.nn") and mentions(type(module)):  # type: ignore[arg-type]
            return True
    return False


def _merge_modes(train: Graph, evaluation: Graph) -> Graph:
    """One graph out of the two traces: flags that differ read `module.training`, values that differ go by mode."""
    merged = Graph()
    of_train: dict[Node, Node] = {}
    of_eval: dict[Node, Node] = {}

    def flag(node: Node) -> Node:
        owner = node.meta.get("owner", "")
        return merged.get_attr(f"{owner}.training" if owner else "training")

    def choice(node: Node, train_value, eval_value) -> Node:
        made = merged.call_function(by_mode, (flag(node), train_value, eval_value))
        made.meta["owner"] = node.meta.get("owner", "")
        return made

    def join(node: Node, a, b):
        """The argument of a node that both traces have: `a` as the train trace gives it, `b` as the eval trace does."""
        if isinstance(a, Node) and isinstance(b, Node) and of_train[a] is of_eval[b]:
            return of_train[a]
        if isinstance(a, Node) or isinstance(b, Node):
            values = (of_train[a] if isinstance(a, Node) else a, of_eval[b] if isinstance(b, Node) else b)
            return choice(node, *values)
        if type(a) is type(b) and isinstance(a, (tuple, list)) and len(a) == len(b):
            return type(a)(join(node, x, y) for x, y in zip(a, b))
        if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
            return {k: join(node, a[k], b[k]) for k in a}
        if isinstance(a, slice) and isinstance(b, slice):
            return slice(*(join(node, getattr(a, f), getattr(b, f)) for f in ("start", "stop", "step")))
        if type(a) is type(b) and a == b:
            return a
        if a is True and b is False:
            return flag(node)
        train_value = map_aggregate(a, lambda x: of_train[x] if isinstance(x, Node) else x)
        eval_value = map_aggregate(b, lambda x: of_eval[x] if isinstance(x, Node) else x)
        return choice(node, train_value, eval_value)

    def spare_other_mode(only: Node, node: Node) -> None:
        """Both branches run in both modes: what one of them writes in place is a copy in the other mode."""
        if only.args[0].op != "get_attr":  # type: ignore[union-attr]
            raise _LeafNeeded(only.meta.get("owner", ""), f"{only.name} writes in place in one mode only")
        with merged.inserting_before(node):
            written = node.args[0]
            spare = merged.call_method("clone", (written,))
            spare.meta["owner"] = only.meta.get("owner", "")
            node.update_arg(0, choice(only, *((written, spare) if only in of_train else (spare, written))))

    pairs = list(_align(list(train.nodes), list(evaluation.nodes)))
    common = {_memory(n) for a, b in pairs for n in (a, b) if n and (a and b or n.op == "get_attr")}
    for a, b in pairs:
        if a is not None and b is not None:
            args = join(a, a.args, b.args)
            kwargs = join(a, a.kwargs, b.kwargs)
            node = merged.create_node(a.op, a.target, args, kwargs, a.name)
            of_train[a] = of_eval[b] = node
        else:
            only, mapping = (a, of_train) if a is not None else (b, of_eval)
            node = mapping[only] = merged.node_copy(only, lambda n: mapping[n])
            if _in_place(only) and _memory(only.args[0]) in common:  # type: ignore[union-attr]
                spare_other_mode(only, node)
        node.meta = dict((b if a is None else a).meta)  # type: ignore[union-attr]  # not both are None
    return merged


def _align(left: list[Node], right: list[Node]) -> Iterator[tuple[Node | None, Node | None]]:
    """The two traces side by side: equal operations in equal order are paired, the others stand alone."""
    matcher = difflib.SequenceMatcher(None, [_key(n) for n in left], [_key(n) for n in right], autojunk=False)
    for tag, i1, i2, j1, j2 in matcher.get_opcodes():
        if tag == "equal":
            yield from zip(left[i1:i2], right[j1:j2])
        else:
            yield from ((n, None) for n in left[i1:i2])
            yield from ((None, n) for n in right[j1:j2])


def _memory(node) -> int | None:
    """Which memory a node's value lies in: that of the tensor that it is a view of."""
    value = node.meta.get("val") if isinstance(node, Node) else None
    return value.untyped_storage()._cdata if isinstance(value, Tensor) else None


def _key(node: Node):
    return (node.op, str(node.target), node.meta.get("owner", "")) if node.op != "output" else ("output", "", "")


def _renew_constants(graph: Graph) -> None:
    """A tensor that the forward makes and then writes to is made anew at each call."""
    made = [n.kwargs.get("out", n.args[0] if n.args else None) for n in graph.nodes if _in_place(n)]
    for target in {n.target for n in made if isinstance(n, Node) and str(n.target).startswith("_tensor_constant")}:
        first, *others = [n for n in graph.nodes if n.op == "get_attr" and n.target == target]
        with graph.inserting_after(first):
            fresh = graph.call_method("clone", (first,))
        fresh.meta = {"owner": first.meta.get("owner", "")}
        for node in (first, *others):
            node.replace_all_uses_with(fresh, lambda user, own=fresh: user is not own)


def _remove_dead_code(graph: Graph) -> None:
    """Drops what nobody uses and nothing depends on: unused pure calls (in-place ones and modules stay)."""
    for node in reversed(list(graph.nodes)):
        if not (node.users or node.op in ("placeholder", "output", "call_module") or _in_place(node)):
            graph.erase_node(node)


def _in_place(node: Node) -> bool:
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return node.op in ("call_function", "call_method") and (
        name in ("setitem", "iadd", "imul", "isub", "itruediv") or (name.endswith("_") and not name.endswith("__"))
        or node.kwargs.get("inplace") is True or "out" in node.kwargs)
