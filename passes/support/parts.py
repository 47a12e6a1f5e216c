"""Parts of the graph under change, by name: what Branch and Subnet put something beside."""
import itertools

import torch
from torch import Tensor
from torch.fx import Node

from fxgrow.errors import GrowthError
from fxgrow.graph import Call, below, boundary, calls, inside, place_of, prefixes
from fxgrow.growth import Edit, Part


def called_names(edit: Edit) -> list[str]:
    """Return every name below which the graph calls something."""
    found = [path for node in edit.graph.nodes for path in prefixes(place_of(node))] + [c.name for c in calls(edit.gm)]
    return [path for path in dict.fromkeys(found) if path]


def part_below(edit: Edit, path: str) -> Part:
    """Return the part of the graph under change below a name, or refuse one without exactly one tensor in and one out."""
    own = calls_below(edit, path)
    known = {c.node for c in own}
    nodes = [n for n in edit.graph.nodes if n in known or inside(n, path)]
    ins, outs = boundary(nodes)
    ins = [n for n in ins if _is_data(edit, n)]
    outs = [n for n in outs if not isinstance(edit.values.get(n.name), (int, float, torch.Size))]
    if len(ins) != 1 or len(outs) != 1 or not _is_data(edit, outs[0]):
        taken, given = (", ".join(n.name for n in found) or "none" for found in (ins, outs))
        raise GrowthError(f"it takes {len(ins)} tensors ({taken}) and gives {len(outs)} values ({given}); name a part with "
                          "one tensor in and one out")
    if edit.read_elsewhere(outs[0]):
        raise GrowthError(f"{outs[0].name} is a view of a value that is written to later and read elsewhere; write to a new "
                          "tensor there, in the model's code")
    # channels are behind the batch if a convolution of so many axes says so, or if there are more than three axes and no
    # linear layer; else they are last
    ranks, ndim = {c.rank for c in own}, edit.values[outs[0].name].ndim
    second = ndim < 6 and (ndim - 2 in ranks - {0} or (ndim > 3 and 0 not in ranks))
    return Part(path, nodes, ins[0], outs[0], 1 - ndim if second else -1)


def calls_below(edit: Edit, path: str) -> list[Call]:
    """Return the calls of convolutions and linear layers below a name."""
    return [c for c in calls(edit.gm) if below(c.name, path)]


def _is_data(edit: Edit, node: Node) -> bool:
    value = edit.values.get(node.name)
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 1


def numbered(edit: Edit, form: str, count: int) -> list[str]:
    """Return the first so many names `form1`, `form2`, ... that are free."""
    names = (f"{form}{k}" for k in itertools.count(1))
    return list(itertools.islice((name for name in names if edit.free_name(name) == name), count))
