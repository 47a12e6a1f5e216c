"""Allow-lists: the functions, methods, attributes and module classes that a file may name.

Names are looked up in tables; nothing is imported, evaluated or called because a file says so, except modules of
torchvision and timm that hold an allow-listed layer class.
"""
import builtins
import collections
import contextlib
import dataclasses
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
from typing import Any, NamedTuple

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
ATTRIBUTES = frozenset("""H T data device dtype imag is_complex is_cpu is_cuda is_floating_point is_meta is_quantized
is_signed is_sparse itemsize layout mH mT nbytes ndim real requires_grad shape start step stop""".split()
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

# namespaces of operators, and the module that registers each
OPERATOR_HOMES = {"aten": "", "torchvision": "torchvision.ops", "transformers": "transformers.integrations.moe"}
PARAMETRIZATIONS = frozenset(f"torch.nn.utils.{name}" for name in (
    "parametrize.ParametrizationList", "parametrizations._WeightNorm", "parametrizations._SpectralNorm",
    "parametrizations._Orthogonal", "parametrizations._OrthMaps"))
MODULE_PREFIXES = ("torch.nn.modules.", "torchvision.ops.", "torchvision.models.", "timm.layers.", "timm.models.",
                   "fxgrow.layers.", "fxgrow.zoo.")
PLAIN_PREFIXES = MODULE_PREFIXES[1:]
FUNCTION_PREFIXES = ("torchvision.ops.", "timm.layers.activations", "timm.layers.drop.", "timm.layers.fast_norm.",
                     "timm.layers.norm.", "fxgrow.layers.")


def _of_torch(value: Any) -> bool:
    """Tell an ATen function or one of torch.functional's."""
    return (getattr(value, "__qualname__", "").startswith("_VariableFunctionsClass.")
            or getattr(value, "__module__", "") == "torch.functional")


def _of_functional(value: Any) -> bool:
    return getattr(value, "__module__", "") in ("torch.nn.functional", "torch._C._nn") or _of_torch(value)


@functools.lru_cache(maxsize=None)
def _functions() -> dict[str, Callable]:
    """Name to function, for every namespace that is small and known beforehand."""
    private = ("_assert", "_assert_async", "_grouped_mm")
    table: dict[str, Callable] = {f"torch.{name}": getattr(torch, name) for name in private if hasattr(torch, name)}
    if hasattr(torch._C._nn, "pad_sequence"):  # what that of torch.nn.utils.rnn calls
        table["torch._C._nn.pad_sequence"] = torch._C._nn.pad_sequence
    for module, accepts in ((torch, _of_torch), (F, _of_functional), (torch.special, inspect.isbuiltin),
                            (torch.linalg, inspect.isbuiltin), (torch.fft, inspect.isbuiltin), (math, inspect.isbuiltin)):
        for name, value in sorted(vars(module).items()):
            if not name.startswith("_") and callable(value) and not isinstance(value, type) \
                    and not UNSAFE_FUNCTIONS.fullmatch(name) and accepts(value):
                table[f"{module.__name__}.{name}"] = value
    table.update({f"operator.{name}": getattr(operator, name) for name in OPERATORS})
    table.update({f"builtins.{name}": getattr(builtins, name) for name in BUILTINS})
    return table


@functools.lru_cache(maxsize=None)
def _function_names() -> dict[int, str]:
    return {id(function): name for name, function in reversed(_functions().items())}  # of several names the first


def function_name(function: Any) -> str | None:
    """Return the name under which a file may hold `function`; None if it may not."""
    name = _function_names().get(id(function))
    if name is None and isinstance(function, (torch._ops.OpOverload, torch._ops.OpOverloadPacket)):
        name = f"torch.ops.{function}"
    elif name is None and (isinstance(function, types.FunctionType) or is_named_tuple(function)):
        name = f"{function.__module__}.{function.__qualname__}"
    with contextlib.suppress(ArchiveError):
        return name if name is not None and find_function(name) is function else None
    return None


def find_function(name: Any) -> Callable:
    """Return the function that an archive calls `name`; raise ArchiveError if it is not on the allow-list."""
    if not isinstance(name, str) or not DOTTED.fullmatch(name):
        raise ArchiveError(f"{shown(name)} is not the name of a function")
    function = (_functions().get(name) or _operator(name) or _defined(name, FUNCTION_PREFIXES, _is_function)
                or _defined(name, MODULE_PREFIXES, is_named_tuple))
    if function is None:
        raise ArchiveError(f"{shown(name)} is not a function that an archive may call")
    return function


@functools.lru_cache(maxsize=None)
def _registered(namespace: str) -> frozenset[str]:
    """Return the dispatcher's operators in a namespace (TorchScript's own, like aten::save, are not among them)."""
    return frozenset(n.partition("::")[2].partition(".")[0] for n in torch._C._dispatch_get_all_op_names()
                     if n.startswith(f"{namespace}::"))


def _operator(name: str) -> Callable | None:
    match = re.fullmatch(r"torch\.ops\.([a-z]+)\.([^_.][^.]*)(?:\.([^.]+))?", name)
    if match is None or match[1] not in OPERATOR_HOMES or UNSAFE_FUNCTIONS.fullmatch(match[2]):
        return None
    namespace, op, overload = match.groups()
    home = OPERATOR_HOMES[namespace]
    if home and home not in sys.modules:
        _import(home, name)
        _registered.cache_clear()
    if op not in _registered(namespace):
        return None
    packet = getattr(getattr(torch.ops, namespace), op)
    if overload is None:
        return packet
    return getattr(packet, overload) if overload in packet.overloads() else None


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


class Classes(NamedTuple):
    """The classes below some prefixes that a file may name; `what` says of each of them what it is."""
    prefixes: tuple[str, ...]
    accepts: Callable[[Any], bool]
    what: str

    def name_of(self, cls: type) -> str | None:
        """Return the name under which a file may hold a class; None if it may not."""
        name = f"{cls.__module__}.{cls.__qualname__}"
        return name if _defined(name, self.prefixes, self.accepts) is cls else None

    def find(self, name: Any) -> Any:
        """Return the class that an archive calls `name`; raise ArchiveError if it is none of these."""
        cls = _defined(name, self.prefixes, self.accepts) if isinstance(name, str) else None
        if cls is None:
            raise ArchiveError(f"{shown(name)} is not {self.what}")
        return cls


LAYERS = Classes(MODULE_PREFIXES, _is_layer, "a layer class that an archive may hold")
ENUMS = Classes(MODULE_PREFIXES, _is_enum, "an enumeration that an archive may hold")
PLAIN = Classes(PLAIN_PREFIXES, _is_plain, "a class that comes with a model")


OUTPUTS = Classes(("transformers.modeling_outputs.",), dataclasses.is_dataclass, "a class of outputs")


@functools.lru_cache(maxsize=None)
def output_class(kind: str, name: str, fields: tuple[str, ...]) -> type:
    """Make the class of a named tuple or dataclass from its description; a model's own output class is never imported."""
    if not IDENTIFIER.fullmatch(name) or not all(IDENTIFIER.fullmatch(f) for f in fields):
        raise ArchiveError(f"{shown(name)} is not the name of a named tuple or dataclass")
    try:
        if kind == "dataclass":
            return dataclasses.make_dataclass(name, [(f, Any, None) for f in fields])
        return collections.namedtuple(name, fields)  # type: ignore[misc]
    except (ValueError, TypeError) as error:
        raise ArchiveError(f"{kind} {shown(name)}: {error}") from None


def is_named_tuple(cls: Any) -> bool:
    """Tell whether an object is the class of a named tuple."""
    return isinstance(cls, type) and issubclass(cls, tuple) and isinstance(getattr(cls, "_fields", None), tuple)


def shadows(cls: type, name: str) -> bool:
    """Tell whether an attribute `name` of an instance would hide a method or property of its class."""
    found = next((vars(c)[name] for c in cls.__mro__ if name in vars(c)), None)
    return callable(found) or hasattr(type(found), "__get__")
