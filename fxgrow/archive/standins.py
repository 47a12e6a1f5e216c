"""Stand-ins for the classes and functions that a pickle names while it runs, and how they become the real thing after.

A stand-in keeps what the pickle gave it and does nothing; no constructor runs, and a layer that would hold anything but
tensors, layers, plain data and allow-listed functions is refused.
"""
from __future__ import annotations

import argparse
import collections
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fxgrow.archive import allow
from fxgrow.archive.structure import OWN_OF_MODULE
from fxgrow.errors import ArchiveError

CORE = frozenset("""collections.OrderedDict builtins.set builtins.complex torch.Size torch.device torch.Tensor
torch.nn.parameter.Parameter torch._utils._rebuild_tensor_v2 torch._utils._rebuild_tensor_v3 torch._utils._rebuild_parameter
torch._utils._rebuild_parameter_with_state torch.serialization._get_layout""".split())
PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size, torch.layout,
         torch.memory_format)
ITEM_SIZES = {"DoubleStorage": 8, "FloatStorage": 4, "HalfStorage": 2, "BFloat16Storage": 2, "ComplexDoubleStorage": 16,
              "ComplexFloatStorage": 8, "LongStorage": 8, "IntStorage": 4, "ShortStorage": 2, "CharStorage": 1,
              "ByteStorage": 1, "BoolStorage": 1, "UntypedStorage": 1}
MAX_EXPANDED = 2 ** 30  # bytes that a tensor may claim beyond what the file holds: a copy of it would be as large
KINDS = {"_parameters": nn.Parameter, "_buffers": Tensor, "_modules": nn.Module}
TRUST = ", or, if you trust whoever wrote the file, pass trust_pickle=True (command line: --trust-pickle)"


class _StandIn:
    """Stands for an object while the pickle runs: keeps what it was made of."""
    real: Any = None

    def __init__(self, *args):
        self.args, self.state = args, None

    def __setstate__(self, state):
        self.state = state

    def become(self, finish: Finish) -> Any:
        """Return the object that this stands for."""
        raise _refusal(self)


class _Uncalled(_StandIn):
    """Stands for an object whose constructor is not to be called."""

    def __new__(cls, *args):
        if args:
            raise ArchiveError(f"it calls the constructor of {cls.real.__name__}")
        shell = object.__new__(cls)
        shell.args, shell.state = (), None
        return shell

    def __init__(self, *args):
        raise ArchiveError(f"it calls the constructor of {self.real.__name__}")


class _Layer(_Uncalled):
    """A module of an allow-listed class."""

    def become(self, finish: Finish) -> nn.Module:
        cls = self.real
        module = finish.done[id(self)] = object.__new__(cls)
        nn.Module.__init__(module)
        state = finish.value(self.state)
        if not isinstance(state, dict):
            raise ArchiveError(f"a layer of class {cls.__name__} has no state")
        for name, value in state.items():
            _check_own(cls, name, _fits(cls, name, value))
        module.__setstate__(state)
        return module


class _Plain(_Uncalled):
    """An object of a plain class that comes with a model (a box coder, a configuration)."""

    def become(self, finish: Finish) -> Any:
        plain = finish.done[id(self)] = object.__new__(self.real)
        state = finish.value(self.state)
        for name in state or ():
            _check_own(self.real, name, True)
        vars(plain).update(state or {})
        return plain


class _Member(_StandIn):
    """A member of an enumeration, by value."""

    def become(self, finish: Finish) -> Any:
        if len(self.args) != 1:
            raise _refusal(self)
        return self.real(finish.value(self.args[0]))


class _MemberByName(_StandIn):
    """`getattr(Enumeration, name)`: how some Python versions write a member."""

    def become(self, finish: Finish) -> Any:
        if len(self.args) != 2 or not issubclass(self.args[0], _Member):
            raise _refusal(self)
        return self.args[0].real.__members__[self.args[1]]


class _Partial(_StandIn):
    """functools.partial."""

    def become(self, finish: Finish) -> Any:
        if not isinstance(self.state, tuple) or len(self.state) != 4:
            raise _refusal(self)
        function, args, kwargs = (finish.value(v) for v in self.state[:3])
        return functools.partial(function, *args, **(kwargs or {}))


