"""The cost of a node or module in FLOPs, parameters and bytes; and a count of all of them, which prints itself as a tree."""
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any

from fxgrow.common import csv_text, quantity
from fxgrow.cost.rules import may_multiply


@dataclass
class Cost:
    """Cost of a node, of a module with all below it, or of the whole model.

    forward, backward: FLOPs. macs: multiply-adds of the forward pass, of matrix products and convolutions.
    parameters: how many numbers; parameter_bytes: their bytes; gradient_bytes: bytes of the gradients they get.
    activation_bytes: bytes that its forward pass keeps for the backward pass, parameters and buffers aside; memory that
        several keep is counted at the first.
    moved_bytes: bytes that the ops of the forward pass read and write, each operand of each op once.
    recomputed: FLOPs of the forward pass that checkpointing runs again in the backward pass; in none of the sums.
    """
    forward: int = 0
    backward: int = 0
    macs: int = 0
    parameters: int = 0
    parameter_bytes: int = 0
    gradient_bytes: int = 0
    activation_bytes: int = 0
    moved_bytes: int = 0
    recomputed: int = 0

    @property
    def total(self) -> int:
        """FLOPs of both passes."""
        return self.forward + self.backward

    @property
    def intensity(self) -> float:
        """Arithmetic intensity of the forward pass: FLOPs for each byte moved."""
        return self.forward / self.moved_bytes if self.moved_bytes else 0.0

    def __iadd__(self, other: "Cost") -> "Cost":
        mine = vars(self)
        for name, number in vars(other).items():
            mine[name] += number
        return self

    def to_json(self) -> dict[str, Any]:
        """Return all fields, the total and the intensity."""
        return {**vars(self), "total": self.total, "intensity": self.intensity}


COST_FIELDS = tuple(f.name for f in fields(Cost))
SORTS: dict[str, Callable[[Cost], int]] = {
    "forward": lambda c: c.forward, "total": lambda c: c.total, "params": lambda c: c.parameters,
    "memory": lambda c: c.activation_bytes}
BAR = 12
ASSUMED = " (data say how many; half are assumed)"


@dataclass
class FlopCount:
    """Cost of a model for one input: see `count_flops`.

    peak_activation_bytes: the most memory that activations and their gradients take at a time in one training step;
        parameters and their gradients come on top.
    uncounted: each ATen op that was seen and not counted: in which modules, and how often there.
    """
    ops: str
    eager: bool
    peak_activation_bytes: int
    uncounted: dict[str, dict[str, int]]
    nodes: dict[str, Cost] = field(repr=False)
    modules: dict[str, Cost] = field(repr=False)
    kinds: dict[str, str] = field(repr=False, default_factory=dict)  # module: its class

    def __getattr__(self, name: str):
        if name in COST_FIELDS or name in ("total", "intensity"):
            return getattr(self.modules[""], name)
        raise AttributeError(name)

    @property
    def without_rule(self) -> dict[str, dict[str, int]]:
        """Those of `uncounted` that may be products, which no number here holds: they have no rule (see `flop_rule`)."""
        return {op: places for op, places in self.uncounted.items() if may_multiply(op) and not op.endswith(ASSUMED)}

    def by_node(self) -> dict[str, Cost]:
        """Return the cost of each node, of the module's own graph if it has one, that costs anything.

        Of a model without a graph they are modules, each with its own ops.
        """
        return dict(self.nodes)

    def by_module(self) -> dict[str, Cost]:
        """Return the cost of each module with all below it; `""` is the whole model."""
        return dict(self.modules)

    def to_json(self) -> dict[str, Any]:
        """Return the count as data: the whole model's cost, then that of each module and node."""
        return {"ops": self.ops, "eager": self.eager, "without_rule": self.without_rule, **self.modules[""].to_json(),
                "peak_activation_bytes": self.peak_activation_bytes, "uncounted": self.uncounted,
                "modules": {name: cost.to_json() for name, cost in self.modules.items()},
                "nodes": {name: cost.to_json() for name, cost in self.nodes.items()}}

    def rows(self, depth: int | None = None, sort: str | None = None) -> Iterator[tuple[int, str, str, Cost]]:
        """Return level, name, class, cost of modules as printed; `sort`, a key of SORTS, puts the costliest first."""
        if sort is not None and sort not in SORTS:
            raise ValueError(f"sort={sort!r}: choose one of {', '.join(SORTS)}")
        below: dict[str, list[str]] = {}
        for name in filter(None, self.modules):
            below.setdefault(name.rpartition(".")[0], []).append(name)

        def walk(name: str, level: int) -> Iterator[tuple[int, str, str, Cost]]:
            yield level, name, self.kinds.get(name, ""), self.modules[name]
            if depth is None or level < depth:
                inside = [n for n in below.get(name, ()) if any(self.modules[n].to_json().values())]
                if sort is not None:
                    inside.sort(key=lambda n: -SORTS[sort](self.modules[n]))
                for child in inside:
                    yield from walk(child, level + 1)

        return walk("", 0)

    def table(self, depth: int | None = None, sort: str | None = None):
        """Return the rows as a `rich` table, with each module's share of all FLOPs."""
        from rich.table import Table
        from rich.text import Text
        what = "All FLOPs" if self.ops == "all" else "FLOPs of matrix products, convolutions and attention"
        shown = Table(title=f"{what} (a multiply-add is 2)", title_justify="left")
        shown.add_column("module", overflow="fold", min_width=24)
        again = ["again"] if self.recomputed else []
        for heading in ("forward", "backward", *again, "share", "", "params", "kept", "FLOP/byte"):
            shown.add_column(heading, justify="right" if heading else "left", no_wrap=True)
        for level, name, kind, cost in self.rows(depth, sort):
            share = cost.total / self.total if self.total else 0.0
            last = name.rpartition(".")[2]
            label = f"{last} ({kind})" if last and kind else last or kind or "model"
            shown.add_row(Text("  " * level + label), quantity(cost.forward), quantity(cost.backward),
                          *(quantity(cost.recomputed) for _ in again), f"{share:.1%}",
                          "█" * round(share * BAR) or ("▏" if share else ""), quantity(cost.parameters),
                          quantity(cost.activation_bytes, "B"), f"{cost.intensity:.3g}")
        return shown


