"""One layer as several side by side: others added to it, or its outputs shared out."""
import operator
from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.fx import Node

from fxgrow.errors import GrowthError
from fxgrow.graph import Call, other_users
from fxgrow.growth import Edit
from fxgrow.passes.support.layers import conv, kernel, like
from fxgrow.passes.support.parts import numbered
from fxgrow.record import ParameterRecord


def add(edit: Edit, name: str, group: list[Call], count: int, size: int | None, method: str) -> list[str]:
    """Make `W x` into `W x + sum_b V_b U_b x`, the last sum zero, and return the names of the branches.

    U_b is a layer like W (with kernels of another `size`, if that gives values of the same size), V_b has 1x1 kernels.
    """
    call = group[0]
    kernel(edit, call)
    if any(any(c.extra) for c in group):
        raise GrowthError("it is told its output_size at each call: set output_padding instead")
    groups, ins, outs = _channels(edit, call)
    middle = outs + groups if method == "r2r" and outs // groups % 2 else outs  # pairs in each group
    branches: dict[str, nn.Module] = {}
    for path in numbered(edit, f"{name}_branch", count):
        first, project = like(edit, call, ins, middle, size), conv(call.rank, middle, outs, groups=groups, bias=False)
        if method == "r2r":
            repeat(call, first.weight)  # type: ignore[arg-type]
        cancel(project.weight, method == "r2r")  # type: ignore[arg-type]
        branches[path] = nn.Sequential(OrderedDict(conv=first, project=project))
    for c in group:
        total, after = c.node, c.node.next
        for path, branch in branches.items():
            z = edit.graft(path, edit.trace(branch, c.input), c.input, c.node)
            total = edit.call(after, torch.add, total, z, owner=name.rpartition(".")[0])
        edit.exchange(c.node, total)
    return list(branches)


def share_out(edit: Edit, name: str, group: list[Call], count: int) -> list[str]:
    """Make `[W_1; ...; W_k] x` into `[W_1 x; ...; W_k x]` (Cai 2018), and return the names of the parts.

    Whole groups go to a part, with their inputs. A layer whose tensors are used elsewhere is refused.
    """
    call = group[0]
    kernel(edit, call)
    _insist_own(edit, group)
    groups, ins, outs = _channels(edit, call)
    units, what = (groups, "groups") if groups > 1 else (outs, "outputs")
    if units < count:
        raise GrowthError(f"it has {units} {what}, which cannot be shared out among {count} branches")
    outputs = [share.flatten() for share in torch.arange(outs).view(units, -1).tensor_split(count)]
    inputs: list = [None] * count
    if groups > 1:
        inputs = [share.flatten() for share in torch.arange(ins).view(groups, -1).tensor_split(count)]
    paths = _replace(edit, call, name, [_part(edit, call, out, into) for out, into in zip(outputs, inputs)])
    for c in group:
        _concatenate(edit, c, name, paths, [len(share) for share in inputs] if groups > 1 else None)
    return paths


def _insist_own(edit: Edit, group: list[Call]) -> None:
    """Insist that nothing but the calls of one layer uses its tensors."""
    call = group[0]
    if (call.module is None and len(group) > 1) or any(c.module is not call.module for c in group):
        raise GrowthError("its weight is used by several layers, which would need the same branches")
    for tensor in (call.weight, call.bias):
        others = other_users(edit.gm, edit.tensor(tensor), group) if tensor is not None else []
        if others:
            raise GrowthError(f"its {tensor} is also used by {', '.join(n.name for n in others)}")