class _Function:
    """A function of the allow-list, not to be called."""

    def __init__(self, function: Callable):
        self.real = function


def stand_in(name: str) -> Any:
    """Return what takes the place of a global of the pickle, None for torch's own, or raise ArchiveError."""
    module, _, attribute = name.rpartition(".")
    if name in CORE or (module in ("torch", "torch.storage") and attribute in ITEM_SIZES) or (
            module == "torch" and isinstance(getattr(torch, attribute, None), torch.dtype)):
        return None
    if name == "functools.partial":
        return _Partial
    if name == "argparse.Namespace":  # beside the weights in many a checkpoint
        return type("Namespace", (_Plain,), {"real": argparse.Namespace})
    if name == "builtins.getattr":
        return _MemberByName
    for base, find in ((_Layer, allow.LAYERS.find), (_Member, allow.ENUMS.find), (_Plain, allow.PLAIN.find)):
        real = _allowed(find, name)
        if real is not None:
            return type(attribute, (base,), {"real": real})
    function = _allowed(allow.find_function, name)
    if function is None:
        raise ArchiveError(f"it asks for {allow.shown(name)}, which is not a layer of torch, torchvision or timm: save its "
                           f"state_dict instead{TRUST}")
    return _Function(function)


def _allowed(find: Callable[[str], Any], name: str) -> Any:
    """Return what an allow-list has under a name, None if nothing; raise where its package has to be installed first."""
    try:
        return find(name)
    except ArchiveError as error:
        if "install" in str(error):
            raise
        return None


class Finish:
    """Turns what the second run gave into the real thing, refusing whatever a plain module does not hold."""

    def __init__(self) -> None:
        self.done: dict[int, Any] = {}

    def value(self, value: Any) -> Any:
        """Return the real thing that a value of the second run stands for; refuse what a model of plain layers has not."""
        if isinstance(value, PLAIN):
            return value
        if id(value) not in self.done:
            self.done[id(value)] = self._real(value)
        return self.done[id(value)]

    def _real(self, value: Any) -> Any:
        if isinstance(value, _StandIn):
            return value.become(self)
        if type(value) in (Tensor, nn.Parameter):
            if value.nbytes > max(value.untyped_storage().nbytes(), MAX_EXPANDED):
                raise ArchiveError(f"it holds a tensor of shape {tuple(value.shape)} made of a few repeated numbers")
            return value
        if type(value) in (dict, collections.OrderedDict):
            return self._mapping(value)
        if type(value) in (list, tuple, set):
            return type(value)(self.value(v) for v in value)
        is_class = isinstance(value, type) and issubclass(value, _Uncalled)
        if is_class or (isinstance(value, _Function) and value.real is not getattr):
            return value.real
        raise _refusal(value)

    def _mapping(self, value: dict) -> dict:
        mapping = type(value)((self.value(k), self.value(v)) for k, v in value.items())
        if "_metadata" in getattr(value, "__dict__", ()):  # the versions of a state_dict's layers
            mapping._metadata = self.value(value._metadata)  # type: ignore[attr-defined]
        return mapping


def _refusal(value: Any) -> ArchiveError:
    return ArchiveError(f"it holds a {type(value).__name__}, which a model of plain layers does not")


def _fits(cls: type, name: Any, value: Any) -> bool:
    """Tell whether a module's state may hold this value under this name."""
    if name in KINDS:
        return isinstance(value, dict) and all(v is None or isinstance(v, KINDS[name]) for v in value.values()) \
            and all(isinstance(k, str) and not allow.shadows(cls, k) for k in value)
    if name == "training":
        return isinstance(value, bool)
    if name == "_non_persistent_buffers_set":
        return isinstance(value, set)
    return name not in OWN_OF_MODULE or not value  # no hooks


def _check_own(cls: type, name: Any, fits: bool) -> None:
    own = isinstance(name, str) and (name in OWN_OF_MODULE or not (name.startswith("__") or allow.shadows(cls, name)))
    if not (fits and own):
        raise ArchiveError(f"an object of class {cls.__name__} has an attribute {allow.shown(name)} that may hold code")
