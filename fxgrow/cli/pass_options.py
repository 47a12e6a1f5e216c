"""Passes on the command line: `--pass NAME` and the options behind it, which are the pass's dataclass fields.

A pass is found through the entry-point group `fxgrow.passes`, and its help in its docstring, so that nothing is declared
twice. Nothing here imports a pass before it is asked for.
"""
import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Sequence
from importlib.metadata import EntryPoint

import click

from fxgrow.common import load_plugin, nearest_names, plugins

GROUP = "fxgrow.passes"


class NumberOrWord(click.ParamType):
    """A number where it reads as one, else the word."""
    name = "number or word"

    def convert(self, value, param, ctx):
        """Return a float, or the word."""
        try:
            return float(value)
        except (TypeError, ValueError):
            return value


def installed_passes() -> dict[str, EntryPoint]:
    """Return the passes that are installed, by name."""
    return plugins(GROUP)


def load_pass(name: str) -> type:
    """Import the class of a pass; raise a UsageError where no pass is called so."""
    passes = installed_passes()
    if name not in passes:
        near = nearest_names(name, passes, 1) or list(passes)
        raise click.UsageError(f"there is no pass {name!r}; did you mean {', '.join(near)}? `fxgrow passes` lists them")
    return load_plugin(passes[name], f"pass {name}")


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


def options_of(cls: type) -> list[click.Option]:
    """Return one option for each dataclass field of a pass that a word or number can set."""
    hints, docs, found = typing.get_type_hints(cls), argument_docs(cls), []
    for field in dataclasses.fields(cls):
        settings = _settings(hints[field.name]) if field.init else None
        if settings is None:
            continue
        text = docs.get(field.name, "")
        if isinstance(field.default, (str, int, float)):
            text = f"{text}  [default: {field.default}]".strip()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            settings["required"] = True
        else:
            settings["default"] = None  # not given: the field's own default
        name = field.name.replace("_", "-")
        flag = f"--{name}/--no-{name}" if settings.get("is_flag") else f"--{name}"
        found.append(click.Option([flag, field.name], help=text, **settings))
    return found


def _settings(hint) -> dict[str, typing.Any] | None:
    """Return click's settings for a type annotation; None where the command line cannot give such a value."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    kinds = [k for k in (typing.get_args(hint) if union else (hint,)) if k is not type(None)]
    origins = [typing.get_origin(k) or k for k in kinds]
    literal = next((k for k in kinds if typing.get_origin(k) is typing.Literal), None)
    if literal is not None:
        return {"type": click.Choice([str(v) for v in typing.get_args(literal)])}
    if bool in kinds:
        return {"is_flag": True}
    if any(isinstance(o, type) and o is not str and issubclass(o, Sequence) for o in origins):
        return {"multiple": True}
    if str in kinds:
        return {"type": NumberOrWord() if float in kinds or int in kinds else click.STRING}
    if float in kinds or int in kinds:
        return {"type": click.FLOAT if float in kinds else click.INT}
    return None


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
    parser = click.Command(name=f"--pass {name}", params=list(options_of(cls)), add_help_option=False,
                           context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
    with parser.make_context(f"--pass {name}", list(words)) as ctx:
        given = {k: list(v) if isinstance(v, tuple) else v for k, v in ctx.params.items() if v not in (None, ())}
        return cls, given, list(ctx.args)


def describe(name: str) -> dict:
    """Return a pass as data: its name, what it does, and its options."""
    cls = load_pass(name)
    return {"name": name, "does": (inspect.getdoc(cls) or name).splitlines()[0], "from": installed_passes()[name].value,
            "options": [{"option": o.opts[0], "repeatable": o.multiple, "help": o.help} for o in options_of(cls)]}


def advice(option: str) -> str:
    """Tell whose an option is that the command itself does not have, or which ones are like it."""
    flags = {flag: name for name in installed_passes() for o in options_of(load_pass(name)) for flag in o.opts}
    if option in flags:
        return f" It is an option of a pass: write it behind --pass {flags[option]}."
    near = nearest_names(option, flags, 2)
    return f" Did you mean {' or '.join(near)} (behind --pass {flags[near[0]]})?" if near else ""
