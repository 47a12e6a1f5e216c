"""The command line: `fxgrow COMMAND ...`, one function a command.

What lives here: the group of commands, and how an error becomes one line and an exit code (0 done, 1 it could not be
done, 2 usage). What does not: the commands (growing.py, comparing.py, showing.py), how passes become options
(pass_options.py), how reports are printed (output.py). Torch is imported inside the commands, so that help comes at once.
Other packages add commands through the entry-point group `fxgrow.commands`.
"""
from __future__ import annotations

import importlib
import sys
import warnings
from importlib.metadata import entry_points

import click

from fxgrow.errors import FxgrowError

COMMANDS = {"growing": ("transform", "shrink"), "comparing": ("verify", "diff"),
            "showing": ("axes", "draw", "report", "info", "flops", "passes")}  # by the module that holds them
HOME_OF = {name: module for module, names in COMMANDS.items() for name in names}


class Main(click.Group):
    """The group of all commands: ours, those of other packages, and one way of telling errors."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*HOME_OF, *(e.name for e in entry_points(group="fxgrow.commands"))})

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name in HOME_OF:
            command = getattr(importlib.import_module(f"fxgrow.cli.{HOME_OF[name]}"), name)
        else:
            entry = next((e for e in entry_points(group="fxgrow.commands") if e.name == name), None)
            if entry is None:
                return None
            command = entry.load()
        if not any(p.name == "traceback" for p in command.params):
            command.params.append(click.Option(["--traceback"], is_flag=True, expose_value=False, is_eager=True,
                                               callback=_remember_traceback, help="Show where an error comes from."))
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]):
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            names = ", ".join(self.list_commands(ctx))
            raise click.UsageError(f"{error.format_message()} The commands are {names}.", ctx) from None

    def invoke(self, ctx: click.Context):
        try:
            with warnings.catch_warnings():
                if not sys.warnoptions:
                    warnings.simplefilter("ignore")
                return super().invoke(ctx)
        except (click.exceptions.Exit, click.ClickException, click.Abort, BrokenPipeError):
            raise
        except (Exception, KeyboardInterrupt) as error:
            if ctx.meta.get("fxgrow.traceback"):
                raise
            click.echo(f"error: {explain_error(error)}", err=True)
            ctx.exit(1)


def _remember_traceback(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    ctx.meta["fxgrow.traceback"] = ctx.meta.get("fxgrow.traceback") or value


def explain_error(error: BaseException) -> str:
    """What went wrong, where, and what to do about it, on one line."""
    text = " ".join(str(error).split())
    if isinstance(error, FxgrowError):
        return text
    if isinstance(error, KeyboardInterrupt):
        return "interrupted before it was done"
    if type(error) is Exception and error.__cause__ is not None:  # torch's pass manager wraps what a pass raises
        return explain_error(error.__cause__)
    if isinstance(error, MemoryError) or "t allocate memory" in text or "not enough memory" in text:
        return "out of memory: grow fewer layers (--where) or by a smaller factor, or use a machine with more memory"
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror or text}: free space or choose another place; no half-written file is left"
    return f"{type(error).__name__}: {text[:300] or 'no message'}; this was not foreseen, see where with --traceback"


@click.group(cls=Main, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="fxgrow")
def main() -> None:
    """Make a trained PyTorch network wider or deeper without changing what it computes.

    MODEL is a file (written by fxgrow or by torch.save), torchvision:NAME, timm:NAME, zoo:NAME, or
    package.module:factory for a function of your own that returns a module.

    \b
    Example:
      fxgrow transform torchvision:resnet18 --pass widen --factor 1.5 -o big.pt
    """
