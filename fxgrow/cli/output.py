"""What the commands print: tables, JSON, a spinner while something takes long."""
import contextlib
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from fxgrow.common import folded_table
from fxgrow.page import finite


def console(stderr: bool = False):
    """Return a `rich` console: as wide as the terminal, 160 letters where there is none."""
    from rich.console import Console
    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else 160, highlight=False)


@contextlib.contextmanager
def status(text: str) -> Iterator[None]:
    """Show a spinner on stderr while something takes long, on terminals only; what a model prints meanwhile is dropped."""
    with console(stderr=True).status(text), contextlib.redirect_stdout(io.StringIO()):
        yield


def print_json(data) -> None:
    """Print data as JSON; what JSON does not know (infinity, paths) as words."""
    click.echo(json.dumps(finite(data), indent=2, default=str))


def echo_written(path: str | Path) -> None:
    """Tell that a file was written, and its size."""
    click.echo(f"written     {path} ({Path(path).stat().st_size:,} bytes)")


def print_table(title: str, columns: tuple[str, ...], rows: list[tuple]) -> None:
    """Print rows below their columns; long cells are folded, not cut."""
    console().print(folded_table(title, columns, [tuple(map(str, row)) for row in rows], title_justify="left"))


def size(module) -> int:
    """Count the numbers in a module's parameters."""
    return sum(p.numel() for p in module.parameters())


def notes(checked) -> str:
    """Return the notes of a verification, to follow its verdict on the same line."""
    return "".join(f"; {note}" for note in checked.notes)
