"""`transform`: capture, then one pass after another, with what each did and why."""
from __future__ import annotations

import contextlib
import dataclasses
import gc
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import nn
from torch.fx import GraphModule
from torch.fx.passes.infra.pass_base import PassBase

from fxgrow._capture import as_tuple, capture_graph, clone_structure, insist_callable, skeleton
from fxgrow._classes import render
from fxgrow._known import known
from fxgrow._parts import capture_parts, put_back
from fxgrow._record import GrowthRecord, record_in
from fxgrow.errors import CaptureError, SelectionError


@dataclass
class Outcome:
    """What a pass did to one axis class, or why it left it alone (`method` is empty then)."""
    name: str
    before: int
    after: int
    producers: list[str]
    method: str = ""
    certificate: str = ""
    reason: str = ""


@dataclass
class Grown:
    """A grown model, where its numbers come from, and what was done to each axis class."""
    model: nn.Module
    record: GrowthRecord
    outcomes: list[Outcome]
    example_inputs: tuple = field(repr=False, default=())

    def to_json(self) -> list[dict]:
        return [vars(o) for o in self.outcomes]

    def table(self):
        """One row for each axis class that the passes looked at."""
        from rich.table import Table
        table = Table(title="What was done to each axis class")
        for column in ("class", "size", "method", "why it is exact / why it was left alone"):
            table.add_column(column, overflow="fold")
        for o in self.outcomes:
            size = f"{o.before} -> {o.after}" if o.method else str(o.before)
            table.add_row(o.name, size, o.method or "left alone", o.certificate or o.reason)
        return table

    def explain(self) -> str:
        """The table as text: each axis class, what was done to it and why that is exact, or why nothing was."""
        return render(self.table())


def transform(model: nn.Module, example_inputs, passes: Sequence[PassBase] | PassBase) -> Grown:
    """Grows a copy of `model` by the passes, in order; `model` itself is never changed.

    Args:
        model: any module that `capture` takes, a GraphModule of ours included; of a model whose outer shell cannot be
            traced (a detector), the largest submodules that can be grow inside the untouched shell.
        example_inputs: a tensor or tuple of tensors (for a detector, what it takes: `([image],)`).
        passes: `fxgrow.passes` (any `torch.fx` pass over a captured module works here).

    Raises:
        CaptureError: the model cannot be captured.
        SelectionError: a pass's `where` names nothing that can grow.
        GrowthError: what was asked for makes no sense, or is not exact and `fallback="never"`.
    """
    passes = [passes] if isinstance(passes, PassBase) else list(passes)
    inputs = as_tuple(example_inputs)
    with _without_collector():
        try:
            return _apply(_captured(model, inputs, settled=False), inputs, passes)
        except CaptureError:  # found late that a node cannot run
            try:
                gm = _captured(model, inputs)
            except CaptureError as stop:
                return _transform_parts(model, inputs, passes, stop)
            return _apply(gm, inputs, passes)


def captured(model_or_grown: nn.Module | Grown, example_inputs) -> tuple[nn.Module, GraphModule]:
    """The model itself, and its graph."""
    model = model_or_grown.model if isinstance(model_or_grown, Grown) else model_or_grown
    if example_inputs is None and isinstance(model_or_grown, Grown):
        example_inputs = model_or_grown.example_inputs
    if isinstance(model, GraphModule) and "example_inputs" in model.meta:
        return model, model
    return model, capture_graph(model, as_tuple(example_inputs))


def _captured(model: nn.Module, inputs: tuple, settled: bool = True) -> GraphModule:
    gm = capture_graph(model, inputs, settled)
    return clone_structure(gm) if gm is model else gm  # a copy: a pass may edit in place


@contextlib.contextmanager
def _without_collector():
    """Graphs and expressions are many small objects: the cyclic garbage collector would walk them all again and again."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _transform_parts(model: nn.Module, inputs: tuple, passes: list[PassBase], stop: CaptureError) -> Grown:
    """Grows the traceable submodules of a model whose outer shell is not (a detector's backbone)."""
    try:
        parts = capture_parts(model, inputs)
    except Exception:
        raise stop from None
    grown: dict[str, Grown] = {}
    nothing: SelectionError | None = None
    for path, part in parts.items():
        try:
            grown[path] = _apply(part, inputs, passes)
        except SelectionError as why:
            nothing = why
    if not grown and nothing is not None:
        raise nothing
    records = [g.record for g in grown.values()]
    record = GrowthRecord({n: p for r in records for n, p in r.parameters.items()}, records[0].lineage,
                          {n for r in records for n in r.removed}, [c for r in records for c in r.certificate],
                          {path: r.origin[""] for path, r in zip(grown, records)})
    before = record_in(model) or GrowthRecord()
    return Grown(put_back(model, {path: g.model for path, g in grown.items()}), before.then(record),
                 [o for g in grown.values() for o in g.outcomes], inputs)


def keep_growth(before: GraphModule, after: GraphModule, record: GrowthRecord, outcomes: list[Outcome]) -> None:
    """Notes on the module that a pass made what it did, behind what was done before."""
    growth = before.meta.get("growth")
    after.meta["growth"] = {"record": growth["record"].then(record) if growth else record,
                            "outcomes": (growth["outcomes"] if growth else []) + outcomes}


def _apply(gm: GraphModule, inputs: tuple, passes: list[PassBase]) -> Grown:
    insist_callable(gm)
    record = gm.meta.get("growth", {"record": GrowthRecord()})["record"]
    if not record.origin and not record.lineage:
        record = dataclasses.replace(record, origin={"": known(gm, "skeleton", skeleton)})
    gm.meta["growth"] = {"record": record, "outcomes": []}
    result = gm
    for each in passes:  # as PassManager does, which compiles a graph that is new and hides what a pass raises
        given, result = result, each(result).graph_module
        if result is given:
            result.recompile()  # edited in place
    if not passes:
        result.recompile()
    growth = result.meta["growth"]
    growth["record"] = dataclasses.replace(
        growth["record"], certificate=growth["record"].certificate + [vars(o) for o in growth["outcomes"]])
    return Grown(result, growth["record"], growth["outcomes"], inputs)
