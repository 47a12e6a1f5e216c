"""Parts of a captured network that run side by side: regions between two places."""
from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Node

from fxgrow.errors import GrowthError
from fxgrow.graph import Call, below, boundary, calls, inside, outer, place_of, prefixes
from fxgrow.growth import Edit


@dataclass
class Region:
    """The nodes below a name, in order; the value that they get and the one that others use; and where channels stand.

    axis: the axis of channels, counted from the end, of `ndim`. rank: spatial axes (0: channels are last, layers linear).
    """
    path: str
    nodes: list[Node]
    x: Node
    y: Node
    axis: int
    ndim: int
    calls: list[Call]

    @property
    def rank(self) -> int:
        return -1 - self.axis

    @property
    def first(self) -> Node:
        """The first of the nodes that reads the value."""
        return next(n for n in self.nodes if self.x in n.all_input_nodes)


def paths(edit: Edit) -> list[str]:
    """Every name below which the graph calls something."""
    found: dict[str, None] = {}
    for node in edit.graph.nodes:
        found.update(dict.fromkeys(prefixes(place_of(node))))
    found.update(dict.fromkeys(call.name for call in calls(edit.gm)))
    return [p for p in found if p]


def outermost(edit: Edit, where: str | Sequence[str], what: str) -> list[str]:
    """The names that each glob of `where` matches, without those below another one of them.

    Raises:
        SelectionError: a glob matches none.
    """
    names, chosen = paths(edit), []
    for pattern in [where] if isinstance(where, str) else where:
        chosen += [n for n in outer(edit.select(pattern, names, what)) if n not in chosen]
    return chosen


def region(edit: Edit, path: str) -> Region:
    """The part of the graph below a name.

    Raises:
        GrowthError: it has not exactly one tensor in and one out.
    """
    own = [c for c in calls(edit.gm) if below(c.name, path)]
    known = {c.node for c in own}
    nodes = [n for n in edit.graph.nodes if n in known or inside(n, path)]
    ins, outs = boundary(nodes)
    ins = [n for n in ins if _is_data(edit, n)]
    outs = [n for n in outs if not isinstance(edit.values.get(n.name), (int, float, torch.Size))]
    if len(ins) != 1 or len(outs) != 1 or not _is_data(edit, outs[0]):
        given, gives = (", ".join(n.name for n in found) or "none" for found in (ins, outs))
        raise GrowthError(f"it takes {len(ins)} tensors ({given}) and gives {len(outs)} values ({gives}); name a part with "
                          "one tensor in and one out")
    (x,), (y,) = ins, outs
    if edit.read_elsewhere(y):
        raise GrowthError(f"{y.name} is a view of a value that is written to later and read elsewhere; write to a new "
                          "tensor there, in the model's code")
    ndim = edit.values[y.name].ndim
    return Region(path, nodes, x, y, _axis(ndim, own), ndim, own)


def _is_data(edit: Edit, node: Node) -> bool:
    value = edit.values.get(node.name)
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 1


def _axis(ndim: int, own: list[Call]) -> int:
    """Where channels stand in a value of `ndim` axes: behind the batch if a convolution of so many axes says so, or if there
    are several axes more and no linear layer; else they are last."""
    ranks = {c.rank for c in own}
    return 1 - ndim if ndim < 6 and (ndim - 2 in ranks - {0} or ndim > 3 and 0 not in ranks) else -1


def numbered(edit: Edit, form: str, count: int) -> list[str]:
    """The first so many names `form1`, `form2`, ... that are free."""
    return list(itertools.islice((p for k in itertools.count(1) if edit.free_name(p := f"{form}{k}") == p), count))
