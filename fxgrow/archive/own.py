"""Modules with code of their own, which no file holds: a file has their numbers, an instance of the user's class the code.

Numbers and tensors are the file's; words, functions and objects are the instance's, and its words must be those of the file.
"""
import sys
from collections.abc import Iterable
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from fxgrow.archive.hooks import hooks_of, name_of
from fxgrow.archive.structure import OWN_OF_MODULE, is_data, usable_attribute
from fxgrow.errors import ArchiveError
from fxgrow.graph import clone_structure, find_module, is_of_user, shards_in

OWN = {"own": str, "at": (str, type(None))}
REBUILT_OF_RNN = ("_flat_weights", "_flat_weight_refs")
INTO = "load the file into an instance of the class that was saved, as fxgrow.load(path, into=instance) (command line: " \
    "--into package.module:factory)"
NUMBERS = (bool, int, float, complex, torch.Size)


def class_of(module: nn.Module) -> type[nn.Module]:
    """Return the class that a module was made of."""
    return nn.utils.parametrize.type_before_parametrizations(module)


def full_name(module: nn.Module) -> str:
    """Return module and name of the class that a module was made of."""
    cls = class_of(module)
    return f"{cls.__module__}.{cls.__qualname__}"


def own_attributes(module: nn.Module) -> dict[str, Any]:
    """Return the attributes of a module of the user's own class that a file holds: plain data and tensors."""
    skipped = OWN_OF_MODULE.union(REBUILT_OF_RNN)
    return {name: value for name, value in sorted(vars(module).items()) if name not in skipped and is_data(value, (Tensor,))}


def own_hooks(module: nn.Module) -> list[str]:
    """Return the names of a module's hooks."""
    return [name_of(hook) for _, hook in hooks_of(module)]


class Donor:
    """Gives modules with code of their own to a tree that is read: those of a copy of the user's instance."""

    def __init__(self, into: nn.Module | None, on_meta: bool):
        self.into = into
        if into is not None and (missing := shards_in(into)):
            raise ArchiveError(f"into= cannot take the file's numbers: {missing}")
        self.model = None if into is None else clone_structure(into, lambda t: t.detach().to("meta") if on_meta
                                                               else t.detach().clone())
        self._given: set[int] = set()

    def module(self, name: str, at: str | None) -> nn.Module:
        """Return a module of class `name`, with all in it: that at a path, else (None) one like all others of its class."""
        if self.model is None:
            what = f"{name} itself cannot be captured, and its own code cannot go into an archive" if at == "" else \
                f"layer {at or 'of a new block'!r} is of class {name}, whose code was not recorded; an archive holds no code"
            raise ArchiveError(f"{what}: {INTO}")
        found = find_module(self.model, at) if at is not None else self._one_of(name)
        if found is None or not _is_called(found, name):
            kind = "nothing" if found is None else f"a {full_name(found)}"
            raise ArchiveError(f"into= has {kind} {f'at {at!r}' if at else 'there'}, where the file has a {name}: pass an "
                               f"instance of the class that was saved, not a {type(self.into).__name__}")
        if id(found) in self._given:
            found = clone_structure(found, lambda t: t.detach().clone())
        self._given.update(id(m) for m in found.modules())
        return found

    def function(self, name: str) -> type[Function]:
        """Return the function with a backward of its own that the code of the user's instance knows by this name."""
        if self.into is None:
            raise ArchiveError(f"it calls {name}, a torch.autograd.Function of the network's own, and a file holds no code: "
                               f"{INTO}")
        called = name.rpartition(".")[2]
        found = [f for f in _functions_of(self.into) if f.__name__ == called]
        exact = [f for f in found if f"{f.__module__}.{f.__qualname__}" == name] or found
        if len(exact) != 1:
            raise ArchiveError(f"the code of into= knows {len(exact)} torch.autograd.Functions named {called}, and the file "
                               f"has {name}: pass an instance of the class that was saved, not a {type(self.into).__name__}")
        return exact[0]

    def _one_of(self, name: str) -> nn.Module | None:
        """Return any module of a class, all of which have the same code."""
        found = [m for m in self.model.modules() if _is_called(m, name)]  # type: ignore[union-attr]
        if any(not _alike(vars(found[0]), vars(other), set()) for other in found[1:]):
            raise ArchiveError(f"the modules of class {name} in into= are not all alike, and the file does not say of which "
                               "its new one is a copy: give them equal settings")
        return found[0] if found else None


