"""`transform`: capture a model, then apply one pass after another, keeping the record of what each did."""
import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from torch import nn
from torch.fx import GraphModule

from fxgrow.common import brief, without_collector
from fxgrow.errors import CaptureError, GrowthError, SelectionError
from fxgrow.graph import (
    Captured,
    alias_of,
    as_call,
    clone_structure,
    compile_code,
    compiled_later,
    faults_told,
    find_module,
    is_compiled,
    remembered,
    skeleton,
    tensors_of,
    unwrapped,
)
from fxgrow.growth.foreign import apply_foreign, name_of
from fxgrow.record import Grown, GrowthRecord, Outcome, record_in
from fxgrow.tracing import bring_inside, capture_graph, insist_callable, untouched, with_parts

Inputs: TypeAlias = tuple | dict[str, Any]  # of a call, by place or by name

Pass: TypeAlias = Callable[[GraphModule], Any]
INEXACT = ("random", "copy")  # methods of passes that change what is computed, as is asked of them


def transform(model: nn.Module, example_inputs, passes: Iterable[Pass] | Pass, *, release: bool = False) -> Grown:
    """Grow a copy of `model` by the passes, in order; `model` itself is not changed, unless it is to be released.

    Args:
        model: any module that `capture` takes, a GraphModule of ours included; of a model whose outer shell cannot be
            captured (a detector), the largest submodules that can be grow inside the untouched shell.
        example_inputs: as for `capture` (for a detector, what it takes: `([image],)`).
        passes: one or several of `fxgrow.passes`, or of your own: any `torch.fx` pass over a captured module, or a function
            of one. What such a pass adds is new in the record; what it leaves out (`meta`) is handed on.
        release: give the memory of `model` back on the way, where it is too large to be there twice: its tensors are emptied
            as they are grown, and those that stay as they are become the grown model's. `model` is of no use afterwards, not
            even if growing fails.

    Raises:
        CaptureError: the model cannot be captured.
        SelectionError: a pass's `where` names nothing that can grow.
        GrowthError: what was asked for makes no sense, or is not exact and `fallback="never"`; or a pass of your own gives
            no network, or one that does not run.
    """
    passes = _listed(passes)
    args, kwargs = as_call(example_inputs)
    model, inputs = unwrapped(model), args or kwargs
    with without_collector(), untouched(model):
        try:
            gm = capture_graph(model, inputs)
        except CaptureError as why:
            return _in_turn(model, passes, functools.partial(_transform_parts, inputs=inputs, whole=why, release=release))
        leaves = Captured(gm).leaves
        if gm is model:  # a pass may edit in place, but for ours, which edit copies
            gm = alias_of(gm) if passes and all(map(_is_ours, passes)) else clone_structure(gm)
        try:
            grown = _run_passes(gm, inputs, passes, release)
            in_parts = not release and _most_is_in(leaves, model, passes)
            return _larger(grown, model, passes, inputs, leaves) if in_parts else grown
        except SelectionError as nothing:  # though perhaps parts of what is kept whole can
            if not leaves or (release and len(passes) > 1):  # what the first pass grew is given up
                raise
            with contextlib.suppress(CaptureError, SelectionError):
                return _transform_parts(model, passes, inputs, CaptureError(str(nothing)), leaves, release)
            raise


def _most_is_in(leaves: dict[str, str], model: nn.Module, passes: list[Pass]) -> bool:
    """Tell whether passes over all of a model met it as a graph around modules kept whole that hold most of its numbers."""
    kept = {p for path in leaves for p in find_module(model, path).parameters()}  # type: ignore[union-attr]
    everywhere = all(_is_ours(step) and getattr(step, "where", "") is None for step in passes)
    return bool(kept) and everywhere and 2 * sum(p.numel() for p in kept) > sum(p.numel() for p in model.parameters())


def _larger(grown: Grown, model: nn.Module, passes: list[Pass], inputs: Inputs, leaves: dict[str, str]) -> Grown:
    """Return a model grown as one graph, or by its parts inside of what the graph keeps whole, whichever grew more."""
    with contextlib.suppress(CaptureError, SelectionError):
        whole = CaptureError("; ".join(f"{path}: {why}" for path, why in leaves.items()))
        parts = _transform_parts(model, passes, inputs, whole, leaves)
        return max(grown, parts, key=lambda g: sum(p.numel() for p in g.model.parameters()))
    return grown


