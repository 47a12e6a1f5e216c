"""Allow-lists: the functions, methods, attributes and module classes that a file may name.

Names are looked up in tables; nothing is imported, evaluated or called because a file says so, except modules of
torchvision and timm that hold an allow-listed layer class.
"""
from __future__ import annotations

import builtins
import collections
import enum
import functools
import importlib
import inspect
import math
import operator
import re
import sys
import types
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxgrow.errors import ArchiveError

IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
DOTTED = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)+")

OPERATORS = """abs add and_ concat contains eq floordiv ge getitem gt iadd iand ifloordiv ilshift imatmul imod imul index
inv invert ior ipow irshift is_ is_not isub itruediv ixor le lshift lt matmul mod mul ne neg not_ or_ pos pow rshift setitem
sub truediv truth xor""".split()
BUILTINS = "abs bool float getattr int len list max min range round slice sum tuple".split()
ATTRIBUTES = frozenset("""H T data device dtype imag is_cpu is_cuda is_meta is_quantized is_sparse itemsize layout mH mT
nbytes ndim real requires_grad shape start step stop""".split()
                       + [n for cls in vars(torch.return_types).values() if isinstance(cls, type)  # values, indices, ...
                          for n, field in vars(cls).items() if isinstance(field, types.MemberDescriptorType)])

# Of the functions of the namespaces below, those that reach outside their tensors, and packed or vendor formats whose
# arguments are addresses in disguise.
UNSAFE_FUNCTIONS = re.compile(r"from_file|from_numpy|frombuffer|set_.*|.*data_ptr|record_stream|resize.*|sym_.*|fbgemm_.*"
                              r"|quantized_(gru|lstm|rnn).*|miopen_.*|cudnn_.*|mkldnn_.*|unsafe_.*|has_torch_function.*"
                              r"|handle_torch_function|boolean_dispatch|assert_int_or_pair|import_.*|save|load")
UNSAFE_METHODS = re.compile(r"apply_|as_subclass|backward|.*data_ptr|map2?_|module_load|new|numpy|pin_memory|record_stream"
                            r"|register_.*|reinforce|resize.*|retain_grad|set_|share_memory_|is_shared|sparse_resize.*"
                            r"|.*storage.*|unsafe_.*|tofile")
ARITHMETIC = """abs add and bool div eq float floordiv ge getitem gt iadd iand idiv ifloordiv ilshift imul index int invert
ior ipow irshift isub itruediv ixor le len long lshift lt matmul mod mul ne neg or pos pow radd rand rdiv rfloordiv rlshift
rmatmul rmod rmul ror rpow rrshift rshift rsub rtruediv rxor setitem sub truediv xor""".split()
METHODS = frozenset(
    [n for n in dir(Tensor) if not n.startswith("_") and not UNSAFE_METHODS.fullmatch(n) and callable(getattr(Tensor, n))]
    + [f"__{n}__" for n in ARITHMETIC]
    + ["index", "count", "keys", "values", "items", "get", "numel", "bit_length", "is_integer"])

PARAMETRIZATIONS = frozenset(f"torch.nn.utils.{name}" for name in (
    "parametrize.ParametrizationList", "parametrizations._WeightNorm", "parametrizations._SpectralNorm",
    "parametrizations._Orthogonal", "parametrizations._OrthMaps"))
MODULE_PREFIXES = ("torch.nn.modules.", "torchvision.ops.", "torchvision.models.", "timm.layers.", "timm.models.",
                   "fxgrow.layers.", "fxgrow.zoo.")
PLAIN_PREFIXES = MODULE_PREFIXES[1:]
FUNCTION_PREFIXES = ("torchvision.ops.", "timm.layers.activations", "timm.layers.drop.", "timm.layers.fast_norm.",
                     "timm.layers.norm.", "fxgrow.layers.")


def _of_torch(name: str, value: Any) -> bool:
    """Tell whether `torch.<name>` is an ATen function or one of torch.functional's."""
    return (getattr(value, "__qualname__", "").startswith("_VariableFunctionsClass.")
            or getattr(value, "__module__", "") == "torch.functional")


def _of_functional(name: str, value: Any) -> bool:
    return getattr(value, "__module__", "") in ("torch.nn.functional", "torch._C._nn") or _of_torch(name, value)


def _built_in(name: str, value: Any) -> bool:
    return isinstance(value, types.BuiltinFunctionType)


