"""Module trees: copies of them, on meta tensors or with shared ones, and graphs put back into them."""
import collections
import contextlib
import copy
import functools
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg
from torch.nn.parameter import is_lazy

from fxgrow.graph.captured import Captured, is_captured
from fxgrow.layers import CapturedModule, keep

SHARED = {int, float, bool, complex, str, bytes, type, types.FunctionType, types.BuiltinFunctionType, torch.dtype,
          torch.device, torch.Size, type(None), torch.jit.ScriptFunction, torch.library.CustomOpDef}  # what copies share
# Python copies a function as itself; a scripted one it would pickle, which torch refuses, and with it the copy of each model
# that holds one, grown or not.
torch.jit.ScriptFunction.__deepcopy__ = lambda function, memo: function  # type: ignore[attr-defined]
CONTAINERS = {dict, collections.OrderedDict, list, tuple, set}
OWN = frozenset(vars(nn.Module()))  # what every module has, and shares with no other
HELD = {"_parameters", "_buffers", "_modules"}
TRANSIENT = "not_of_the_model"  # marks a hook, or a parameter held still, of which no copy and no file is to know
WRAPPERS = {  # what copies leave out: where it keeps the model
    "torch._dynamo.eval_frame.OptimizedModule": "_orig_mod", "torch.nn.parallel.data_parallel.DataParallel": "module",
    "torch.nn.parallel.distributed.DistributedDataParallel": "module"}

SHARDS = {"torch.distributed.fsdp.fully_sharded_data_parallel.FullyShardedDataParallel",  # modules and tensors of which each
          "torch.distributed.fsdp.FSDPModule", "torch.distributed.tensor.DTensor"}        # process has a piece


def modules_by_path(root: nn.Module, every_name: bool = False) -> list[tuple[str, nn.Module]]:
    """Return what `named_modules` yields, without a generator for each level above a module.

    every_name: whether a shared module is there under each of its names.
    """
    found, seen, waiting = [], set(), [("", root)]
    while waiting:
        path, module = waiting.pop()
        if every_name or id(module) not in seen:
            seen.add(id(module))
            found.append((path, module))
            if module._modules:
                prefix = f"{path}." if path else ""
                waiting += [(prefix + n, m) for n, m in reversed(module._modules.items()) if m is not None]
    return found


def set_mode(root: nn.Module, training: bool, modules: Sequence[nn.Module] | None = None) -> nn.Module:
    """Call `train()` as the module has it; one that refuses it (of torch.export) is told by its flags.

    modules: all that are in it, where they are known.
    """
    modules = [m for _, m in modules_by_path(root)] if modules is None else modules
    if not all(map(_follows, modules)):
        with contextlib.suppress(NotImplementedError):
            return root.train(training)
    for module in modules:
        if type(module).__setattr__ is nn.Module.__setattr__:  # which is slow, and does no more for a flag
            vars(module)["training"] = training
        else:
            module.training = training
    return root


def _follows(module: nn.Module) -> bool:
    """Tell whether a module's `train()` is torch's, which sets flags."""
    return type(module).train is nn.Module.train and "train" not in vars(module)


def clone_structure(module: nn.Module, tensor=lambda t: t) -> nn.Module:
    """Copy a module tree, with `tensor(old)` for each parameter and buffer; no tensor data is copied here.

    A captured module's code is not compiled: `recompile()` when its graph is as it should be.
    """
    memo = cloned_tensors(module, tensor)
    if not is_captured(module):
        return clone_module(module, memo)
    new = _blank_module(type(module).__name__)
    new.__dict__.update(_state(module, memo))
    new.meta = dict(module.meta)
    new._graph = _clone_nodes(module.graph)
    new._graph.owning_module = new
    return new


def _blank_module(class_name: str) -> CapturedModule:
    """Return a captured module without layers and graph, whose code is not made."""
    new = CapturedModule.__new__(CapturedModule)
    new.__dict__.update((name, copy.copy(value)) for name, value in vars(_blank()).items()
                        if name not in ("_graph", "_code"))
    type(new).__name__ = class_name
    return new


