"""State: what a forward changes in its modules and in the containers that its code reaches, compared before and after."""
from __future__ import annotations

import contextlib
import functools
import random
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fxgrow.graph import CONSTANT, modules_by_path
from fxgrow.tracing.recorder import is_of_user
from fxgrow.tracing.sizes import Type

CONTAINERS = (list, dict, set, deque, OrderedDict, defaultdict)
SKIPPED = {*vars(nn.Module()), "training"}
HOOKS = [name for name, value in vars(nn.Module()).items() if name.endswith("hooks")]
DEPTH = 3
LARGE = 10_000  # containers with more in them are tables that nobody writes to in a forward


@dataclass
class Change:
    """Something that a forward changed: of the module at `path`, in words, and the values that are new."""
    path: str
    what: str
    news: list[Any]


class State:
    """What modules hold and their code reaches at one moment, but for what torch's own layers hold.

    Args:
        root: the module tree.
        outside: what its code reaches, as an earlier state found it.
    """

    def __init__(self, root: nn.Module, outside: list[tuple[str, str, Any]] | None = None):
        self.outside = list(_outside(root)) if outside is None else outside
        self.modules = [(path, m, dict(vars(m)), dict(m._buffers)) for path, m in modules_by_path(root)
                        if not path or not type(m).__module__.startswith("torch.nn.modules")]
        self.contents: dict[int, tuple[Any, Any]] = {}
        for _, _, attributes, _ in self.modules:
            for name, value in attributes.items():
                if name not in SKIPPED:
                    self._keep(value, DEPTH)
        self.reached: dict[int, list[tuple[str, str]]] = defaultdict(list)  # who reaches a container outside, and its name
        self.functions: dict[int, tuple[FunctionType, dict[str, Any]]] = {}
        self.tensors: dict[int, tuple[Tensor, Tensor]] = {}  # to which a leaf may write, and what is in them
        self.asking: dict[int, dict[str, Any]] = {}  # the globals of code that asks for types
        self.caches: dict[int, tuple[Any, int]] = {}  # of functions: what they gave here must be forgotten
        for path, name, found in self.outside:
            self.reached[id(found)].append((path, name))
            if len(self.reached[id(found)]) == 1:
                self._keep_outside(found)

    def _keep_outside(self, found: Any) -> None:
        if isinstance(found, Tensor):
            if not found.is_meta and found.numel() < LARGE:
                self.tensors[id(found)] = found, found.detach().clone()
        elif isinstance(found, FunctionType):
            self.functions[id(found)] = found, _held(found)
            if "type" in _names(found.__code__) and "type" not in found.__globals__:
                self.asking[id(found.__globals__)] = found.__globals__
        elif hasattr(found, "cache_clear"):
            self.caches[id(found)] = found, found.cache_info().misses
        else:
            self._keep(found, DEPTH)

    def _keep(self, value: Any, depth: int) -> None:
        if type(value) not in CONTAINERS or not depth or id(value) in self.contents or len(value) > LARGE:
            return
        self.contents[id(value)] = value, _copy(value)
        for inner in _inside(value):
            self._keep(inner, depth - 1)

    def changes(self) -> Iterator[Change]:
        """Yield what is another one now; buffers are not among it."""
        for path, module, before, _ in self.modules:
            now = vars(module)
            for name in (*now, *(n for n in before if n not in now)):
                if name in SKIPPED or name.startswith(CONSTANT):
                    continue
                news = list(self._news(before.get(name, self), now.get(name, self), DEPTH))
                if news:
                    yield Change(path, f"its attribute {name!r}", news)
        for key, places in self.reached.items():
            news = list(self._news(self.contents[key][0], self.contents[key][0], DEPTH)) if key in self.contents else []
            if news:
                yield from (Change(path, f"{name!r}, which lies outside of the model", news) for path, name in places)
        for key, (function, before) in self.functions.items():
            for name, now in _held(function).items():
                if now is not before.get(name, self):
                    what = f"{name!r}, which lies outside of the model"
                    yield from (Change(path, what, [now]) for path, _ in self.reached[key])

    def _news(self, before: Any, now: Any, depth: int) -> Iterator[Any]:
        """Yield the values that are new in one that is `now`."""
        if before is not now:
            if not (type(before) is type(now) and type(now) in (bool, int, float, str, tuple) and before == now):
                yield now
        elif id(now) in self.contents and depth:
            contents = self.contents[id(now)][1]
            if isinstance(now, dict):
                for k in (*now, *(k for k in contents if k not in now)):
                    yield from self._news(contents.get(k, self), now.get(k, self), depth - 1)
            elif isinstance(now, set):
                yield from now ^ contents
            elif len(now) != len(contents):
                yield now
            else:
                for a, b in zip(contents, now):
                    yield from self._news(a, b, depth - 1)

    def replaced_buffers(self) -> list[tuple[str, nn.Module, str, Any]]:
        """Return the buffers that are other tensors now: path and module, name, and the new tensor."""
        return [(path, module, name, now) for path, module, _, before in self.modules
                for name, now in module._buffers.items() if now is not None and before.get(name) is not now]

    @contextlib.contextmanager
    def sizes_of_plain_type(self) -> Iterator[None]:
        """Let sizes be of type `int` for code that asks."""
        for names in self.asking.values():
            names["type"] = Type
        try:
            yield
        finally:
            for names in self.asking.values():
                del names["type"]

    def restore(self) -> None:
        """Put everything back as it was; the constants of the graph stay."""
        for _, module, attributes, buffers in self.modules:
            module.__dict__ = attributes | {n: v for n, v in vars(module).items() if n.startswith(CONSTANT)}
            module._buffers = buffers
        self.restore_outside()

    def restore_outside(self) -> None:
        """Put back what containers and functions hold, and nothing in the modules themselves."""
        for function, before in self.functions.values():
            for name, now in _held(function).items():
                if now is not before.get(name, now):
                    _hold(function, name, before[name])
        for tensor, numbers in self.tensors.values():
            if not torch.equal(tensor, numbers):
                tensor.detach().copy_(numbers)
        for cached, misses in self.caches.values():
            if cached.cache_info().misses != misses:
                cached.cache_clear()
        for value, contents in self.contents.values():
            if len(value) != len(contents) or any(a is not b for a, b in zip(_inside(value), _inside(contents))):
                value.clear()
                value.update(contents) if isinstance(value, (dict, set)) else value.extend(contents)


