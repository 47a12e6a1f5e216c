"""State: what a forward changes in its modules and in the containers that its code reaches, compared before and after."""
from __future__ import annotations

import contextlib
import functools
import random
import sys
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import CodeType, FunctionType, MethodType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fxgrow.graph import CONSTANT, OWN, is_of_user, modules_by_path
from fxgrow.tracing.sizes import stand_in

CONTAINERS = (list, dict, set, deque)
OF_OTHERS = {*sys.stdlib_module_names, "torch", "numpy"}  # whose objects are left alone: loggers, devices
HOOKS = [name for name, value in vars(nn.Module()).items() if name.endswith("hooks")]
HELD_BY_CLASSES = (*CONTAINERS, bool, int, float, str, tuple, type(None), Tensor)
DEPTH = 3
BY_TYPE = ("int", "float")  # `type(n) is int`
LARGE = 10_000  # containers with more in them are tables that nobody writes to in a forward


@dataclass
class Change:
    """Something that a forward changed: of the module at `path`, in words, and the values that are new.

    name: of the attribute, if it is one.
    """
    path: str
    what: str
    news: list[Any]
    name: str = ""


class State:
    """What modules hold and their code reaches at one moment, but for what torch's own layers hold.

    Args:
        root: the module tree.
        outside: what its code reaches, as an earlier state found it.
    """

    def __init__(self, root: nn.Module, outside: list[tuple[list[str], str, Any]] | None = None):
        self.outside = list(_outside(root)) if outside is None else outside
        self.modules = [(path, m, dict(vars(m)), dict(m._buffers)) for path, m in modules_by_path(root)
                        if not path or not type(m).__module__.startswith("torch.nn.modules")]
        self.contents: dict[int, tuple[Any, Any]] = {}
        for _, _, attributes, _ in self.modules:
            for name, value in attributes.items():
                if name not in OWN:
                    self._keep(value, DEPTH)
        self.classes = {c: (path, _of_class(c)) for path, m, *_ in reversed(self.modules) for c in _classes(type(m))}
        for _, attributes in self.classes.values():
            for value in attributes.values():
                self._keep(value, DEPTH)
        self.reached: dict[int, list[tuple[list[str], str]]] = defaultdict(list)  # who reach what is outside, and its name
        self.functions: dict[int, tuple[FunctionType, dict[str, Any]]] = {}
        self.tensors: dict[int, tuple[Tensor, Tensor]] = {}  # to which a leaf may write, and what is in them
        self.asking: dict[int, tuple[dict[str, Any], dict[str, Any]]] = {}  # globals of code, and what stands in for names
        self.stands: list[tuple[dict[str, Any], str, Any, Any]] | None = None  # globals, name, stand-in, what it stands for
        self.caches: dict[int, tuple[Any, int]] = {}  # of functions: what they gave here must be forgotten
        for paths, name, found in self.outside:
            self.reached[id(found)].append((paths, name))
            if len(self.reached[id(found)]) == 1:
                self._keep_outside(found)

    def _keep_outside(self, found: Any) -> None:
        if isinstance(found, Tensor):
            if not found.is_meta and found.numel() < LARGE:
                self.tensors[id(found)] = found, found.detach().clone()
        elif isinstance(found, FunctionType):
            self.functions[id(found)] = found, _held(found)
            names = found.__globals__
            stands = {name: value for name in _names(found.__code__) if (value := stand_in(name, names)) is not None}
            self.asking.setdefault(id(names), (names, {}))[1].update(stands)
        elif hasattr(found, "cache_clear"):
            self.caches[id(found)] = found, found.cache_info().misses
        else:
            self._keep(found, DEPTH)

    def _keep(self, value: Any, depth: int) -> None:
        held = _container(value)
        if held is None or not depth or id(held) in self.contents or len(held) > LARGE:
            return
        self.contents[id(held)] = held, _copy(held)
        for inner in _inside(held):
            self._keep(inner, depth - 1)

    def changes(self) -> Iterator[Change]:
        """Yield what is another one now; buffers are not among it."""
        for path, module, before, _ in self.modules:
            now = vars(module)
            for name in (*now, *(n for n in before if n not in now)):
                if name in OWN or name.startswith(CONSTANT):
                    continue
                news = list(self._news(before.get(name, self), now.get(name, self), DEPTH))
                if news:
                    yield Change(path, f"its attribute {name!r}", news, name)
        yield from self._changes_outside()

    def _changes_outside(self) -> Iterator[Change]:
        """Yield what is another one in classes, and in what the code reaches."""
        for cls, (path, before) in self.classes.items():
            for name, now in _of_class(cls).items():
                if news := list(self._news(before.get(name, self), now, DEPTH)):
                    yield Change(path, f"{name!r} of the class {cls.__name__}", news)
        for key, places in self.reached.items():
            held = self.contents[key][0] if key in self.contents else None
            if news := list(self._news(held, held, DEPTH)):
                yield from (Change(path, f"{name!r}, which lies outside of the model", news)
                            for paths, name in places for path in paths)
        for key, (function, before) in self.functions.items():
            for name, now in _held(function).items():
                if now is not before.get(name, self):
                    what = f"{name!r}, which lies outside of the model"
                    yield from (Change(path, what, [now]) for paths, _ in self.reached[key] for path in paths)

    def _news(self, before: Any, now: Any, depth: int) -> Iterator[Any]:
        """Yield the values that are new in one that is `now`."""
        if before is not now:
            if not _alike(before, now):
                yield now
        elif depth and id(now := _container(now)) in self.contents:
            (_, contents), now = self.contents[id(now)], _copy(now)
            if isinstance(now, np.ndarray):
                yield from () if np.array_equal(now, contents) else (now,)
            elif isinstance(now, dict):
                for k in (*now, *(k for k in contents if k not in now)):
                    yield from self._news(contents.get(k, self), now.get(k, self), depth - 1)
            elif isinstance(now, set):
                yield from now ^ contents
            elif len(now) != len(contents):
                yield now
            else:
                for a, b in zip(contents, now):
                    yield from self._news(a, b, depth - 1)

    def replaced_buffers(self) -> list[tuple[str, nn.Module, str, Any, Any]]:
        """Return the buffers that are other tensors now: path and module, name, the old and the new tensor."""
        return [(path, module, name, before.get(name), now) for path, module, _, before in self.modules
                for name, now in module._buffers.items() if now is not None and before.get(name) is not now]

    @contextlib.contextmanager
    def sizes_of_plain_type(self) -> Iterator[None]:
        """Let sizes be of type `int` for code that asks, and remain what they are where it makes an `int` of them."""
        self._stand_in(True)
        try:
            yield
        finally:
            self._stand_in(False)

    @contextlib.contextmanager
    def own_types(self) -> Iterator[None]:
        """Let the code have its own types again inside."""
        self._stand_in(False)
        try:
            yield
        finally:
            self._stand_in(True)

    def _stand_in(self, on: bool) -> None:
        if self.stands is None:
            self.stands = [(names, name, stand, names.get(name, self)) for names, stands in self.asking.values()
                           for name, stand in stands.items() if name not in BY_TYPE or "type" not in stands]
        for names, name, stand, own in self.stands:
            if on:
                names[name] = stand
            elif own is self:
                del names[name]
            else:
                names[name] = own

    def restore(self) -> None:
        """Put everything back as it was; the constants of the graph stay."""
        for _, module, attributes, buffers in self.modules:
            module.__dict__ = attributes | {n: v for n, v in vars(module).items() if n.startswith(CONSTANT)}
            module._buffers = dict(buffers)  # this state may be restored again
        self.restore_outside()

    def restore_outside(self) -> None:
        """Put back what containers, classes and functions hold, and nothing in the modules themselves."""
        for function, before in self.functions.values():
            for name, now in _held(function).items():
                if now is not before.get(name, now):
                    _hold(function, name, before[name])
        for cls, (_, before) in self.classes.items():
            for name, now in _of_class(cls).items():
                if now is not before.get(name, now):
                    setattr(cls, name, before[name])
        self._restore_values()

    def _restore_values(self) -> None:
        for tensor, numbers in self.tensors.values():
            if not torch.equal(tensor, numbers):
                tensor.detach().copy_(numbers)
        for cached, misses in self.caches.values():
            if cached.cache_info().misses != misses:
                cached.cache_clear()
        for value, contents in self.contents.values():
            _put_back(value, contents)