@functools.lru_cache(maxsize=None)
def _functions() -> dict[str, Callable]:
    """Name to function, for every namespace that is small and known beforehand."""
    table: dict[str, Callable] = {"torch._assert": torch._assert, "collections.OrderedDict": collections.OrderedDict}
    for prefix, module, accepts in (("torch", torch, _of_torch), ("torch.nn.functional", F, _of_functional),
                                    ("torch.special", torch.special, _built_in), ("torch.linalg", torch.linalg, _built_in),
                                    ("torch.fft", torch.fft, _built_in), ("math", math, _built_in)):
        for name, value in sorted(vars(module).items()):
            if not name.startswith("_") and callable(value) and not isinstance(value, type) \
                    and not UNSAFE_FUNCTIONS.fullmatch(name) and accepts(name, value):
                table[f"{prefix}.{name}"] = value
    table.update({f"operator.{name}": getattr(operator, name) for name in OPERATORS})
    table.update({f"builtins.{name}": getattr(builtins, name) for name in BUILTINS})
    return table


@functools.lru_cache(maxsize=None)
def _function_names() -> dict[int, str]:
    names: dict[int, str] = {}
    for name, function in _functions().items():
        names.setdefault(id(function), name)
    return names


def function_name(function: Any) -> str | None:
    """Return the name under which a file may hold `function`; None if it may not."""
    name = _function_names().get(id(function))
    if name is not None:
        return name
    if isinstance(function, (torch._ops.OpOverload, torch._ops.OpOverloadPacket)):
        return _if_resolves(f"torch.ops.{function}", function)
    if isinstance(function, types.FunctionType) or is_named_tuple(function):
        return _if_resolves(f"{function.__module__}.{function.__qualname__}", function)
    return None


def _if_resolves(name: str, function: Any) -> str | None:
    try:
        return name if find_function(name) is function else None
    except ArchiveError:
        return None


def find_function(name: Any) -> Callable:
    """Return the function that an archive calls `name`.

    Raises:
        ArchiveError: the name is not on the allow-list.
    """
    if not isinstance(name, str) or not DOTTED.fullmatch(name):
        raise ArchiveError(f"{shown(name)} is not the name of a function")
    found = _functions().get(name)
    if found is None and name.startswith("torch.ops."):
        found = _operator(name)
    if found is None:
        found = _defined(name, FUNCTION_PREFIXES, _is_function) or _defined(name, MODULE_PREFIXES, is_named_tuple)
    if found is None:
        raise ArchiveError(f"{shown(name)} is not a function that an archive may call")
    return found


@functools.lru_cache(maxsize=None)
def _registered(namespace: str) -> frozenset[str]:
    """Return the dispatcher's operators in a namespace (TorchScript's own, like aten::save, are not among them)."""
    return frozenset(n.partition("::")[2].partition(".")[0] for n in torch._C._dispatch_get_all_op_names()
                     if n.startswith(f"{namespace}::"))


def _operator(name: str) -> Callable | None:
    parts = name.split(".")[2:]
    if len(parts) not in (2, 3) or parts[0] not in ("aten", "torchvision"):
        return None
    namespace, op, *overload = parts
    if op.startswith("_") or UNSAFE_FUNCTIONS.fullmatch(op):
        return None
    if namespace == "torchvision":
        _import("torchvision.ops", name)
        _registered.cache_clear()
    if op not in _registered(namespace):
        return None
    packet = getattr(getattr(torch.ops, namespace), op)
    if not overload:
        return packet
    return getattr(packet, overload[0]) if overload[0] in packet.overloads() else None


def shown(value: Any) -> str:
    """Return what a file holds as one short line, for messages."""
    text = " ".join(repr(value).split())
    return text if len(text) < 80 else text[:76] + "...'"


def _import(module: str, name: str) -> types.ModuleType:
    """Import a module of torchvision, timm or fxgrow; torch's own are there already or not at all."""
    if module in sys.modules:
        return sys.modules[module]
    package = module.partition(".")[0]
    if package == "torch":
        raise ArchiveError(f"{shown(name)} is not in this version of {package}")
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name == package:
            raise ArchiveError(f"the model holds {shown(name)}: install {package} to load it") from None
        raise ArchiveError(f"{shown(name)} is not in this version of {package}") from None
    except Exception as error:  # a package broken in itself
        raise ArchiveError(f"{package} cannot be imported for {shown(name)}: {type(error).__name__}") from error


