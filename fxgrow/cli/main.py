"""The command line: `fxgrow COMMAND ...` or `python -m fxgrow COMMAND ...`, one function a command.

An error becomes one line and an exit code: 0 done, 1 it could not be done, 2 usage. Torch is imported inside the commands:
help comes at once. Other packages add commands through the entry-point group `fxgrow.commands`.
"""
import atexit
import gc
import importlib
import sys
import warnings
from importlib.metadata import EntryPoint

import click

from fxgrow.common import brief, load_plugin, plugins
from fxgrow.errors import ChoiceWarning, FxgrowError

GROUP = "fxgrow.commands"
HOME_OF = {"transform": "growing", "shrink": "growing", "verify": "comparing", "diff": "comparing", "axes": "showing",
           "draw": "showing", "report": "showing", "info": "showing", "flops": "showing", "passes": "showing"}


class Main(click.Group):
    """Group of all commands: ours, those of other packages, and one way of telling errors."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return sorted({*HOME_OF, *plugins(GROUP)})

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import a command, which gets the option --traceback; None if there is none of this name."""
        if name in HOME_OF:
            command = getattr(importlib.import_module(f"fxgrow.cli.{HOME_OF[name]}"), name)
        else:
            entry = plugins(GROUP).get(name)
            if entry is None:
                return None
            command = _plugin_command(entry, name)
        if not any(p.name == "traceback" for p in command.params):
            command.params.append(click.Option(["--traceback"], is_flag=True, expose_value=False, is_eager=True,
                                               callback=_remember_traceback, help="Show where an error comes from."))
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]):
        """Find the command; the error of an unknown one lists all."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            names = ", ".join(self.list_commands(ctx))
            raise click.UsageError(f"{error.format_message()} The commands are {names}.", ctx) from None

    def invoke(self, ctx: click.Context):
        """Run the command; print any error in one line and exit with 1."""
        try:
            with warnings.catch_warnings():
                if not sys.warnoptions:
                    warnings.simplefilter("ignore")
                    warnings.simplefilter("always", ChoiceWarning)
                    warnings.showwarning = lambda message, *_, **__: click.echo(f"note: {message}", err=True)
                return super().invoke(ctx)
        except (click.exceptions.Exit, click.ClickException, click.Abort, BrokenPipeError):
            raise
        except (Exception, KeyboardInterrupt) as error:
            if ctx.meta.get("fxgrow.traceback"):
                raise
            click.echo(f"error: {explain_error(error)}", err=True)
            ctx.exit(1)


def _plugin_command(entry: EntryPoint, name: str) -> click.Command:
    """Import a command of another package; one that cannot be had is replaced by one that says so: the others work."""
    try:
        command = load_plugin(entry, f"command {name}")
        if not isinstance(command, click.Command):
            raise FxgrowError(f"command {name} ({entry.value}) is {brief(command)}, no command of click")
        return command
    except FxgrowError as why:
        error = why

    def complain(**_) -> None:
        raise error

    return click.Command(name, callback=complain, short_help="(broken: run it to see why)", add_help_option=False,
                         context_settings={"ignore_unknown_options": True, "allow_extra_args": True})


def _remember_traceback(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    ctx.meta["fxgrow.traceback"] = ctx.meta.get("fxgrow.traceback") or value


def explain_error(error: BaseException) -> str:
    """Tell on one line what went wrong, where, and what to do about it."""
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

    MODEL is a file (written by fxgrow or by torch.save), a folder that transformers reads (config.json and
    weights), torchvision:NAME, timm:NAME, zoo:NAME, or package.module:factory for a function of your own that
    returns a module; with arguments as in torchvision:resnet18?num_classes=10.

    \b
    Example:
      fxgrow transform torchvision:resnet18 --pass widen --factor 1.5 -o big.pt
    """
    atexit.register(gc.freeze)  # what is left at the end goes with the process; to look for garbage in it takes a second