def _alike(a: Any, b: Any) -> bool:
    """Tell whether two plain values are equal, or two tuples that hold equal ones or the same objects."""
    if a is b or type(a) is not type(b):
        return a is b
    if type(a) is tuple:
        return len(a) == len(b) and all(map(_alike, a, b))
    return type(a) in (bool, int, float, str) and a == b


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


def _container(value: Any) -> Any:
    """Return what a forward may change in a value: itself, or the attributes of an object of the user's; else None."""
    if isinstance(value, CONTAINERS):
        return value
    if isinstance(value, np.ndarray):
        return value if value.ndim and value.size <= LARGE and value.flags.writeable else None
    cls = type(value)
    foreign = cls.__module__.partition(".")[0] in OF_OTHERS and cls is not SimpleNamespace
    return None if foreign or isinstance(value, (nn.Module, type)) else getattr(value, "__dict__", None)


def _classes(cls: type) -> Iterator[type]:
    """Yield the classes of a module that are the user's."""
    return (c for c in cls.__mro__ if c.__module__.partition(".")[0] not in OF_OTHERS)


def _of_class(cls: type) -> dict[str, Any]:
    """Return the values that a class holds: numbers, words, tensors, containers."""
    return {name: value for name, value in vars(cls).items()
            if type(value) is not FunctionType and not name.startswith("__") and isinstance(value, HELD_BY_CLASSES)}