def _defined(name: str, prefixes: tuple[str, ...], accepts: Callable[[Any], bool]) -> Any | None:
    """Return what `name` means if it lies below the prefixes and was defined there, not merely imported."""
    module, _, attribute = name.rpartition(".")
    within = f"{module}.".startswith(prefixes) or (prefixes is MODULE_PREFIXES and name in PARAMETRIZATIONS)
    if not within or "__" in name or not DOTTED.fullmatch(name):
        return None
    value = vars(_import(module, name)).get(attribute)
    defined = getattr(value, "__module__", None) == module and getattr(value, "__qualname__", None) == attribute
    return value if defined and accepts(value) else None


def _is_layer(value: Any) -> bool:
    return (isinstance(value, type) and issubclass(value, nn.Module)
            and not issubclass(value, nn.modules.lazy.LazyModuleMixin))


def _is_function(value: Any) -> bool:
    return isinstance(value, types.FunctionType) and not value.__name__.startswith("_")


def _is_enum(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, enum.Enum)


def _is_plain(value: Any) -> bool:
    special = {"__del__", "__setstate__", "__reduce__", "__reduce_ex__", "__slots__", "__new__"}
    return isinstance(value, type) and type(value) is type and not any(special & vars(c).keys() for c in value.__mro__[:-1])


def _name_of(cls: type, prefixes: tuple[str, ...], accepts: Callable[[Any], bool]) -> str | None:
    name = f"{cls.__module__}.{cls.__qualname__}"
    return name if _defined(name, prefixes, accepts) is cls else None


def _find(name: Any, prefixes: tuple[str, ...], accepts: Callable[[Any], bool], what: str) -> type:
    found = _defined(name, prefixes, accepts) if isinstance(name, str) else None
    if found is None:
        raise ArchiveError(f"{shown(name)} is not {what}")
    return found


def class_name(cls: type) -> str | None:
    """Return the name under which a file may hold a module class; None if it may not."""
    return _name_of(cls, MODULE_PREFIXES, _is_layer)


def find_class(name: Any) -> type[nn.Module]:
    """Return the module class that an archive calls `name`.

    Raises:
        ArchiveError: the name is not below the allow-listed packages, or is not a module class defined there.
    """
    return _find(name, MODULE_PREFIXES, _is_layer, "a layer class that an archive may hold")


def enum_name(cls: type) -> str | None:
    """Return the name under which a file may hold an enumeration; None if it may not."""
    return _name_of(cls, MODULE_PREFIXES, _is_enum)


def find_enum(name: Any) -> type[enum.Enum]:
    """Return the enumeration that an archive calls `name`; raise ArchiveError as `find_class` does."""
    return _find(name, MODULE_PREFIXES, _is_enum, "an enumeration that an archive may hold")


def plain_name(cls: type) -> str | None:
    """Return the name under which a file may hold a plain class that comes with a model; None if it may not."""
    return _name_of(cls, PLAIN_PREFIXES, _is_plain)


def find_plain(name: Any) -> type:
    """Return a plain class that comes with a model, of which only attributes are set; raise as `find_class` does."""
    return _find(name, PLAIN_PREFIXES, _is_plain, "a class that comes with a model")


@functools.lru_cache(maxsize=None)
def named_tuple(name: str, fields: tuple[str, ...]) -> type:
    """Make a named tuple class from its description; a model's own output class is never imported."""
    if not IDENTIFIER.fullmatch(name) or not all(IDENTIFIER.fullmatch(f) for f in fields):
        raise ArchiveError(f"{shown(name)} is not the name of a named tuple")
    try:
        return collections.namedtuple(name, fields)  # type: ignore[misc]
    except ValueError as error:
        raise ArchiveError(f"named tuple {shown(name)}: {error}") from None


def is_named_tuple(cls: Any) -> bool:
    """Tell whether an object is the class of a named tuple."""
    return isinstance(cls, type) and issubclass(cls, tuple) and isinstance(getattr(cls, "_fields", None), tuple)


def shadows(cls: type, name: str) -> bool:
    """Tell whether an attribute `name` of an instance would hide a method or property of its class."""
    found = inspect.getattr_static(cls, name, None)
    return callable(found) or hasattr(type(found), "__get__")
