"""Shared storage: a grown network whose old numbers are the small one's own parameters.

A tensor that is as it was becomes the parent's parameter object; a grown one is computed at each use from the parent's
parameter and the new numbers: that of a layer by `torch.nn.utils.parametrize`, that which the graph itself reads by a layer
in its place (`Computed`).
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn.utils import parametrize

from fxgrow._capture import clone_structure
from fxgrow._record import GrowthRecord, ParameterRecord, record_in, tensors_of
from fxgrow._transform import Grown
from fxgrow.errors import GrowthError


@dataclass
class Axis:
    """One axis of a grown tensor.

    source: for its old positions, those of the parent (None: all in order). old, new: where old and new positions are.
    place: for each position, which of the old and then the new ones it is (None: they are in this order).
    """
    source: Tensor | None
    old: Tensor
    new: Tensor
    place: Tensor | None

    @classmethod
    def of(cls, index: Tensor, fresh: Tensor | None, size: int) -> Axis:
        mask = torch.zeros(len(index), dtype=torch.bool) if fresh is None else fresh
        old, new = (~mask).nonzero().flatten(), mask.nonzero().flatten()
        place = torch.cat([old, new]).argsort()
        return cls(_unless_in_order(index[old], size), old, new, _unless_in_order(place, len(index)))


def _unless_in_order(positions: Tensor, size: int) -> Tensor | None:
    return None if torch.equal(positions, torch.arange(size)) else positions


def _select(x: Tensor, dim: int, positions: Tensor | None) -> Tensor:
    return x if positions is None else x.index_select(dim, positions.to(x.device))


class Tied(nn.Module):
    """`W' = scale * W` at the old positions and new numbers at all others.

    New numbers lie in one vector: for each axis from the last to the first, those at its new positions (and at the old ones
    of all axes before it), so that they are put behind the old ones axis by axis. forward: that vector to the grown tensor;
    right_inverse: the grown tensor to it.
    """

    def __init__(self, parent: nn.Parameter | nn.Module, entry: ParameterRecord, order: Sequence[str]):
        super().__init__()
        self.parent = parent  # a module: of a parent that is tied itself, what computes its tensor
        self.scale = entry.scale
        self.axes = {dim: Axis.of(index, entry.fresh[dim], _tensor(parent).shape[dim])
                     for dim, index in reversed(list(enumerate(entry.index))) if index is not None}
        self.order = tuple(order)  # of the layer's parameters, for `untie`

    def forward(self, new: Tensor) -> Tensor:
        whole = _tensor(self.parent)
        for dim, axis in self.axes.items():
            whole = _select(whole, dim, axis.source)
        if self.scale != 1.0:
            whole = whole * self.scale
        for dim, axis in self.axes.items():
            shape = [*whole.shape[:dim], len(axis.new), *whole.shape[dim + 1:]]
            part, new = new.split([math.prod(shape), len(new) - math.prod(shape)])
            whole = _select(torch.cat([whole, part.view(shape)], dim), dim, axis.place)
        return whole

    def right_inverse(self, whole: Tensor) -> Tensor:
        parts = [whole.new_empty(0)]
        for dim, axis in self.axes.items():
            part = _select(whole, dim, axis.new)
            for before in (d for d in self.axes if d < dim):
                part = _select(part, before, self.axes[before].old)
            parts.append(part.flatten())
        return torch.cat(parts)


def _tensor(source: nn.Parameter | nn.Module) -> Tensor:
    return source() if isinstance(source, nn.Module) else source


class Computed(nn.Module):
    """A tied parameter that a graph reads by name: called where it was read."""

    def __init__(self, tied: Tied, whole: nn.Parameter, attribute: str):
        super().__init__()
        self.tied = tied
        self.new = nn.Parameter(tied.right_inverse(whole.detach()), whole.requires_grad)
        self.attribute = attribute

    def forward(self) -> Tensor:
        return self.tied(self.new)


def tie(parent: nn.Module, child: nn.Module | Grown, record: GrowthRecord | None = None) -> nn.Module:
    """A copy of a grown network whose old numbers *are* the parameters of `parent`.

    One step of an optimizer on either moves both. Of its own the child has its new numbers and its buffers (running
    statistics are of what a network has seen itself). `dict.fromkeys([*parent.parameters(), *child.parameters()])`
    are the parameters of both, each once. Where the child's old numbers are no longer the parent's, the parent's are used.

    Args:
        parent: the small model that `child` grew from, captured or not; it may be tied to its own parent.
        child: what `fxgrow.transform` returned, or a grown model that `fxgrow.load` read.
        record: how `child` grew from `parent`, where the record that it holds is not that (of a model that does not hold
            it, or of one that `parent` is only the last step to).

    Raises:
        GrowthError: a parameter is not the parent's (net2net shares its columns out), does not fit it, or belongs to a layer
            that cannot compute its weights (nn.LSTM).
    """
    grown = child if isinstance(child, Grown) else None
    model: nn.Module = child if grown is None else grown.model  # type: ignore[assignment]
    if record is None:
        record = grown.record if grown else record_in(model)
    if record is None:
        raise GrowthError("tie needs a growth record: give what fxgrow.transform returned, or the record as well")
    model = untie(model)
    theirs, ours = _sources(parent), tensors_of(model)
    entries = {name: entry for name, (tensor, entry) in record.located(ours).items()
               if entry.source is not None and isinstance(tensor, nn.Parameter)}
    for name, entry in entries.items():
        _check(name, ours[name], entry, theirs.get(str(entry.source)))
    known = {id(ours[name]): (theirs[str(entry.source)], entry) for name, entry in entries.items()}
    new = _copy(model, known)
    shared: dict[int, nn.Parameter] = {}  # new numbers of a parameter that several layers have
    for gm in list(new.modules()):
        if isinstance(gm, GraphModule):
            _compute_read(gm)
    for path, module in list(new.named_modules()):
        order = tuple(module._parameters)
        for attribute, held in list(module._parameters.items()):
            if held is None or not hasattr(held, "tied_to"):
                continue
            source, entry = held.tied_to
            if entry.unchanged and isinstance(source, nn.Parameter):
                setattr(module, attribute, source)  # of an LSTM, its list of weights as well
                continue
            _refuse_opaque(module, f"{path}.{attribute}".lstrip("."))
            module._parameters[attribute] = nn.Parameter(held.detach(), held.requires_grad)  # set to the new ones
            parametrize.register_parametrization(module, attribute, Tied(source, entry, order), unsafe=True)
            chain = module.parametrizations[attribute]  # type: ignore[index]
            chain.original = shared.setdefault(id(held), chain.original)
    new.meta = {**getattr(new, "meta", {}), "growth": {"record": record, "outcomes": []}}  # an outer module has none
    return _compiled(new)


def _sources(parent: nn.Module) -> dict[str, nn.Parameter | nn.Module]:
    """The parent's parameters by the names that they have in a network that is not tied; those that are computed from other
    networks' as what computes them."""
    found: dict[str, nn.Parameter | nn.Module] = dict(parent.named_parameters(remove_duplicate=False))
    for path, module in parent.named_modules(remove_duplicate=False):
        if isinstance(module, Computed):
            found[path.removesuffix("_tied")] = module
        elif parametrize.is_parametrized(module):
            chains = module.parametrizations.items()  # type: ignore[union-attr, operator]
            found |= {f"{path}.{n}".lstrip("."): chain for n, chain in chains if isinstance(chain[0], Tied)}
    return found


