"""What the commands print: tables, JSON, a spinner while something takes long."""
import contextlib
import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from fxgrow.common import folded_table
from fxgrow.page import finite


def console(stderr: bool = False):
    """Return a `rich` console: as wide as the terminal or as COLUMNS says, 160 letters where there is neither."""
    from rich.console import Console
    stream = sys.stderr if stderr else sys.stdout
    told = stream.isatty() or os.environ.get("COLUMNS", "").isdigit()
    return Console(file=stream, width=None if told else 160, highlight=False)


@contextlib.contextmanager
def status(text: str) -> Iterator[None]:
    """Show a spinner on stderr while something takes long, on terminals only; what a model prints meanwhile is dropped."""
    with console(stderr=True).status(text), contextlib.redirect_stdout(io.StringIO()):
        yield


def print_json(data) -> None:
    """Print data as JSON; what JSON does not know (infinity, paths) as words."""
    click.echo(json.dumps(finite(data), indent=2, default=str))


def echo_written(path: str | Path) -> None:
    """Tell that a file or folder was written, and its size."""
    place = Path(path)
    files = [file for file in place.rglob("*") if file.is_file()] if place.is_dir() else [place]
    click.echo(f"written     {path} ({f'{len(files)} files, ' if place.is_dir() else ''}"
               f"{sum(file.stat().st_size for file in files):,} bytes)")


def print_table(title: str, columns: tuple[str, ...], rows: list[tuple]) -> None:
    """Print rows below their columns; long cells are folded, not cut."""
    show(folded_table(title, columns, [tuple(map(str, row)) for row in rows], title_justify="left"))


def show(table) -> None:
    """Print a rich table; where a column would have less than 8 letters, a line for each cell, behind its column's name."""
    out = console()
    if out.width >= 8 * len(table.columns):
        out.print(table)
        return
    out.print(table.title)
    for row in zip(*(column.cells for column in table.columns)):
        out.print()
        for column, cell in zip(table.columns, row):
            if str(cell).strip():
                out.print(f"{column.header}: " if column.header else "", cell, sep="", markup=False)


def size(module) -> int:
    """Count the numbers in a module's parameters."""
    return sum(p.numel() for p in module.parameters())


def notes(checked) -> str:
    """Return the notes of a verification, to follow its verdict on the same line."""
    return "".join(f"; {note}" for note in checked.notes)
