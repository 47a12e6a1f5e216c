"""How the cost of a model is shown: a tree of its modules, and the same as rows of plain values."""
from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fxgrow._flops import Cost, FlopCount

SORTS: dict[str, Callable[[Any], int]] = {
    "forward": lambda c: c.forward, "total": lambda c: c.total, "params": lambda c: c.parameters,
    "memory": lambda c: c.activation_bytes}
BAR = 12


def rows(count: FlopCount, depth: int | None = None, sort: str | None = None) -> Iterator[tuple[int, str, str, Cost]]:
    """The tree of modules in print order: level, name, class, cost. `sort` puts the costliest of each level first.

    Raises:
        ValueError: `sort` is not one of SORTS.
    """
    if sort is not None and sort not in SORTS:
        raise ValueError(f"sort={sort!r}: choose one of {', '.join(SORTS)}")
    below: dict[str, list[str]] = {}
    for name in count.modules:
        if name:
            below.setdefault(name.rpartition(".")[0], []).append(name)

    def walk(name: str, level: int) -> Iterator[tuple[int, str, str, Cost]]:
        cost = count.modules[name]
        yield level, name, count.kinds.get(name, ""), cost
        if depth is None or level < depth:
            inside = [n for n in below.get(name, ()) if any(count.modules[n].to_json().values())]
            if sort is not None:
                inside.sort(key=lambda n: -SORTS[sort](count.modules[n]))
            for each in inside:
                yield from walk(each, level + 1)

    return walk("", 0)


def quantity(value: float, unit: str = "") -> str:
    """`1.82 G`: three digits and a decimal prefix."""
    for prefix in ("", "k", "M", "G", "T", "P"):
        if abs(value) < 999.5 or prefix == "P":
            break
        value /= 1000
    digits = f"{value:.0f}" if not prefix and value == int(value) else f"{value:.3g}"
    return f"{digits} {prefix}{unit}".rstrip()


def table(count: FlopCount, depth: int | None = None, sort: str | None = None):
    from rich.table import Table
    from rich.text import Text

    whole = count.modules[""]
    what = "All FLOPs" if count.ops == "all" else "FLOPs of matrix products, convolutions and attention"
    shown = Table(title=f"{what} (a multiply-add is 2)", title_justify="left")
    shown.add_column("module", overflow="fold", min_width=24)
    for heading in ("forward", "backward", "share", "", "params", "kept", "FLOP/byte"):
        shown.add_column(heading, justify="left" if not heading else "right", no_wrap=True)
    for level, name, kind, cost in rows(count, depth, sort):
        share = cost.total / whole.total if whole.total else 0.0
        label = f"{name.rpartition('.')[2]} ({kind})" if name and kind else name.rpartition(".")[2] or kind or "model"
        shown.add_row(Text("  " * level + label), quantity(cost.forward), quantity(cost.backward), f"{share:.1%}",
                      "█" * round(share * BAR) or ("▏" if share else ""), quantity(cost.parameters),
                      quantity(cost.activation_bytes, "B"), f"{cost.intensity:.3g}")
    return shown


def lines(count: FlopCount) -> Iterator[str]:
    """What the table does not say, in lines of text."""
    whole = count.modules[""]
    yield f"forward     {whole.forward:,} FLOPs, {whole.macs:,} multiply-adds in products"
    yield f"backward    {whole.backward:,} FLOPs; together {whole.total:,}"
    yield (f"parameters  {whole.parameters:,} in {quantity(whole.parameter_bytes, 'B')}, their gradients "
           f"{quantity(whole.gradient_bytes, 'B')}")
    yield (f"activations {quantity(whole.activation_bytes, 'B')} kept for the backward pass, at most "
           f"{quantity(count.peak_activation_bytes, 'B')} at a time in a training step")
    if count.eager:
        yield "run eagerly it cannot be captured, so it was run on its own tensors"
    if count.uncounted:
        times = {op: sum(places.values()) for op, places in count.uncounted.items()}
        yield "not counted " + ", ".join(f"{op} {n}x" for op, n in sorted(times.items(), key=lambda each: -each[1]))


def csv_text(count: FlopCount, depth: int | None = None, sort: str | None = None) -> str:
    """The rows of the table as comma-separated values, in FLOPs and bytes."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("module", "class", *count.modules[""].to_json()))
    writer.writerows((name, kind, *cost.to_json().values()) for _, name, kind, cost in rows(count, depth, sort))
    return text.getvalue()
