"""Grown models: the model, its growth record, and what was done to each axis class."""
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.fx import GraphModule

from fxgrow.common import folded_table, render
from fxgrow.graph import Captured, alias_of, arguments_of, as_call, is_captured, to_meta
from fxgrow.record.record import GrowthRecord
from fxgrow.tracing import capture_graph


@dataclass
class Outcome:
    """Tells what a pass did to one axis class, or why it left it alone (`method` is empty then)."""
    name: str
    before: int
    after: int
    producers: list[str]
    method: str = ""
    certificate: str = ""
    reason: str = ""


@dataclass
class Grown:
    """A grown model, where its numbers come from, and what was done to each axis class.

    record: from the first model to this one, over all growths in between. step: of this growth alone, from the model that
    was given to `transform`, whose optimizer is the one to migrate.
    """
    model: nn.Module
    record: GrowthRecord
    outcomes: list[Outcome]
    example_inputs: tuple | dict[str, Any] = field(repr=False, default=())
    step: GrowthRecord = field(repr=False, default=None)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        self.step = self.record if self.step is None else self.step

    def to_json(self) -> list[dict]:
        """Return the outcomes as data."""
        return [vars(o) for o in self.outcomes]

    def table(self):
        """Return a table with one row for each axis class that the passes looked at."""
        return _table(self.outcomes)

    def explain(self) -> str:
        """Return the table as text: each axis class, what was done to it and why that is exact, or why nothing was."""
        return explain(self.outcomes)


def explain(outcomes: Sequence[Outcome]) -> str:
    """Return what was done to each axis class as the text of a table."""
    return render(_table(outcomes))


def _table(outcomes: Sequence[Outcome]) -> Any:
    columns = ("class", "size", "method", "why it is exact / why it was left alone")
    rows = [(o.name, f"{o.before} -> {o.after}" if o.method else str(o.before), o.method or "left alone",
             o.certificate or o.reason) for o in outcomes]
    return folded_table("What was done to each axis class", columns, rows)


def record_in(model_or_grown: nn.Module | Grown) -> GrowthRecord | None:
    """Return the growth record of what was grown, or that a loaded model or one between two passes holds."""
    if isinstance(model_or_grown, Grown):
        return model_or_grown.record
    inside = Captured(model_or_grown)
    return inside.record if inside.before is None else inside.before.then(inside.record)


def captured(model_or_grown: nn.Module | Grown, example_inputs) -> tuple[nn.Module, GraphModule]:
    """Return the model itself, and its graph, whose example inputs are those given."""
    model = model_or_grown.model if isinstance(model_or_grown, Grown) else model_or_grown
    if example_inputs is None and isinstance(model_or_grown, Grown):
        example_inputs = model_or_grown.example_inputs
    if not is_captured(model):
        return model, capture_graph(model, example_inputs, check=False)  # it is looked at, not grown
    return model, model if example_inputs is None else _with_inputs(model, example_inputs)


def _with_inputs(gm: GraphModule, example_inputs) -> GraphModule:
    """Return a captured module of the same layers, nodes and growth whose example is another one."""
    view = alias_of(gm)
    Captured(view).inputs = to_meta(tuple(a.value for a in arguments_of(gm, *as_call(example_inputs))))
    return view


def keep_growth(before: GraphModule, after: GraphModule, record: GrowthRecord, outcomes: list[Outcome]) -> None:
    """Note on the module that a pass made what it did, behind what was done before."""
    old = Captured(before)
    Captured(after).keep_growth(record if old.record is None else old.record.then(record), old.outcomes + outcomes)
