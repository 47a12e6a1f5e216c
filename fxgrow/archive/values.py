"""Python values as JSON and back: what graph arguments and layer attributes are made of, and nothing that can run.

JSON's own scalars and lists stand for themselves; everything else is an object with one key, its kind:
`{"tuple": [1, 2]}`, `{"float": "inf"}`, `{"dtype": "float32"}`, `{"node": "conv1"}`.
"""
from __future__ import annotations

import json
import math
import numbers
import re
from collections.abc import Callable
from typing import Any

import torch

from fxgrow.archive.allow import IDENTIFIER, is_named_tuple, named_tuple
from fxgrow.errors import ArchiveError

MAX_DEPTH = 32
_NOT_FINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}
_TORCH_CONSTANTS = {"dtype": torch.dtype, "layout": torch.layout, "memory_format": torch.memory_format}


class Unencodable(Exception):
    """A value that a file cannot hold; the caller knows where it was and says so."""


def encode(value: Any, special: Callable[[Any], dict | None] = lambda value: None) -> Any:
    """`value` as JSON; `special` may take over any value that is not a plain number, string or container.

    Raises:
        Unencodable: naming the type that a file cannot hold.
    """
    if value is None or type(value) in (bool, int, str):
        return value
    taken = special(value)
    if taken is not None:
        return taken
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"float": str(float(value))}
    if isinstance(value, (list, tuple, dict, set, frozenset)):
        return _encode_container(value, lambda v: encode(v, special))
    for kind, cls in _TORCH_CONSTANTS.items():
        if isinstance(value, cls):
            return {kind: str(value).removeprefix("torch.")}
    if isinstance(value, complex):
        return {"complex": [encode(value.real), encode(value.imag)]}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    if isinstance(value, (slice, range)):
        parts = (value.start, value.stop, value.step)
        return {type(value).__name__: [encode(v, special) for v in parts]}
    if value is Ellipsis:
        return {"ellipsis": True}
    raise Unencodable(f"{type(value).__module__}.{type(value).__qualname__}")


def _encode_container(value, each: Callable[[Any], Any]) -> Any:
    if isinstance(value, torch.Size):
        return {"size": list(value)}
    if is_named_tuple(type(value)):
        return {"namedtuple": [type(value).__name__, list(value._fields), [each(v) for v in value]]}
    if isinstance(value, dict):
        return {"dict": [[each(k), each(v)] for k, v in value.items()]}
    if isinstance(value, (set, frozenset)):
        return {"set": sorted((each(v) for v in value), key=json.dumps)}
    if isinstance(value, tuple) and type(value) is not tuple:  # torch.return_types and the like
        raise Unencodable(f"{type(value).__module__}.{type(value).__qualname__}")
    items = [each(v) for v in value]
    return {"tuple": items} if isinstance(value, tuple) else items


def decode(data: Any, special: Callable[[str, Any], Any] = lambda kind, data: NotImplemented, depth: int = 0) -> Any:
    """The value that `data` stands for; `special(kind, content)` may take over a kind.

    Raises:
        ArchiveError: an unknown kind, content that does not fit it, or values nested too deeply.
    """
    if depth > MAX_DEPTH:
        raise ArchiveError(f"values are nested more than {MAX_DEPTH} deep")
    if data is None or isinstance(data, (bool, int, float, str)):
        return data
    if isinstance(data, list):
        return [decode(v, special, depth + 1) for v in data]
    if not isinstance(data, dict) or len(data) != 1:
        raise ArchiveError("a value is an object with one key, its kind")
    (kind, content), = data.items()
    found = special(kind, content)
    if found is not NotImplemented:
        return found
    if kind not in _DECODERS:
        raise ArchiveError(f"{kind[:40]!r} is not a kind of value")
    try:
        return _DECODERS[kind](content, lambda v: decode(v, special, depth + 1))
    except (TypeError, ValueError, RuntimeError, OverflowError, KeyError) as error:
        raise ArchiveError(f"a value of kind {kind!r} does not hold what it should") from error


def _constant(kind: str) -> Callable:
    def find(name, each):
        value = getattr(torch, name) if IDENTIFIER.fullmatch(name) and hasattr(torch, name) else None
        if not isinstance(value, _TORCH_CONSTANTS[kind]):
            raise ValueError(name)
        return value
    return find


def _list(content) -> list:
    if not isinstance(content, list):
        raise TypeError("a list is needed")
    return content


def _integers(content) -> list[int]:
    if not all(type(v) is int and v >= 0 for v in _list(content)):
        raise TypeError("sizes are whole numbers")
    return content


def _device(content, each):
    if not re.fullmatch(r"[a-z]+(:[0-9]{1,3})?", content):
        raise ValueError(content)
    return torch.device(content)


def _named_tuple(content, each):
    name, fields, values = content
    return named_tuple(name, tuple(fields))(*[each(v) for v in _list(values)])


def _three(kind: type) -> Callable:
    def make(content, each):
        start, stop, step = _list(content)
        return kind(each(start), each(stop), each(step))
    return make


_DECODERS: dict[str, Callable[[Any, Callable[[Any], Any]], Any]] = {
    "float": lambda c, each: _NOT_FINITE[c],
    "complex": lambda c, each: complex(*[each(v) for v in _list(c)]),
    "tuple": lambda c, each: tuple(each(v) for v in _list(c)),
    "namedtuple": _named_tuple,
    "size": lambda c, each: torch.Size(_integers(c)),
    "set": lambda c, each: {each(v) for v in _list(c)},
    "dict": lambda c, each: {each(k): each(v) for k, v in _list(c)},
    "slice": _three(slice),
    "range": _three(range),
    "ellipsis": lambda c, each: Ellipsis,
    "device": _device,
    **{kind: _constant(kind) for kind in _TORCH_CONSTANTS},
}


def fields(data: Any, what: str, /, **kinds: type | tuple[type, ...]) -> list:
    """The values of a JSON object's keys, in the order of `kinds`.

    Raises:
        ArchiveError: a key is missing, unknown, or of another type.
    """
    if not isinstance(data, dict) or data.keys() != kinds.keys():
        raise ArchiveError(f"{what} does not have the fields {', '.join(kinds)}")
    for name, kind in kinds.items():
        value = data[name]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
            raise ArchiveError(f"{what}: {name!r} is of the wrong type")
    return [data[name] for name in kinds]