def _compute_read(gm: GraphModule) -> None:
    """Makes grown parameters that a graph reads by name the results of layers."""
    called = {str(n.target) for n in gm.graph.nodes if n.op == "call_module"}
    for node in list(gm.graph.nodes):
        owner, _, attribute = str(node.target).rpartition(".")
        if node.op != "get_attr" or owner in called:
            continue
        place, path = gm.get_submodule(owner), f"{node.target}_tied"
        held = place._parameters.get(attribute)
        source, entry = getattr(held, "tied_to", (None, None))
        if held is not None and entry is not None and not (entry.unchanged and isinstance(source, nn.Parameter)):
            tied = Tied(source, entry, tuple(place._parameters))
            del place._parameters[attribute]
            gm.add_submodule(path, Computed(tied, held, attribute))
        if isinstance(place._modules.get(f"{attribute}_tied"), Computed):
            with gm.graph.inserting_before(node):
                node.replace_all_uses_with(gm.graph.call_module(path))
            gm.graph.erase_node(node)


def _read_again(gm: GraphModule) -> None:
    """The inverse of `_compute_read`."""
    for node in list(gm.graph.nodes):
        layer = gm.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(layer, Computed):
            path = str(node.target).removesuffix("_tied")
            place = gm.get_submodule(path.rpartition(".")[0])
            if layer.attribute not in place._parameters:
                place.register_parameter(layer.attribute, nn.Parameter(layer().detach(), layer.new.requires_grad))
                _in_order(place, layer.tied.order)
            with gm.graph.inserting_before(node):
                node.replace_all_uses_with(gm.graph.get_attr(path))
            gm.graph.erase_node(node)
    for path in [n for n, m in gm.named_modules(remove_duplicate=False) if isinstance(m, Computed)]:
        gm.delete_submodule(path)


