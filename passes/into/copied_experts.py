"""More experts from fewer in a stock class: each is copied, its row of the router too, and as many times as many are chosen.

Copies have equal numbers from the router, so that the largest `k r` of them are all `r` copies of the largest `k`. Whether a
softmax is over the chosen or over all, each copy has the r-th part of its weight, and the sum is what it was.
"""
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fxgrow.errors import GrowthError, ModelError
from fxgrow.graph import skeleton
from fxgrow.models import changed, fresh, numbers
from fxgrow.passes.into.heads import copies
from fxgrow.passes.into.mixtures import TENSORS, experts_of, to_look_at, weights_given
from fxgrow.passes.into.plan import Step
from fxgrow.record import GrowthRecord, ParameterRecord
from fxgrow.tracing import capture_graph

EXPERTS_BY = "_experts_implementation"  # of a configuration: by which of several ways experts are computed


def with_copied_experts(small: nn.Module, big: nn.Module, inputs: Any,
                        steps: list[Step]) -> tuple[nn.Module, GrowthRecord | None]:
    """Return the small model with as many experts as the big one, and the record of the copies; itself where it has them."""
    (count, chosen), (wanted, theirs) = counts_of(small), counts_of(big)
    times = wanted // count if count else 0
    if not count or not wanted or count == wanted:
        return small, None
    if wanted % count or theirs != chosen * times:
        raise GrowthError(f"{wanted} experts of {count}, {theirs} of them for each row in place of {chosen}: copies are "
                          "exact where they are a whole multiple, and so many times as many are chosen "
                          f"({count * max(times, 2)} and {chosen * max(times, 2)}, say)")
    model = fresh(type(small), changed(small.config, _changes(small, big, times)), small)  # type: ignore[arg-type]
    if hasattr(big.config, EXPERTS_BY):
        setattr(model.config, EXPERTS_BY, getattr(big.config, EXPERTS_BY))
    record = GrowthRecord(origin={"": skeleton(capture_graph(small, inputs, check=False))})
    state, sizes = small.state_dict(), model.state_dict()
    for name, tensor in state.items():
        if tensor.shape != sizes[name].shape:
            index = copies(count, count, times)
            state[name] = tensor.index_select(0, index.to(tensor.device))
            entry = record.parameters[name] = ParameterRecord.same(name, tensor.ndim)
            entry.index[0], entry.fresh[0] = index, torch.arange(wanted) % times > 0
    if not any(t.is_meta for t in state.values()):
        model.load_state_dict(state, strict=True)
    steps.append(Step("experts", "experts", count, wanted, "copies", f"equal ones are chosen together, {theirs} in "
                      f"place of {chosen}, and share their weight; they learn alike until noise tells them apart"))
    return model.eval(), record


def counts_of(model: nn.Module) -> tuple[int, int]:
    """Return how many experts a model has, and how many of them each row goes through (0: none, or several counts)."""
    found = {(module.get_parameter(TENSORS[0]).shape[0], _chosen(model.get_submodule(path.rpartition(".")[0]), path))
             for path, module in experts_of(model)}
    return next(iter(found)) if len(found) == 1 else (0, 0)


def _chosen(block: nn.Module, path: str) -> int:
    wide = to_look_at(block)
    return weights_given(wide, wide.get_submodule(path.rpartition(".")[2])).shape[-1]


def _changes(small: Any, big: Any, times: int) -> dict[str, int]:
    """Return the numbers of the configuration that the blocks of experts know of, and that are so many times as large."""
    old, new = (dict(numbers(model.config.to_dict())) for model in (small, big))
    found = {}
    for path, value in old.items():
        if new.get(path) != value * times:
            continue
        try:
            with torch.device("meta"):
                other = type(small)(changed(small.config, {path: value * times}))
        except (ModelError, ValueError, RuntimeError):
            continue
        if set(_known(other)) != set(_known(small)):
            found[path] = value * times
    return found


def _known(model: nn.Module) -> Iterator[tuple[str, str, Any]]:
    """Yield the numbers that blocks of experts have among their attributes."""
    for path, _ in experts_of(model):
        block = path.rpartition(".")[0]
        for name, module in model.get_submodule(block).named_modules():
            yield from ((f"{block}.{name}", key, value) for key, value in vars(module).items() if isinstance(value, int))


@torch.no_grad()
def tell_apart(model: nn.Module, noise: float, seed: int) -> None:
    """Add noise, a part of the deviation, to experts that are equal to one in front of them, and to such rows of routers."""
    generator = torch.Generator().manual_seed(seed)
    blocks = [model.get_submodule(path.rpartition(".")[0]) for path, _ in experts_of(model)]
    if not blocks:
        raise GrowthError("noise tells experts apart, and the big model has none")
    for block in blocks:
        count = next(p for p in block.parameters() if p.ndim == 3).shape[0]
        for p in block.parameters():
            if p.ndim < 2 or p.shape[0] != count:
                continue
            rows = p.flatten(1)
            equal = [i for i in range(1, count) if any(torch.equal(rows[i], rows[j]) for j in range(i))]
            scale = noise * rows.float().std()
            for i in equal:
                drawn: Tensor = torch.randn(rows[i].shape, generator=generator).to(p.device)
                rows[i] += (scale * drawn).to(p.dtype)
