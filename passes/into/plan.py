"""The plan of a growth into a stock class: its options and steps, to show before anything is done."""
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from fxgrow.common import folded_table, render
from fxgrow.passes.support import check_choices


@dataclass
class Options:
    """Options of `grow_into`, with the seed that is used."""
    method: Literal["r2r", "net2net", "netmorph"]
    place: Literal["end", "spread", "interleave"]
    approximate: bool
    extend: bool
    seed: int
    noise: float = 0.0

    def __post_init__(self) -> None:
        check_choices(self)


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
    steps: list[Step] = field(default_factory=list)

    @property
    def approximate(self) -> list[str]:
        """Return what grows in a way that is not exact."""
        return [s.name for s in self.steps if s.method == "approximate"]

    def to_json(self) -> list[dict]:
        """Return the steps as plain data."""
        return [asdict(s) for s in self.steps]

    def table(self):
        """Return the steps as a table of rich."""
        columns = ("step", "layer or class", "from", "to", "method", "why it is exact")
        rows = [(s.kind, s.name, *("" if v is None else str(v) for v in (s.before, s.after)), s.method, s.note)
                for s in self.steps]
        return folded_table("From the small model to the big one", columns, rows)

    def explain(self) -> str:
        """Return the table as text."""
        return render(self.table())
