"""Costs by module: the rows of the table, sorted and cut at a depth."""
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fxgrow.common import quantity
from fxgrow.cost.costs import Cost

SORTS: dict[str, Callable[[Any], int]] = {
    "forward": lambda c: c.forward, "total": lambda c: c.total, "params": lambda c: c.parameters,
    "memory": lambda c: c.activation_bytes}
BAR = 12


def rows(modules: Mapping[str, Cost], kinds: Mapping[str, str], depth: int | None = None, sort: str | None = None
         ) -> Iterator[tuple[int, str, str, Cost]]:
    """Return the tree of modules in print order: level, name, class, cost. `sort` puts the costliest of each level first.

    Raises:
        ValueError: `sort` is not one of SORTS.
    """
    if sort is not None and sort not in SORTS:
        raise ValueError(f"sort={sort!r}: choose one of {', '.join(SORTS)}")
    below: dict[str, list[str]] = {}
    for name in modules:
        if name:
            below.setdefault(name.rpartition(".")[0], []).append(name)

    def walk(name: str, level: int) -> Iterator[tuple[int, str, str, Cost]]:
        cost = modules[name]
        yield level, name, kinds.get(name, ""), cost
        if depth is None or level < depth:
            inside = [n for n in below.get(name, ()) if any(modules[n].to_json().values())]
            if sort is not None:
                inside.sort(key=lambda n: -SORTS[sort](modules[n]))
            for child in inside:
                yield from walk(child, level + 1)

    return walk("", 0)


def table(modules: Mapping[str, Cost], kinds: Mapping[str, str], ops: str, depth: int | None = None,
          sort: str | None = None):
    """Return these rows as a `rich` table, with each module's share of all FLOPs."""
    from rich.table import Table
    from rich.text import Text

    whole = modules[""]
    what = "All FLOPs" if ops == "all" else "FLOPs of matrix products, convolutions and attention"
    shown = Table(title=f"{what} (a multiply-add is 2)", title_justify="left")
    shown.add_column("module", overflow="fold", min_width=24)
    for heading in ("forward", "backward", "share", "", "params", "kept", "FLOP/byte"):
        shown.add_column(heading, justify="left" if not heading else "right", no_wrap=True)
    for level, name, kind, cost in rows(modules, kinds, depth, sort):
        share = cost.total / whole.total if whole.total else 0.0
        label = f"{name.rpartition('.')[2]} ({kind})" if name and kind else name.rpartition(".")[2] or kind or "model"
        shown.add_row(Text("  " * level + label), quantity(cost.forward), quantity(cost.backward), f"{share:.1%}",
                      "█" * round(share * BAR) or ("▏" if share else ""), quantity(cost.parameters),
                      quantity(cost.activation_bytes, "B"), f"{cost.intensity:.3g}")
    return shown
