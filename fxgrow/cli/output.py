"""What the commands print: tables, JSON, a spinner while something takes long, and reports as data."""
import contextlib
import io
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from fxgrow.common import times
from fxgrow.page import finite


def console(stderr: bool = False):
    """Return a `rich` console: as wide as the terminal, 160 letters where there is none."""
    from rich.console import Console
    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else 160, highlight=False)


@contextlib.contextmanager
def status(text: str) -> Iterator[None]:
    """Show a spinner on stderr while something takes long, on terminals only.

    What a model prints meanwhile is dropped: stdout is for reports, stderr for errors.
    """
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
    from rich.table import Table
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(str, row))
    console().print(table)


def size(module) -> int:
    """Count the numbers in a module's parameters."""
    return sum(p.numel() for p in module.parameters())


def notes(checked) -> str:
    """Return the notes of a verification, to follow its verdict on the same line."""
    return "".join(f"; {note}" for note in checked.notes)


def summarise(outcomes, most: int = 12) -> list[tuple]:
    """Put axis classes that were treated alike in one row: how many, some names, the method, why."""
    alike: dict[tuple[str, str], list] = {}
    for o in outcomes:
        alike.setdefault((o.method, re.sub(r"\d+|\bin \S+", "", o.certificate or o.reason)), []).append(o)
    rows: list[tuple] = []
    for (method, _), members in alike.items():
        names = ", ".join(f"{o.name} {o.before} -> {o.after}" if method else o.name for o in members[:2])
        rows.append((len(members), names, method or "left alone", members[0].certificate or members[0].reason))
    rows.sort(key=lambda row: row[2] == "left alone")
    if len(rows) > most:
        rows[most:] = [("", f"{len(rows) - most} more rows: see --explain", "", "")]
    return rows


def describe_model(module, inputs) -> dict:
    """Return what `info` reports, as data."""
    from fxgrow.models import describe
    from fxgrow.record import record_in

    tensors = [*module.parameters(), *module.buffers()]
    record = record_in(module)
    layers = []
    for name, m in module.named_modules():
        own = dict(m.named_parameters(recurse=False))
        if own:
            shapes = ", ".join(f"{k} {times(p.shape)}" for k, p in own.items())
            layers.append({"name": name, "kind": type(m).__name__, "weights": shapes,
                           "parameters": sum(p.numel() for p in own.values())})
    flat = [t for i in inputs for t in (i if isinstance(i, list) else [i])]
    return {"class": type(module).__name__, "parameters": size(module),
            "buffers": sum(b.numel() for b in module.buffers()),
            "bytes": sum(t.numel() * t.element_size() for t in tensors),
            "dtypes": sorted({str(t.dtype).removeprefix("torch.") for t in tensors}),
            "inputs": [describe((t,)) for t in flat],
            "lineage": record.lineage if record else [], "layers": layers}