def _copy(value: Any) -> Any:
    """Return a plain copy of a container, whose class may answer in its own way."""
    if isinstance(value, np.ndarray):
        return value.copy()
    return dict(dict.items(value)) if isinstance(value, dict) else set(value) if isinstance(value, set) else list(value)


def _put_back(value: Any, contents: Any) -> None:
    """Let a container hold what a copy of it holds."""
    now = _copy(value)
    if isinstance(value, np.ndarray):
        value[...] = contents
    elif len(now) != len(contents) or any(a is not b for a, b in zip(_inside(now), _inside(contents))):
        kind: Any = next(c for c in CONTAINERS if isinstance(value, c))
        kind.clear(value)
        kind.update(value, contents) if kind in (dict, set) else kind.extend(value, contents)


def _inside(value: Any) -> Iterable[Any]:
    return () if isinstance(value, np.ndarray) else dict.values(value) if isinstance(value, dict) else value


def _outside(root: nn.Module) -> Iterator[tuple[list[str], str, Any]]:
    """Yield what the code of modules reaches: globals, closures, what a hook is bound to; with the paths of who reach it."""
    of_class: dict[type, list[str]] = {}  # whose lists grow until all modules have been seen
    for path, module in modules_by_path(root):
        held, cls = vars(module), type(module)
        functions = [hook for name in HOOKS if held.get(name) for hook in held[name].values()]
        if not cls.__module__.startswith("torch.nn.modules"):
            functions += [v for v in held.values() if isinstance(v, (FunctionType, MethodType))]
            if cls not in of_class:
                paths, methods = of_class.setdefault(cls, []), _methods(cls)
                reached = *_reached(methods), *((cls.__name__, m) for m in methods if type(m) is Tensor)
                yield from ((paths, name, found) for name, found in reached)
            of_class[cls].append(path)
        if functions:
            yield from (([path], name, found) for name, found in _reached(functions))


def _methods(cls: type) -> list[Any]:
    """Return what the classes of a module hold that are none of torch's own."""
    return [f for c in cls.__mro__ if c is not nn.Module and c is not object for f in vars(c).values()]


def _reached(functions: list[Any]) -> Iterator[tuple[str, Any]]:
    """Yield the containers and tensors that functions reach, by name, and the functions, with those that they call."""
    queue, seen = [(f, DEPTH) for f in functions], set()
    while queue:
        function, depth = queue.pop()
        function = _asked(function, "fget") or function
        holder = _asked(function, "__self__")
        if isinstance(function, MethodType) and not isinstance(holder, (nn.Module, type)) and hasattr(holder, "__dict__"):
            yield type(holder).__name__, vars(holder)
            yield from ((n, v) for n, v in vars(holder).items() if type(v) in CONTAINERS)
        function = _asked(function, "__func__") or function
        if _asked(function, "cache_clear") and _asked(function, "__wrapped__"):
            yield function.__name__, function
            function = function.__wrapped__
        if not isinstance(function, FunctionType) or id(function) in seen or not is_of_user(function.__code__.co_filename):
            continue
        seen.add(id(function))
        held = _held(function)
        yield function.__name__, function
        yield function.__name__, vars(function)
        yield from ((function.__name__, v) for v in function.__defaults__ or () if isinstance(v, CONTAINERS))
        yield from ((name, value) for name, value in held.items() if isinstance(value, CONTAINERS) or type(value) is Tensor)
        queue += [(value, depth - 1) for value in held.values() if depth and not isinstance(value, CONTAINERS)]


def _asked(value: Any, name: str) -> Any:
    """Return an attribute of an object, or None; a stand-in for a package that is not installed refuses to be asked."""
    try:
        return getattr(value, name, None)
    except Exception:
        return None


def _held(function: FunctionType) -> dict[str, Any]:
    """Return what the names outside of a function stand for in it; the globals of Python's own modules are left alone."""
    held = dict(zip(function.__code__.co_freevars, _cells(function)))
    if str(function.__globals__.get("__name__")).partition(".")[0] in sys.stdlib_module_names:
        return held
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