def draws() -> tuple:
    """Return the states of Python's and of NumPy's own random numbers, to compare and to put back."""
    state: Any = np.random.get_state()  # a tuple, unless a dict is asked for
    kind, key, *rest = state
    return random.getstate(), (kind, tuple(key.tolist()), *rest)


def put_back_draws(states: tuple) -> None:
    """Put back what `draws` gave."""
    random.setstate(states[0])
    np.random.set_state(states[1])


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Begin all random numbers at a seed inside: torch's, NumPy's and Python's; outside they go on as if nothing was."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    states = draws()
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        for device in devices:
            torch.cuda.default_generators[device].manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2 ** 32)
        try:
            yield
        finally:
            put_back_draws(states)


@contextlib.contextmanager
def untouched(root: nn.Module) -> Iterator[None]:
    """Leave what lies outside of a model, and the generators of random numbers, as they are before what runs inside."""
    state, seeds = State(root), draws()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        state.restore_outside()
        put_back_draws(seeds)


def _copy(value: Any) -> Any:
    return dict(value) if isinstance(value, dict) else set(value) if isinstance(value, set) else list(value)


def _inside(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def _outside(root: nn.Module) -> Iterator[tuple[str, str, Any]]:
    """Yield the containers that the code of each module reaches: globals, closures, what a hook is bound to."""
    of_class: dict[type, list[tuple[str, Any]]] = {}
    for path, module in modules_by_path(root):
        own = [h for name in HOOKS for h in vars(module).get(name, {}).values()]
        cls = type(module)
        if not cls.__module__.startswith("torch.nn.modules"):
            own += [v for v in vars(module).values() if isinstance(v, (FunctionType, MethodType))]
            if cls not in of_class:
                methods = [f for c in cls.__mro__ if c is not nn.Module and c is not object for f in vars(c).values()]
                of_class[cls] = [*_reached(methods), *((cls.__name__, m) for m in methods if type(m) is Tensor)]
        for name, container in (*_reached(own), *of_class.get(cls, ())):
            yield path, name, container


def _reached(functions: list[Any]) -> Iterator[tuple[str, Any]]:
    """Yield the containers and tensors that functions reach, by name, and the functions, with those that they call."""
    queue, seen = [(f, DEPTH) for f in functions], set()
    while queue:
        function, depth = queue.pop()
        function = getattr(function, "fget", None) or function
        holder = getattr(function, "__self__", None)
        if isinstance(function, MethodType) and not isinstance(holder, (nn.Module, type)) and hasattr(holder, "__dict__"):
            yield type(holder).__name__, vars(holder)
            yield from ((n, v) for n, v in vars(holder).items() if type(v) in CONTAINERS)
        function = getattr(function, "__func__", function)
        if hasattr(function, "cache_clear") and hasattr(function, "__wrapped__"):
            yield function.__name__, function
            function = function.__wrapped__
        if not isinstance(function, FunctionType) or id(function) in seen or not is_of_user(function.__code__.co_filename):
            continue
        seen.add(id(function))
        held = _held(function)
        yield function.__name__, function
        yield from ((name, value) for name, value in held.items() if type(value) in (*CONTAINERS, Tensor))
        queue += [(value, depth - 1) for value in held.values() if depth and type(value) not in CONTAINERS]


def _held(function: FunctionType) -> dict[str, Any]:
    """Return what the names outside of a function stand for in it."""
    held = dict(zip(function.__code__.co_freevars, _cells(function)))
    return held | {n: function.__globals__[n] for n in _names(function.__code__) if n in function.__globals__}


def _hold(function: FunctionType, name: str, value: Any) -> None:
    """Let a name outside of a function stand for something."""
    if name in function.__code__.co_freevars:
        function.__closure__[function.__code__.co_freevars.index(name)].cell_contents = value  # type: ignore[index]
    else:
        function.__globals__[name] = value


def _cells(function: Callable) -> Iterator[Any]:
    for cell in function.__closure__ or ():  # type: ignore[attr-defined]
        try:
            yield cell.cell_contents
        except ValueError:  # not filled yet
            yield None


@functools.cache
def _names(code: CodeType) -> tuple[str, ...]:
    """Return the global names that code mentions, and those of the functions written in it."""
    inner = (_names(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    return tuple(dict.fromkeys((*code.co_names, *(name for names in inner for name in names))))
