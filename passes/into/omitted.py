"""Parts of a big model that are left out of concatenations: what reads them starts as if they were not there."""
import functools
from collections.abc import Collection, Iterable, Iterator

import torch
from torch import Tensor
from torch.fx import GraphModule

from fxgrow.axis import Atom, Prod, Sum, Tape, analyse, atoms, concat, product, resolve
from fxgrow.blocks import Extra
from fxgrow.common import Refusal
from fxgrow.contents import FREE, ZERO, Certificate, certify
from fxgrow.errors import GrowthError
from fxgrow.record import ParameterRecord


class Omitted:
    """The classes of the big model that belong to parts left out, each with the proof that they can be."""

    def __init__(self, gm: GraphModule, extras: Iterable[Extra]):
        self.gm = gm
        self.classes = dict(item for e in extras if e.concat_axis is not None for item in self._certified(e))

    @functools.cached_property
    def tape(self) -> Tape:
        """The analysis of the big model."""
        return analyse(self.gm)

    def _certified(self, extra: Extra) -> Iterator[tuple[Atom, Certificate]]:
        value = self.tape.node_values[extra.gives.name]
        for atom in atoms(resolve(value.axes[extra.concat_axis])):
            try:
                if atom.reason is not None:
                    raise Refusal(atom.reason)
                yield atom, certify(self.tape, atom, FREE)
            except Refusal as why:
                raise GrowthError(f"{extra.name} adds positions to a concatenation that cannot be left out: {why}") from why

    def mask(self, name: str, dim: int) -> Tensor | None:
        """Return which positions of an axis of a tensor are not of parts left out (None: all)."""
        if not self.classes or name not in self.tape.params:
            return None
        axis = resolve(self.tape.params[name].axes[dim])
        return _kept(axis, self.classes) if self.classes.keys() & set(atoms(axis)) else None

    def blank(self, tensors: dict[str, Tensor], names: Iterable[str]) -> None:
        """Put zeros, where that is exact, into named tensors that read the parts."""
        for certificate in self.classes.values():
            for (name, dim), content in certificate.contents.items():
                mask = self.mask(name, dim) if name in names and content == ZERO else None
                if mask is not None:
                    tensors[name].index_fill_(dim, (~mask).nonzero().flatten().to(tensors[name].device), 0.0)

    def placed(self, name: str, tensor: Tensor, value: Tensor) -> Tensor:
        """Return a tensor of the small model at its places in `tensor` of the big one."""
        masks = [self.mask(name, d) for d in range(tensor.ndim)] if self.classes else []
        if all(m is None for m in masks):
            return value
        places = [torch.arange(n) if m is None else m.nonzero().flatten() for m, n in zip(masks, tensor.shape)]
        index = torch.meshgrid(*places, indexing="ij")
        if index[0].shape != value.shape:
            return value
        whole = tensor.detach().clone()
        whole[index] = value
        return whole

    def entry(self, name: str, entry: ParameterRecord) -> ParameterRecord:
        """Return the record of a tensor, with the positions of parts left out as new ones."""
        entry = ParameterRecord(entry.source, [*entry.index], [*entry.fresh], [*entry.shares], entry.scale, entry.shift)
        for dim in range(len(entry.index)):
            mask = self.mask(name, dim)
            if mask is None:
                continue
            maps = entry.index[dim], entry.fresh[dim], entry.shares[dim]
            count = int(mask.sum())
            defaults = torch.arange(count), torch.zeros(count, dtype=torch.bool), torch.ones(count, dtype=torch.float64)
            index, fresh, shares = (d if m is None else m for m, d in zip(maps, defaults))
            entry.index[dim] = torch.full(mask.shape, -1).masked_scatter(mask, index)
            entry.fresh[dim] = torch.ones_like(mask).masked_scatter(mask, fresh)
            if maps[2] is not None:
                entry.shares[dim] = torch.ones(mask.shape, dtype=shares.dtype).masked_scatter(mask, shares)
        return entry


def without(e, gone: Collection[Atom]):
    """Return an axis without the parts of a concatenation that consist of the given classes."""
    e = resolve(e)
    if isinstance(e, Sum):
        return concat([without(p, gone) for p in e.parts if not set(atoms(p)) & set(gone) or isinstance(p, Sum)])
    return product([without(p, gone) for p in e.parts]) if isinstance(e, Prod) else e


def _kept(e, gone: Collection[Atom]) -> Tensor:
    """Return which positions of an axis are left in `without`."""
    e = resolve(e)
    if isinstance(e, (Sum, Prod)):
        parts = [_kept(p, gone) for p in e.parts]
        if isinstance(e, Sum):
            return torch.cat(parts)
        found = parts[0]
        for part in parts[1:]:
            found = (found[:, None] & part).flatten()
        return found
    return torch.full((e.size,), e not in gone)
