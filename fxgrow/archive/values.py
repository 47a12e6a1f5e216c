"""Python values as JSON and back: what graph arguments and layer attributes are made of, and nothing that can run.

JSON's own scalars and lists stand for themselves; everything else is an object with one key, its kind:
`{"tuple": [1, 2]}`, `{"float": "inf"}`, `{"dtype": "float32"}`, `{"node": "conv1"}`.
"""
import functools
import json
import math
import numbers
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch

from fxgrow.archive.allow import IDENTIFIER, is_named_tuple, output_class
from fxgrow.errors import ArchiveError

MAX_DEPTH = 32
_NOT_FINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}
_TORCH_CONSTANTS = {"dtype": torch.dtype, "layout": torch.layout, "memory_format": torch.memory_format}
Convert = Callable[[Any], Any]  # encodes or decodes what is inside a value
Decoder = Callable[[Any, Convert], Any]


class Unencodable(Exception):
    """A value that a file cannot hold, by the name of its type; the caller knows where it was and says so."""

    def __init__(self, value: Any):
        super().__init__(f"{type(value).__module__}.{type(value).__qualname__}")


def encode(value: Any, special: Callable[[Any], dict | None] = lambda value: None) -> Any:
    """Return `value` as JSON, or raise Unencodable; `special` may take over what is no plain number or string."""
    if value is None or type(value) in (bool, int, str):
        return value
    encoded = special(value)
    if encoded is not None:
        return encoded
    for kind, encoder in _ENCODERS.items():
        if isinstance(value, kind):
            return encoder(value, lambda inner: encode(inner, special))
    raise Unencodable(value)


def _encode_tuple(value: tuple, inner: Convert) -> dict:
    if is_named_tuple(type(value)):
        return {"namedtuple": [type(value).__name__, list(value._fields), [inner(v) for v in value]]}  # type: ignore
    if type(value) is not tuple:  # torch.return_types and the like
        raise Unencodable(value)
    return {"tuple": [inner(v) for v in value]}


_ENCODERS: dict[type | tuple[type, ...], Callable[[Any, Convert], Any]] = {  # the first that fits
    numbers.Integral: lambda v, inner: int(v),
    float: lambda v, inner: float(v) if math.isfinite(v) else {"float": str(float(v))},
    torch.Size: lambda v, inner: {"size": list(v)},
    dict: lambda v, inner: {"dict": [[inner(k), inner(x)] for k, x in v.items()]},
    list: lambda v, inner: [inner(x) for x in v],
    tuple: _encode_tuple,
    (set, frozenset): lambda v, inner: {"set": sorted(map(inner, v), key=json.dumps)},
    tuple(_TORCH_CONSTANTS.values()): lambda v, inner: {type(v).__name__: str(v).removeprefix("torch.")},
    complex: lambda v, inner: {"complex": [encode(v.real), encode(v.imag)]},
    torch.device: lambda v, inner: {"device": str(v)},
    (slice, range): lambda v, inner: {type(v).__name__: [inner(x) for x in (v.start, v.stop, v.step)]},
    type(Ellipsis): lambda v, inner: {"ellipsis": True},
}


def from_json(data: bytes, what: str) -> dict:
    """Read strict JSON: an object, no key twice, no NaN; raise ArchiveError for anything else."""
    def once(pairs):
        unique = dict(pairs)
        if len(unique) != len(pairs):
            raise ValueError("a key appears twice")
        return unique

    def refuse(token):
        raise ValueError(f"{token} is not JSON")

    try:
        content = json.loads(data.decode("utf-8"), object_pairs_hook=once, parse_constant=refuse)
    except RecursionError:
        raise ArchiveError(f"{what} is nested too deeply") from None
    except ValueError as error:
        raise ArchiveError(f"{what} is not valid JSON") from error
    if not isinstance(content, dict):
        raise ArchiveError(f"{what} is not a JSON object")
    return content


def decode(data: Any, decoders: Mapping[str, Decoder] | None = None, depth: int = 0) -> Any:
    """Return the value that `data` stands for, or raise ArchiveError; `decoders` are for kinds beyond plain data."""
    if depth > MAX_DEPTH:
        raise ArchiveError(f"values are nested more than {MAX_DEPTH} deep")
    if data is None or isinstance(data, (bool, int, float, str)):
        return data
    if isinstance(data, list):
        return [decode(v, decoders, depth + 1) for v in data]
    if not isinstance(data, dict) or len(data) != 1:
        raise ArchiveError("a value is an object with one key, its kind")
    (kind, content), = data.items()
    decoder = (decoders or {}).get(kind) or _DECODERS.get(kind)
    if decoder is None:
        raise ArchiveError(f"{kind[:40]!r} is not a kind of value")
    try:
        return decoder(content, lambda inner: decode(inner, decoders, depth + 1))
    except (AttributeError, TypeError, ValueError, RuntimeError, OverflowError, KeyError) as error:
        raise ArchiveError(f"a value of kind {kind!r} does not hold what it should") from error


def _decode_constant(kind: type, name, inner):
    value = getattr(torch, name) if IDENTIFIER.fullmatch(name) and hasattr(torch, name) else None
    if not isinstance(value, kind):
        raise ValueError(name)
    return value


def _list(content) -> list:
    if not isinstance(content, list):
        raise TypeError("a list is needed")
    return content


def _integers(content) -> list[int]:
    if not all(type(v) is int and v >= 0 for v in _list(content)):
        raise TypeError("sizes are whole numbers")
    return content


def _decode_device(content, inner):
    if not re.fullmatch(r"[a-z]+(:[0-9]{1,3})?", content):
        raise ValueError(content)
    return torch.device(content)


def _decode_named_tuple(content, inner):
    name, fields, values = content
    return output_class("namedtuple", name, tuple(fields))(*[inner(v) for v in _list(values)])


def _decode_range(kind: type, content, inner):
    start, stop, step = _list(content)
    return kind(inner(start), inner(stop), inner(step))


_DECODERS: dict[str, Decoder] = {
    "float": lambda c, inner: _NOT_FINITE[c],
    "complex": lambda c, inner: complex(*[inner(v) for v in _list(c)]),
    "tuple": lambda c, inner: tuple(inner(v) for v in _list(c)),
    "namedtuple": _decode_named_tuple,
    "size": lambda c, inner: torch.Size(_integers(c)),
    "set": lambda c, inner: {inner(v) for v in _list(c)},
    "dict": lambda c, inner: {inner(k): inner(v) for k, v in _list(c)},
    "slice": functools.partial(_decode_range, slice),
    "range": functools.partial(_decode_range, range),
    "ellipsis": lambda c, inner: Ellipsis,
    "device": _decode_device,
    **{name: functools.partial(_decode_constant, kind) for name, kind in _TORCH_CONSTANTS.items()},
}


def fields(data: Any, what: str, kinds: Mapping[str, Any]) -> list:
    """Return the values of a JSON object's keys, in the order of `kinds`, their types, or raise ArchiveError."""
    if not isinstance(data, dict) or data.keys() != kinds.keys():
        raise ArchiveError(f"{what} does not have the fields {', '.join(kinds)}")
    for name, kind in kinds.items():
        value = data[name]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
            raise ArchiveError(f"{what}: {name!r} is of the wrong type")
    return [data[name] for name in kinds]
