"""Shared storage: a grown network whose old numbers are the small one's own parameters.

A grown tensor is computed at each use from the parent's parameter and the new numbers: that of a layer by
`torch.nn.utils.parametrize`, that which the graph itself reads by a layer in its place (`Computed`).
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn.utils import parametrize

from fxgrow.graph import clone_structure
from fxgrow.record.entries import ParameterRecord


@dataclass
class Axis:
    """One axis of a grown tensor."""
    source: Tensor | None  # for its old positions, those of the parent (None: all in order)
    old: Tensor  # where old positions are
    new: Tensor
    place: Tensor | None  # for each position, which of the old and then the new ones it is (None: they are in this order)

    @classmethod
    def of(cls, index: Tensor, fresh: Tensor | None, size: int) -> Axis:
        """Return the axis of a record's maps; `size` is the parent's."""
        mask = torch.zeros(len(index), dtype=torch.bool) if fresh is None else fresh
        old, new = (~mask).nonzero().flatten(), mask.nonzero().flatten()
        place = torch.cat([old, new]).argsort()
        return cls(_unless_in_order(index[old], size), old, new, _unless_in_order(place, len(index)))


def _unless_in_order(positions: Tensor, size: int) -> Tensor | None:
    return None if torch.equal(positions, torch.arange(size)) else positions


def _select(x: Tensor, dim: int, positions: Tensor | None) -> Tensor:
    return x if positions is None else x.index_select(dim, positions.to(x.device))


class Tied(nn.Module):
    """`W' = scale * W + shift` at the old positions and new numbers at all others.

    New numbers lie in one vector: for each axis from the last to the first, those at its new positions (and at the old ones
    of all axes before it), so that they are put behind the old ones axis by axis.
    """

    def __init__(self, parent: nn.Parameter | nn.Module, entry: ParameterRecord, order: Sequence[str]):
        super().__init__()
        self.parent = parent  # a module: of a parent that is tied itself, what computes its tensor
        self.scale, self.shift = entry.scale, entry.shift
        self.axes = {dim: Axis.of(index, entry.fresh[dim], tensor_of(parent).shape[dim])
                     for dim, index in reversed(list(enumerate(entry.index))) if index is not None}
        self.order = tuple(order)  # of the layer's parameters, for `untie`

    def forward(self, new: Tensor) -> Tensor:
        """Return the grown tensor with the new numbers of a vector."""
        whole = tensor_of(self.parent)
        for dim, axis in self.axes.items():
            whole = _select(whole, dim, axis.source)
        if self.scale != 1.0:
            whole = whole * self.scale
        if self.shift:
            whole = whole + self.shift
        for dim, axis in self.axes.items():
            shape = [*whole.shape[:dim], len(axis.new), *whole.shape[dim + 1:]]
            part, new = new.split([math.prod(shape), len(new) - math.prod(shape)])
            whole = _select(torch.cat([whole, part.view(shape)], dim), dim, axis.place)
        return whole

    def right_inverse(self, whole: Tensor) -> Tensor:
        """Return the vector of a grown tensor's new numbers."""
        parts = [whole.new_empty(0)]
        for dim, axis in self.axes.items():
            part = _select(whole, dim, axis.new)
            for before in (d for d in self.axes if d < dim):
                part = _select(part, before, self.axes[before].old)
            parts.append(part.flatten())
        return torch.cat(parts)


def tensor_of(source: nn.Parameter | nn.Module) -> Tensor:
    """Return a parameter, or what a module computes in its place."""
    return source() if isinstance(source, nn.Module) else source


class Computed(nn.Module):
    """A tied parameter that a graph reads by name: called where it was read."""

    def __init__(self, tied: Tied, whole: nn.Parameter, attribute: str):
        super().__init__()
        self.tied = tied
        self.new = nn.Parameter(tied.right_inverse(whole.detach()), whole.requires_grad)
        self.attribute = attribute

    def forward(self) -> Tensor:
        """Return the whole parameter."""
        return self.tied(self.new)


def _restore_reads(gm: GraphModule) -> None:
    """Make the results of `Computed` layers parameters that the graph reads by name."""
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
    """Put a layer's parameters in the order that they had, others behind them."""
    held = module._parameters
    module._parameters = {n: held[n] for n in [*(n for n in order if n in held), *(n for n in held if n not in order)]}


def untie(model: nn.Module) -> nn.Module:
    """Return a copy of a tied network with all numbers of its own; a model that is not tied is returned as it is."""
    if not any(isinstance(m, Tied) for m in model.modules()):
        return model
    new = clone_structure(model, lambda t: t.detach().clone())
    shared: dict[int, nn.Parameter] = {}
    for module in list(new.modules()):
        if isinstance(module, GraphModule):
            _restore_reads(module)
        if parametrize.is_parametrized(module):
            _untie_one(module, shared)
    return recompiled(new)


def _untie_one(module: nn.Module, shared: dict[int, nn.Parameter]) -> None:
    chains = dict(module.parametrizations.items())  # type: ignore[union-attr, operator]
    tied = {attribute: chain for attribute, chain in chains.items() if isinstance(chain[0], Tied)}
    with_class_of_its_own(module, {attribute: chain for attribute, chain in chains.items() if attribute not in tied})
    for attribute, chain in tied.items():
        whole = nn.Parameter(chain().detach(), chain.original.requires_grad)
        module.register_parameter(attribute, shared.setdefault(id(chain.original), whole))
        _in_order(module, chain[0].order)


def with_class_of_its_own(module: nn.Module, chains: dict[str, nn.Module]) -> None:
    """Give a parametrized layer these parametrizations alone, in a class that no copy of it shares."""
    module.__class__ = parametrize.type_before_parametrizations(module)
    del module._modules["parametrizations"]
    if chains:
        module.add_module("parametrizations", nn.ModuleDict(chains))
        parametrize._inject_new_class(module)
        for attribute in chains:
            parametrize._inject_property(module, attribute)


def recompiled(model: nn.Module) -> nn.Module:
    """Compile the graphs in a model and return it."""
    for module in model.modules():
        if isinstance(module, GraphModule):
            module.recompile()
    return model
