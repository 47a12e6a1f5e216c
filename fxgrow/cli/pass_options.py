"""Passes on the command line: `--pass NAME` and the options behind it, which are the pass's dataclass fields.

A pass is found through the entry-point group `fxgrow.passes`, and its help in its docstring, so that nothing is declared
twice. Nothing here imports a pass before it is asked for, and its help does not import it at all.
"""
import contextlib
import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence, Set
from functools import partial
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import click

from fxgrow.common import brief, declared, load_plugin, nearest_names, plugins
from fxgrow.errors import FxgrowError

GROUP = "fxgrow.passes"
SCALARS: dict[Any, click.ParamType] = {int: click.INT, float: click.FLOAT, str: click.STRING,
                                       Path: click.Path(path_type=Path)}


class OneOf(click.ParamType):
    """The first of several kinds that a word reads as."""

    def __init__(self, kinds: Sequence[type]):
        self.kinds = [kind for kind in (int, float, Path, str) if kind in kinds]
        self.name = " or ".join(kind.__name__ for kind in self.kinds)

    def convert(self, value, param, ctx):
        """Return the value as its field has it."""
        for kind in self.kinds:
            with contextlib.suppress(ValueError, TypeError):
                return kind(value)
        return self.fail(f"{value!r} is no {self.name}", param, ctx)


class Listed(click.Choice):
    """One of the values of a Literal, which need be no words."""

    def __init__(self, values: Sequence[Any]):
        super().__init__([str(value) for value in values])
        self.values = {str(value): value for value in values}

    def convert(self, value, param, ctx):
        """Return the value itself, not its word."""
        return self.values[super().convert(str(value), param, ctx)]


def installed_passes() -> dict[str, EntryPoint]:
    """Return the passes that are installed, by name."""
    return plugins(GROUP)


def load_pass(name: str) -> type:
    """Import the class of a pass.

    Raises:
        UsageError: no pass is called so.
        FxgrowError: its package cannot be imported, it is no class, or its options cannot be read.
    """
    passes = installed_passes()
    if name not in passes:
        near = nearest_names(name, passes, 1) or list(passes)
        raise click.UsageError(f"there is no pass {name!r}; did you mean {', '.join(near)}? `fxgrow passes` lists them")
    cls, what = load_plugin(passes[name], f"pass {name}"), f"pass {name} ({passes[name].value})"
    if not isinstance(cls, type):
        raise FxgrowError(f"{what} is {brief(cls)}; a pass on the command line is a class, a dataclass over PassBase")
    try:
        options_of(cls)
    except Exception as error:
        raise FxgrowError(f"the options of {what} cannot be read: {type(error).__name__}: {error}; mend it") from error
    return cls


def declared_pass(name: str) -> type:
    """Return a class with the docstring and fields of a pass, which for fxgrow's own comes without importing torch."""
    place = installed_passes()[name].value
    if place.startswith("fxgrow."):
        with contextlib.suppress(Exception):  # fields that the source alone does not tell
            return declared(place)
    return load_pass(name)


def loaded_passes(complain: Callable[[str], Any] | None = None, load: Callable[[str], type] = load_pass) -> dict[str, type]:
    """Return the classes of all installed passes; of one that cannot be had, `complain` (stderr) is told instead."""
    found = {}
    for name in installed_passes():
        try:
            found[name] = load(name)
        except FxgrowError as error:
            (complain or partial(click.echo, err=True))(f"left out: {error}")
    return found


def argument_docs(cls: type) -> dict[str, str]:
    """Return what the `Args:` section of a docstring says about each argument, in one line each."""
    section = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)+)", inspect.getdoc(cls) or "", re.M)
    docs: dict[str, str] = {}
    name = ""
    for line in section[1].splitlines() if section else ():
        entry = re.match(r" {4}(\w+): (.*)", line)
        if entry:
            name, docs[entry[1]] = entry[1], entry[2]
        elif name and line.strip():
            docs[name] += " " + line.strip()
    return docs


def _fields(cls: type) -> dict[str, tuple[Any, Any]]:
    """Return type and default (MISSING: none) of what a class is made with, by name."""
    hints = typing.get_type_hints(cls if dataclasses.is_dataclass(cls) else cls.__init__)  # type: ignore[misc]
    found = {}
    for name, p in inspect.signature(cls).parameters.items():
        if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            default = dataclasses.MISSING if p.default is p.empty else p.default
            found[name] = hints.get(name, int | float | str if p.default in (p.empty, None) else type(p.default)), default
    return found


def options_of(cls: type) -> list[click.Option]:
    """Return one option for each argument of a class, the fields of a dataclass, that a word or number can set."""
    docs, found = argument_docs(cls), []
    for field, (hint, default) in _fields(cls).items():
        settings = _settings(hint)
        if settings is None:
            continue
        text = docs.get(field, "")
        if isinstance(default, (str, int, float)):
            text = f"{text}  [default: {default}]".strip()
        if default is dataclasses.MISSING:
            settings["required"] = True
        else:
            settings["default"] = None  # not given: the field's own default
        name = field.replace("_", "-")
        flag = f"--{name}/--no-{name}" if settings.get("is_flag") else f"--{name}"
        found.append(click.Option([flag, field], help=text, **settings))
    return found


