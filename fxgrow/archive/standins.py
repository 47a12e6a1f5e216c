"""What stands for the classes and functions that a pickle names while it runs, and how it becomes the real thing after.

A stand-in keeps what the pickle gave it and does nothing; no constructor runs, and a layer that would hold anything but
tensors, layers, plain data and allow-listed functions is refused.
"""
from __future__ import annotations

import collections
import enum
import functools
from typing import Any

import torch
from torch import Tensor, nn

from fxgrow.archive import allow
from fxgrow.archive.modules import OWN_OF_MODULE
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
TRUST = ", or, if you trust whoever wrote the file, pass trust_pickle=True (command line: --trust-pickle)"


class _Shell:
    """Stands for an object while the pickle runs: keeps what it was made of."""
    real: Any = None

    def __init__(self, *args):
        self.args, self.state = args, None

    def __setstate__(self, state):
        self.state = state


class _Layer(_Shell):
    def __new__(cls, *args):
        if args:
            raise ArchiveError(f"it calls the constructor of {cls.real.__name__}")
        shell = object.__new__(cls)
        shell.args, shell.state = (), None
        return shell

    def __init__(self, *args):
        raise ArchiveError(f"it calls the constructor of {self.real.__name__}")


class _Plain(_Layer):
    """An object of a plain class that comes with a model (a box coder, a configuration)."""


class _Member(_Shell):
    """A member of an enumeration, by value."""


class _MemberByName(_Shell):
    """`getattr(Enumeration, name)`: how some Python versions write a member."""


class _Partial(_Shell):
    """functools.partial."""


class _Function:
    """A function of the allow-list, not to be called."""

    def __init__(self, name: str):
        self.real = allow.find_function(name)


def stand_in(name: str) -> Any:
    """What takes the place of a global of the pickle; None for torch's own ones, which need no place.

    Raises:
        ArchiveError: the name is nothing that loading is ready to resolve.
    """
    module, _, attribute = name.rpartition(".")
    if name in CORE or (module in ("torch", "torch.storage") and attribute in ITEM_SIZES) or (
            module == "torch" and isinstance(getattr(torch, attribute, None), torch.dtype)):
        return None
    if name == "functools.partial":
        return _Partial
    if name == "builtins.getattr":
        return _MemberByName
    for base, find in ((_Layer, allow.find_class), (_Member, allow.find_enum), (_Plain, allow.find_plain)):
        try:
            return type(attribute, (base,), {"real": find(name)})
        except ArchiveError as error:
            reason = str(error)
            if "install" in reason:
                raise
    try:
        return _Function(name)
    except ArchiveError:
        raise ArchiveError(f"it asks for {allow.shown(name)}, which is not a layer of torch, torchvision or timm: save its "
                           f"state_dict instead{TRUST}") from None


class Finish:
    """Turns what the second run gave into the real thing, refusing whatever a plain module does not hold."""

    def __init__(self) -> None:
        self.done: dict[int, Any] = {}

    def value(self, value: Any) -> Any:
        if isinstance(value, PLAIN):
            return value
        if id(value) not in self.done:
            self.done[id(value)] = self._make(value)
        return self.done[id(value)]

    def _make(self, value: Any) -> Any:
        if isinstance(value, _Plain):
            return self._plain(value)
        if isinstance(value, _Layer):
            return self._layer(value)
        if isinstance(value, Tensor) and type(value) in (Tensor, nn.Parameter):
            if value.nbytes > max(value.untyped_storage().nbytes(), MAX_EXPANDED):
                raise ArchiveError(f"it holds a tensor of shape {tuple(value.shape)} made of a few repeated numbers")
            return value
        if type(value) in (dict, collections.OrderedDict):
            made = type(value)((self.value(k), self.value(v)) for k, v in value.items())
            if "_metadata" in getattr(value, "__dict__", ()):  # the versions of a state_dict's layers
                made._metadata = self.value(value._metadata)
            return made
        if type(value) in (list, tuple, set):
            return type(value)(self.value(v) for v in value)
        if isinstance(value, _Function) and value.real is not getattr:
            return value.real
        if isinstance(value, type) and issubclass(value, _Layer):
            return value.real
        if isinstance(value, _Member) and len(value.args) == 1:
            return value.real(self.value(value.args[0]))
        if isinstance(value, _MemberByName) and len(value.args) == 2 and issubclass(value.args[0], _Member):
            members: dict[str, enum.Enum] = value.args[0].real.__members__
            return members[value.args[1]]
        if isinstance(value, _Partial) and isinstance(value.state, tuple) and len(value.state) == 4:
            function, args, kwargs = (self.value(v) for v in value.state[:3])
            return functools.partial(function, *args, **(kwargs or {}))
        raise ArchiveError(f"it holds a {type(value).__name__}, which a model of plain layers does not")

    def _layer(self, shell: _Layer) -> nn.Module:
        cls = shell.real
        module = self.done[id(shell)] = object.__new__(cls)
        nn.Module.__init__(module)
        state = self.value(shell.state)
        if not isinstance(state, dict):
            raise ArchiveError(f"a layer of class {cls.__name__} has no state")
        for name, value in state.items():
            self._check_attribute(cls, name, value)
        module.__setstate__(state)
        return module

    def _plain(self, shell: _Plain) -> Any:
        made = self.done[id(shell)] = object.__new__(shell.real)
        state = self.value(shell.state)
        for name in state or ():
            self._check_own(shell.real, name, True)
        vars(made).update(state or {})
        return made

    def _check_attribute(self, cls: type, name: Any, value: Any) -> None:
        kinds = {"_parameters": nn.Parameter, "_buffers": Tensor, "_modules": nn.Module}
        if name in kinds:
            fits = isinstance(value, dict) and all(v is None or isinstance(v, kinds[name]) for v in value.values()) \
                and all(isinstance(k, str) and not allow.shadows(cls, k) for k in value)
        elif name == "training":
            fits = isinstance(value, bool)
        elif name == "_non_persistent_buffers_set":
            fits = isinstance(value, set)
        elif name in OWN_OF_MODULE:
            fits = not value  # hooks
        else:
            fits = True
        self._check_own(cls, name, fits)

    @staticmethod
    def _check_own(cls: type, name: Any, fits: bool) -> None:
        own = isinstance(name, str) and (name in OWN_OF_MODULE or not (name.startswith("__") or allow.shadows(cls, name)))
        if not (fits and own):
            raise ArchiveError(f"an object of class {cls.__name__} has an attribute {allow.shown(name)} that may hold code")