def _concatenate(edit: Edit, call: Call, name: str, paths: list[str], sizes: list[int] | None) -> None:
    """Put calls of all parts, concatenated, in the place of a call; of groups, each takes its share of the input."""
    axis = -1 - call.rank
    xs: list[Node] = [call.input] * len(paths)
    if sizes is not None:
        cut = edit.call(call.node, torch.split, call.input, sizes, axis, owner=name)
        xs = [edit.call(call.node, operator.getitem, cut, i, owner=name) for i in range(len(paths))]
    args, kwargs = call.extra
    ys = [edit.call(call.node, path, x, *args, owner=name, **kwargs) for path, x in zip(paths, xs)]
    edit.exchange(call.node, edit.call(call.node, torch.cat, ys, axis, owner=name))
    reads = call.node.all_input_nodes
    edit.graph.erase_node(call.node)
    for node in reads:
        if node.op == "get_attr" and not node.users:
            edit.graph.erase_node(node)


def _channels(edit: Edit, call: Call) -> tuple[int, int, int]:
    """Return groups, channels in and channels out of a call."""
    groups = call.argument("groups") if call.rank else 1
    first, second = edit.tensor(call.weight).shape[:2]
    return (groups, first, second * groups) if call.transposed else (groups, second * groups, first)


def _part(edit: Edit, call: Call, out: Tensor, into: Tensor | None) -> tuple[nn.Module, dict[str, ParameterRecord]]:
    """Return a layer like the call's with the outputs `out` (of whole groups: and the inputs `into`), and its record."""
    groups, ins, outs = _channels(edit, call)
    own = groups if into is None else groups * len(into) // ins
    layer = like(edit, call, ins if into is None else len(into), len(out), bias=call.bias is not None,
                 **({"groups": own} if call.rank else {}))
    rest: list[Tensor | None] = [None] * (edit.tensor(call.weight).ndim - 2)
    places: dict[str, list[Tensor | None]] = {"bias": [out], "weight": [out, None, *rest]}
    if call.transposed:  # its weight is `[in, out / groups, ...]`
        places["weight"] = [None, out, *rest] if into is None else [into, None, *rest]
    record = {}
    for kind, source in (("weight", call.weight), ("bias", call.bias)):
        if source is not None:
            old = edit.tensor(source)
            new = old.detach()
            for dim, index in enumerate(places[kind]):
                new = new if index is None else new.index_select(dim, index.to(new.device))
            setattr(layer, kind, nn.Parameter(new.clone(), old.requires_grad))
            record[kind] = ParameterRecord(edit.recorded_name(source), places[kind], [None] * new.ndim)
    return layer.train(edit.gm.training), record


def _replace(edit: Edit, call: Call, name: str, layers: list[tuple[nn.Module, dict[str, ParameterRecord]]]) -> list[str]:
    """Put layers below a name, in the place of the call's layer or tensors."""
    owner, _, last = name.rpartition(".")
    if call.module is not None:
        setattr(edit.gm.get_submodule(owner), last, nn.Module().train(edit.gm.training))
    for tensor in (call.weight, call.bias) if call.module is None else ():
        if tensor is not None:
            owner, _, attribute = tensor.rpartition(".")
            delattr(edit.gm.get_submodule(owner), attribute)
    paths = []
    for i, (layer, record) in enumerate(layers):
        paths.append(edit.free_name(f"{name}.{i}"))
        edit.gm.add_submodule(paths[-1], layer)
        edit.record.parameters.update({f"{paths[-1]}.{kind}": entry for kind, entry in record.items()})
    return paths


@torch.no_grad()
def cancel(weight: Tensor, paired: bool) -> None:
    """Let a layer give zero: the second half of the columns of its weight `[out, 2m, ...]` opposes the first, or it is 0."""
    if paired:
        half = weight.shape[1] // 2
        weight[:, half:] = -weight[:, :half]
    else:
        weight.zero_()


@torch.no_grad()
def repeat(call: Call, weight: Tensor) -> None:
    """Give, in each group of a layer like the call's, the second half of the outputs the numbers of the first."""
    axis = int(call.transposed)  # a transposed convolution has `[in, out / groups, ...]`
    groups = call.argument("groups") if call.rank and not call.transposed else 1
    rows = weight.unflatten(axis, (groups, 2, -1))
    rows.select(axis + 1, 1).copy_(rows.select(axis + 1, 0))
