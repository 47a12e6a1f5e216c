"""The numbers of parts that only the big model has: they start as the identity."""
from collections.abc import Mapping

import torch
from torch import Tensor

from fxgrow.blocks import Extra, copied, ends
from fxgrow.common import Refusal
from fxgrow.errors import GrowthError
from fxgrow.graph import tensors_of
from fxgrow.identity import identity_layer
from fxgrow.passes.into.pairing import Pairing
from fxgrow.passes.into.plan import Options, Step
from fxgrow.passes.methods import Draws
from fxgrow.passes.support import identity_kernel, start_as_identity


def numbers_of(extra: Extra, pairing: Pairing, old: Mapping[str, Tensor], options: Options,
               steps: list[Step]) -> dict[str, Tensor]:
    """Return the numbers of a part by the big model's names; `old` are those that come from the small model."""
    if extra.concat_axis is not None:
        steps.append(Step("deepen", extra.name, method="netmorph", note="what reads its result starts at zero"))
        return {}
    if not extra.is_block:
        steps.append(Step("deepen", extra.name, method="net2net", note="an identity layer"))
        return _layer(extra, pairing)
    trace = pairing.big.trace
    piece = copied(pairing.big.gm, extra, trace, extra.name)
    own = {n: t for n, t in piece.tensors().items() if n.startswith(extra.name + ".")}
    neighbour = _copy_neighbour(extra, own, old) if options.method == "net2net" else None
    try:
        start = start_as_identity(piece, ends(extra, trace)[0].range, Draws(options.seed + extra.span[0]),
                                  pairs=options.method == "r2r", draw=False, normal=extra.norms is not None)
    except Refusal as why:
        raise GrowthError(f"{extra.name} cannot start as the identity: {why}") from why
    method = options.method
    if (method == "r2r" and not start.pairs) or (method == "net2net" and neighbour is None):
        method = "netmorph"
    notes = [f"copies of {neighbour}"] if neighbour is not None else []
    if extra.norms is not None:
        notes.append(f"the last norm takes weight and bias of {extra.norms[0][0].rpartition('.')[0]}, exact but for eps")
    steps.append(Step("deepen", extra.name, method=method, note="; ".join([*notes, "; ".join(start.paths)])))
    return {n: t.detach() for n, t in own.items()}


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