def missing(name: str) -> type[Function]:
    """Return what stands for a function with a backward of its own where only the numbers of a file are read."""
    return type(name.rpartition(".")[2], (Function,), {})


def _functions_of(model: nn.Module) -> list[type[Function]]:
    """Return the functions with a backward of their own in the modules of Python that a model's code comes from or reads."""
    waiting = [sys.modules.get(cls.__module__) for module in model.modules() for cls in type(module).__mro__]
    seen: dict[int, Any] = {}
    while waiting:
        place = waiting.pop()
        if isinstance(place, ModuleType) and id(place) not in seen and is_of_user(getattr(place, "__file__", None) or ""):
            seen[id(place)] = place
            waiting += [v if isinstance(v, ModuleType) else sys.modules.get(getattr(v, "__module__", None) or "")
                        for v in list(vars(place).values()) if isinstance(v, (ModuleType, FunctionType, type))]
    return list(dict.fromkeys(v for place in seen.values() for v in vars(place).values()
                              if isinstance(v, type) and issubclass(v, Function) and v is not Function))


def _is_called(module: nn.Module, name: str) -> bool:
    """Tell whether a module's class has this name, wherever the class lies now (it may have been a script's)."""
    return class_of(module).__name__ == name.rpartition(".")[2]


def _alike(a: Any, b: Any, seen: set[tuple[int, int]]) -> bool:
    """Tell whether two attributes differ in numbers alone, which a file holds."""
    if a is b or (id(a), id(b)) in seen or (isinstance(a, (Tensor, *NUMBERS)) and isinstance(b, (Tensor, *NUMBERS))):
        return True
    seen.add((id(a), id(b)))
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(_alike(a[k], b[k], seen) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(_alike(v, w, seen) for v, w in zip(a, b))
    return bool(a == b) or (hasattr(a, "__dict__") and not callable(a) and _alike(vars(a), vars(b), seen)) \
        or (isinstance(a, nn.Module) and _alike(vars(a), vars(b), seen))


def insist_fits(module: nn.Module, kind: str, names: Iterable[str], held: Iterable[str]) -> None:
    """Check that a module of the instance has the parts that the file tells of."""
    odd = sorted(set(names) ^ set(held))
    if odd:
        raise ArchiveError(f"into= does not fit the file: one of it and the {full_name(module)} in into= has the {kind} "
                           f"{odd[0]!r} and the other has not")


def give(module: nn.Module, attributes: dict[str, Any]) -> None:
    """Give a module of the instance the attributes of the file; its words must be the file's."""
    for name, value in attributes.items():
        where, own = f"attribute {name!r} of a {full_name(module)}", vars(module).get(name)
        fits = is_data(own, (Tensor,)) if name in vars(module) else usable_attribute(name, value, type(module))
        if name in OWN_OF_MODULE or not is_data(value, (Tensor,)) or not fits:
            raise ArchiveError(f"into= does not fit the file: the {where} is no plain data in both")
        if _words(value) != _words(own):
            raise ArchiveError(f"into= was built otherwise: the {where} is {_short(own)}, and in the file {_short(value)}; "
                               "an archive sets numbers only")
        vars(module)[name] = value


def _words(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [w for item in value.items() for v in item for w in _words(v)]
    if isinstance(value, (list, tuple)):
        return [w for v in value for w in _words(v)]
    if isinstance(value, set):
        return sorted(w for v in value for w in _words(v))
    return [value] if isinstance(value, str) else []


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"{text[:57]}..."