def is_compiled(gm: GraphModule) -> bool:
    """Tell whether the code of a captured module has been made, which lies in a class of its own."""
    return "forward" in vars(type(gm))


@contextlib.contextmanager
def compiled_later() -> Iterator[None]:
    """Put off what `compile_code` does inside, until a module is run."""
    token = _LATER.set(True)
    try:
        yield
    finally:
        _LATER.reset(token)


_LATER: ContextVar[bool] = ContextVar("compiled later", default=False)


def compile_code(gm: GraphModule) -> None:
    """Make the code of a captured module whose graph is as it should be, unless that is put off."""
    if is_compiled(gm) or not _LATER.get():
        gm.recompile()


@functools.cache
def _blank() -> CapturedModule:
    return CapturedModule(nn.Module(), Graph())


def alias_of(gm: GraphModule) -> GraphModule:
    """Return a captured module of the same graph, layers and tensors with a `meta` of its own, to be read alone."""
    new = object.__new__(type(gm))
    vars(new).update(vars(gm), meta=dict(gm.meta))
    return new


def add_node(graph: Graph, kind: str, target: Any, args: tuple, kwargs: dict[str, Any], name: str | None = None) -> Node:
    """Add a node to a graph, which is given its arguments afterwards: `create_node` takes three times as long for them."""
    node = graph.create_node(kind, target, name=name)
    if args:
        _put(node, "args", args)
    if kwargs:
        _put(node, "kwargs", kwargs)
    return node


def _put(node: Node, name: str, value: Any) -> None:
    """Set an attribute of a node by which no graph finds it, without filing the node anew there."""
    object.__setattr__(node, name, value)


def _clone_nodes(graph: Graph) -> Graph:
    """Copy a graph as `copy.deepcopy` does."""
    new = Graph(tracer_cls=graph._tracer_cls)
    copies: dict[Any, Any] = {}
    for node in graph.nodes:
        args, kwargs = map_arg((node.args, node.kwargs), copies.__getitem__)
        copies[node] = copied = add_node(new, node.op, node.target, args, kwargs, node.name)
        copied.meta.update(node.meta)
        if node.type is not None:
            copied.type = node.type
    new._codegen = copy.deepcopy(graph._codegen)
    return new


def hold(place: nn.Module, module: nn.Module) -> nn.Module:
    """Give a plain module the layers and tensors that another one holds."""
    for part in ("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set"):
        getattr(place, part).update(getattr(module, part))
    return place


def skeleton(gm: GraphModule) -> GraphModule:
    """Return a captured module's layers and graph on meta tensors, without its growth."""
    new: GraphModule = clone_structure(gm, _on_meta)  # type: ignore[assignment]
    Captured(new).drop_growth()
    return new


def meta_twin(module: nn.Module) -> nn.Module:
    """Return the module tree on meta tensors: shapes without memory (and, of a captured module, without its graph)."""
    memo = cloned_tensors(module, _on_meta, lambda t: t.requires_grad)
    if not is_captured(module):
        return clone_module(module, memo)
    twin = nn.Module()
    twin.__dict__.update(_state(module, memo))
    return twin


def _on_meta(t: Tensor) -> Tensor:
    return torch.empty_like(t, device="meta") if type(t) in (Tensor, nn.Parameter) else t.detach().to("meta")


def trains(tensor: Tensor) -> bool:
    """Tell whether a parameter needs gradients, or would if nothing held it still for a while."""
    return tensor.requires_grad or hasattr(tensor, TRANSIENT)


