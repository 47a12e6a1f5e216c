"""Numbers of a stock class that no state_dict holds: plain tensors, and buffers that are not persistent.

What lives here: finding those by which two models differ. What does not: constants that weights make up for (constants.py).
"""
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from fxgrow.graph import tensors_of
from fxgrow.passes.into.pairing import Pairing
from fxgrow.passes.into.plan import Step


def outside_state(model: nn.Module, pairing: Pairing) -> dict[str, Tensor]:
    """Return the tensors that the big model's graph reads and its state_dict lacks, as its constructor made them."""
    state = model.state_dict().keys()
    return {name: t for name, t in tensors_of(pairing.big.gm).items() if name not in state}


def longer_tables(pairing: Pairing, constants: Mapping[str, Tensor]) -> list[str]:
    """Return the constants that begin with the small model's numbers and go on: positions by number, a mask of them."""
    ours = tensors_of(pairing.small.gm)
    found = []
    for name in constants.keys() & pairing.names.keys():
        small, big = ours[pairing.names[name]], constants[name]
        if small.shape != big.shape and small.ndim == big.ndim and all(n <= m for n, m in zip(small.shape, big.shape)) \
                and _equal(small, big[tuple(slice(n) for n in small.shape)]):
            found.append(name)
    return found


def insist_on_constants(pairing: Pairing, constants: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[Step]:
    """Return a step that is not possible for each constant of the big model that would have to be another.

    Args:
        pairing: both models.
        constants: the tensors that no state_dict holds, by name.
        wanted: what each of them would have to be, for the big model to compute what the small one does.
    """
    pairs = [(name, value, constants[name]) for name, value in wanted.items()]
    return [Step("constant", name, _shown(ours), _shown(theirs), "not possible",
                 "the class has other numbers there than the small model, and no state_dict holds them: build both models "
                 "with the same, or register it as a persistent buffer or parameter")
            for name, ours, theirs in [*pairs, *_inside_layers(pairing)] if not _equal(ours, theirs)]


def _inside_layers(pairing: Pairing) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield plain tensors of layers that stand in both graphs as a whole: name, the small model's and the big one's."""
    for one, two in pairing.match.nodes.items():
        if one.op != "call_module" or two.op != "call_module":
            continue
        theirs = dict(pairing.big.gm.get_submodule(str(two.target)).named_modules())
        for path, module in pairing.small.gm.get_submodule(str(one.target)).named_modules():
            for name, value in vars(module).items():
                other = vars(theirs[path]).get(name) if path in theirs else None
                if isinstance(value, Tensor) and isinstance(other, Tensor) and value.is_leaf:
                    yield ".".join(filter(None, (str(two.target), path, name))), value, other


def _equal(ours: Tensor, theirs: Tensor) -> bool:
    """Tell whether two constants are equal, up to the rounding of the less exact type."""
    if ours.shape != theirs.shape:
        return False
    x, y = (t.detach().cpu() for t in (ours, theirs))
    if not (x.is_floating_point() and y.is_floating_point()):
        return torch.equal(x, y)
    eps = max(torch.finfo(t.dtype).eps for t in (x, y))
    return torch.allclose(x.double(), y.double(), rtol=8 * eps, atol=0.0, equal_nan=True)


def _shown(tensor: Tensor) -> str:
    """Write a single number as it is, and else a shape."""
    return f"{tensor.item():.6g}" if tensor.numel() == 1 else f"numbers of shape {list(tensor.shape)}"