def _in_order(module: nn.Module, order: Sequence[str]) -> None:
    """Puts a layer's parameters in the order that they had, others behind them."""
    held = module._parameters
    module._parameters = {n: held[n] for n in [*(n for n in order if n in held), *(n for n in held if n not in order)]}


def _copy(model: nn.Module, known: dict[int, tuple[nn.Parameter | nn.Module, ParameterRecord]]) -> nn.Module:
    """The model with parameters that say what they will be tied to; all others are copies."""
    def tensor(old: Tensor) -> Tensor:
        if id(old) not in known:
            return old.detach().clone()
        new = nn.Parameter(old.detach(), old.requires_grad)
        new.tied_to = known[id(old)]  # type: ignore[attr-defined]
        return new

    return clone_structure(model, tensor)


def _check(name: str, tensor: Tensor, entry: ParameterRecord, found: nn.Parameter | nn.Module | None) -> None:
    source = None if found is None else _tensor(found)
    if source is None or entry.misfit(tensor.shape, source.shape):
        raise GrowthError(f"{name} grew from {entry.source}, which the parent has not, or of another shape: give the model "
                          "that was grown")
    if (source.dtype, source.device) != (tensor.dtype, tensor.device):
        raise GrowthError(f"{name} is {tensor.dtype} on {tensor.device}, the parent's {entry.source} is {source.dtype} on "
                          f"{source.device}: bring both to one type and device")
    if any(s is not None for s in entry.shares):
        raise GrowthError(f"{name} cannot be tied: net2net shares its columns out among copies, so they are not the "
                          "parent's; grow by r2r or netmorph")


def _refuse_opaque(module: nn.Module, name: str) -> None:
    if isinstance(module, (nn.RNNBase, GraphModule, parametrize.ParametrizationList)):
        raise GrowthError(f"{name} cannot be tied: a {type(module).__name__} cannot compute its weights from the parent's; "
                          "leave its axes as they are with where=")


def untie(model: nn.Module) -> nn.Module:
    """A copy of a tied network with all numbers of its own, under their usual names; a model that is not tied, as it is."""
    if not any(isinstance(m, Tied) for m in model.modules()):
        return model
    new = clone_structure(model, lambda t: t.detach().clone())
    shared: dict[int, nn.Parameter] = {}
    for module in list(new.modules()):
        if isinstance(module, GraphModule):
            _read_again(module)
        if parametrize.is_parametrized(module):
            _untie_one(module, shared)
    return _compiled(new)


def _untie_one(module: nn.Module, shared: dict[int, nn.Parameter]) -> None:
    """Back to the layer's own class (the parametrized one is shared with the model that this is a copy of)."""
    module.__class__ = parametrize.type_before_parametrizations(module)
    chains = dict(module._modules.pop("parametrizations").items())  # type: ignore[union-attr, operator]
    for attribute, chain in chains.items():
        if isinstance(chain[0], Tied):
            whole = nn.Parameter(chain().detach(), chain.original.requires_grad)
            module.register_parameter(attribute, shared.setdefault(id(chain.original), whole))
            _in_order(module, chain[0].order)
    others = {n: c for n, c in chains.items() if not isinstance(c[0], Tied)}
    if others:
        module.add_module("parametrizations", nn.ModuleDict(others))
        parametrize._inject_new_class(module)
        for attribute in others:
            parametrize._inject_property(module, attribute)


def _compiled(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, GraphModule):
            module.recompile()
    return model
