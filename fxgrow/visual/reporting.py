"""`report`: the data of one page about a model, which opens in any browser and needs no network.

What does not live here: how the page looks and moves (fxgrow/page/), the diagram's data (fxgrow/diagram/html.py).
"""
import base64
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from fxgrow.aten import tree_map
from fxgrow.common import atomic_write, one_line, quantity
from fxgrow.compare import verify
from fxgrow.cost import FlopCount, count_flops
from fxgrow.diagram import VIRIDIS, Difference, diagram_data, diff, kinds_of
from fxgrow.errors import CaptureError, DrawError, FxgrowError, GrowthError
from fxgrow.graph import Captured, as_call, tensors_of
from fxgrow.models import Input, describe, draw_inputs, dtype_of
from fxgrow.page import page
from fxgrow.record import Grown, GrowthRecord, captured, describe_step, new_numbers, record_in
from fxgrow.visual import filters


def report(model_or_grown: nn.Module | Grown, example_inputs, path: str | os.PathLike, *,
           before: nn.Module | Grown | None = None, title: str = "") -> Path:
    """Write a page about a model and return its path: its diagram, what it costs, and of a grown one what grew.

    Args:
        model_or_grown: any module that `capture` takes, or what `transform` or `load` gave.
        example_inputs: as for `capture`; None for a captured, loaded or grown model.
        path: an .html file.
        before: the model that it is compared with; None: of a grown one the small network that is in it.
        title: the page's heading; the model's class without it.

    Raises:
        DrawError: `path` is no .html file.
        FxgrowError: the model can neither be captured nor run.
    """
    write_report(model_or_grown, example_inputs, path, before=before, title=title)
    return Path(path)


def write_report(model_or_grown: nn.Module | Grown, example_inputs, path: str | os.PathLike, *,
                 before: nn.Module | Grown | None = None, title: str = "") -> dict[str, Any]:
    """Write the page that `report` writes, and return what it tells, without its pictures."""
    target = Path(path)
    if target.suffix.lower() not in (".html", ".htm"):
        raise DrawError(f"{target}: a report is one .html file")
    data = _page_data(model_or_grown, example_inputs, before, title)
    content = page(data)
    with atomic_write(target) as file:
        file.write(content)
    return {key: value for key, value in data.items() if key not in ("diagram", "filters", "heat")}


def _page_data(model_or_grown: nn.Module | Grown, example_inputs, before: nn.Module | Grown | None, title: str
               ) -> dict[str, Any]:
    model = model_or_grown.model if isinstance(model_or_grown, Grown) else model_or_grown
    record = record_in(model_or_grown)
    gm, inputs, missing = None, example_inputs, ""
    try:
        gm = captured(model_or_grown, example_inputs)[1]
        inputs = Captured(gm).inputs if example_inputs is None else example_inputs
    except CaptureError as error:  # a detector, say: it is counted as it runs
        missing = str(error)
    args, kwargs = as_call(inputs)
    inputs = args or kwargs
    difference = None if gm is None else _difference(model_or_grown, before, inputs)
    small = _small(model, record, before)
    count = count_flops(model if gm is None else gm, inputs)
    return {"title": title or type(model).__name__, "model": _facts(model, count, inputs), "missing": missing,
            "heat": VIRIDIS, "diagram": None if gm is None else diagram_data(model, gm, count.by_node(), difference),
            "growth": None if small is None else _growth(model, record, difference, small, inputs),
            "filters": None if gm is None else _first_filters(gm, record, small),
            "costs": _costs(model, count)}


def _difference(model_or_grown: nn.Module | Grown, before: nn.Module | Grown | None, inputs) -> Difference | None:
    if before is not None:
        return diff(before, model_or_grown, inputs)
    try:
        return diff(model_or_grown)
    except GrowthError:  # it has not grown
        return None


def _small(model: nn.Module, record: GrowthRecord | None, before: nn.Module | Grown | None) -> nn.Module | str | None:
    """Return the model to compare with; a sentence where it cannot be had, None where there is none."""
    if before is not None:
        return before.model if isinstance(before, Grown) else before
    if record is None or not record.lineage:
        return None
    try:
        return record.shrink(model)
    except FxgrowError as error:
        return str(error)


