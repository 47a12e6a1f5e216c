"""A diagram as data for a page that lays it out itself, so that modules open and close there (fxgrow/page/diagram.js)."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.fx import GraphModule

from fxgrow.compare import Change, Changes, mark
from fxgrow.cost import Cost, count_flops
from fxgrow.diagram.build import Box, Cluster, Diagram, Item, build, kinds_of
from fxgrow.diagram.choice import chosen
from fxgrow.diagram.colours import COLOURS
from fxgrow.diagram.heat import VIRIDIS, check_heat
from fxgrow.diagram.repeats import fold_repeats
from fxgrow.page import page

MOST = 30  # boxes at first: a page shows fewer than a picture, as more are a click away


def diagram_page(model: nn.Module, gm: GraphModule, difference: Changes | None = None, **options) -> bytes:
    """A page with the diagram alone; the options are those of `diagram_data`."""
    costs = count_flops(gm, gm.meta["example_inputs"]).by_node()
    return page({"title": type(model).__name__, "diagram": diagram_data(model, gm, costs, difference, **options)})


def diagram_data(model: nn.Module, gm: GraphModule, costs: Mapping[str, Cost], difference: Changes | None = None, *,
                 depth: int | None = None, collapse: Sequence[str] = (), repeats: bool | None = None,
                 heat: str | None = None) -> dict[str, Any]:
    """One view with every block, and one with repeated blocks once if that is less. What is closed at first, and which view
    comes first, is as `fxgrow.draw` would draw it.

    Args:
        costs: of each node, as `FlopCount.by_node`.
        difference: colours by what changed come first then.
    """
    if heat is not None:
        check_heat(heat)
    marks = None if difference is None else lambda node: mark(difference.nodes[node.name])
    whole = build(gm, kinds_of(model))
    once = fold_repeats(whole, marks)
    first = chosen(whole, depth, collapse, repeats, marks, MOST)
    folded = any(item.times > 1 for item in _items(first.root))
    shut = {item.path for item in _items(first.root) if isinstance(item, Box) and item.folded}
    views = [_view("every block", whole, costs, difference, shut)]
    if any(item.times > 1 for item in _items(once.root)):
        views.append(_view("repeated blocks once", once, costs, difference, shut))
    colours = "changes" if difference is not None else heat or "kinds"
    return {"views": views, "start": len(views) - 1 if folded else 0, "colours": colours, "palette": COLOURS,
            "heat": VIRIDIS}


def _items(cluster: Cluster):
    for child in cluster.children:
        yield child
        if isinstance(child, Cluster):
            yield from _items(child)


def _view(name: str, diagram: Diagram, costs: Mapping[str, Cost], difference: Changes | None, shut: set[str]) -> dict:
    def item(each: Item) -> dict[str, Any]:
        told = {"path": each.path, "kind": each.kind, "times": each.times, "last": each.last}
        if isinstance(each, Cluster):
            return {**told, "group": each.group, "closed": not each.group and each.path in shut,
                    "children": [item(child) for child in each.children]}
        nodes = diagram.all_nodes(each)
        spent = [costs[n.name] for n in nodes if n.name in costs]
        told |= {"key": each.key, "shape": each.shape,
                 "rows": [{"title": r.title, "family": r.family, "settings": r.settings, "name": r.name,
                           "parameters": r.parameters} for r in each.rows],
                 "flops": sum(c.total for c in spent), "params": sum(c.parameters for c in spent),
                 "memory": sum(c.activation_bytes for c in spent)}
        return told if difference is None else {**told, "change": _change([difference.nodes[n.name] for n in nodes])}

    return {"name": name, "root": item(diagram.root),
            "edges": [[e.tail.key, e.head.key, e.shape or e.tail.shape] for e in diagram.edges()]}


def _change(changes: Sequence[Change]) -> dict[str, Any]:
    """What became of the operations of one box."""
    status = changes[0].status if len({c.status for c in changes}) == 1 else "grown"
    was = next((c.before for c in changes if c.before and c.before != c.after), "")
    return {"status": status, "was": was, "new": sum(c.new for c in changes),
            "params": sum(c.parameters[1] for c in changes)}
