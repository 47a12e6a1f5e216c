"""Results that follow from the structure of a captured module alone, kept for those who grow many children of one parent.

Inside `StructureCache(gm).active()` each is computed once, for `gm` and for copies that differ from it in numbers alone.
"""
from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.fx import GraphModule

from fxgrow.aten import tree_leaves
from fxgrow.graph.captured import Captured
from fxgrow.graph.names import owner_of

T = TypeVar("T")
_TENSORS = ("_parameters", "_buffers")
_APART = {*_TENSORS, "_modules"}  # of a layer, what is looked at by itself
_PLAIN = {int, float, bool, str, type(None)}
_CONTAINERS = {dict, OrderedDict, list, tuple, set}  # of no interest where they are empty


class StructureCache:
    """Results about the structure of one captured module, by name."""

    def __init__(self, gm: GraphModule):
        self.referenced: dict[int, Any] = {}  # objects that the structure knows by their identity, which stays theirs
        self.structure = _structure(gm, self.referenced)
        self.graph = gm.graph  # which is not changed meanwhile
        self.results: dict[str, Any] = {}

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Let `remembered` use these results inside."""
        token = _ACTIVE.set(self)
        try:
            yield
        finally:
            _ACTIVE.reset(token)


_ACTIVE: ContextVar[StructureCache | None] = ContextVar("structure cache", default=None)


def remembered(module: GraphModule, name: str, compute: Callable[[GraphModule], T],
               is_valid: Callable[[T], bool] = lambda result: True) -> T:
    """Return `compute(module)`, cached per module structure while `is_valid` accepts it."""
    cache = _ACTIVE.get()
    if cache is None or (module.graph is not cache.graph and cache.structure != _structure(module, {})):
        return compute(module)
    if name not in cache.results or not is_valid(cache.results[name]):
        cache.results[name] = compute(module)
    return cache.results[name]


def _structure(gm: GraphModule, referenced: dict[int, Any]) -> tuple:
    """Return all that a captured module is, its numbers aside; objects known by identity go to `referenced`."""
    nodes = [(n.op, n.target, n.name, repr(n.args), repr(n.kwargs), owner_of(n), n.meta.get("folded"))
             for n in gm.graph.nodes]
    layers = layer_forms(gm, referenced)
    layers[0] = (type(gm).__name__, GraphModule, *layers[0][2:])  # each has a class of its own
    captured = Captured(gm)
    inputs = [form_of(v) for v in tree_leaves(captured.inputs)]
    return nodes, layers, inputs, gm._non_persistent_buffers_set, captured.leaves


def layer_forms(root: nn.Module, referenced: dict[int, Any]) -> list[tuple]:
    """Return what each module of a tree is, its numbers aside; objects known by identity go to `referenced`."""
    seen: dict[int, int] = {}  # modules and tensors under several names are one

    def same(thing: Any) -> int:
        return seen.setdefault(id(thing), len(seen))

    return [(name, type(m), same(m), m.training if isinstance(m, GraphModule) and m is root else _attributes(m, referenced),
             [(n, None if t is None else (*form_of(t), type(t), same(t)))
              for kind in _TENSORS for n, t in getattr(m, kind).items()])
            for name, m in root.named_modules(remove_duplicate=False)]


def form_of(value: Any) -> Any:
    """Return what a tensor is, its numbers aside, and anything else in words."""
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype, value.device, value.requires_grad
    return repr(value)


def _attributes(module: nn.Module, referenced: dict[int, Any]) -> tuple[list, list]:
    """Return the plain attributes of a layer, and what stands for the others; its tensors and layers are left out."""
    state = vars(module)
    plain = [(name, value, type(value)) for name, value in state.items() if type(value) in _PLAIN]
    others = [(name, type(value), [_identified(v, referenced) for v in _members(value)]) for name, value in state.items()
              if type(value) not in _PLAIN and name not in _APART and (type(value) not in _CONTAINERS or value)]
    return plain, others


def _members(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return (part for item in value.items() for part in item)
    return value if isinstance(value, (tuple, list, set)) else (value,)


def _identified(value: Any, referenced: dict[int, Any]) -> tuple:
    """Return plain data as it is, and anything else by its identity."""
    if type(value) in _PLAIN:
        return type(value), value
    referenced[id(value)] = value
    return type(value), id(value)