def _kinds(hint) -> list[Any]:
    """Return the alternatives of an annotation, None aside."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return [k for k in (typing.get_args(hint) if union else (hint,)) if k is not type(None)]


def _container(hint) -> tuple[type, list[Any]] | None:
    """Return list, tuple or frozenset where a field holds several values, and the kinds of these."""
    for kind in _kinds(hint):
        origin = typing.get_origin(kind) or kind
        if isinstance(origin, type) and origin not in (str, bytes) and issubclass(origin, (Sequence, Set)):
            made = tuple if issubclass(origin, tuple) else frozenset if issubclass(origin, Set) else list
            return made, [k for k in typing.get_args(kind) if k is not ...]
    return None


def _settings(hint) -> dict[str, Any] | None:
    """Return click's settings for a type annotation; None where the command line cannot give such a value."""
    kinds, held = _kinds(hint), _container(hint)
    literal = next((k for k in kinds if typing.get_origin(k) is typing.Literal), None)
    if literal is not None:
        return {"type": Listed(typing.get_args(literal))}
    if bool in kinds:
        return {"is_flag": True}
    if held is not None:
        scalars = [s for k in held[1] for s in _kinds(k)] or [int, float, str]
        if not set(scalars) <= set(SCALARS):
            return None
        return {"multiple": True, "type": _scalar([*scalars, *(k for k in kinds if k in SCALARS)])}
    scalars = [k for k in kinds if k in SCALARS]
    return {"type": _scalar(scalars)} if scalars else None


def _scalar(kinds: Sequence[type]) -> click.ParamType:
    return SCALARS[kinds[0]] if len(set(kinds)) == 1 else OneOf(kinds)


def _as_field(option: str, hint, value: Any) -> Any:
    """Return several values as the list, tuple or frozenset that a field holds; one alone where a tuple were too short."""
    held = _container(hint)
    if held is None or not isinstance(value, tuple):
        return value
    made, parts = held
    fixed = made is tuple and parts and not _is_open(hint)
    if fixed and len(value) != len(parts):
        if len(value) == 1 and any(k in SCALARS for k in _kinds(hint)):
            return value[0]
        raise click.UsageError(f"--{option.replace('_', '-')} takes {len(parts)} values, each behind its own "
                               f"--{option.replace('_', '-')}; {len(value)} are given")
    return made(value)


def as_fields(cls: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options that were kept as JSON as the fields of a class have them: a list may be a tuple."""
    fields = _fields(cls)
    return {name: _as_field(name, fields[name][0], tuple(v)) if isinstance(v, list) and name in fields else v
            for name, v in options.items()}


def _is_open(hint) -> bool:
    """Tell whether a tuple may have any length."""
    return any(... in typing.get_args(k) for k in _kinds(hint))


def split(args: Sequence[str]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Split words into those before the first `--pass`, and for each `--pass` its name and the words behind it."""
    rest: list[str] = []
    passes: list[tuple[str, list[str]]] = []
    words = iter(args)
    for word in words:
        if word == "--pass" or word.startswith("--pass="):
            name = word.removeprefix("--pass").removeprefix("=") or next(words, "")
            if not name or name.startswith("-"):
                raise click.UsageError("--pass needs a name; `fxgrow passes` lists them")
            passes.append((name, []))
        else:
            (passes[-1][1] if passes else rest).append(word)
    return rest, passes


def parse_pass(name: str, words: list[str]) -> tuple[type, dict, list[str]]:
    """Return a pass's class, its arguments out of the words behind `--pass NAME`, and the words that are not its options."""
    cls = load_pass(name)
    fields, settable = _fields(cls), {o.name for o in options_of(cls)}
    for field, (_, default) in fields.items():
        if default is dataclasses.MISSING and field not in settable:
            raise click.UsageError(f"pass {name} needs {field}, which no word here can give: use the pass in Python")
    parser = click.Command(name=f"--pass {name}", params=list(options_of(cls)), add_help_option=False,
                           context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
    with parser.make_context(f"--pass {name}", list(words)) as ctx:
        given = {k: _as_field(k, fields[k][0], v) for k, v in ctx.params.items() if v not in (None, ())}
        return cls, given, list(ctx.args)


def describe(name: str, cls: type) -> dict:
    """Return a pass as data: its name, what it does, and its options."""
    return {"name": name, "does": (inspect.getdoc(cls) or name).splitlines()[0], "from": installed_passes()[name].value,
            "options": [{"option": o.opts[0], "repeatable": o.multiple, "help": o.help} for o in options_of(cls)]}


def advice(option: str) -> str:
    """Tell whose an option is that the command itself does not have, or which ones are like it."""
    classes = loaded_passes(lambda _: None, declared_pass)
    flags = {flag: name for name, cls in classes.items() for o in options_of(cls) for flag in o.opts}
    if option in flags:
        return f" It is an option of a pass: write it behind --pass {flags[option]}."
    near = nearest_names(option, flags, 2)
    return f" Did you mean {' or '.join(near)} (behind --pass {flags[near[0]]})?" if near else ""
