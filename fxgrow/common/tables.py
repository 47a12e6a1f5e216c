"""Tables as plain text."""
import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any


def csv_text(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return rows as comma-separated values, under a header."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()


def folded_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], **style):
    """Return a rich table of rows below their columns; long cells are folded, not cut."""
    from rich.table import Table
    table = Table(title=title, **style)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def render(table, width: int = 160) -> str:
    """Print a rich table as plain text."""
    from rich.console import Console
    text = io.StringIO()
    Console(file=text, width=width, color_system=None).print(table)
    return text.getvalue()
