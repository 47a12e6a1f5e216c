"""Settings files: TOML read into dataclasses, with errors that name the key and the nearest one."""
from __future__ import annotations

import difflib
import math
import sys
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from fxgrow.errors import FxgrowError


class TrainError(FxgrowError):
    """A training run cannot be set up, or cannot go on."""


def read_toml(path: str | Path) -> dict[str, Any]:
    """The settings in a TOML file.

    Raises:
        TrainError: there is no such file, or it is not TOML.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        try:
            import tomli as tomllib
        except ImportError as error:
            raise TrainError("TOML files need the package tomli here: pip install 'fxgrow[train]'") from error
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise TrainError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise TrainError(f"{path} is not TOML: {error}") from error


def nearest(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=2)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def checked(name: str, value: Any, hint: Any) -> Any:
    """`value` as the type of the field says it, or an error that says what is wanted."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    kinds = typing.get_args(hint) if union else (hint,)
    if value is None and type(None) in kinds:
        return None
    kind = next(k for k in kinds if k is not type(None))
    if typing.get_origin(kind) is Literal:
        if value not in typing.get_args(kind):
            raise TrainError(f"{name} is {value!r}; it must be one of {', '.join(typing.get_args(kind))}")
        return value
    if typing.get_origin(kind) is not None:  # a sequence: one value is a list of one
        item = typing.get_args(kind)[0]
        return [checked(name, v, item) for v in ([value] if isinstance(value, (str, int, float)) else value or ())]
    if kind is bool and isinstance(value, bool) or kind is str and isinstance(value, str):
        return value
    if kind in (int, float) and not isinstance(value, bool):
        try:
            number = float(value)
            if math.isfinite(number) and (kind is float or number == int(number)):
                return kind(number)
        except (TypeError, ValueError):
            pass
    raise TrainError(f"{name} is {value!r}; it must be {WORDS[kind]}")


WORDS = {bool: "true or false", str: "a word", int: "a whole number", float: "a number"}
