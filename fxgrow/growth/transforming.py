"""`transform`: capture, then one pass after another, with what each did and why."""
from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from torch import nn
from torch.fx import GraphModule
from torch.fx.passes.infra.pass_base import PassBase

from fxgrow.common import without_collector
from fxgrow.errors import CaptureError, SelectionError
from fxgrow.graph import as_tuple, clone_structure, known, skeleton
from fxgrow.record import Grown, GrowthRecord, record_in
from fxgrow.tracing import capture_graph, capture_parts, insist_callable, put_back


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
    with without_collector():
        try:
            return _apply(_captured(model, inputs, settled=False), inputs, passes)
        except CaptureError:  # found late that a node cannot run
            try:
                gm = _captured(model, inputs)
            except CaptureError as stop:
                return _transform_parts(model, inputs, passes, stop)
            return _apply(gm, inputs, passes)


def _captured(model: nn.Module, inputs: tuple, settled: bool = True) -> GraphModule:
    gm = capture_graph(model, inputs, settled)
    return clone_structure(gm) if gm is model else gm  # a copy: a pass may edit in place


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
