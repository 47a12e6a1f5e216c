"""What the commands print: tables, JSON, a spinner while something takes long, and reports as data."""
from __future__ import annotations

import contextlib
import io
import json
import math
import re
import sys
from collections.abc import Iterator

import click


def console(stderr: bool = False):
    from rich.console import Console
    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else 160, highlight=False)


@contextlib.contextmanager
def status(text: str) -> Iterator[None]:
    """A spinner on stderr while something takes long, on terminals only. What a model prints meanwhile is dropped: stdout
    is for reports, stderr for errors."""
    with console(stderr=True).status(text), contextlib.redirect_stdout(io.StringIO()):
        yield


def print_json(data) -> None:
    def plain(value):
        if isinstance(value, float) and not math.isfinite(value):
            return str(value)
        if isinstance(value, dict):
            return {str(k): plain(v) for k, v in value.items()}
        return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value
    click.echo(json.dumps(plain(data), indent=2, default=str))


def print_table(title: str, columns: tuple[str, ...], rows: list[tuple]) -> None:
    from rich.table import Table
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(str, row))
    console().print(table)


def size(module) -> int:
    return sum(p.numel() for p in module.parameters())


def notes(checked) -> str:
    return "".join(f"; {note}" for note in checked.notes)


def summarise(outcomes, most: int = 12) -> list[tuple]:
    """Axis classes that were treated alike in one row each: how many, some names, the method, why."""
    alike: dict[tuple[str, str], list] = {}
    for o in outcomes:
        alike.setdefault((o.method, re.sub(r"\d+|\bin \S+", "", o.certificate or o.reason)), []).append(o)
    rows = []
    for (method, _), members in alike.items():
        names = ", ".join(f"{o.name} {o.before} -> {o.after}" if method else o.name for o in members[:2])
        rows.append((len(members), names, method or "left alone", members[0].certificate or members[0].reason))
    rows.sort(key=lambda row: row[2] == "left alone")
    return rows[:most] + ([("", f"{len(rows) - most} more rows: see --explain", "", "")] if len(rows) > most else [])


def type_of(tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def describe_model(module, inputs) -> dict:
    """What `info` reports, as data."""
    from fxgrow.record import record_in

    tensors = [*module.parameters(), *module.buffers()]
    record = record_in(module)
    layers = []
    for name, m in module.named_modules():
        own = dict(m.named_parameters(recurse=False))
        if own:
            shapes = ", ".join(f"{k} {'x'.join(map(str, p.shape))}" for k, p in own.items())
            layers.append({"name": name, "kind": type(m).__name__, "weights": shapes,
                           "parameters": sum(p.numel() for p in own.values())})
    flat = [t for i in inputs for t in (i if isinstance(i, list) else [i])]
    return {"class": type(module).__name__, "parameters": size(module),
            "buffers": sum(b.numel() for b in module.buffers()),
            "bytes": sum(t.numel() * t.element_size() for t in tensors),
            "dtypes": sorted({type_of(t) for t in tensors}),
            "inputs": [f"{','.join(map(str, t.shape))}:{type_of(t)}" for t in flat],
            "lineage": record.lineage if record else [], "layers": layers}