def _listed(passes: Any) -> list[Pass]:
    found = list(passes) if isinstance(passes, Iterable) and not isinstance(passes, str) else [passes]
    for one in found:
        if isinstance(one, type):
            raise GrowthError(f"{one.__name__} is a class: give a pass that is made of it, {one.__name__}(...)")
        if not callable(one):
            raise GrowthError(f"{brief(one)} is no pass: give passes as Widen(factor=2), in a list where there are several")
        where = getattr(one, "where", None) if _is_ours(one) else None
        names = [where] if isinstance(where, str) else where if isinstance(where, (list, tuple, set)) else [where or ""]
        if not all(isinstance(name, str) for name in names):
            raise SelectionError(f"where of {name_of(one)} is {brief(where)}; it takes names of layers, as 'layer1.*'")
    return found


def _in_turn(model: nn.Module, passes: list[Pass], grow: Callable[[nn.Module, list[Pass]], Grown]) -> Grown:
    """Grow a model by one pass after another, since each may name other parts of it, and return that as one growth."""
    done = grow(model, passes[:1])
    for step in passes[1:]:
        one = grow(done.model, [step])
        done = Grown(one.model, one.record, done.outcomes + one.outcomes, one.example_inputs, done.step.then(one.step))
    return done


def _transform_parts(model: nn.Module, passes: list[Pass], inputs: Inputs, whole: CaptureError,
                     leaves: dict[str, str] | None = None, release: bool = False) -> Grown:
    """Grow the largest parts of a model that itself cannot be captured (a detector's backbone); `whole` says why not.

    Args:
        leaves: no part is or holds one of these.
    """
    grown: dict[str, Grown] = {}
    nothing: list[SelectionError] = []

    def grow(path: str, part: GraphModule) -> GraphModule | None:
        try:
            grown[path] = _inside(path, _run_passes(part, inputs, passes, release))
        except SelectionError as why:
            nothing.append(why)
            return None
        return grown[path].model  # type: ignore[return-value]

    new, paths, alone = with_parts(model, inputs, grow, whole, leaves or {})
    if not paths and nothing:
        raise nothing[-1]
    step = _joined({path: grown[path].step for path in paths})
    step.outside = _outside(model, step)
    record = (record_in(model) or GrowthRecord()).then(step)
    Captured(new).keep_growth(record, [])
    outcomes = [o for path in paths for o in grown[path].outcomes]
    outcomes += [Outcome(path, 0, 0, [path], reason=why) for path, why in alone.items()]
    return Grown(new, record, outcomes, inputs, step)


def _inside(path: str, grown: Grown) -> Grown:
    """Return a grown part with what its passes put beside it in it, under the names that it has there."""
    renamed = bring_inside(grown.model, path)  # type: ignore[arg-type]
    for outcome in grown.outcomes:
        outcome.name, outcome.producers = renamed(outcome.name), list(map(renamed, outcome.producers))
    grown.record.parameters = {renamed(name): entry for name, entry in grown.record.parameters.items()}
    return grown


def _joined(records: dict[str, GrowthRecord]) -> GrowthRecord:
    """Return the record of a model from those of its parts, by path."""
    joined = GrowthRecord(lineage=next(iter(records.values())).lineage)
    for path, record in records.items():
        joined.parameters |= record.parameters
        joined.removed |= record.removed
        joined.certificate += record.certificate
        joined.origin[path] = record.origin[""]
    return joined


def _outside(model: nn.Module, step: GrowthRecord) -> dict[str, list[int]]:
    """Return the shapes of what a model's state_dict holds outside of the parts of a growth."""
    inside, tensors = step.small(), tensors_of(model)
    return {name: list(tensors[name].shape) for name in model.state_dict() if name in tensors and name not in inside}


def _is_ours(step: Pass) -> bool:
    """Tell whether a pass is none of the user's, whose errors are the user's as they are."""
    return type(step).__module__.partition(".")[0] == "fxgrow"


def _run_passes(gm: GraphModule, inputs: Inputs, passes: list[Pass], release: bool) -> Grown:
    """Apply the passes as `PassManager` does, which compiles a graph that is new and hides what a pass raises."""
    insist_callable(gm)
    inside = Captured(gm)
    before, inside.before = inside.record, inside.record
    inside.keep_growth(GrowthRecord(origin={"": remembered(gm, "skeleton", skeleton)}), [])
    inside.released = release
    result = gm
    with compiled_later():
        for step in passes:
            if not _is_ours(step):
                result = apply_foreign(step, result)
                continue
            with faults_told(GrowthError, f"{type(step).__name__} stops"):
                result = step(result).graph_module  # type: ignore[attr-defined]
    if not is_compiled(result):
        compile_code(result)
    grown = Captured(result)
    grown.released = False
    alone = dataclasses.replace(grown.record, certificate=[vars(o) for o in grown.outcomes])
    grown.record, grown.before = alone if before is None else before.then(alone), None
    return Grown(result, grown.record, grown.outcomes, inputs, alone)