def _facts(model: nn.Module, count: FlopCount, inputs) -> dict[str, str]:
    buffers = sum(b.numel() for b in model.buffers())
    return {"class": type(model).__name__, "input": describe(inputs),
            "parameters": f"{count.parameters:,}" + (f" and {buffers:,} numbers in buffers" if buffers else ""),
            "FLOPs forward": quantity(count.forward), "FLOPs backward": quantity(count.backward),
            "memory of parameters": quantity(count.parameter_bytes, "B"),
            "peak memory of activations in a training step": quantity(count.peak_activation_bytes, "B")}


def _costs(model: nn.Module, count: FlopCount) -> dict[str, Any]:
    """Return the tree of modules in print order, and the ops that were not counted."""
    kinds = {**count.kinds, **kinds_of(model)}
    modules = [{"level": level, "name": name, "kind": kinds.get(name, ""), "forward": c.forward, "backward": c.backward,
                "flops": c.total, "params": c.parameters, "memory": c.activation_bytes, "intensity": c.intensity}
               for level, name, _, c in count.rows()]
    return {"modules": modules, "uncounted": {op: sum(places.values()) for op, places in count.uncounted.items()}}


def _growth(model: nn.Module, record: GrowthRecord | None, difference: Difference | None, small: nn.Module | str | None,
            inputs) -> dict[str, Any]:
    data: dict[str, Any] = {}
    if difference is not None:
        data["changes"] = [vars(change) for change in (difference.total, *difference.layers)]
    if record is not None and record.lineage:
        data |= {"lineage": [describe_step(step) for step in record.lineage], "certificate": record.certificate,
                 "record": _entries(model, record, small if isinstance(small, nn.Module) else None),
                 "removed": sorted(record.removed)}
    return {**data, "verification": _verified(small, model, inputs)}


def _entries(model: nn.Module, record: GrowthRecord, small: nn.Module | None) -> list[dict[str, Any]]:
    """List each parameter and buffer that holds new numbers or comes from elsewhere."""
    shapes = {} if small is None else {name: list(t.shape) for name, t in tensors_of(small).items()}
    entries = []
    for name, (tensor, entry) in record.located(tensors_of(model)).items():
        if not entry.unchanged or entry.source != name:
            new = int(new_numbers(entry, tensor).sum())
            entries.append({"name": name, "source": entry.source or "", "was": shapes.get(entry.source or "", []),
                            "shape": list(tensor.shape), "new": new, "old": tensor.numel() - new, "scale": entry.scale})
    return entries


def _verified(small: nn.Module | str | None, model: nn.Module, inputs) -> dict[str, Any]:
    """Compare the model with the one it grew from, on an input drawn by a fixed seed where there is none."""
    if not isinstance(small, nn.Module):
        return {"text": f"Not compared: {small}"}
    real = draw_inputs(tree_map(
        lambda t: Input(tuple(t.shape), t.dtype) if isinstance(t, Tensor) and t.is_meta else t, inputs), dtype_of(model))
    try:
        verification = verify(small, model, real, extended=True)
    except Exception as error:  # of the models' own
        return {"text": f"Not compared: {one_line(error)}"}
    return {"text": str(verification), **verification.to_json()}


def _first_filters(gm: GraphModule, record: GrowthRecord | None, small: nn.Module | str | None) -> dict[str, Any] | None:
    """Draw the filters of the first convolution, and those that they grew from."""
    name = filters.first_convolution(gm)
    if name is None or tensors_of(gm)[name].is_meta:
        return None
    weight = tensors_of(gm)[name]
    entry = (record or GrowthRecord()).entry(name, weight.ndim)
    old = tensors_of(small).get(entry.source or name) if isinstance(small, nn.Module) else None
    shown = [("after" if old is not None else "filters", weight, new_numbers(entry, weight))]
    if old is not None and old.ndim == weight.ndim:
        shown.insert(0, ("before", old, torch.zeros_like(old, dtype=torch.bool)))
    grids, problem = [], ""
    try:
        limits = filters.filter_limits([w for _, w, _ in shown])
        columns, scale = filters.grid_layout([w for _, w, _ in shown])
        for caption, w, new in shown:
            grid = filters.filter_grid(w, new, limits=limits, columns=columns, scale=scale)
            png = base64.b64encode(filters.png(grid)).decode()
            grids.append({"caption": f"{caption}, {list(w.shape)}", "image": f"data:image/png;base64,{png}"})
    except DrawError as error:  # Pillow is not installed
        problem = str(error)
    return {"name": name, "problem": problem, "grids": grids}
