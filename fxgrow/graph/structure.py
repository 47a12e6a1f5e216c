"""What follows from the structure of a captured module alone, kept for those who grow many children of one parent.

Inside `Known(gm).used()`, what passes find out about a module of that structure (its axes, the values of its nodes) is
found out once. A copy is recognised by all that its graph, layers and tensors are, their numbers aside; one that was edited
since is another structure, of which nothing is known.
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

T = TypeVar("T")
_TENSORS = ("_parameters", "_buffers")
_APART = {*_TENSORS, "_modules"}  # of a layer, what is looked at by itself
_PLAIN = {int, float, bool, str, type(None)}
_CONTAINERS = {dict, OrderedDict, list, tuple, set}  # of no interest where they are empty


class Known:
    """Facts about the structure of one captured module, by name."""

    def __init__(self, gm: GraphModule):
        self.held: dict[int, Any] = {}  # objects that the structure knows by their identity, which stays theirs
        self.structure = _structure(gm, self.held)
        self.facts: dict[str, Any] = {}

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Inside, `known` looks here."""
        token = _USED.set(self)
        try:
            yield
        finally:
            _USED.reset(token)


_USED: ContextVar[Known | None] = ContextVar("known", default=None)


def known(gm: GraphModule, name: str, find: Callable[[GraphModule], T], sound: Callable[[T], bool] = lambda fact: True) -> T:
    """`find(gm)`, or what it gave before for a module of this structure, if that is still `sound`."""
    held = _USED.get()
    if held is None or held.structure != _structure(gm, {}):
        return find(gm)
    if name not in held.facts or not sound(held.facts[name]):
        held.facts[name] = find(gm)
    return held.facts[name]


def _structure(gm: GraphModule, held: dict[int, Any]) -> tuple:
    """All that a captured module is, its numbers aside. Objects that are not plain data are known by identity, and go to
    `held`."""
    captured = Captured(gm)
    nodes = [(n.op, n.target, n.name, repr(n.args), repr(n.kwargs), n.meta.get("owner"), n.meta.get("folded"))
             for n in gm.graph.nodes]
    seen: dict[int, int] = {}  # modules and tensors under several names are one

    def same(thing: Any) -> int:
        return seen.setdefault(id(thing), len(seen))

    layers = [(name, type(m), same(m), _settings(m, held) if m is not gm else m.training,
               [(n, None if t is None else (*_form(t), type(t), same(t)))
                for kind in _TENSORS for n, t in getattr(m, kind).items()])
              for name, m in gm.named_modules(remove_duplicate=False)]
    layers[0] = (type(gm).__name__, GraphModule, *layers[0][2:])  # each has a class of its own
    inputs = [_form(v) if isinstance(v, Tensor) else repr(v) for v in tree_leaves(captured.inputs)]
    return nodes, layers, inputs, gm._non_persistent_buffers_set, captured.leaves


def _form(tensor: Tensor) -> tuple:
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.requires_grad


def _settings(module: nn.Module, held: dict[int, Any]) -> tuple[list, list]:
    """The attributes of a layer, tensors and layers in it aside: plain ones, and what others hold."""
    state = vars(module)
    plain = [(name, value, type(value)) for name, value in state.items() if type(value) in _PLAIN]
    others = [(name, type(value), [_thing(v, held) for v in _parts(value)]) for name, value in state.items()
              if type(value) not in _PLAIN and name not in _APART and (type(value) not in _CONTAINERS or value)]
    return plain, others


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return (part for item in value.items() for part in item)
    return value if isinstance(value, (tuple, list, set)) else (value,)


def _thing(value: Any, held: dict[int, Any]) -> tuple:
    if type(value) in _PLAIN:
        return type(value), value
    held[id(value)] = value
    return type(value), id(value)
