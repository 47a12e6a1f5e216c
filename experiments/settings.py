"""Settings: TOML files read into dataclasses, with errors that name the key and the nearest one."""
import contextlib
import dataclasses
import importlib
import math
import sys
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from fxgrow.common import brief, did_you_mean
from fxgrow.errors import FxgrowError, TrainError

IGNORED = -100  # the label of a pixel that does not count, torch's own
WORDS = {bool: "true or false", str: "a word", int: "a whole number", float: "a number"}
S = TypeVar("S", bound="Settings")


class Settings:
    """The base of settings that are dataclasses; `command` is the one whose help lists them."""
    command = "train"

    @classmethod
    def of(cls: type[S], settings: Mapping[str, Any], origin: str = "the settings") -> S:
        """Return settings from names and values; a TrainError names an unknown name's nearest or the kind that is wanted."""
        names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
        for name in settings:
            if name not in names:
                raise TrainError(f"{origin}: there is no setting {name!r}{did_you_mean(name, names)}; "
                                 f"`fxgrow {cls.command} --help` lists them")
        return cls(**settings)

    def to_json(self) -> dict[str, Any]:
        """Return the settings as plain data."""
        return dataclasses.asdict(self)  # type: ignore[call-overload]


def optional(module: str, complaint: str, extra: str = "train", error_class: type[FxgrowError] = TrainError) -> Any:
    """Import a module of an optional package; if it is missing, `complaint` says what needs it, `extra` what to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise error_class(f"{complaint} ({error}): pip install 'fxgrow[{extra}]'") from error


def read_toml(path: str | Path) -> dict[str, Any]:
    """Read the settings in a TOML file; raise TrainError if there is none or it is not TOML."""
    tomllib = optional("tomllib" if sys.version_info >= (3, 11) else "tomli", "TOML files need the package tomli here")
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise TrainError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise TrainError(f"{path} is not TOML: {error}") from error


def checked(name: str, value: Any, hint: Any) -> Any:
    """Return `value` as the type of its field says it; a TrainError says which kind is wanted."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    kinds = typing.get_args(hint) if union else (hint,)
    if value is None and type(None) in kinds:
        return None
    kind = next(k for k in kinds if k is not type(None))
    if typing.get_origin(kind) is Literal:
        if value not in typing.get_args(kind):
            raise TrainError(f"{name} is {brief(value)}; it must be one of {', '.join(typing.get_args(kind))}")
        return value
    if typing.get_origin(kind) is not None:  # a sequence: one value is a list of one
        values = [value] if isinstance(value, (str, int, float)) else value or ()
        return [checked(name, v, typing.get_args(kind)[0]) for v in values]
    if kind in (bool, str) and isinstance(value, kind):
        return value
    if kind in (int, float) and not isinstance(value, bool):
        with contextlib.suppress(TypeError, ValueError):
            number = float(value)
            if math.isfinite(number) and (kind is float or number == int(number)):
                return kind(number)
    raise TrainError(f"{name} is {brief(value)}; it must be {WORDS[kind]}")
