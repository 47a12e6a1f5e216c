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


def render(table, width: int = 160) -> str:
    """Print a rich table as plain text."""
    from rich.console import Console
    text = io.StringIO()
    Console(file=text, width=width, color_system=None).print(table)
    return text.getvalue()