def gaps(count: FlopCount) -> Iterator[str]:
    """Yield lines of text about what the numbers lack or assume, to be read before them."""
    for op, places in count.without_rule.items():
        yield (f"not counted {op} {sum(places.values())}x in {_places(places)}: it has no FLOP rule; if it multiplies, what "
               "follows is too small: add a rule with fxgrow.flop_rule")
    for op, places in count.uncounted.items():
        if op.endswith(ASSUMED):
            yield f"assumed     {op} {sum(places.values())}x in {_places(places)}"


def _places(places: dict[str, int]) -> str:
    named = [name or "the model itself" for name in list(places)[:3]]
    return ", ".join(named) + (f" and {len(places) - 3} more" if len(places) > 3 else "")


def lines(count: FlopCount) -> Iterator[str]:
    """Yield lines of text with what the table does not say."""
    whole = count.modules[""]
    yield f"forward     {whole.forward:,} FLOPs, {whole.macs:,} multiply-adds in products"
    yield f"backward    {whole.backward:,} FLOPs; together {whole.total:,}"
    if whole.recomputed:
        yield f"recomputed  {whole.recomputed:,} FLOPs of the forward pass, by checkpointing; they are in none of the sums"
    yield (f"parameters  {whole.parameters:,} in {quantity(whole.parameter_bytes, 'B')}, their gradients "
           f"{quantity(whole.gradient_bytes, 'B')}")
    yield (f"activations {quantity(whole.activation_bytes, 'B')} kept for the backward pass, at most "
           f"{quantity(count.peak_activation_bytes, 'B')} at a time in a training step")
    if count.eager:
        yield "run eagerly it chooses by its data, so it was run on its own tensors"
    times = {op: sum(places.values()) for op, places in count.uncounted.items()
             if op not in count.without_rule and not op.endswith(ASSUMED)}
    if times:
        yield "not counted " + ", ".join(f"{op} {n}x" for op, n in sorted(times.items(), key=lambda item: -item[1]))


def to_csv(count: FlopCount, depth: int | None = None, sort: str | None = None) -> str:
    """Return the rows of the table as comma-separated values, in FLOPs and bytes."""
    rows = ((name, kind, *cost.to_json().values()) for _, name, kind, cost in count.rows(depth, sort))
    return csv_text(("module", "class", *count.modules[""].to_json()), rows)
