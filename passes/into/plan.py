"""The plan of a growth into a stock class: its options and steps, to show before anything is done."""
from dataclasses import asdict, dataclass
from typing import Any

from fxgrow.blocks import Match


@dataclass
class Options:
    """Options of `grow_into`, with the seed that is used."""
    method: str
    approximate: bool
    extend: bool
    seed: int


@dataclass
class Step:
    """One step of a plan, or what hinders it.

    kind: `kernel`, `widen`, `deepen`, `rescale` or `constant`. name: what it is about. before, after: from what to what.
    """
    kind: str
    name: str
    before: Any = None
    after: Any = None
    method: str = ""
    note: str = ""


@dataclass
class Plan:
    """Lists the steps that make one model of the other."""
    steps: list[Step]
    match: Match
    names: dict[str, str]  # of the big model's tensors: that of the small model's
    approximate: list[str]

    def to_json(self) -> list[dict]:
        """Return the steps as plain data."""
        return [asdict(s) for s in self.steps]

    def table(self):
        """Return the steps as a table of rich."""
        from rich.table import Table
        table = Table(title="From the small model to the big one")
        for column in ("step", "layer or class", "from", "to", "method", "why it is exact"):
            table.add_column(column, overflow="fold")
        for s in self.steps:
            table.add_row(s.kind, s.name, *("" if v is None else str(v) for v in (s.before, s.after)), s.method, s.note)
        return table

    def explain(self) -> str:
        """Return the table as text."""
        from fxgrow.common import render
        return render(self.table())