def cloned_tensors(module: nn.Module, tensor, needs_grad: Callable[[Tensor], bool] = trains) -> dict[int, Any]:
    """Return `tensor(old)` for each parameter and buffer, by the id of the old one, as a memo for `clone_module`."""
    memo: dict[int, Any] = {}
    held = [t for _, owner in modules_by_path(module) if owner._parameters or owner._buffers
            for t in (*owner._parameters.values(), *owner._buffers.values()) if t is not None]
    for t in held:
        if id(t) not in memo:
            new = tensor(t)
            if type(t) is nn.Parameter and type(new) is Tensor:
                new = Tensor._make_subclass(nn.Parameter, new, needs_grad(t))  # as `nn.Parameter` does, which asks for more
            elif isinstance(t, nn.Parameter) and not isinstance(new, nn.Parameter):
                new = nn.Parameter(new, requires_grad=needs_grad(t))
            memo[id(t)] = new
    memo[id(memo)] = list(memo.values())
    return memo


def _state(module: nn.Module, memo: dict[int, Any]) -> dict[str, Any]:
    """Return what a captured module holds beside its graph."""
    held = {k: _clone_value(getattr(module, k), memo) for k in ("_modules", "_parameters", "_buffers")}
    return {**held, "training": module.training, "_non_persistent_buffers_set": set(module._non_persistent_buffers_set)}


