"""The numbers of parts that only the big model has: they start as the identity."""
from collections.abc import Mapping

import torch
from torch import Tensor

from fxgrow.blocks import Extra, copied, ends, likeness
from fxgrow.common import Refusal
from fxgrow.errors import GrowthError
from fxgrow.graph import location_of, tensors_of
from fxgrow.growth import Piece
from fxgrow.identity import identity_layer
from fxgrow.passes.into.pairing import Pairing
from fxgrow.passes.into.plan import Options, Step
from fxgrow.passes.methods import Draws
from fxgrow.passes.support import Beginning, identity_kernel


def numbers_of(extra: Extra, pairing: Pairing, old: Mapping[str, Tensor], options: Options,
               steps: list[Step]) -> dict[str, Tensor]:
    """Return the numbers of a part by the big model's names; `old` are those that come from the small model."""
    if extra.concat_axis is not None:
        steps.append(Step("deepen", extra.name, method="netmorph", note="what reads its result starts at zero"))
        return {}
    if not extra.is_block:
        steps.append(Step("deepen", extra.name, method="net2net", note="an identity layer"))
        return _layer(extra, pairing)
    first, beginning = _beginning(extra, pairing, options)
    own = _load(beginning.piece, first, extra, pairing)
    neighbour = _copy_neighbour(extra, own, old) if options.method == "net2net" else None
    start = beginning.write(Draws(options.seed + extra.span[0]), draw=False)
    method = options.method
    if (method == "r2r" and not start.pairs) or (method == "net2net" and neighbour is None):
        method = "netmorph"
    notes = [f"copies of {neighbour}"] if neighbour is not None else []
    if extra.norms is not None:
        notes.append(f"the last norm takes weight and bias of {extra.norms[0][0].rpartition('.')[0]}, exact but for eps")
    places = {location_of(one): location_of(two) for one, two in zip(first.nodes, extra.nodes)}
    paths = (" ".join(places.get(word, word) for word in path.split(" ")) for path in start.paths)
    steps.append(Step("deepen", extra.name, method=method, note="; ".join([*notes, "; ".join(paths)])))
    return {n: t.detach().clone() for n, t in own.items()}


def _beginning(extra: Extra, pairing: Pairing, options: Options) -> tuple[Extra, Beginning]:
    """Return how a block starts, as it was found for the first one like it, and that one."""
    trace = pairing.big.trace
    key = likeness(extra, trace), extra.norms is not None
    for known, first, beginning in pairing.beginnings:
        if known == key:
            return first, beginning
    try:
        beginning = Beginning(copied(pairing.big.gm, extra, trace, extra.name), ends(extra, trace)[0].range,
                              pairs=options.method == "r2r", normal=extra.norms is not None)
    except Refusal as why:
        raise GrowthError(f"{extra.name} cannot start as the identity: {why}") from why
    pairing.beginnings.append((key, extra, beginning))
    return extra, beginning


def _load(piece: Piece, first: Extra, extra: Extra, pairing: Pairing) -> dict[str, Tensor]:
    """Put the numbers of a block into the piece that was copied from the first one like it; return them by their names."""
    theirs = tensors_of(pairing.big.gm.get_submodule(extra.name))
    with torch.no_grad():
        for name, tensor in tensors_of(piece.module.get_submodule(first.name)).items():
            tensor.copy_(theirs[name])
    return {extra.name + n[len(first.name):]: t for n, t in piece.tensors().items() if n.startswith(first.name + ".")}


def _copy_neighbour(extra: Extra, own: dict[str, Tensor], old: Mapping[str, Tensor]) -> str | None:
    """Give a block the numbers of the nearest old block before it that has the same tensors, and return its name."""
    parent, depth = extra.name.rpartition(".")[0], len(extra.name.split("."))
    for path in reversed(dict.fromkeys(".".join(n.split(".")[:depth]) for n in old)):
        theirs = {n: old.get(path + n.removeprefix(extra.name)) for n in own}
        if path.rpartition(".")[0] == parent and all(t is not None and t.shape == own[n].shape for n, t in theirs.items()):
            with torch.no_grad():
                for name, tensor in theirs.items():
                    own[name].copy_(tensor)  # type: ignore[arg-type]
            return path
    return None


def _layer(extra: Extra, pairing: Pairing) -> dict[str, Tensor]:
    """Return the numbers of an identity layer, its norm and its activation (Chen 2015, eq. 4)."""
    trace, tensors = pairing.big.trace, tensors_of(pairing.big.gm)
    taken = extra.takes.name  # type: ignore[union-attr]
    x = trace.reads.get((extra.nodes[0].name, taken), trace.gives[taken])
    found = identity_layer(x, trace.gives[extra.gives.name])
    new = {n: torch.zeros_like(tensors[n]) for n in found.zeros}
    new |= {n: identity_kernel(tensors[n]) for n in found.units}
    for weight, variance, eps in found.slopes:
        if weight is None:
            new[variance] = torch.full_like(tensors[variance], 1 - eps)
        else:
            new[weight] = (tensors[variance] + eps).sqrt()
    return {n: t.detach() for n, t in new.items()}
