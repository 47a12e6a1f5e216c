"""A diagram as data for a page that lays it out itself, so that modules open and close there (fxgrow/page/diagram.js)."""
import base64
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from fxgrow.compare import Change, Changes, mark, summed
from fxgrow.cost import Cost, count_flops
from fxgrow.diagram.build import build, kinds_of
from fxgrow.diagram.heat import VIRIDIS, check_heat
from fxgrow.diagram.look import COLOURS
from fxgrow.diagram.parts import Cluster, Diagram, Item, until
from fxgrow.diagram.repeats import chosen, fold_repeats
from fxgrow.graph import Captured
from fxgrow.page import page

MOST = 30  # boxes at first: a page shows fewer than a picture, as more are a click away
WEIGHTS, SIDE = 24, 128  # weights before and after on a page; numbers of each side of their pictures


def diagram_page(model: nn.Module, gm: GraphModule, difference: Changes | None = None, **options) -> bytes:
    """Return a page with the diagram alone; the options are those of `diagram_data`."""
    costs = count_flops(gm, Captured(gm).inputs).by_node()
    return page({"title": type(model).__name__, "diagram": diagram_data(model, gm, costs, difference, **options),
                 "weights": None if difference is None else _weights(difference)})


def diagram_data(model: nn.Module, gm: GraphModule, costs: Mapping[str, Cost], difference: Changes | None = None, *,
                 depth: int | None = None, collapse: str | Sequence[str] = (), repeats: bool | None = None,
                 heat: str | None = None, whole: Diagram | None = None) -> dict[str, Any]:
    """Return one view with every block, and one with repeated blocks once if that is less.

    The view that comes first, and what is closed in it, are as `fxgrow.draw` would draw them. costs: as `FlopCount.by_node`;
    whole: the model's diagram where it is built already.
    """
    if heat is not None:
        check_heat(heat)
    marks = None if difference is None else lambda node: mark(difference.nodes[node.name])
    whole = whole or build(gm, kinds_of(model))
    once = fold_repeats(whole, marks)
    first = chosen(whole, depth, collapse, repeats, marks, MOST)
    folded = any(item.times > 1 for item in first.root.items())
    shut = {box.path for box in first.root.boxes() if box.folded}
    views = [_view("every block", whole, costs, difference, shut)]
    if any(item.times > 1 for item in once.root.items()):
        views.append(_view("repeated blocks once", once, costs, difference, shut))
    colours = "changes" if difference is not None else heat or "kinds"
    return {"views": views, "start": len(views) - 1 if folded else 0, "colours": colours, "palette": COLOURS,
            "heat": VIRIDIS}


def _view(name: str, diagram: Diagram, costs: Mapping[str, Cost], difference: Changes | None, shut: set[str]) -> dict:
    def data(item: Item) -> dict[str, Any]:
        common = {"path": item.path, "kind": item.kind, "times": item.times, "last": item.last, "until": until(item)}
        if isinstance(item, Cluster):
            return {**common, "group": item.group, "closed": not item.group and item.path in shut,
                    "children": [data(child) for child in item.children]}
        nodes = diagram.all_nodes(item)
        spent = [costs[n.name] for n in nodes if n.name in costs]
        change = {} if difference is None else {"change": _change([difference.nodes[n.name] for n in nodes])}
        return {**common, "key": item.key, "shape": item.shape,
                "rows": [{"title": row.title, "family": row.family, "settings": row.settings, "name": row.name,
                          "lines": row.lines(item.path, item.times)} for row in item.rows],
                "flops": sum(c.total for c in spent), "params": sum(c.parameters for c in spent),
                "memory": sum(c.activation_bytes for c in spent), **change}

    return {"name": name, "root": data(diagram.root),
            "edges": [[e.tail.key, e.head.key, e.shape or e.tail.shape] for e in diagram.edges()]}


def _weights(difference: Changes) -> dict[str, Any]:
    """Return the matrices of layers that changed as pictures, before and after, and how many are left out."""
    drawn: list[dict[str, Any]] = []
    left = 0
    for change in difference.weights():
        if change.after.ndim < 2 or change.after.is_meta:
            continue
        left += len(drawn) == WEIGHTS
        if len(drawn) < WEIGHTS:
            both = [t for t in (change.before, change.after) if t is not None]
            largest = max(float(t.detach().abs().nan_to_num(0, 0, 0).max()) for t in both if t.numel()) or 1.0
            old = None if change.before is None else _matrix(change.before, largest, None)
            drawn.append({"name": change.name, "before": old, "after": _matrix(change.after, largest, change.new)})
    return {"drawn": drawn, "left": left}


def _matrix(tensor: Tensor, largest: float, new: Tensor | None) -> dict[str, Any]:
    """Return a tensor as a picture [outputs, all else], SIDE high and wide at most: 128 is zero; 1 is where it is new."""
    flat = tensor.detach().flatten(1)
    at = [torch.linspace(0, n - 1, min(n, SIDE), dtype=torch.float64).round().long() for n in flat.shape]
    cut = [t.flatten(1).cpu()[at[0]][:, at[1]] for t in (flat, torch.zeros_like(flat) if new is None else new)]
    grey = (cut[0].real.float() / largest * 127 + 128).nan_to_num(0).clamp(0, 255).to(torch.uint8)
    pictures = [base64.b64encode(bytes(t.flatten().tolist())).decode() for t in (grey, cut[1].to(torch.uint8))]
    return {"shape": list(tensor.shape), "width": len(at[1]), "height": len(at[0]), "grey": pictures[0], "new": pictures[1]}


def _change(changes: Sequence[Change]) -> dict[str, Any]:
    """Sum up what became of the operations of one box."""
    total, was = summed(changes), next((c.before for c in changes if c.before and c.before != c.after), "")
    return {"status": total.status, "was": was, "new": total.new, "params": total.parameters[1]}