def running_copy(model: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """Copy a model with its numbers, to be run and not rewritten: the code of captured graphs is shared, not made again.

    Args:
        model: any module; `torch.compile` and parallel wrappers are left out.
        memo: copies to take in place of some objects, by the ids of those, as for `copy.deepcopy`.
    """
    held = dict(memo or {})
    memo = cloned_tensors(model, lambda t: copy.deepcopy(t, held) if t.is_leaf else t.detach().clone())
    memo |= {key: value for key, value in held.items() if key not in memo}  # in place: it holds its own id
    captured = [m for _, m in modules_by_path(model) if is_captured(m)]  # those of others may rewrite themselves
    for gm in captured:
        memo |= {id(gm): object.__new__(type(gm)), id(gm._graph): gm._graph, id(gm.meta): gm.meta}
    for gm in captured:
        vars(memo[id(gm)]).update((name, _clone_value(value, memo)) for name, value in vars(gm).items())
    return clone_module(model, memo)


@functools.cache
def _copies_plainly(cls: type) -> bool:
    """Tell whether a copy of a module of this class is a copy of its attributes."""
    if hasattr(cls, "__deepcopy__") or issubclass(cls, nn.RNNBase):
        return False
    own = ("__setstate__", "__getstate__", "__reduce_ex__")
    return cls.__module__.startswith("torch.nn.modules") or \
        all(getattr(cls, name, None) is getattr(nn.Module, name, None) for name in own)


def clone_module(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """Copy a module as `copy.deepcopy` does, without its cost for the plain attributes that most are made of."""
    if id(module) in memo:
        return memo[id(module)]
    if holder := _holder(module):
        return clone_module(module._modules[holder], memo)  # type: ignore[arg-type]
    if isinstance(module, GraphModule):
        return clone_graph(module, memo)
    if isinstance(module, torch.jit.ScriptModule):
        return _clone_scripted(module, memo)
    cls: Any = type(module)
    return _clone_plain(module, cls, memo) if _copies_plainly(cls) else copy.deepcopy(module, memo)


def _clone_plain(module: nn.Module, cls: Any, memo: dict[int, Any]) -> nn.Module:
    new = memo[id(module)] = cls.__new__(cls)
    state, held = new.__dict__, vars(module)
    state.update(held)
    state.pop("_compiled_call_impl", None)  # it calls the module that this is a copy of
    for name, value in held.items():
        kind = type(value)
        if kind in SHARED or (kind is tuple and SHARED.issuperset(map(type, value))):
            continue
        if kind in CONTAINERS and not value and name in OWN:
            state[name] = kind()
        elif name in HELD and kind is dict:
            state[name] = {k: v if v is None else memo[id(v)] if id(v) in memo else _clone_value(v, memo)
                           for k, v in value.items()}
        elif name != "forward" and name in state:
            state[name] = _clone_value(value, memo)
    if "forward" in held:
        state["forward"] = _rebound(held["forward"], memo)
    return new


def unwrapped(model: nn.Module) -> nn.Module:
    """Return a model without what `torch.compile`, DataParallel and DistributedDataParallel put around it and its parts."""
    while holder := _holder(model):
        model = model._modules[holder]  # type: ignore[assignment]
    return clone_structure(model) if any(_holder(m) for _, m in modules_by_path(model)) else model


def shards_in(given: nn.Module | Mapping[str, Any]) -> str:
    """Return why the numbers of a model, or tensors by name, are not there to be looked at: each process has a piece.

    (Or they have no size before a first run.) `""`: they are all there.
    """
    held = given.items() if isinstance(given, Mapping) else (
        (path, part) for path, m in modules_by_path(given)
        for part in (m, *m._parameters.values(), *m._buffers.values()))
    for path, part in held:
        if is_lazy(part):
            return (f"{path or 'the model'} has no sizes before the model has run (it is lazy): call the model on its "
                    "inputs once")
        if _is_shard(type(part)):  # type: ignore[arg-type]
            return (f"{path or 'the model'} was sharded over processes, each of which holds a piece of its parameters: let "
                    "get_model_state_dict(model, options=StateDictOptions(full_state_dict=True)) of "
                    "torch.distributed.checkpoint.state_dict gather its numbers, load them into the model as it was before "
                    "it was sharded, grow that, and shard the grown one (docs/record.md)")
    return ""


@functools.cache
def _is_shard(cls: type) -> bool:
    return not SHARDS.isdisjoint(f"{c.__module__}.{c.__qualname__}" for c in cls.__mro__)


def _holder(module: nn.Module) -> str:
    cls: Any = type(module)
    return _holder_of(cls)


@functools.cache
def _holder_of(cls: type) -> str:
    """Return where a wrapper of this class keeps the model, `""` if it is none."""
    return WRAPPERS.get(f"{cls.__module__}.{cls.__qualname__}", "")


def clone_graph(gm: GraphModule, memo: dict[int, Any]) -> GraphModule:
    """Copy a GraphModule of any class, whoever made it, with all of its attributes (its own copy loses some)."""
    cls: Any = type(gm)
    new = memo[id(gm)] = cls.__new__(cls)
    vars(new).update((name, _clone_value(value, memo)) for name, value in vars(gm).items())
    type(new).__name__ = cls.__name__
    new._graph.owning_module = new
    new.recompile()
    return new


def _clone_scripted(module: torch.jit.ScriptModule, memo: dict[int, Any]) -> nn.Module:
    """Copy what TorchScript made, which copies its tensors by itself."""
    new = memo[id(module)] = copy.deepcopy(module)
    for old, part in zip(module.modules(), new.modules()):
        for name, tensor in (*old._parameters.items(), *old._buffers.items()):
            if id(tensor) in memo:
                part._c.setattr(name, memo[id(tensor)])  # type: ignore[attr-defined]
    return new


def _rebound(function, memo: dict[int, Any]):
    """Copy a forward that was put in the place of a module's own, so that what it closes over is the copy's."""
    if isinstance(function, functools.partial):
        called, *arguments = [_rebound(a, memo) for a in (function.func, *function.args)]
        return functools.partial(called, *arguments, **function.keywords)
    if isinstance(function, (types.MethodType, nn.Module)):
        return _clone_value(function, memo)
    if not isinstance(function, types.FunctionType) or not function.__closure__:
        return function
    cells = tuple(types.CellType(_rebound(c.cell_contents, memo)) for c in function.__closure__)
    new = types.FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, cells)
    vars(new).update((name, _rebound(value, memo)) for name, value in vars(function).items())
    new.__kwdefaults__ = function.__kwdefaults__
    return new


def _clone_value(value, memo: dict[int, Any]):
    if id(value) in memo:
        return memo[id(value)]
    kind = type(value)
    if kind in SHARED:
        return value
    if kind in CONTAINERS:
        return _clone_container(value, memo)
    if isinstance(value, Tensor) and not value.is_leaf:  # what a hook computes before each call
        return value.detach().clone()
    return clone_module(value, memo) if isinstance(value, nn.Module) else copy.deepcopy(value, memo)


def _clone_container(value, memo: dict[int, Any]):
    kind = type(value)
    if kind is tuple:
        return value if SHARED.issuperset(map(type, value)) else tuple([_clone_value(v, memo) for v in value])
    new = memo[id(value)] = kind()
    if isinstance(value, dict):
        for key, held in value.items():
            new[key] = memo[id(held)] if id(held) in memo else _clone_value(held, memo)
    else:
        (new.extend if kind is list else new.update)([_clone_value(v, memo) for v in value])
    return new


def assemble(root: nn.Module, graph: Graph, class_name: str, leaf=lambda module: module) -> GraphModule:
    """Put a graph and the layers of `root` together to a captured module, which is not compiled yet.

    `leaf(module)` stands for each layer that the graph calls, and plain modules around them for all else that `root` holds,
    in its own order: the state_dict is the model's. (torch.fx alone would order by use and drop the unused.)
    """
    layers = dict(modules_by_path(root, every_name=True))
    called = {id(layers[n.target]) for n in graph.nodes if n.op == "call_module"}
    read = {n.target for n in graph.nodes if n.op == "get_attr"}
    kept = [f"{n.args[0]}." for n in graph.nodes if n.target is keep]
    around = {target[:i] for target in (*read, *kept) for i, c in enumerate(target) if c == "."}
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

    gm = _blank_module(class_name)
    fill(gm, root, "")
    for target in read:
        owner, _, attribute = target.rpartition(".")
        place, value = gm.get_submodule(owner), getattr(root.get_submodule(owner), attribute, None)
        if isinstance(value, Tensor) and not hasattr(place, attribute):  # a plain attribute
            place.register_buffer(attribute, value, persistent=False)
    gm._graph, graph.owning_module = graph, gm
    return gm


@functools.cache
def mentions(cls: type, name: str = "training") -> bool:
    """Tell whether any method of a class, its bases below nn.Module (or object) included, mentions a name (`training`)."""
    def inside(code: types.CodeType) -> bool:
        return name in code.co_names or any(inside(c) for c in code.co_consts if isinstance(c, types.CodeType))

    for base in cls.__mro__[:cls.__mro__.index(nn.Module if issubclass(cls, nn.Module) else object)]:
        for value in vars(base).values():
            code = getattr(getattr(value, "__func__", value), "__code__", None)
            if code is not None and inside(code):
                return True
    return False


def find_module(root: nn.Module, path: str) -> nn.Module | None:
    """Return the module at a path, by registered names only: no attribute of a module is ever looked up."""
    module: nn.Module | None = root
    for name in path.split(".") if path else ():
        module = None if module is None else module._modules.get(name)
    return module


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return every parameter and buffer under every name that it has."""
    modules = modules_by_path(model, every_name=True)
    return dict([*_held(modules, "_parameters"), *_held(modules, "_buffers")])


def named_tensors(model: nn.Module, prefix: str = "") -> list[tuple[str, Tensor]]:
    """Return each parameter and buffer once, with the first of its names, behind a prefix."""
    modules, before = modules_by_path(model), f"{prefix}." if prefix else ""
    found: list[tuple[str, Tensor]] = []
    for kind in ("_parameters", "_buffers"):
        first: dict[int, tuple[str, Tensor]] = {}
        for name, tensor in _held(modules, kind):
            first.setdefault(id(tensor), (before + name, tensor))
        found += first.values()
    return found


def _held(modules: list[tuple[str, nn.Module]], kind: str) -> list[tuple[str, Tensor]]:
    held = [(path and f"{path}.", tensors) for path, module in modules if (tensors := getattr(module, kind))]
    return [(prefix + name, t) for prefix, tensors in held for name, t in tensors.items() if t is not None]
